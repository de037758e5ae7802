"""Converts JSON text to values and back with the C module `_json`: importing `json` costs 5 ms because of `re`."""

from __future__ import annotations

import _json

from cni.errors import DecodeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

    JsonObject = dict[str, Any]
    """A JSON object of another program, or one that has not been validated: its keys and values can be anything."""

_SPACE = b" \t\n\r"
_ESCAPE = _json.encode_basestring_ascii


_SHOWN = 200
"""Maximum number of characters of a value in a message."""


def loads(text: bytes) -> Any:
    """The value of one JSON document in UTF-8. Raises `DecodeFailure`.

    As in Go's decoder, the last of several equal keys is used, NaN and Infinity are refused, and half a surrogate pair
    becomes U+FFFD (neither a path nor UTF-8 text can contain it).
    """
    try:
        document = text.decode()
        start = len(document) - len(document.lstrip(" \t\n\r"))
        value, end = _scan(document, start)
        if "\\ud" in document or "\\uD" in document:
            value = _mended(value)
    except StopIteration as stop:
        raise DecodeFailure(f"not JSON: a value is expected at character {stop.value}") from stop
    except SystemError as error:
        # Before Python 3.13 the scanner uses the exception of json.decoder only if that module has been imported.
        raise DecodeFailure("not JSON: a string is malformed") from error
    except (ValueError, RecursionError) as error:
        # UnicodeDecodeError and json.JSONDecodeError are ValueErrors; so is an integer of thousands of digits.
        raise DecodeFailure(f"not JSON: {error}") from error
    if document[end:].strip(" \t\n\r"):
        raise DecodeFailure(f"not JSON: unexpected text after the value, at character {end}")
    return value


def leading(text: bytes, name: str) -> Any:
    """The value of a member of the object in the text, or None. Nothing behind the member is decoded or checked.

    Of several equal keys the first is used.
    """
    try:
        document = text.decode()
        at = _after_space(document, 0)
        while document[at] in "{,":
            key, at = _scan(document, _after_space(document, at + 1))
            colon = _after_space(document, at)
            value, end = _scan(document, _after_space(document, colon + 1))
            if document[colon] != ":":
                return None
            if key == name:
                return _mended(value) if "\\" in document[colon:end] else value
            at = _after_space(document, end)
    except (StopIteration, IndexError, SystemError, ValueError, RecursionError):  # see loads
        return None
    return None


def first(stream: bytes) -> tuple[Any, bytes] | None:
    """The first JSON document of a stream and the bytes after it; None while it is incomplete.

    Text that can never become JSON also returns None: the caller limits how long it reads.
    """
    try:
        document = stream.decode().lstrip(" \t\n\r")
        value, end = _scan(document, 0)
    except (StopIteration, SystemError, ValueError, RecursionError):  # see loads
        return None
    return value, document[end:].encode()


def dumps(value: Any) -> str:
    """The JSON text of a value, in ASCII, on one line."""
    return "".join(_encoder(value, 0))


def shown(value: object) -> str:
    """The value as JSON, as the author of the configuration wrote it; a long one is truncated."""
    try:
        text = f'"{value}"' if isinstance(value, str) else dumps(value)
    except ValueError:
        text = str(value)  # 1e999 is read as infinity, which JSON cannot express
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def member(document: Mapping[str, Any], name: str) -> Any:
    """The value of the key `name`, or of a key that differs only in case, as in Go's decoder, or None."""
    if name in document:
        return document[name]
    return next((value for key, value in document.items() if key.lower() == name.lower()), None)


class _Scanning:
    """The attributes that the C scanner reads."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not a JSON number")


def _after_space(document: str, at: int) -> int:
    while document[at] in " \t\n\r":
        at += 1
    return at


def _mended(value: Any) -> Any:
    """The value without halves of surrogate pairs."""
    if isinstance(value, str):
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in value)
    if isinstance(value, list):
        return [_mended(entry) for entry in value]
    return {_mended(key): _mended(entry) for key, entry in value.items()} if isinstance(value, dict) else value


def _unencodable(value: object) -> NoReturn:
    raise TypeError(f"{type(value).__name__} has no JSON form")


_scan = _json.make_scanner(_Scanning)  # type: ignore[arg-type]  # it accepts any object with these attributes
# markers, default, encoder, indent, key separator, item separator, sort_keys, skipkeys, allow_nan
_encoder = _json.make_encoder(None, _unencodable, _ESCAPE, None, ": ", ", ", False, False, False)
