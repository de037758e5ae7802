"""A port: the frames of one application on one device."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

from driverhost.protocol.rings import LONGEST_FRAME, Memory

BURST = 64
"""Frames that one port may send before other work has its turn."""


class Port:
    """Rings and doorbells. `doorbell` is readable after the application has put frames in.

    A doorbell is a pair of sockets, not an eventfd. Whether an operation may block is a flag of the eventfd itself,
    which the application can change for both sides. With a socket, each call has a flag of its own.
    """

    def __init__(self, slots: int) -> None:
        """Raises `ValueError` for a wrong number of slots, `OSError` without memory."""
        self._memory = Memory.create(slots)
        self.doorbell, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._transmit, self._receive = self._memory.of_driver()
        self.dropped = 0
        self.malformed = 0

    @property
    def descriptors(self) -> tuple[int, int]:
        """For the application: the memory and its side of the doorbell."""
        return self._memory.descriptor, self._theirs.fileno()

    @property
    def is_open(self) -> bool:
        return self.doorbell.fileno() >= 0

    @property
    def counters(self) -> dict[str, int]:
        """`dropped`: frames for which the application had no room. `malformed`: frames with an impossible length."""
        return {"dropped": self.dropped, "malformed": self.malformed}

    def handed_over(self) -> None:
        """Closes the application's side of the doorbell here."""
        self._theirs.close()

    def answer(self) -> bool:
        """Empties the doorbell. False when the application has closed its side."""
        while True:
            try:
                if not self.doorbell.recv(16, socket.MSG_DONTWAIT):
                    return False
            except BlockingIOError:
                return True
            except ConnectionResetError:
                return False

    def waiting(self) -> list[bytes | None]:
        """Copies of the frames that the application wants to send. Raises `RingBroken`."""
        return self._transmit.peek(BURST)

    def sent(self, frames: Sequence[bytes | None]) -> None:
        """The first frames of `waiting` are done with."""
        self.malformed += sum(frame is None for frame in frames)
        self._transmit.take(len(frames))
        self._ring()

    def deliver(self, frames: Sequence[bytes]) -> None:
        """Gives frames to the application, as many as it has room for. Raises `RingBroken`."""
        room = self._receive.room
        fitting = [frame for frame in frames if len(frame) <= LONGEST_FRAME][:room]
        for frame in fitting:
            self._receive.put(frame)
        self.dropped += len(frames) - len(fitting)
        if fitting:
            self._receive.publish()
            self._ring()

    def close(self) -> None:
        self._theirs.close()
        self.doorbell.close()
        self._memory.close()

    def _ring(self) -> None:
        # A full doorbell has been rung already, and a closed one is noticed when it is read.
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            self.doorbell.send(b"\1", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
