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
"""Netlink families."""
_GROUP = 1
"""Multicast group: links in one family, the kernel's own uevents in the other. Messages of udev have another group."""
_ADDRESS = re.compile(rb"\b[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b")
_BUFFER = 4 << 20
"""In bytes. 256 new VFs cause about 2000 messages of 300 bytes, and the kernel adds the overhead of each."""


class Bell:
    """An event: several rings before a wait count as one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self, _about: bytes | None = None) -> None:
        """`about` is the message of the kernel. None means that anything can have changed."""
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        """True if it has rung, False after the time limit."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class DeviceBell(Bell):
    """Stores the PCI functions for which it rang."""

    def __init__(self) -> None:
        super().__init__()
        self._named: set[str] | None = set()

    def ring(self, about: bytes | None = None) -> None:
        self.lose() if about is None else self._note(about)
        super().ring()

    def lose(self) -> None:
        """Drops the stored functions: anything can have changed."""
        self._named = None

    def named(self) -> frozenset[str] | None:
        """The addresses since the last call. None means that anything can have changed."""
        named, self._named = self._named, set()
        return None if named is None else frozenset(named)

    def _note(self, about: bytes) -> None:
        if self._named is not None:
            self._named.update(found.decode() for found in _ADDRESS.findall(about))


class FolderEvents:
    """Rings a bell if an entry of one of the folders is created, removed or changed. Missing folders are ignored.

    `warn` is called if the kernel refuses inotify because of its limits. Callers also check in intervals.
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
        """Also follows folders that were created, or created again, since the last call."""
        mask = _CREATED | _MOVED_TO | _DELETED | _WRITTEN | _ATTRIBUTES
        for folder in self._folders if self._fd >= 0 else ():
            _LIBC.inotify_add_watch(self._fd, os.fsencode(folder), mask)

    def _read(self) -> None:
        os.read(self._fd, 1 << 16)
        self._bell.ring()


class KernelEvents:
    """Rings a bell for each interesting message of the kernel, and after lost messages."""

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
        # A process may send to our address. Messages of the kernel have the sender 0.
        if sender == 0 and self._interesting(message):
            self._bell.ring(message)


def device_events(bell: Bell) -> KernelEvents:
    """Events of PCI devices and their devices of other subsystems: creation, removal, change of the driver."""
    return KernelEvents(_UEVENT, bell, is_about_pci)


def link_events(bell: Bell) -> KernelEvents:
    """Changes of network devices of PCI devices: carrier, master, namespace."""
    # The bus name of the parent device. Links of containers, of which there are many, have no parent device.
    return KernelEvents(_ROUTE, bell, lambda message: b"pci\0" in message)


def is_about_pci(message: bytes) -> bool:
    """Whether the message is about a PCI device, or about a device that its driver created."""
    path = message.partition(b"\0")[0]
    return b"@/devices/pci" in path or b"/vfio" in path or b"/infiniband" in path
