"""A connection to the database of Open vSwitch: transactions of RFC 7047 over a unix or TCP socket, within a bound.

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
"""Bytes of one answer; 10000 ports with their interfaces need half. What is parsed can take twenty times as much memory."""


class Database:
    """One connection; `deadline` is in monotonic seconds everywhere.

    Raises `TryAgainLater` when the server is not there, hangs up, does not answer in time, or gives answers without the
    form of OVSDB's, also when the body of its context finds that out: what was asked may have happened then, or may still
    happen.
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
        # Who takes an answer apart does so in here. A server that a network's author named can say anything.
        if isinstance(error, (AttributeError, IndexError, KeyError, TypeError, ValueError)):
            raise self._lost("the answer is not OVSDB's") from error

    def close(self) -> None:
        """Closes the connection; a transaction that still waits in the server is cancelled by that."""
        self._socket.close()

    def transact(self, operations: list[JsonObject], deadline: float) -> list[JsonObject]:
        """The result of each operation; all of them took effect, or `VswitchRefused` is raised and none did."""
        self._number += 1
        request = {"method": "transact", "params": [DATABASE, *operations], "id": self._number}
        self._send(request, deadline)
        results = self._reply(deadline)
        for place, result in enumerate(results):
            # A commit that is refused has its error behind the results of all operations.
            if isinstance(result, dict) and "error" in result:
                raise _refusal(place, result)
        if len(results) != len(operations) or not all(isinstance(result, dict) for result in results):
            raise self._lost("the answer is not OVSDB's")
        return results

    def _connect(self, address: Any, deadline: float) -> None:
        # A full backlog makes a non-blocking connect to a unix socket fail at once: 50 pods may start together.
        # A blocking one waits for its turn, and SO_SNDTIMEO bounds that.
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
                # The server probes a TCP connection that is silent for some seconds, and hangs up without an answer.
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
            # Also for messages that are here already: a server can send more of them than there is time to pass over.
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
    if isinstance(error, (TimeoutError, BlockingIOError)):  # what SO_SNDTIMEO ends with is EAGAIN or EINPROGRESS
        return "no answer in time"
    return os.strerror(error.errno) if error.errno else str(error)
