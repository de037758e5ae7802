"""The application's side of a port."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable
from typing import Self

from driverhost.client.connection import Disconnected
from driverhost.protocol.rings import LONGEST_FRAME, Memory


class ApplicationPort:
    """Sends and receives frames without their checksum, of 14 to 2,040 bytes.

    `fileno` is readable when frames have arrived or room has become free, so that a program can wait for it beside
    other descriptors. Not for several threads at once.
    """

    def __init__(self, memory: int, doorbell: int) -> None:
        """Owns both descriptors. Raises `RingBroken`."""
        self._doorbell = socket.socket(fileno=doorbell)
        try:
            self._memory = Memory.adopt(memory)
        except BaseException:
            self._doorbell.close()
            raise
        self._transmit, self._receive = self._memory.of_application()

    def fileno(self) -> int:
        return self._doorbell.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def send(self, frames: Iterable[bytes]) -> int:
        """Queues as many of the frames as there is room for, and returns their number. Raises `Disconnected`."""
        room = self._transmit.room
        number = 0
        for frame in frames:
            if number == room:
                break
            if not 0 < len(frame) <= LONGEST_FRAME:
                raise ValueError(f"a frame of {len(frame)} bytes")
            self._transmit.put(frame)
            number += 1
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
        ready, _, _ = select.select([self._doorbell], [], [], seconds)
        return bool(ready)

    def close(self) -> None:
        """It can be repeated."""
        if self._doorbell.fileno() >= 0:
            self._doorbell.close()
            self._memory.close()

    def _empty(self) -> bool:
        """Empties the doorbell, and returns whether the driver host has closed it."""
        while True:
            try:
                if not self._doorbell.recv(16, socket.MSG_DONTWAIT):
                    return True
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True

    def _ring(self) -> None:
        try:
            self._doorbell.send(b"\1", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            pass  # it has been rung, and not yet answered
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Disconnected("the driver host has closed the port") from error
