"""Uses that the host itself makes of PCI functions: network devices with addresses, mounted disks, consoles."""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import TYPE_CHECKING

from cni import pci
from cni.errors import CniError
from cni.host.files import refuse_shortage
from cni.host.kernel import HostKernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cni.host.sysfs import Sysfs
    from cni.log import Log
    from deviceplugin.function import Inventory

_MOST_LAYERS = 8
"""Block devices on top of each other: RAID on LUKS on LVM on a multipath of disks is four."""
_SUBSYSTEM = re.compile(r".*/nvme-subsystem/[^/]+")
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM)
"""Errors that mean that a disk or a file does not exist, not that it cannot be examined."""
_MOST_FAILURES = 3
"""A network device counts as used after so many failures in a row; until then, the last result counts."""


def is_claimed(node: str) -> bool:
    """Whether the kernel or a process has opened the block device exclusively: a file system, a ZFS pool, a RAID.

    Raises `OSError` if that cannot be determined.
    """
    try:
        os.close(os.open(node, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        if error.errno not in (*_ABSENT, errno.EBUSY):
            raise
        return error.errno == errno.EBUSY
    return False


class HostUse:
    """`proc` is the process file system of the host; its first process has the mounts of the host.

    `claimed` has the signature of `is_claimed`.
    """

    def __init__(
        self,
        sysfs: Sysfs,
        log: Log,
        proc: str = "/proc",
        dev: str = "/dev",
        claimed: Callable[[str], bool] = is_claimed,
    ) -> None:
        self._dev = dev
        self._claimed = claimed
        self._sysfs = sysfs
        self._kernel = HostKernel(log, sysfs)
        self._proc = proc
        self._failures: dict[str, int] = {}
        """The number of failures in a row by network device. Devices without an entry have not been examined."""

    def __call__(self, inventory: Inventory) -> dict[str, str]:
        """Reasons by address. A disk that cannot be examined counts as used.

        Other failures raise `OSError` and `CniError`.
        """
        found: dict[str, str] = {}
        for path, reason in (*self._networks(), *self._disks(), *self._consoles(), *self._claims()):
            for address in _addresses(path):
                if address in inventory.functions:
                    found.setdefault(address, reason)
        return found

    def _networks(self) -> Iterator[tuple[str, str]]:
        # Not by the function's own folder: the network device of a virtio function is further below.
        folder = f"{self._sysfs.root}/class/net"
        for name in _names(folder):
            place = os.path.realpath(f"{folder}/{name}")
            if _addresses(place) and (reason := self._network(name)):
                yield place, reason

    def _network(self, name: str) -> str:
        try:
            link = self._kernel.link_by_name(name, None)
            uses = self._kernel.host_uses(link, leftovers=False) if link else []
        except CniError as error:
            # A temporary failure must not shrink the list of devices, and a permanent failure must not block it.
            failures = self._failures[name] = self._failures.get(name, _MOST_FAILURES) + 1
            if failures < _MOST_FAILURES:
                raise
            return f"the host may use {name}: {error}"
        self._failures[name] = 0
        return f"the host uses {name}: {', '.join(uses)}" if uses else ""

    def _disks(self) -> Iterator[tuple[str, str]]:
        """Paths in sysfs of mounted disks and swap devices, with the reason."""
        for number, what in (*self._mounts(), *self._swaps()):
            for path in self._below(f"{self._sysfs.root}/dev/block/{number}", _MOST_LAYERS):
                yield path, what

    def _claims(self) -> Iterator[tuple[str, str]]:
        """Paths of disks that are in use without a mount that names them: members of ZFS, btrfs, RAID, LVM."""
        folder = f"{self._sysfs.root}/class/block"
        for name in sorted(_names(folder)):
            places = [*self._below(f"{folder}/{name}", 0)]
            if any(map(_addresses, places)) and (reason := self._claim(name, places[0])):
                for place in places:
                    yield place, reason

    def _claim(self, name: str, place: str) -> str:
        if holders := sorted(_names(f"{place}/holders")):
            return f"{', '.join(holders)} of the host is made of {name}"
        if os.path.exists(f"{place}/partition"):
            return ""  # the kernel grants no exclusive access to a disk while a partition is in use
        try:
            claimed = self._claimed(f"{self._dev}/{name.replace('!', '/')}")
        except OSError as error:
            refuse_shortage(name, error)
            return f"the host may use {name}: {os.strerror(error.errno or 0)}"
        return f"the host has {name} open for itself" if claimed else ""

    def _mounts(self) -> Iterator[tuple[str, str]]:
        present = next((name for name in ("1", "self") if os.path.exists(f"{self._proc}/{name}/mountinfo")), "1")
        for line in self._lines(f"{present}/mountinfo"):
            fields = line.split(" ")
            if len(fields) < 10:
                continue
            what = f"{fields[4]} is mounted from it"
            yield fields[2], what
            # btrfs has its own device number; only the source names the disk.
            source = fields[fields.index("-") + 2] if "-" in fields else ""
            if number := _number(source):
                yield number, what

    def _swaps(self) -> Iterator[tuple[str, str]]:
        # A kernel without swap has no such file.
        for line in self._lines("swaps")[1:] if os.path.exists(f"{self._proc}/swaps") else ():
            if number := _number(line.split()[0]):
                yield number, "the host swaps to it"

    def _consoles(self) -> Iterator[tuple[str, str]]:
        root = self._sysfs.root
        try:
            with open(f"{root}/class/tty/console/active", encoding="ascii") as file:
                names = file.read().split()
        except FileNotFoundError:
            return
        for name in names:
            yield os.path.realpath(f"{root}/class/tty/{name}"), f"{name} is a console"

    def _below(self, path: str, layers: int) -> Iterator[str]:
        """Paths of the block device and of those below it."""
        place = os.path.realpath(path)
        yield place
        if found := _SUBSYSTEM.match(place):
            # The disk of a subsystem with several paths is below none of its controllers, and so are its partitions.
            subsystem = found[0]
            yield from (os.path.realpath(f"{subsystem}/{name}") for name in _names(subsystem))
        # A partition has no slaves of its own; the disk that it is on may be a RAID.
        for folder in (f"{place}/slaves", f"{os.path.dirname(place)}/slaves"):
            for name in _names(folder) if layers else ():
                yield from self._below(f"{folder}/{name}", layers - 1)

    def _lines(self, name: str) -> list[str]:
        with open(f"{self._proc}/{name}", encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()


def _number(source: str) -> str:
    """Major and minor number of a block device, or empty."""
    try:
        found = os.stat(source) if source.startswith("/dev/") else None
    except OSError as error:
        refuse_shortage(source, error)
        return ""
    if found is None or not stat.S_ISBLK(found.st_mode):
        return ""
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"


def _addresses(place: str) -> list[str]:
    return [pci.parse(part) for part in place.split("/") if _ADDRESS.fullmatch(part)]


def _names(folder: str) -> list[str]:
    """Raises `OSError` if the folder exists and cannot be listed."""
    try:
        return os.listdir(folder)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return []
