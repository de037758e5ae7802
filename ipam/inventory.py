"""One look at where addresses are kept: the leases of each place, and what the journal tells. Nothing is changed."""

from __future__ import annotations

import os
import time

from cni.errors import CniError
from cni.value import Value
from ipam.journal_entry import Entry
from ipam.known import entries
from ipam.local import Local
from ipam.stores import LOCK_SECONDS, SECONDS, open_cluster

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipam.address import Address
    from ipam.known import Folders, Network
    from ipam.ranges import Range
    from ipam.store import Lease


class Holding(Value):
    """The leases of one network in one place; `failure` says why they are not known."""

    network: Network
    leases: tuple[Lease, ...] = ()
    failure: str = ""

    def of(self, container_id: str, ifname: str) -> tuple[Address, ...]:
        """What a container's interface has."""
        owner = (container_id, ifname)
        return tuple(one.address for one in self.leases if (one.owner.container_id, one.owner.ifname) == owner)


class Inventory(Value):
    """`entries` are those of the networks' names; `damaged` the paths of files of the journal that cannot be read."""

    holdings: tuple[Holding, ...]
    entries: tuple[Entry, ...]
    damaged: tuple[str, ...]

    def entries_at(self, network: Network) -> list[Entry]:
        """The entries about the network's place."""
        return [one for one in self.entries if (one.document, one.shared) == (network.document, network.shared)]


def take(folders: Folders, networks: Iterable[Network], seconds: float = SECONDS) -> Inventory:
    """What cannot be asked is a failure of its holding."""
    # The clusters before the journal, in which every lease of this node is noted before it is taken.
    holdings = tuple(_holding(folders, network, seconds) for network in networks)
    told = list(entries(folders, (one.network.name for one in holdings)))
    return Inventory(
        holdings=holdings,
        entries=tuple(one for one in told if isinstance(one, Entry)),
        damaged=tuple(one for one in told if isinstance(one, str)),
    )


def age(path: str) -> float:
    """Seconds since the file was written; endless when there is none."""
    try:
        return time.time() - os.lstat(path).st_mtime
    except OSError:
        return float("inf")


def used(one: Range, leases: Iterable[Lease]) -> int:
    """How many addresses of the range are in use."""
    return sum(1 for lease in leases if lease.address in one)


def room(one: Range) -> int:
    """How many addresses of the range can be leased."""
    return sum(last - first + 1 for first, last in one.stretches(one.first, one.last))


def _holding(folders: Folders, network: Network, seconds: float) -> Holding:
    try:
        return Holding(network=network, leases=tuple(_leases(folders, network, seconds)))
    except CniError as error:
        return Holding(network=network, failure=": ".join(part for part in (error.msg, error.hint) if part))


def _leases(folders: Folders, network: Network, seconds: float) -> Iterable[Lease]:
    if network.document is None:
        return Local(network.directory, folders.index, lock_seconds=min(seconds, LOCK_SECONDS)).leases()
    return open_cluster(network.document, network.shared, seconds).leases(network.shared)
