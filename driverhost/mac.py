"""MAC addresses as text."""

from __future__ import annotations

import re
import secrets

_FORM = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


def parse_unicast(text: object) -> bytes:
    """The six bytes of the address of one interface, such as 02:00:00:00:00:01. Raises `ValueError`."""
    mac = bytes.fromhex(text.replace(":", "")) if isinstance(text, str) and _FORM.fullmatch(text) else b""
    if not mac or mac[0] & 1 or not any(mac):
        raise ValueError(f"{text!r} is not the address of one interface, such as 02:00:00:00:00:01")
    return mac


def random_unicast() -> bytes:
    """A random address of one interface that is locally administered."""
    first, *others = secrets.token_bytes(6)
    return bytes([(first | 2) & ~1, *others])
