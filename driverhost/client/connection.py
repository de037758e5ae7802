"""The socket of the driver host, and the meaning of its answers."""

from __future__ import annotations

import socket
from typing import Any

from driverhost.errors import DriverHostError
from driverhost.protocol.messages import Message

DEFAULT = "@driverhost"
"""An abstract socket, which every container of the pod reaches without a volume."""

ANSWER_SECONDS = 10.0
"""Time limit for a connection, and for an answer."""


class Disconnected(DriverHostError):
    """The driver host has ended, or does not answer in time. Its ports are closed; connect again."""


class Refused(DriverHostError):
    """The driver host refuses a request. `code` names the kind of error."""

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


def address_of(path: str) -> str:
    """The address of a socket: a path, or `@` and the name of an abstract socket."""
    return "\0" + path[1:] if path.startswith("@") else path


def opened(path: str, seconds: float = ANSWER_SECONDS) -> socket.socket:
    """A connection. Where the driver host does not accept, it waits so long. Raises `OSError`."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(seconds)
        connection.connect(address_of(path))
    except BaseException:
        connection.close()
        raise
    return connection


def result_of(message: Message) -> dict[str, Any]:
    """The result in an answer. Raises `Refused`."""
    error = message.fields.get("error")
    if isinstance(error, dict):
        fields = {name: str(error.get(name, "")) for name in ("message", "code", "hint")}
        raise Refused(fields["message"], code=fields["code"], hint=fields["hint"])
    result = message.fields.get("result")
    return result if isinstance(result, dict) else {}
