"""An index of the addresses in a directory of host-local by owner, so that its files need not all be read.

The index is outside the directory, because Go would read it there at every call, and it is never trusted without proof:
under the lock, after each change, we set the directory's modification time to a time in the past, which no clock will
produce again, and record it. While the directory has this time (the seal), no file was created or removed. Otherwise,
or if anything about the index is wrong, the files are read, as Go does at every call, and the index is rebuilt. So a
process may be killed at any point here, and nothing here needs to reach a disk.
"""

from __future__ import annotations

import os
import time
import zlib

from cni.errors import IoFailure
from cni.host.files import make_directory
from ipam.local.bitmap import Used
from ipam.local.directory import write_over

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipam.local.directory import Directory, LeaseFile

_FORMAT = "1"
_AGE = 1_000_000_000
"""Nanoseconds by which the seal is older than the change, so that it is not in the current clock tick or later."""

_SHARD_ENTRIES = 64
"""With more entries per shard on average, a rebuilt index has four times as many shards."""
_SHARD_BYTES = 16 * 1024
"""With a larger shard the index is rebuilt: this is about 180 entries."""


class Index:
    """The index of a directory that stays locked during its lifetime, for a call about one container or all.

    It raises only the errors of reading the files.
    """

    def __init__(self, run: str, directory: Directory) -> None:
        self._directory = directory
        stat = os.fstat(directory.fd)
        self._modified = stat.st_mtime_ns
        self._folder = f"{run}/{stat.st_dev:x}-{stat.st_ino:x}"
        self._shards = self._sealed_shards()
        self._all: list[LeaseFile] | None = None
        self._lines: list[str] | None = None
        self.used = Used(self._folder)

    def entries(self, container_id: str) -> list[LeaseFile]:
        """The container's entries.

        They may be outdated, because a file can be rewritten without changing the directory.
        """
        shard = self._shard(container_id)
        if shard is None:
            return [entry for entry in self.read() if entry[1] == container_id]
        return [_entry(line) for line in shard if f" {container_id} " in line]

    def read(self) -> list[LeaseFile]:
        """All entries, read from the files."""
        if self._all is None:
            self._all = list(self._directory.lease_files())
            self.used.restart(name for name, _id, _ifname in self._all)
        return self._all

    def replace(self, container_id: str, entries: list[LeaseFile]) -> None:
        """Replaces the container's entries after a change."""
        shard = self._shard(container_id)
        if shard is None:
            self.rewrite([entry for entry in self.read() if entry[1] != container_id] + entries)
            return
        for name, _id, _ifname in self.entries(container_id):
            self.used.mark(name, used=False)
        for name, _id, _ifname in entries:
            self.used.mark(name, used=True)
        lines = [line for line in shard if f" {container_id} " not in line] + [_line(entry) for entry in entries]
        if self._write_shard(self._number(container_id), lines) and self.used.save():
            self._seal()

    def rewrite(self, entries: list[LeaseFile]) -> None:
        """Replaces all entries."""
        self._all = entries
        self.used.restart(name for name, _id, _ifname in entries)
        self._shards = 1
        while len(entries) > self._shards * _SHARD_ENTRIES:
            self._shards *= 4
        parts: list[list[str]] = [[] for _ in range(self._shards)]
        for entry in entries:
            if entry[1]:  # Files of unknown owners are found only by reading them, which GC does.
                parts[self._number(entry[1])].append(_line(entry))
        try:
            make_directory(self._folder)
        except IoFailure:
            return
        if all(self._write_shard(number, part) for number, part in enumerate(parts)) and self.used.save():
            self._seal()

    def save_scan(self) -> None:
        """Keeps the result of a scan after a call that changed nothing, so that the next call need not scan again."""
        if self._all is not None:
            self.rewrite(self._all)

    def _number(self, container_id: str) -> int:
        return zlib.crc32(os.fsencode(container_id)) % self._shards

    def _shard(self, container_id: str) -> list[str] | None:
        """The lines of the shard that has the container's entries; None without a sealed index."""
        if self._all is not None or not self._shards:
            return None
        if self._lines is None:
            self._lines = self._load(f"shard{self._number(container_id)}")
        if self._lines is None:
            self._shards = 0
        return self._lines

    def _write_shard(self, number: int, lines: list[str]) -> bool:
        """Returns whether the index is worth a seal."""
        return 0 <= self._store(f"shard{number}", lines) < _SHARD_BYTES

    def _sealed_shards(self) -> int:
        """The number of shards; 0 if there is no index that matches the directory."""
        words = (self._load("seal") or [""])[0].split(" ")
        if len(words) != 3 or words[:2] != [_FORMAT, str(self._modified)]:
            return 0
        return int(words[2])

    def _seal(self) -> None:
        # An odd time becomes even on a file system with coarser times, and then the index is not trusted.
        seal = time.time_ns() - _AGE | 1
        if self._store("seal", [f"{_FORMAT} {seal} {self._shards}"]) < 0:
            return
        try:
            os.utime(self._directory.fd, ns=(os.fstat(self._directory.fd).st_atime_ns, seal))
        except OSError:
            return

    def _load(self, name: str) -> list[str] | None:
        """The lines of a file of the index; None if it is incomplete."""
        try:
            fd = os.open(f"{self._folder}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(fd, "rb") as file:
                check, _newline, content = file.read().partition(b"\n")
        except OSError:
            return None
        return os.fsdecode(content).split("\n")[:-1] if check == _check(content) else None

    def _store(self, name: str, lines: list[str]) -> int:
        """The number of bytes; -1 if they could not be written.

        Overwriting is safe because an incomplete file is rejected.
        """
        content = os.fsencode("".join(f"{line}\n" for line in lines))
        try:
            write_over(f"{self._folder}/{name}", _check(content) + b"\n" + content, 0o600)
        except OSError:
            return -1
        return len(content)


def _line(entry: LeaseFile) -> str:
    return " ".join(entry)


def _entry(line: str) -> LeaseFile:
    name, container_id, ifname = line.split(" ")
    return name, container_id, ifname


def _check(content: bytes) -> bytes:
    return b"%08x" % zlib.crc32(content)
