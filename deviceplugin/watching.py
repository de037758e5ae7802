"""Events of folders (inotify) and of the kernel's devices (uevents), for asyncio."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_LIBC = ctypes.CDLL(None, use_errno=True)
_CREATED, _MOVED_TO, _DELETED, _WRITTEN, _ATTRIBUTES = 0x100, 0x80, 0x200, 0x8, 0x4
_ROUTE, _UEVENT = 0, 15
"""Netlink's families."""
_GROUP = 1
"""In the one the group of links, in the other that of the kernel's own messages; what udev makes of them has another one."""
_BUFFER = 4 << 20
"""Bytes: 256 VFs that come at once send some 2000 messages of 300 bytes, each counted with its overhead."""


class Bell:
    """Rings: any number of rings before somebody waits are one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        """True when it has rung, False when the time is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class FolderEvents:
    """Rings a bell when an entry of one of the folders comes, goes, or changes. Folders that do not exist are passed over."""

    def __init__(self, folders: list[str], bell: Bell) -> None:
        self._folders = folders
        self._bell = bell
        self._fd = -1

    def __enter__(self) -> Self:
        self._fd = _LIBC.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        for folder in self._folders:
            mask = _CREATED | _MOVED_TO | _DELETED | _WRITTEN | _ATTRIBUTES
            _LIBC.inotify_add_watch(self._fd, os.fsencode(folder), mask)
        asyncio.get_running_loop().add_reader(self._fd, self._read)
        return self

    def __exit__(self, *_exc: object) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def _read(self) -> None:
        os.read(self._fd, 1 << 16)
        self._bell.ring()


class KernelEvents:
    """Rings a bell when the kernel tells of something interesting; also after lost messages, when anything can have happened."""

    def __init__(self, family: int, bell: Bell, interesting: Callable[[bytes], bool] = lambda _message: True) -> None:
        self._bell = bell
        self._interesting = interesting
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, family)

    def __enter__(self) -> Self:
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.bind((0, _GROUP))
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        return self

    def __exit__(self, *_exc: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        try:
            message, (sender, _groups) = self._socket.recvfrom(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            self._bell.ring()  # ENOBUFS: messages are lost
            return
        # A process may send to our address; the kernel's own number is 0.
        if sender == 0 and self._interesting(message):
            self._bell.ring()


def device_events(bell: Bell) -> KernelEvents:
    """A PCI device, or what a driver makes of one, comes, goes, or gets another driver."""
    return KernelEvents(_UEVENT, bell, is_about_pci)


def link_events(bell: Bell) -> KernelEvents:
    """A network device of a PCI device changes: its carrier, its master, its place."""
    # The name of the parent's bus. Those of containers' links, of which there are many, have none.
    return KernelEvents(_ROUTE, bell, lambda message: b"pci\0" in message)


def is_about_pci(message: bytes) -> bool:
    """Whether the kernel's message is about a PCI device, or about what a driver makes of one."""
    path = message.partition(b"\0")[0]
    return b"@/devices/pci" in path or b"/vfio" in path or b"/infiniband" in path
