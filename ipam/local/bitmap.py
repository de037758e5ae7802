"""A hint of which addresses of a directory are in use, so that a nearly full range need not be tried through.

There is one bit per address, in files of 16,384 bits. A wrong bit costs an attempt or a scan of the directory: only
creating its file proves that an address is free.
"""

from __future__ import annotations

import os
import zlib

from ipam import address
from ipam.local.directory import write_over

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_BITS = 14
_SIZE = 1 << _BITS
_CHECK = 4


class Used:
    """The bits in the `directory`, read on demand and written by `save`."""

    def __init__(self, directory: str) -> None:
        self._folder = directory
        self._blocks: dict[str, int] = {}
        self._changed: set[str] = set()
        self._whole = False

    def restart(self, names: Iterable[str]) -> None:
        """Replaces all bits: exactly these names are in use."""
        self._blocks = {}
        self._changed = set()
        self._whole = True
        for name in names:
            self.mark(name, used=True)

    def mark(self, name: str, *, used: bool) -> None:
        parsed = address.parse(name, "")
        block, bit = _block(parsed.version, parsed.number), 1 << parsed.number % _SIZE
        bits = self._bits(block)
        self._blocks[block] = bits | bit if used else bits & ~bit
        self._changed.add(block)

    def next_free(self, version: int, number: int, last: int) -> int:
        """The first number from `number` to `last` that is not known to be in use, or one above `last`."""
        while number <= last:
            start = number % _SIZE
            free = ~(self._bits(_block(version, number)) >> start) & ((1 << _SIZE - start) - 1)
            if free:
                return number + (free & -free).bit_length() - 1
            number += _SIZE - start
        return number

    def save(self) -> bool:
        """Returns whether all blocks could be written."""
        try:
            if self._whole:
                self._remove_others()
            for block in self._changed:
                self._write(block)
        except OSError:
            return False
        self._changed = set()
        return True

    def _remove_others(self) -> None:
        for name in os.listdir(self._folder):
            if name.startswith("used") and name not in self._blocks:
                os.unlink(f"{self._folder}/{name}")
        self._whole = False

    def _write(self, block: str) -> None:
        bits = self._blocks[block]
        packed = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
        write_over(f"{self._folder}/{block}", _check(packed) + packed, 0o600)

    def _bits(self, block: str) -> int:
        if block not in self._blocks:
            self._blocks[block] = 0 if self._whole else self._read(block)
        return self._blocks[block]

    def _read(self, block: str) -> int:
        try:
            fd = os.open(f"{self._folder}/{block}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(fd, "rb") as file:
                content = file.read()
        except OSError:
            return 0
        check, packed = content[:_CHECK], content[_CHECK:]
        return int.from_bytes(packed, "little") if check == _check(packed) else 0


def _check(packed: bytes) -> bytes:
    return zlib.crc32(packed).to_bytes(_CHECK, "little")


def _block(version: int, number: int) -> str:
    return f"used{version}-{number >> _BITS:x}"
