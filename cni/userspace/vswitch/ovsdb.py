"""A connection to the database of Open vSwitch: transactions of RFC 7047 over a unix or TCP socket, with time limits.

A call of the plugin makes two or three transactions; python-ovs' IDL would first copy the tables (49 ms).
"""

from __future__ import annotations

import _socket
import os
import struct
import time

from cni import jsontext
from cni.errors import TryAgainLater, VswitchRefused
from cni.userspace.vswitch.remote import parse_remote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from cni.jsontext import JsonObject

DATABASE = "Open_vSwitch"
RECEIVE_BYTES = 1 << 18
LARGEST_ANSWER = 16 << 20
"""Maximum bytes of a response. 10000 ports with their interfaces need half of it; parsed, it can take twenty times
the memory."""


class Database:
    """One connection. All values of `deadline` are in monotonic seconds.

    Raises `TryAgainLater` if the server does not exist, closes the connection, does not respond in time, or sends
    responses that are not OVSDB's, also if only the body of its context detects that. The request may have been
    executed then, or may still be.
    """

    def __init__(self, remote: str, deadline: float) -> None:
        self.remote = remote
        self._number = 0
        self._received = b""
        family, address = parse_remote(remote)
        self._socket = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            self._connect(address, deadline)
        except TryAgainLater:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self.close()
        # The code that interprets a response runs in this context. A server that a network's author named can send
        # anything.
        if isinstance(error, (AttributeError, IndexError, KeyError, TypeError, ValueError)):
            raise self._lost("the answer is not OVSDB's") from error

    def close(self) -> None:
        """Closes the connection, which cancels a transaction that still waits in the server."""
        self._socket.close()

    def transact(self, operations: list[JsonObject], deadline: float) -> list[JsonObject]:
        """The result of each operation. All of them took effect, or `VswitchRefused` is raised and none did."""
        self._number += 1
        request = {"method": "transact", "params": [DATABASE, *operations], "id": self._number}
        self._send(request, deadline)
        results = self._reply(deadline)
        for place, result in enumerate(results):
            # The error of a refused commit comes after the results of all operations.
            if isinstance(result, dict) and "error" in result:
                raise _refusal(place, result)
        if len(results) != len(operations) or not all(isinstance(result, dict) for result in results):
            raise self._lost("the answer is not OVSDB's")
        return results

    def _connect(self, address: Any, deadline: float) -> None:
        # With a full backlog, a non-blocking connect to a unix socket fails immediately: 50 pods may start together. A
        # blocking one waits, limited by SO_SNDTIMEO.
        seconds = self._remaining(deadline)
        timeval = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        try:
            self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, timeval)
            self._socket.connect(address)
        except OSError as error:
            raise self._lost(f"cannot connect: {_words(error)}") from error

    def _send(self, request: JsonObject, deadline: float) -> None:
        self._socket.settimeout(self._remaining(deadline))
        try:
            self._socket.sendall(jsontext.dumps(request).encode())
        except OSError as error:
            raise self._lost(_words(error)) from error

    def _reply(self, deadline: float) -> list[JsonObject]:
        while True:
            message = self._message(deadline)
            if message.get("method") == "echo":
                # The server probes a TCP connection that is silent for some seconds, and closes it if there is no
                # response.
                self._send({"result": message.get("params"), "error": None, "id": message.get("id")}, deadline)
            elif message.get("id") == self._number and "method" not in message:
                return self._results(message)

    def _results(self, message: JsonObject) -> list[JsonObject]:
        error, results = message.get("error"), message.get("result")
        if error is not None:
            raise _refusal(-1, error if isinstance(error, dict) else {"error": str(error)})
        if not isinstance(results, list):
            raise self._lost("the answer is not OVSDB's")
        return results

    def _message(self, deadline: float) -> JsonObject:
        while True:
            # This also applies to messages that have arrived: a server can send more of them than there is time to
            # skip.
            self._remaining(deadline)
            found = jsontext.first(self._received) if self._received.endswith((b"}", b"\n")) else None
            if found is None:
                self._receive(deadline)
                continue
            message, self._received = found
            if not isinstance(message, dict):
                raise self._lost("the answer is not OVSDB's")
            return message

    def _receive(self, deadline: float) -> None:
        self._socket.settimeout(self._remaining(deadline))
        try:
            chunk = self._socket.recv(RECEIVE_BYTES)
        except OSError as error:
            raise self._lost(_words(error)) from error
        if not chunk:
            raise self._lost("the server hung up")
        self._received += chunk
        if self._received[:1] != b"{" or len(self._received) > LARGEST_ANSWER:
            raise self._lost("the answer is not OVSDB's")

    def _remaining(self, deadline: float) -> float:
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise self._lost("no time is left")
        return seconds

    def _lost(self, why: str) -> TryAgainLater:
        return TryAgainLater(f"OVSDB at {self.remote}: {why}", hint="is ovsdb-server running, and is this its socket?")


def _refusal(place: int, result: JsonObject) -> VswitchRefused:
    reason, words = str(result["error"]), str(result.get("details", ""))
    error = VswitchRefused(f"OVSDB refused a change: {reason}" + (f": {words}" if words else ""))
    error.operation, error.reason = place, reason
    return error


def _words(error: OSError) -> str:
    if isinstance(error, (TimeoutError, BlockingIOError)):  # SO_SNDTIMEO ends with EAGAIN or EINPROGRESS
        return "no answer in time"
    return os.strerror(error.errno) if error.errno else str(error)
