"""The opening of a port: the application makes its memory, and the driver host answers with the doorbells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from driverhost.client.connection import Disconnected, result_of
from driverhost.client.port import ApplicationPort
from driverhost.protocol.rings import Memory

if TYPE_CHECKING:
    from driverhost.protocol.messages import Message


class Opening:
    """The memory of a port that is about to be opened; it is freed at the end of `with` unless the port is open."""

    def __init__(self, slots: int) -> None:
        """Raises `ValueError` for a wrong number of slots, and `OSError` without memory."""
        self._memory: Memory | None = Memory.create(slots)
        self.descriptor = self._memory.descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._memory:
            self._memory.close()

    def port(self, message: Message) -> ApplicationPort:
        """The port, by the driver host's answer. Raises `Refused`, `Disconnected`."""
        try:
            result_of(message)
            if len(message.descriptors) != 2 or not self._memory:
                raise Disconnected("the driver host has sent no doorbells")
        except BaseException:
            message.close()
            raise
        memory, self._memory = self._memory, None
        return ApplicationPort(memory, *message.descriptors)
