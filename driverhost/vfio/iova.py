"""Addresses that a device uses for DMA (IOVA)."""

from __future__ import annotations

from collections.abc import Sequence

from driverhost.errors import OutOfDmaMemory

LOWEST = 1 << 28
"""Drivers of old devices, and their bugs, take the addresses below."""


class IovaSpace:
    """The addresses that the IOMMU allows. Each is given once: a device that still has an old address meets nothing."""

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        """`ranges`: first and last address of each."""
        self._ranges = [(max(first, LOWEST), last) for first, last in sorted(ranges) if last > LOWEST]

    def take(self, size: int, alignment: int) -> int:
        """The first address of `size` bytes; a multiple of `alignment`, a power of two. Raises `OutOfDmaMemory`."""
        for index, (first, last) in enumerate(self._ranges):
            start = -(-first // alignment) * alignment
            if start + size - 1 <= last:
                self._ranges[index] = (start + size, last)
                return start
        raise OutOfDmaMemory(f"the IOMMU has no free range of {size} addresses")
