"""A port: the frames of one application on one device."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from driverhost.protocol.rings import LONGEST_FRAME, Memory

BURST = 64
"""Frames that one port may send before other work has its turn."""
_RINGS = 4096
"""Bytes of a doorbell that are read at a time. What is left wakes the driver host again."""


class Port:
    """Rings and doorbells. `doorbell` is readable after the application has put frames in.

    Each doorbell is a pipe, not an eventfd and not a socket. Whether an operation may block is a flag of the open file:
    of an eventfd, both sides have the same one. By a socket, the other side can send a descriptor whose closing blocks.
    """

    def __init__(self, memory: int) -> None:
        """Owns the descriptor of the application's memory. Raises `RingBroken`; `OSError` without descriptors."""
        self._memory = Memory.adopt(memory)
        opened: list[int] = []
        try:
            opened += os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            opened += os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self._memory.close()
            for descriptor in opened:
                os.close(descriptor)
            raise
        self.doorbell, ringing, hearing, self._bell = opened
        self._theirs = [hearing, ringing]
        self._transmit, self._receive = self._memory.of_driver()
        self.is_open = True
        self.dropped = 0
        self.malformed = 0

    @property
    def slots(self) -> int:
        """Of each of the two rings."""
        return self._memory.slots

    @property
    def descriptors(self) -> tuple[int, ...]:
        """For the application: the doorbell that it hears, then the one that it rings."""
        return tuple(self._theirs)

    @property
    def counters(self) -> dict[str, int]:
        """`dropped`: frames for which the application had no room. `malformed`: frames with an impossible length."""
        return {"dropped": self.dropped, "malformed": self.malformed}

    def handed_over(self) -> None:
        """Closes the application's ends here."""
        while self._theirs:
            os.close(self._theirs.pop())

    def answer(self) -> bool:
        """Empties the doorbell. False when the application has closed its end."""
        try:
            return bool(os.read(self.doorbell, _RINGS))
        except BlockingIOError:
            return True

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
        """It can be repeated."""
        if self.is_open:
            self.is_open = False
            self.handed_over()
            os.close(self.doorbell)
            os.close(self._bell)
            self._memory.close()

    def _ring(self) -> None:
        # A full doorbell has been rung already, and a closed one is noticed when the other one is read.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._bell, b"\1")
