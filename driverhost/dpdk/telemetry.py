"""The telemetry socket of a DPDK process: a command in a packet, and JSON as the answer.

Source: DPDK's guide, "DPDK Telemetry User Guide", version 2 of the socket.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from driverhost.errors import DeviceFailed

SECONDS = 2.0
"""Time limit for a connection and for an answer."""
_GREETING_BYTES = 4096
_MOST_BYTES = 1 << 20


def ask(path: str, *commands: str) -> list[Any]:
    """The answers to the commands, such as `/ethdev/stats,0`. Raises `DeviceFailed`."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(SECONDS)
            connection.connect(path)
            longest = int(json.loads(connection.recv(_GREETING_BYTES))["max_output_len"])
            return [_answer(connection, command, min(longest, _MOST_BYTES)) for command in commands]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeviceFailed(f"the DPDK process does not answer on {path}: {error}") from error


def _answer(connection: socket.socket, command: str, longest: int) -> Any:
    connection.send(command.encode())
    return json.loads(connection.recv(longest))[command.partition(",")[0]]
