"""Collects the leases in all locations and the entries of the journal, without changing anything."""

from __future__ import annotations

import time

from cni.errors import CniError
from cni.host.folders import changed
from cni.value import Value
from ipam.cluster.journal import known_machine
from ipam.cluster.journal_entry import Entry
from ipam.cluster.known_identity import load_identity
from ipam.command.networks import damaged_records, entries
from ipam.local.store import Local
from ipam.stores import LOCK_SECONDS, SECONDS, open_cluster

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipam.address import Address
    from ipam.command.networks import Folders, Network
    from ipam.ranges import Range
    from ipam.store import ClusterConf, Lease


class LocationLeases(Value):
    """The leases of one network in one location.

    `failure` is the reason if they are unknown; `damaged` describes invalid leases. With `replaced` the store has lost
    leases of this node, or is another one by the same name.
    """

    network: Network
    leases: tuple[Lease, ...] = ()
    failure: str = ""
    damaged: tuple[str, ...] = ()
    replaced: bool = False

    def of(self, container_id: str, ifname: str) -> tuple[Address, ...]:
        """The addresses of a container's interface."""
        owner = (container_id, ifname)
        return tuple(lease.address for lease in self.leases if (lease.owner.container_id, lease.owner.ifname) == owner)


class Inventory(Value):
    """All leases and entries.

    `entries` are those of the networks' names; `damaged` describes unreadable files and leases without a valid owner.
    """

    locations: tuple[LocationLeases, ...]
    entries: tuple[Entry, ...]
    damaged: tuple[str, ...]

    def entries_at(self, network: Network) -> list[Entry]:
        """The entries for the network's location."""
        return [
            entry
            for entry in self.entries
            if (entry.cluster_conf, entry.shared) == (network.cluster_conf, network.shared)
        ]


def collect(folders: Folders, networks: Iterable[Network], seconds: float = SECONDS) -> Inventory:
    """Collects the leases of the networks. A location that cannot be read has a `failure`."""
    # Clusters are read before the journal, which has an entry for every lease of this node before it is taken.
    locations = tuple(_location_leases(folders, network, seconds) for network in networks)
    read = list(entries(folders, (location.network.name for location in locations)))
    unread = [entry for entry in read if isinstance(entry, str)] + damaged_records(folders)
    return Inventory(
        locations=locations,
        entries=tuple(entry for entry in read if isinstance(entry, Entry)),
        damaged=(
            *(text for location in locations for text in location.damaged),
            *(f"{path} cannot be read" for path in unread),
        ),
    )


def age(path: str) -> float:
    """Seconds since the file was written; infinite if it does not exist."""
    written = changed(path)
    return time.time() - written if written else float("inf")


def used(range_: Range, leases: Iterable[Lease]) -> int:
    """The number of addresses of the range that are in use."""
    return sum(1 for lease in leases if lease.address in range_)


def capacity(range_: Range) -> int:
    """The number of addresses of the range that can be leased."""
    return sum(last - first + 1 for first, last in range_.stretches(range_.first, range_.last))


def _location_leases(folders: Folders, network: Network, seconds: float) -> LocationLeases:
    damaged: list[str] = []
    try:
        if network.cluster_conf is None:
            directory = folders.directory_of(network)
            local = Local(directory, folders.index, lock_seconds=min(seconds, LOCK_SECONDS))
            return LocationLeases(network=network, leases=tuple(local.leases(damaged.append)), damaged=tuple(damaged))
        cluster_conf: ClusterConf = {**network.cluster_conf, "machine": known_machine(folders.journal)}
        cluster = open_cluster(cluster_conf, network.shared, seconds, folders.policy)
        leases = tuple(cluster.leases(network.shared, damaged.append))
        known = load_identity(folders.journal, network.name, cluster_conf, network.shared)
        replaced = cluster.is_replaced(known, network.name)
        texts = tuple(f"{network}: {text}" for text in damaged)
        return LocationLeases(network=network, leases=leases, damaged=texts, replaced=replaced)
    except CniError as error:
        return LocationLeases(network=network, failure=": ".join(part for part in (error.msg, error.hint) if part))
