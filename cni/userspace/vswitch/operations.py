"""RFC 7047 as values: operations of a transaction, conditions, sets, maps and UUIDs."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from cni.jsontext import JsonObject

    Operation = JsonObject
    Condition = list[Any]


def insert(table: str, row: JsonObject, name: str) -> Operation:
    """A new row, to which `named(name)` refers in the same transaction."""
    return {"op": "insert", "table": table, "row": row, "uuid-name": name}


def select(table: str, where: list[Condition], columns: Iterable[str]) -> Operation:
    return {"op": "select", "table": table, "where": where, "columns": [*columns]}


def mutate(table: str, where: list[Condition], column: str, mutator: str, value: Any) -> Operation:
    return {"op": "mutate", "table": table, "where": where, "mutations": [[column, mutator, value]]}


def update(table: str, where: list[Condition], row: JsonObject) -> Operation:
    return {"op": "update", "table": table, "where": where, "row": row}


def delete(table: str, where: list[Condition]) -> Operation:
    return {"op": "delete", "table": table, "where": where}


def wait(
    table: str, where: list[Condition], columns: Iterable[str] = ("_uuid",), rows: Any = (), milliseconds: int = 0
) -> Operation:
    """The transaction continues only if `where` selects exactly `rows`. The server waits so long, by default not."""
    return {
        "op": "wait",
        "table": table,
        "where": where,
        "columns": [*columns],
        "until": "==",
        "rows": [*rows],
        "timeout": milliseconds,
    }


def equals(column: str, value: Any) -> Condition:
    return [column, "==", value]


def includes(column: str, value: Any) -> Condition:
    """The set or map in `column` includes all elements of `value`."""
    return [column, "includes", value]


def named(name: str) -> list[Any]:
    return ["named-uuid", name]


def uuid(text: str) -> list[Any]:
    return ["uuid", text]


def to_set(values: Iterable[Any]) -> list[Any]:
    return ["set", [*values]]


def to_map(entries: Mapping[str, Any]) -> list[Any]:
    return ["map", [[key, value] for key, value in entries.items()]]


def from_set(value: Any) -> list[Any]:
    """The elements of a set. A set of one may be written as its element, and a UUID is returned as its text."""
    elements = value[1] if isinstance(value, list) and value[0] == "set" else [value]
    return [element[1] if isinstance(element, list) else element for element in elements]


def from_map(value: Any) -> JsonObject:
    return dict(value[1])
