"""The device as a driver sees it. `VfioDevice` is the real one; the tests have one whose registers are a program."""

from __future__ import annotations

from typing import Protocol


class Registers(Protocol):
    """A BAR as words of 8, 16 or 32 bits in the machine's byte order. By 32 bits, the register at 0x10 is item 4.

    Each use of an item is one access of that width.
    """

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class Memory(Protocol):
    """Memory for DMA, as long as the device is open."""

    @property
    def iova(self) -> int:
        """The address that the device uses."""
        ...

    @property
    def size(self) -> int:
        """Bytes; a multiple of the page size."""
        ...

    @property
    def view(self) -> memoryview:
        """The bytes."""
        ...


class Device(Protocol):
    """One PCI function that this process has for itself."""

    @property
    def address(self) -> str: ...

    @property
    def ids(self) -> tuple[int, int]:
        """Vendor and device."""
        ...

    def registers(self, bar: int, bits: int = 32) -> Registers:
        """`bits` is the width of an access. Raises `Unsupported` when the BAR cannot be mapped."""
        ...

    def config(self, offset: int, size: int) -> bytes:
        """Bytes of the configuration space."""
        ...

    def set_config(self, offset: int, data: bytes) -> None: ...

    def memory(self, size: int) -> Memory:
        """Zeroed memory for DMA. Raises `OutOfDmaMemory`."""
        ...

    def interrupts(self, number: int) -> list[int]:
        """Enables that many MSI-X vectors, and returns an eventfd for each. Raises `Unsupported` when it has fewer."""
        ...

    def faults(self) -> dict[int, str]:
        """Eventfds of the events that end the device's use, with their meaning: a bus error, and the host's request.

        An event that the device does not have is not in it. Only the host calls this.
        """
        ...

    def set_bus_master(self, *, enabled: bool) -> None:
        """Whether the device may do DMA."""
        ...

    def reset(self) -> None:
        """By the function's own reset, where it has one. Raises `DeviceFailed`."""
        ...
