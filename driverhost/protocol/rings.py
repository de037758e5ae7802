"""The memory that a port shares with an application: two rings of frames, one for each direction.

Both sides may run programs that the other one does not trust. So each side keeps its own index in private, and takes
from the memory only the other side's index and the frames; it checks both at each use. The memory is a sealed memfd, so
that nobody can make it shorter under the other one's access.

Layout, version 1, little-endian, 32-bit words:

| offset | content |
|---|---|
| 0 | `BWRING01` |
| 8 | version, slots of each ring (a power of two), bytes of a slot |
| 64 | tx: frames that the application has put in, modulo 2^32 |
| 128 | tx: frames that the driver has taken out |
| 192 | rx: frames that the driver has put in |
| 256 | rx: frames that the application has taken out |
| 4096 | the slots of tx, then those of rx |

A slot has the length of its frame, a word that is zero, and the frame.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
from typing import Self

from driverhost.errors import DriverHostError

MAGIC = b"BWRING01"
VERSION = 1
SLOT_BYTES = 2048
SLOT_HEAD = 8
LONGEST_FRAME = SLOT_BYTES - SLOT_HEAD
FEWEST_SLOTS, MOST_SLOTS = 16, 4096
SHORTEST_FRAME = 14
_DATA = 4096
_GEOMETRY = struct.Struct("<8sIII")
_HEAD_OF_SLOT = struct.Struct("<II")
_WORD = struct.Struct("<I")
_TX_PUT, _TX_TAKEN, _RX_PUT, _RX_TAKEN = 64, 128, 192, 256
_WRAP = 1 << 32
_LIBC = ctypes.CDLL(None, use_errno=True)
_TMPFS = 0x01021994
"""TMPFS_MAGIC of <linux/magic.h>, the file system of a memfd. One of huge pages (MFD_HUGETLB) has another one: there an
access fails with SIGBUS when no huge page is left.
"""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class RingBroken(DriverHostError):
    """The other side's index or geometry is impossible. The port must be closed."""


