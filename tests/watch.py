"""Events in folders while a test runs, by inotify, including a file that is created and removed again."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LIBC = ctypes.CDLL(None, use_errno=True)
_OPENED, _OVERFLOW = 0x20, 0x4000
_CHANGES = {
    0x2: "modified",
    0x4: "given other attributes",
    0x8: "opened for writing",
    0x40: "renamed",
    0x80: "renamed to",
    0x100: "created",
    0x200: "removed",
    0x400: "removed",
    0x800: "renamed",
}
_EVENT = struct.Struct("iIII")


class Watch:
    """Watches the folders, and the files directly in them.

    A device or FIFO must not even be opened; opening with O_PATH is permitted.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self._fd = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._folders: dict[int, str] = {}
        for folder in folders:
            mask = sum(_CHANGES) | (_OPENED if any(map(_is_special, _paths(folder))) else 0)
            number = _LIBC.inotify_add_watch(self._fd, folder.encode(), mask)
            if number < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), folder)
            self._folders[number] = folder

    def close(self) -> None:
        os.close(self._fd)

    def events(self) -> list[str]:
        """The events since the last call, one line each."""
        found: list[str] = []
        while True:
            try:
                content = os.read(self._fd, 65536)
            except BlockingIOError:
                return found
            place = 0
            while place < len(content):
                number, mask, _cookie, length = _EVENT.unpack_from(content, place)
                name = (
                    content[place + _EVENT.size : place + _EVENT.size + length].rstrip(b"\0").decode(errors="replace")
                )
                place += _EVENT.size + length
                assert not mask & _OVERFLOW, "more has happened than inotify keeps"
                found += self._told(os.path.join(self._folders.get(number, "?"), name), mask)

    def _told(self, path: str, mask: int) -> list[str]:
        told = [f"{path} was {text}" for bit, text in _CHANGES.items() if mask & bit]
        return told + [f"{path} was opened"] * bool(mask & _OPENED and _is_special(path))


def _paths(folder: str) -> list[str]:
    return [os.path.join(folder, name) for name in os.listdir(folder)]


def _is_special(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
