"""Events of folders (inotify) and of the kernel's devices (uevents), for asyncio."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
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
_ADDRESS = re.compile(rb"\b[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b")
_BUFFER = 4 << 20
"""Bytes: 256 VFs that come at once send some 2000 messages of 300 bytes, each counted with its overhead."""


class Bell:
    """Rings: any number of rings before somebody waits are one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self, _about: bytes | None = None) -> None:
        """`about` is what the kernel tells; None where anything can have happened."""
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


class DeviceBell(Bell):
    """Keeps which PCI functions it rang for."""

    def __init__(self) -> None:
        super().__init__()
        self._named: set[str] | None = set()

    def ring(self, about: bytes | None = None) -> None:
        self.lose() if about is None else self._note(about)
        super().ring()

    def lose(self) -> None:
        """What it rang for is not known any more: anything can have happened."""
        self._named = None

    def named(self) -> frozenset[str] | None:
        """The addresses since the last call; None where anything can have happened."""
        named, self._named = self._named, set()
        return None if named is None else frozenset(named)

    def _note(self, about: bytes) -> None:
        if self._named is not None:
            self._named.update(found.decode() for found in _ADDRESS.findall(about))


class FolderEvents:
    """Rings a bell when an entry of one of the folders comes, goes, or changes. Folders that do not exist are passed over.

    `warn` is called where the kernel has no more of what it needs for that; whoever waits looks by himself at times, too.
    """

    def __init__(self, folders: list[str], bell: Bell, warn: Callable[[str], None] = lambda _text: None) -> None:
        self._folders = folders
        self._bell = bell
        self._warn = warn
        self._fd = -1

    def __enter__(self) -> Self:
        self._fd = _LIBC.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            reason = os.strerror(ctypes.get_errno())
            self._warn(f"changes of {', '.join(self._folders)} are seen later than at once, without inotify: {reason}")
            return self
        self.renew()
        asyncio.get_running_loop().add_reader(self._fd, self._read)
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)

    def renew(self) -> None:
        """Follows also folders that were made, or made anew, since the last call."""
        mask = _CREATED | _MOVED_TO | _DELETED | _WRITTEN | _ATTRIBUTES
        for folder in self._folders if self._fd >= 0 else ():
            _LIBC.inotify_add_watch(self._fd, os.fsencode(folder), mask)

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
            self._bell.ring(message)


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
