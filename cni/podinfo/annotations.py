"""The pod's annotations in a downward API volume: lines of `key="value"`, quoted as in Go."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .reading import PodInfoError, read

if TYPE_CHECKING:
    from pathlib import Path

NETWORK_STATUS = "k8s.v1.cni.cncf.io/network-status"
CONFIGURATION_DATA = "userspace/configuration-data"
MAPPED_DIR = "userspace/mapped-dir"

_ESCAPE = re.compile(
    rb"""\\(?: x(?P<byte>[0-9a-fA-F]{2}) | (?P<octal>[0-3][0-7]{2})
         | u(?P<short>[0-9a-fA-F]{4}) | U(?P<long>[0-9a-fA-F]{8}) | (?P<letter>[abfnrtv\\"]) | (?P<other>.|$) )""",
    re.VERBOSE | re.DOTALL,
)
_LETTERS = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def pod_annotations(path: Path) -> dict[str, str] | None:
    """The annotations in the file, None if it does not exist. Raises `PodInfoError`."""
    content = read(path)
    if content is None:
        return None
    # `splitlines` would also split at characters such as U+2028, which a value may contain.
    lines = enumerate(content.split("\n"), 1)
    return dict(_annotation(line, f"{path}, line {number}") for number, line in lines if line.strip())


def _annotation(line: str, source: str) -> tuple[str, str]:
    # A key contains no `=`; a value may contain any number of them.
    key, sign, quoted = line.partition("=")
    try:
        if not sign:
            raise ValueError('no key="value"')
        return key.strip(), unquoted(quoted.strip())
    except ValueError as error:
        raise PodInfoError(f"{source}: {error}") from error


def unquoted(quoted: str) -> str:
    """The argument of Go's strconv.Quote. Raises `ValueError`."""
    if len(quoted) < 2 or quoted[0] != '"' or quoted[-1] != '"':
        raise ValueError("the value is not in quotes")
    # Escapes represent bytes (\xc3) or characters (\u00e4): only all bytes together are a text.
    content = _ESCAPE.sub(_meant, quoted[1:-1].encode())
    return content.decode(errors="replace")


def _meant(escape: re.Match[bytes]) -> bytes:
    kind, digits = escape.lastgroup, escape[escape.lastgroup or 0]
    if kind == "letter":
        return _LETTERS.get(digits, digits)
    if kind in ("byte", "octal"):
        return bytes([int(digits, 16 if kind == "byte" else 8)])
    if kind in ("short", "long"):
        # As in Go, a surrogate is not a character; UnicodeEncodeError is a ValueError.
        return chr(int(digits, 16)).encode()
    raise ValueError(f"unknown escape {escape[0].decode(errors='replace')}")
