"""The host's end of the connection to the agent in the guest. Any number of threads may use it at the same time."""

from __future__ import annotations

import itertools
import socket
import threading
from concurrent.futures import Future
from contextlib import suppress

from tests.lab.errors import LabError
from tests.lab.frames import Frames, Head, frame

Answer = tuple[Head, bytes]


class Call:
    """One request: `first` is its first response, `last` the final one (for most requests the same)."""

    def __init__(self, number: int) -> None:
        self.id = number
        self.first: Future[Answer] = Future()
        self.last: Future[Answer] = Future()

    def take(self, head: Head, body: bytes) -> bool:
        """Returns whether this was the last response."""
        if not self.first.done():
            self.first.set_result((head, body))
        if head["event"] == "started":
            return False
        self.last.set_result((head, body))
        return True

    def fail(self, error: Exception) -> None:
        for future in (self.first, self.last):
            if not future.done():
                future.set_exception(error)


class Channel:
    """Pairs responses with requests. When the connection breaks, every open request fails, and so do all later ones."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._calls: dict[int, Call] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._broken: Exception | None = None
        self.hello = self._expect(0)
        self._reader = threading.Thread(target=self._read, name="lab channel", daemon=True)
        self._reader.start()

    @property
    def broken(self) -> bool:
        """Whether the other end has closed the connection."""
        return self._broken is not None

    def call(self, op: str, body: bytes = b"", **arguments: object) -> Call:
        call = self._expect(next(self._numbers))
        try:
            with self._writing:
                self._line.sendall(frame({"id": call.id, "op": op, **arguments}, body))
        except OSError as error:
            call.fail(LabError(f"the line to the guest is broken: {error}"))
        return call

    def close(self) -> None:
        # Closing alone does not wake a thread that is reading.
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._reader.join(timeout=5)
        self._line.close()

    def _expect(self, number: int) -> Call:
        call = Call(number)
        with self._lock:
            if self._broken:
                call.fail(self._broken)
            else:
                self._calls[number] = call
        return call

    def _read(self) -> None:
        frames = Frames()
        try:
            while data := self._line.recv(1 << 20):
                for head, body in frames.feed(data):
                    self._deliver(head, body)
        except OSError:
            pass
        self._break(LabError("the virtual machine is gone"))

    def _deliver(self, head: Head, body: bytes) -> None:
        with self._lock:
            call = self._calls[head["id"]]
        if call.take(head, body):
            with self._lock:
                del self._calls[call.id]

    def _break(self, error: Exception) -> None:
        with self._lock:
            self._broken = error
            calls, self._calls = self._calls, {}
        for call in calls.values():
            call.fail(error)
