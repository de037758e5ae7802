"""A driver of a network device: the functions that the host calls."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from driverhost.device import Device


class Link(NamedTuple):
    """The state of the link. `speed` is in Mbit/s, and 0 when it is not known."""

    up: bool
    speed: int = 0


class Driver(ABC):
    """Drives one device, in one thread. The device is reset before `__init__`, and after `stop`.

    Errors are those of `driverhost.errors`; `DeviceFailed` ends the driver, and the host starts a new one.
    """

    IDS: ClassVar[frozenset[tuple[int, int]]]
    """Vendor and device of what the driver drives."""

    def __init__(self, device: Device) -> None:
        self.device = device

    @abstractmethod
    def start(self) -> None:
        """Makes the device ready. Frames may be sent and received from then on."""

    @abstractmethod
    def stop(self) -> None:
        """Ends all DMA. The device's memory is freed afterwards."""

    @property
    @abstractmethod
    def interrupts(self) -> list[int]:
        """Eventfds. When one is readable, the host calls `on_interrupt`."""

    def take_interrupts(self) -> list[bool]:
        """Empties the eventfds of `interrupts`, and returns which of them had been raised."""
        return [_was_raised(descriptor) for descriptor in self.interrupts]

    @abstractmethod
    def on_interrupt(self) -> None:
        """Acknowledges the device's interrupts. Afterwards the host calls `receive` until it returns nothing."""

    @property
    @abstractmethod
    def mac(self) -> bytes:
        """Six bytes."""

    @abstractmethod
    def set_mac(self, mac: bytes) -> None:
        """Raises `Unsupported` when the device or the physical function refuses."""

    @property
    @abstractmethod
    def link(self) -> Link: ...

    @property
    @abstractmethod
    def statistics(self) -> dict[str, int]:
        """The device's counters since `start`: at least rx_packets, tx_packets, rx_bytes and tx_bytes."""

    @abstractmethod
    def send(self, frames: Iterable[bytes | memoryview]) -> int:
        """Queues frames without their checksum, as many as there is room for, and returns their number."""

    @abstractmethod
    def receive(self, limit: int) -> list[bytes]:
        """At most `limit` frames that have arrived, without their checksum."""


def _was_raised(descriptor: int) -> bool:
    try:
        return os.eventfd_read(descriptor) > 0
    except BlockingIOError:
        return False
