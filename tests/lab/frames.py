"""The messages between host and guest: frames of a JSON head and a body of raw bytes, on one byte stream.

Head of a request: `id`, `op` and the arguments. Head of a response: `id`, `event` and the event's values. The guest
also reads this file, next to agent.py.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

SIZES = struct.Struct("!II")
PORT = "barewire.lab"

Head = dict[str, Any]


def frame(head: Head, body: bytes = b"") -> bytes:
    text = json.dumps(head).encode()
    return SIZES.pack(len(text), len(body)) + text + body


class Frames:
    """Splits the stream, which arrives in pieces of any size, into whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Head, bytes]]:
        self._buffer += data
        while len(self._buffer) >= SIZES.size:
            head_size, body_size = SIZES.unpack_from(self._buffer)
            end = SIZES.size + head_size + body_size
            if len(self._buffer) < end:
                return
            head = json.loads(self._buffer[SIZES.size : SIZES.size + head_size])
            body = bytes(self._buffer[SIZES.size + head_size : end])
            del self._buffer[:end]
            yield head, body
