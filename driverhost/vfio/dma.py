"""Memory that the device reads and writes by itself."""

from __future__ import annotations

import contextlib
import mmap
import os
from typing import TYPE_CHECKING

from driverhost.errors import OutOfDmaMemory
from driverhost.vfio.kernel import PAGE, address_of

if TYPE_CHECKING:
    from driverhost.vfio.iommu import Iommu

HUGE_PAGE = 2 << 20
"""Bytes. A huge page needs one entry of the IOMMU's table instead of 512."""


class DmaMemory:
    """One piece of memory. `iova` is the address that the device uses, `view` the bytes, `size` their number."""

    def __init__(self, iommu: Iommu, size: int) -> None:
        """Raises `OutOfDmaMemory`."""
        self._memory, self.size = _allocated(size)
        self._iommu = iommu
        self.iova = iommu.space.take(self.size, HUGE_PAGE if self.size >= HUGE_PAGE else PAGE)
        try:
            iommu.map(address_of(self._memory), self.iova, self.size)
        except BaseException:
            self._memory.close()
            raise
        self.view = memoryview(self._memory)

    def close(self) -> None:
        """Ends the device's access, then frees the memory. The device must not use it any more."""
        self._iommu.unmap(self.iova, self.size)
        self.view.release()
        # A driver's own view of the memory keeps it until that view is freed.
        with contextlib.suppress(BufferError):
            self._memory.close()


def _allocated(size: int) -> tuple[mmap.mmap, int]:
    """Huge pages when a large piece is wanted and the machine has them, or else normal ones."""
    if size >= HUGE_PAGE:
        rounded = -(-size // HUGE_PAGE) * HUGE_PAGE
        # No huge page is free, or the kernel has none: the normal ones below do.
        with contextlib.suppress(OSError):
            return _huge(rounded), rounded
    rounded = -(-size // PAGE) * PAGE
    try:
        return mmap.mmap(-1, rounded), rounded
    except OSError as error:
        raise OutOfDmaMemory(f"cannot allocate {rounded} bytes: {os.strerror(error.errno or 0)}") from error


def _huge(size: int) -> mmap.mmap:
    descriptor = os.memfd_create("driverhost", os.MFD_CLOEXEC | os.MFD_HUGETLB)
    try:
        os.ftruncate(descriptor, size)
        # The pages are reserved here, so that a shortage is an error and not a SIGBUS later.
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
