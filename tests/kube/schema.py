"""Structural schemas of custom resources, as API servers apply them: unknown fields are dropped, all others checked.

A schema is `type`, `properties`, `required` and `additionalProperties` of OpenAPI. Those of whereabouts 0.9 are here.
"""

from __future__ import annotations

import itertools
import operator
from typing import Any

Schema = dict[str, Any]

ABSENT = object()
TEXT: Schema = {"type": str}
METADATA: Schema = {"type": dict, "open": True}
"""Metadata are maintained by the server."""


def _object(properties: dict[str, Schema], *required: str) -> Schema:
    return {"type": dict, "properties": properties, "required": required}


def _kind(spec: Schema, *required: str) -> Schema:
    return _object({"apiVersion": TEXT, "kind": TEXT, "metadata": METADATA, "spec": spec}, *required)


ALLOCATION = _object({"id": TEXT, "podref": TEXT, "ifname": TEXT}, "id", "podref")
POOL = _kind(
    _object({"range": TEXT, "allocations": {"type": dict, "additional": ALLOCATION}}, "range", "allocations"),
)
RESERVATION = _kind(_object({"containerid": TEXT, "podref": TEXT, "ifname": TEXT}, "podref"), "spec")


class Invalid(Exception):
    """A value is invalid. The message names the field."""


def admitted(value: Any, schema: Schema, old: Any = None, where: str = "") -> Any:
    """The value without unknown fields. Parts that are identical to `old` are not checked."""
    if value is old and value is not None:
        return value
    if not isinstance(value, schema["type"]):
        raise Invalid(f"{where}: Invalid value: must be of type {schema['type'].__name__}")
    if schema["type"] is not dict or schema.get("open"):
        return value
    missing = [name for name in schema.get("required", ()) if name not in value]
    if missing:
        raise Invalid(f"{where}.{missing[0]}: Required value")
    return _members(value, schema, old if isinstance(old, dict) else {}, where)


def _members(value: dict[str, Any], schema: Schema, old: dict[str, Any], where: str) -> dict[str, Any]:
    additional = schema.get("additional")
    if additional:
        fresh = {name: admitted(value[name], additional, None, f"{where}.{name}") for name in _fresh(value, old)}
        return {**value, **fresh}
    found = {}
    for name, member in value.items():
        if member is not None and member is old.get(name):
            found[name] = member
            continue
        known = schema.get("properties", {}).get(name)
        if known:
            found[name] = admitted(member, known, old.get(name), f"{where}.{name}")
    return found


def _fresh(value: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """The names of members that `old` lacks, computed without a Python loop because a pool has thousands of them."""
    olds = map(old.get, value, itertools.repeat(ABSENT))
    return list(itertools.compress(value, map(operator.is_not, value.values(), olds)))
