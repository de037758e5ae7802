"""Fake mounts on short folders, which need no root. tests/contract/mounts_contract.py tests them and the kernel's
alike.

A mounted directory is kept as a descriptor, which still leads to the directory after a rename, as a mount does. Only a
path through a short folder does not lead into the directory: a test must open the directory itself.
"""

from __future__ import annotations

import errno
import os

from cni.host.mounts import ST_NOSYMFOLLOW, described

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class FakeMounts:
    """`refuse(n)` makes the n-th change from now on fail; `refuse_from(n)` also makes all later ones fail."""

    def __init__(self) -> None:
        self._mounted: dict[str, list[int]] = {}
        self.changes = 0
        self._refused = range(0)

    def refuse(self, number: int) -> None:
        self._refused = range(self.changes + number, self.changes + number + 1)

    def refuse_from(self, number: int) -> None:
        self._refused = range(self.changes + number, 1 << 30)

    def refuse_nothing(self) -> None:
        self._refused = range(0)

    def reboot(self) -> None:
        """Removes all mounts. The folders of /run belong to the test."""
        for folder in list(self._mounted):
            while self._mounted[folder]:
                os.close(self._mounted[folder].pop())

    def mounted(self) -> list[str]:
        """The folders with mounts, once for each mount."""
        return sorted(folder for folder, stack in self._mounted.items() for _ in stack)

    def bind(self, directory: int, folder: str) -> None:
        os.close(os.open(folder, _FOLDER | os.O_NOFOLLOW))
        self._change()
        self._mounted.setdefault(folder, []).append(os.open(f"/proc/self/fd/{directory}", _FOLDER))

    def unmount(self, folder: str) -> bool:
        os.lstat(folder)
        if not self._mounted.get(folder):
            return False
        self._change()
        os.close(self._mounted[folder].pop())
        return True

    def remove(self, folder: str) -> None:
        if self._mounted.get(folder):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        os.rmdir(folder)

    def is_mounted(self, folder: str) -> bool:
        return bool(self._mounted.get(folder))

    def opened(self, folder: str, flags: int) -> int:
        if self._mounted.get(folder):
            return os.open(f"/proc/self/fd/{self._mounted[folder][-1]}", flags & ~os.O_NOFOLLOW)
        return os.open(folder, flags | os.O_NOFOLLOW)

    def identity(self, folder: str) -> str:
        fd = self.opened(folder, _FOLDER)
        try:
            return described(os.fstat(fd), ST_NOSYMFOLLOW if self.is_mounted(folder) else 0)
        finally:
            os.close(fd)

    def _change(self) -> None:
        self.changes += 1
        if self.changes in self._refused:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