class Memory:
    """The shared memory of a port."""

    def __init__(self, descriptor: int, slots: int) -> None:
        self.descriptor = descriptor
        self.slots = slots
        self._mapping = mmap.mmap(descriptor, size_of(slots))
        self.view = memoryview(self._mapping)

    @classmethod
    def create(cls, slots: int) -> Self:
        """Raises `ValueError` when the number of slots is not a power of two within the limits."""
        if not FEWEST_SLOTS <= slots <= MOST_SLOTS or slots & (slots - 1):
            raise ValueError(f"{slots} slots: a power of two from {FEWEST_SLOTS} to {MOST_SLOTS} is required")
        descriptor = os.memfd_create("driverhost-port", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # Allocated now: a shortage of memory is an error here, and would be a SIGBUS at the first access.
            os.posix_fallocate(descriptor, 0, size_of(slots))
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            memory = cls(descriptor, slots)
        except BaseException:
            os.close(descriptor)
            raise
        _GEOMETRY.pack_into(memory.view, 0, MAGIC, VERSION, slots, SLOT_BYTES)
        return memory

    @classmethod
    def adopt(cls, descriptor: int) -> Self:
        """The memory that the other side has made. Owns the descriptor, unless it raises `RingBroken`."""
        try:
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
            if _file_system(descriptor) != _TMPFS:
                raise RingBroken("the memory of the port is not of normal pages: an access could fail")
            if seals & _SEALS != _SEALS:
                raise RingBroken("the memory of the port can be made shorter: it is not sealed")
            magic, version, slots, slot_bytes = _GEOMETRY.unpack(os.pread(descriptor, _GEOMETRY.size, 0))
            if (magic, version, slot_bytes) != (MAGIC, VERSION, SLOT_BYTES) or not FEWEST_SLOTS <= slots <= MOST_SLOTS:
                raise RingBroken(
                    f"the memory of the port has version {version} with {slots} slots of {slot_bytes} bytes"
                )
            if slots & (slots - 1) or os.fstat(descriptor).st_size != size_of(slots):
                raise RingBroken("the memory of the port has another size than its head says")
            return cls(descriptor, slots)
        except (OSError, struct.error) as error:
            raise RingBroken(f"the memory of the port cannot be used: {error}") from error

    def close(self) -> None:
        """Both rings must not be used afterwards."""
        self.view.release()
        self._mapping.close()
        os.close(self.descriptor)

    def of_driver(self) -> tuple[Consumer, Producer]:
        """The driver's ends: it takes from tx and puts into rx."""
        return Consumer(self, 0, _TX_PUT, _TX_TAKEN), Producer(self, 1, _RX_PUT, _RX_TAKEN)

    def of_application(self) -> tuple[Producer, Consumer]:
        """The application's ends: it puts into tx and takes from rx."""
        return Producer(self, 0, _TX_PUT, _TX_TAKEN), Consumer(self, 1, _RX_PUT, _RX_TAKEN)


class _End:
    """One side of one ring. `_own` is this side's index, which the other side cannot change."""

    def __init__(self, memory: Memory, ring: int, put: int, taken: int) -> None:
        self._view = memory.view
        self._slots = memory.slots
        self._first = _DATA + ring * memory.slots * SLOT_BYTES
        self._put, self._taken = put, taken
        self._own = 0

    def _slot(self, index: int) -> int:
        return self._first + (index % self._slots) * SLOT_BYTES

    def _filled(self, put: int, taken: int) -> int:
        """The number of frames in the ring. Raises `RingBroken` when the two indexes cannot be true."""
        number = (put - taken) % _WRAP
        if number > self._slots:
            raise RingBroken(f"a ring of {self._slots} slots claims to have {number} frames")
        return number

    def _word(self, offset: int) -> int:
        value: int = _WORD.unpack_from(self._view, offset)[0]
        return value


class Producer(_End):
    """The side that puts frames in."""

    @property
    def room(self) -> int:
        """Raises `RingBroken`."""
        return self._slots - self._filled(self._own, self._word(self._taken))

    def put(self, frame: bytes | memoryview) -> None:
        """There must be room. The other side sees the frame after `publish`."""
        slot = self._slot(self._own)
        _HEAD_OF_SLOT.pack_into(self._view, slot, len(frame), 0)
        self._view[slot + SLOT_HEAD : slot + SLOT_HEAD + len(frame)] = frame
        self._own = (self._own + 1) % _WRAP

    def publish(self) -> None:
        _WORD.pack_into(self._view, self._put, self._own)


class Consumer(_End):
    """The side that takes frames out. `malformed` counts the frames with an impossible length, which are dropped."""

    def __init__(self, memory: Memory, ring: int, put: int, taken: int) -> None:
        super().__init__(memory, ring, put, taken)
        self.malformed = 0

    def peek(self, limit: int) -> list[bytes | None]:
        """Copies of the next frames, at most `limit`; None for a malformed one. Raises `RingBroken`.

        A copy, since the other side may change the slot at any time.
        """
        number = min(self._filled(self._word(self._put), self._own), limit)
        return [self._frame((self._own + index) % _WRAP) for index in range(number)]

    def take(self, number: int) -> None:
        """Gives the slots of the next frames back."""
        self._own = (self._own + number) % _WRAP
        _WORD.pack_into(self._view, self._taken, self._own)

    def _frame(self, index: int) -> bytes | None:
        slot = self._slot(index)
        # Read once: the other side may change it between a check and the use.
        length = self._word(slot)
        if not SHORTEST_FRAME <= length <= LONGEST_FRAME:
            return None
        return bytes(self._view[slot + SLOT_HEAD : slot + SLOT_HEAD + length])


def _file_system(descriptor: int) -> int:
    """The number of the file's file system, `f_type` of statfs(2), which `os.fstatvfs` does not have."""
    answer = (ctypes.c_long * 32)()
    if _LIBC.fstatfs(descriptor, answer):
        raise OSError(ctypes.get_errno(), "fstatfs")
    return answer[0]


def size_of(slots: int) -> int:
    """Bytes of a port's memory."""
    return _DATA + 2 * slots * SLOT_BYTES
