"""The system calls that VFIO needs. Tests put a recorded or fake kernel in its place."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from typing import Protocol

PAGE = mmap.PAGESIZE


class Kernel(Protocol):
    """Each function raises `OSError` as the system call does."""

    def open(self, path: str) -> int:
        """Opens a device node for reading and writing."""
        ...

    def close(self, descriptor: int) -> None: ...

    def ioctl(self, descriptor: int, request: int, argument: bytearray | int) -> int:
        """The result. A `bytearray` is what the kernel reads and changes; a number is passed by value."""
        ...

    def pread(self, descriptor: int, size: int, offset: int) -> bytes: ...

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> None: ...

    def map_registers(self, descriptor: int, size: int, offset: int) -> memoryview:
        """A region of the device as 32-bit words in the machine's byte order."""
        ...

    def eventfd(self) -> int: ...


class LinuxKernel:
    """The kernel of this machine."""

    def open(self, path: str) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def ioctl(self, descriptor: int, request: int, argument: bytearray | int) -> int:
        return fcntl.ioctl(descriptor, request, argument)

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        return os.pread(descriptor, size, offset)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> None:
        os.pwrite(descriptor, data, offset)

    def map_registers(self, descriptor: int, size: int, offset: int) -> memoryview:
        # A slice of a mapping is copied by memcpy, which may write a register twice. An item of a cast memoryview is
        # one access of 32 bits.
        mapping = mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset)
        return memoryview(mapping).cast("I")

    def eventfd(self) -> int:
        return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def address_of(memory: mmap.mmap) -> int:
    """The virtual address of a mapping. It stays valid until the mapping is closed."""
    # The ctypes object holds a buffer of the mapping only until it is freed, when this returns.
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
