"""Applies JSON patches (RFC 6902) as API servers do: all of a patch or nothing, and null equals a missing member.

The latter comes from the library of kube-apiserver (evanphx/json-patch), where the RFC requires an error: a test for
null succeeds on a missing member, if its parent exists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Container = dict[str, Any] | list[Any]
ABSENT = object()


class DoesNotApply(Exception):
    """An operation failed. The document is unchanged."""


def patched(document: Any, operations: list[dict[str, Any]]) -> Any:
    """Returns a new document, which shares unchanged parts with the old one."""
    root: list[Any] = [document]
    fresh: set[int] = {id(root)}
    for operation in operations:
        kind = operation.get("op")
        if kind not in OPERATIONS:
            raise DoesNotApply(f"Unexpected kind: {kind}")
        tokens = _tokens(operation["path"])
        parent = _parent(root, ["0", *tokens[:-1]] if tokens else [], fresh, writes=kind != "test")
        OPERATIONS[kind](parent, tokens[-1] if tokens else "0", operation.get("value"))
    return root[0]


def _tokens(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise DoesNotApply(f"the path {path!r} does not begin with a slash")
    return [token.replace("~1", "/").replace("~0", "~") for token in path.split("/")[1:]]


def _parent(root: Container, tokens: list[str], fresh: set[int], *, writes: bool) -> Container:
    """The container behind the tokens. If it is written to, the containers on the way are copied, once per patch."""
    place = root
    for token in tokens:
        found = _member(place, token)
        if not isinstance(found, dict | list):
            raise DoesNotApply(f"doc is missing path: /{'/'.join(tokens[1:])}")
        if writes and id(found) not in fresh:
            found = found.copy()
            fresh.add(id(found))
            place[_key(place, token)] = found
        place = found
    return place


def _member(place: Container, token: str) -> Any:
    if isinstance(place, dict):
        return place.get(token, ABSENT)
    index = _key(place, token)
    return place[index] if index < len(place) else ABSENT


def _key(place: Container, token: str) -> Any:
    if isinstance(place, dict):
        return token
    if not (token.isascii() and token.isdecimal()) or (token != "0" and token.startswith("0")):
        raise DoesNotApply(f"{token!r} is no index of an array")
    return int(token)


def _test(place: Container, token: str, value: Any) -> None:
    found = _member(place, token)
    if not (value is None if found is ABSENT else _is_equal(found, value)):
        raise DoesNotApply(f"testing value {token} failed")


def _is_equal(one: Any, other: Any) -> bool:
    # In Python, True equals 1.
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_equal(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _add(place: Container, token: str, value: Any) -> None:
    if isinstance(place, dict):
        place[token] = value
        return
    index = len(place) if token == "-" else _key(place, token)
    if index > len(place):
        raise DoesNotApply(f"Unable to access invalid index: {token}")
    place.insert(index, value)


def _remove(place: Container, token: str, _value: Any) -> None:
    if _member(place, token) is ABSENT:
        raise DoesNotApply(f"Unable to remove nonexistent key: {token}")
    del place[_key(place, token)]


def _replace(place: Container, token: str, value: Any) -> None:
    if _member(place, token) is ABSENT:
        raise DoesNotApply(f"replace operation does not apply: doc is missing key: {token}")
    place[_key(place, token)] = value


OPERATIONS: dict[str, Callable[[Any, str, Any], None]] = {
    "test": _test,
    "add": _add,
    "remove": _remove,
    "replace": _replace,
}
