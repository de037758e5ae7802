"""Messages between the driver host and an application: one JSON object in each packet, and descriptors beside it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from driverhost.errors import DriverHostError

LONGEST = 64 * 1024
MOST_DESCRIPTORS = 253
"""SCM_MAX_FD of the kernel. With room for fewer, it would close the others within `recvmsg`, which may block."""


class BadMessage(DriverHostError):
    """The other side has sent something that is not a message."""


class Message(NamedTuple):
    """The object, and the descriptors that came with it, which the receiver owns."""

    fields: dict[str, Any]
    descriptors: list[int]

    def close(self) -> None:
        """Closes the descriptors, which nobody wants."""
        _close(self.descriptors)


def send(connection: socket.socket, fields: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
    """Raises `OSError`; `BlockingIOError` when the other side does not read."""
    data = json.dumps(fields, separators=(",", ":")).encode()
    socket.send_fds(connection, [data], descriptors, socket.MSG_NOSIGNAL)


def receive(connection: socket.socket, close: Callable[[list[int]], None] | None = None) -> Message | None:
    """The next message, or None at the end of the connection. Raises `BadMessage`, `OSError`.

    `close` closes the descriptors of what is no message.
    """
    close = close or _close
    data, descriptors, flags, _address = socket.recv_fds(connection, LONGEST, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not data:
        close(list(descriptors))
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise BadMessage(f"a message of more than {LONGEST} bytes")
        fields = json.loads(data)
        if not isinstance(fields, dict):
            raise BadMessage("a message that is not an object")
    except (ValueError, RecursionError) as error:
        close(list(descriptors))
        raise BadMessage(f"a message that is not JSON: {error}") from error
    except BadMessage:
        close(list(descriptors))
        raise
    return Message(fields, list(descriptors))


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
