"""The addresses that this node itself knows to be in use in a network, regardless of its store.

The store may have been replaced, or may have lost data, while containers still use their addresses.
"""

from __future__ import annotations

import os

from cni.errors import CniError
from cni.host import folders
from ipam.address import parse
from ipam.cluster.journal import path_in
from ipam.cluster.journal_entry import HELD, decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipam.address import Address
    from ipam.ranges import RangeSet
    from ipam.store import Owner

_HELD = f'"phase": "{HELD}"'.encode()
_PART = 1 << 16


class Occupied:
    """The addresses of other owners in the journal in `folder`, and all in host-local's `directories`.

    Every ADD searches the journal, so a file is decoded only if its bytes contain the address.
    """

    def __init__(self, owner: Owner, folder: str, directories: tuple[str, ...] = ()) -> None:
        self._folder, _, self._own = path_in(folder, owner).rpartition("/")
        self._directories = directories
        self._known: list[bytes] | None = None

    def has(self, address: Address) -> bool:
        """Whether another owner on this node uses the address."""
        if any(os.path.lexists(f"{directory}/{address}") for directory in self._directories):
            return True
        words = f'"text": "{address}"'.encode()
        return any(address in _held(line) for line in self.lines() if words in line)

    def addresses(self) -> set[Address]:
        """All addresses that other owners on this node use."""
        addresses = {address for line in self.lines() for address in _held(line)}
        return addresses.union(*map(_named, self._directories))

    def narrowed(self, ranges: RangeSet) -> RangeSet:
        """The ranges without the addresses that other owners on this node use."""
        addresses = self.addresses()
        return tuple(
            range_.replace(
                excluded=(*range_.excluded, *sorted((ip.number, ip.number) for ip in addresses if ip in range_))
            )
            for range_ in ranges
        )

    def lines(self) -> list[bytes]:
        """The current lines of the entries that other owners hold. The files are read once, and not decoded."""
        if self._known is None:
            names = [name for name in folders.documents(self._folder) if name != self._own]
            lines = (_last_line(f"{self._folder}/{name}") for name in names)
            self._known = [line for line in lines if _HELD in line]
        return self._known


def _last_line(path: str) -> bytes:
    """The last complete line of a file, with its end.

    Only root can write to the folder, so the file is not checked further, which would cost more time.
    """
    content = b""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""  # Another call has removed it.
    try:
        while part := os.read(fd, _PART):
            content += part
            if len(part) < _PART:
                break
    except OSError:
        return b""
    finally:
        os.close(fd)
    whole = content.rpartition(b"\n")[0]
    return whole.rpartition(b"\n")[2] + b"\n"


def _held(line: bytes) -> set[Address]:
    try:
        entry = decode(line)
    except ValueError:
        return set()  # A call for its owner will set it aside, and fsck reports it.
    return {claim.address for claim in entry.claims or ()} if entry.phase == HELD else set()


def _named(directory: str) -> Iterator[Address]:
    """The addresses that host-local's files are named after; none if the directory does not exist."""
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names:
        try:
            yield parse(name, directory)
        except CniError:
            continue
