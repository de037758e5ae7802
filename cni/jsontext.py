"""JSON text to values and back, on the C code of `_json`: importing `json` costs 5 ms because of `re`."""

from __future__ import annotations

import _json

from cni.errors import DecodeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_SPACE = b" \t\n\r"
_ESCAPE = _json.encode_basestring_ascii


def loads(text: bytes) -> Any:
    """The value of one JSON document in UTF-8. Raises `DecodeFailure`.

    As Go's decoder does: the last of several equal keys counts, and NaN and Infinity are no numbers.
    """
    try:
        document = text.decode()
        start = len(document) - len(document.lstrip(" \t\n\r"))
        value, end = _scan(document, start)
    except StopIteration as stop:
        raise DecodeFailure(f"not JSON: a value is expected at character {stop.value}") from stop
    except (ValueError, RecursionError) as error:
        # UnicodeDecodeError and json.JSONDecodeError are ValueErrors; so is an integer of thousands of digits.
        raise DecodeFailure(f"not JSON: {error}") from error
    if document[end:].strip(" \t\n\r"):
        raise DecodeFailure(f"not JSON: something follows the value at character {end}")
    return value


def dumps(value: Any) -> str:
    """The JSON text of a value, in ASCII, on one line."""
    return "".join(_encoder(value, 0))


class _Scanning:
    """What the C scanner wants to know; these are the names that it reads."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number in JSON")

    memo: dict[str, str] = {}  # noqa: RUF012 - one process reads a handful of documents


def _unencodable(value: object) -> NoReturn:
    raise TypeError(f"{type(value).__name__} has no JSON form")


_scan = _json.make_scanner(_Scanning)
# markers, default, encoder, indent, key separator, item separator, sort_keys, skipkeys, allow_nan
_encoder = _json.make_encoder(None, _unencodable, _ESCAPE, None, ": ", ", ", False, False, False)
