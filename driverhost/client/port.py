"""The application's side of a port."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from typing import Self

from driverhost.client.connection import Disconnected
from driverhost.protocol.rings import LONGEST_FRAME, SHORTEST_FRAME, Memory


class ApplicationPort:
    """Sends and receives frames without their checksum, of 14 to 2,040 bytes.

    `fileno` is readable when frames have arrived or room has become free, so that a program can wait for it beside
    other descriptors. Not for several threads at once.
    """

    def __init__(self, memory: Memory, doorbell: int, bell: int) -> None:
        """Owns the memory and both descriptors: of the doorbell to hear, and of the one to ring."""
        self._memory, self._doorbell, self._bell = memory, doorbell, bell
        self._is_open = True
        self._transmit, self._receive = memory.of_application()

    def fileno(self) -> int:
        return self._doorbell

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def send(self, frames: Iterable[bytes]) -> int:
        """Queues as many of the frames as there is room for, and returns their number.

        Raises `Disconnected`, and `ValueError` for a frame of another length; the frames before it are sent.
        """
        room = self._transmit.room
        number = 0
        try:
            for frame in frames:
                if number == room:
                    break
                if not SHORTEST_FRAME <= len(frame) <= LONGEST_FRAME:
                    raise ValueError(f"a frame of {len(frame)} bytes: {SHORTEST_FRAME} to {LONGEST_FRAME} are possible")
                self._transmit.put(frame)
                number += 1
        finally:
            if number:
                self._transmit.publish()
                self._ring()
        return number

    def receive(self, limit: int = 64) -> list[bytes]:
        """The frames that are there, at most `limit`. Raises `Disconnected` when there are no more."""
        frames = self._receive.peek(limit)
        if len(frames) < limit:
            # The doorbell stays readable while frames may be left. Frames that came before it was emptied count, too.
            closed = self._empty()
            frames = self._receive.peek(limit)
            if closed and not frames:
                raise Disconnected("the driver host has closed the port")
        if frames:
            self._receive.take(len(frames))
        return [frame for frame in frames if frame is not None]

    def wait(self, seconds: float) -> bool:
        """Whether the doorbell has rung within the time. Raises `Disconnected`."""
        poller = select.poll()  # select() takes no descriptor above 1023
        poller.register(self._doorbell, select.POLLIN)
        return bool(poller.poll(max(0.0, seconds) * 1000))

    def close(self) -> None:
        """It can be repeated."""
        if self._is_open:
            self._is_open = False
            os.close(self._bell)
            os.close(self._doorbell)
            self._memory.close()

    def _empty(self) -> bool:
        """Empties the doorbell, and returns whether the driver host has closed it."""
        while True:
            try:
                if not os.read(self._doorbell, 4096):
                    return True
            except BlockingIOError:
                return False

    def _ring(self) -> None:
        try:
            os.write(self._bell, b"\1")
        except BlockingIOError:
            pass  # it has been rung, and not yet answered
        except BrokenPipeError as error:
            raise Disconnected("the driver host has closed the port") from error
