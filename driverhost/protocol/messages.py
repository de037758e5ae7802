"""Messages between the driver host and an application: one JSON object in each packet, and descriptors beside it."""

from __future__ import annotations

import json
import os
import socket
from typing import Any, NamedTuple

from driverhost.errors import DriverHostError

LONGEST = 64 * 1024
MOST_DESCRIPTORS = 4


class BadMessage(DriverHostError):
    """The other side has sent something that is not a message."""


class Message(NamedTuple):
    """The object, and the descriptors that came with it, which the receiver owns."""

    fields: dict[str, Any]
    descriptors: list[int]


def send(connection: socket.socket, fields: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
    """Raises `OSError`; `BlockingIOError` when the other side does not read."""
    data = json.dumps(fields, separators=(",", ":")).encode()
    socket.send_fds(connection, [data], descriptors, socket.MSG_NOSIGNAL)


def receive(connection: socket.socket) -> Message | None:
    """The next message, or None at the end of the connection. Raises `BadMessage`, `OSError`."""
    data, descriptors, flags, _address = socket.recv_fds(connection, LONGEST, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not data:
        _close(descriptors)
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise BadMessage(f"a message of more than {LONGEST} bytes or {MOST_DESCRIPTORS} descriptors")
        fields = json.loads(data)
        if not isinstance(fields, dict):
            raise BadMessage("a message that is not an object")
    except (ValueError, RecursionError) as error:
        _close(descriptors)
        raise BadMessage(f"a message that is not JSON: {error}") from error
    except BadMessage:
        _close(descriptors)
        raise
    return Message(fields, list(descriptors))


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
