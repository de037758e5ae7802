"""Finds inconsistencies between leases, journal and the containers on this node. Pure, except for the age of files.

Only this node's leases are checked: all of host-local's directories, and in clusters those with this node's name or in
its journal. Leases younger than the creation of a sandbox may take are not yet inconsistent.
"""

from __future__ import annotations

from cni.value import Value
from ipam.cluster.journal import known_machine, path_in
from ipam.cluster.journal_entry import HELD, TOMBSTONE
from ipam.command.inventory import age
from ipam.config.location import KUBERNETES
from ipam.store import Owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ipam.address import Address
    from ipam.cluster.journal_entry import Entry
    from ipam.command.inventory import Inventory, LocationLeases
    from ipam.command.networks import Folders, Network
    from ipam.command.sandboxes import Sandboxes
    from ipam.store import Lease

    Holder = tuple[str, str]

GRACE_SECONDS = 600.0
"""The kubelet allows four minutes for a sandbox."""

LEAK = "leak"
DUPLICATE = "duplicate"
UNLEASED = "journal without lease"
UNJOURNALED = "lease without journal"
WAITING = "tombstone"
REPLACED = "restored"
UNREACHED = "not reached"
DAMAGED = "damaged"
FORMER = "former machine"


class Finding(Value):
    """An inconsistency.

    `live` is True if the owner is alive; `entry` is the owner's entry in the journal, if any.
    """

    kind: str
    text: str
    network: Network | None = None
    owner: Owner | None = None
    addresses: tuple[Address, ...] = ()
    entry: Entry | None = None
    live: bool = False

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class Checker:
    """Compares one scan of the leases with the sandboxes of the node."""

    def __init__(
        self, folders: Folders, inventory: Inventory, sandboxes: Sandboxes, grace: float = GRACE_SECONDS
    ) -> None:
        self._folders = folders
        self._inventory = inventory
        self._sandboxes = sandboxes
        self._grace = grace

    def findings(self) -> list[Finding]:
        findings = [finding for location in self._inventory.locations for finding in self._of(location)]
        findings += self._duplicates()
        # These come last: the repairs above make them obsolete.
        findings += [_replaced(location.network) for location in self._inventory.locations if location.replaced]
        return findings + [Finding(kind=DAMAGED, text=text) for text in self._inventory.damaged]

    def _of(self, location: LocationLeases) -> Iterator[Finding]:
        if location.failure:
            yield Finding(kind=UNREACHED, text=f"{location.network}: {location.failure}", network=location.network)
            yield from (_waiting(entry, location.network) for entry in self._tombstones(location.network))
        elif location.network.cluster_conf is None:
            yield from self._of_directory(location)
        else:
            yield from self._of_journal(location)
            yield from self._without_journal(location)
            yield from self._of_former_machines(location)

    def _of_directory(self, location: LocationLeases) -> Iterator[Finding]:
        for owner, addresses in _by_owner(location.leases):
            paths = [f"{location.network.directory}/{address}" for address in addresses]
            if not self._is_live(owner, addresses) and all(age(path) >= self._grace for path in paths):
                yield _leak(location.network, owner, addresses)

    def _of_journal(self, location: LocationLeases) -> Iterator[Finding]:
        for entry in self._inventory.entries_at(location.network):
            if entry.phase == TOMBSTONE:
                yield _waiting(entry, location.network)
            elif age(path_of(self._folders, entry.owner)) >= self._grace:
                yield from self._of_entry(entry, location)

    def _of_entry(self, entry: Entry, location: LocationLeases) -> Iterator[Finding]:
        # The new owner of an address is alive, and makes the container before it look alive.
        leases = location.leases if location.network.backend == KUBERNETES else ()
        over = {lease.address for lease in leases if _has_taken_over(lease, entry.owner)}
        expected = tuple(claim.address for claim in entry.claims or () if claim.address not in over)
        leased = location.of(entry.owner.container_id, entry.owner.ifname)
        missing = tuple(address for address in expected if address not in leased)
        live = self._is_live(entry.owner, expected)
        if not live and (leased or entry.phase != HELD):
            yield _leak(
                location.network,
                entry.owner,
                tuple(address for address in expected if address in leased) or leased,
                entry,
            )
        elif entry.phase == HELD and missing:
            yield Finding(
                kind=UNLEASED,
                text=f"{_owned(entry.owner, missing)}: {location.network} has no lease for it",
                network=location.network,
                owner=entry.owner,
                addresses=missing,
                entry=entry,
                live=live,
            )

    def _without_journal(self, location: LocationLeases) -> Iterator[Finding]:
        entries = {_holder(entry.owner): entry for entry in self._inventory.entries}
        # The journal of other networks in the cluster was not read.
        ours = (location.network.node, location.network.name)
        leases = [lease for lease in location.leases if (lease.node, lease.owner.network) == ours]
        # Two nodes can have one name. A lease of an older version has no machine, so only the name identifies its node.
        machine = known_machine(self._folders.journal)
        for owner, addresses in _by_owner(lease for lease in leases if lease.machine in ("", machine)):
            entry = entries.get(_holder(owner))
            if entry is not None and entry.phase != HELD:
                continue
            known = {claim.address for claim in entry.claims or ()} if entry else set()
            lost = tuple(address for address in addresses if address not in known)
            if not lost:
                continue
            if not self._is_live(owner, addresses):
                yield _leak(location.network, owner, lost)
                continue
            yield Finding(
                kind=UNJOURNALED,
                text=f"{_owned(owner, lost)} in {location.network}: a DEL without configuration cannot release it",
                network=location.network,
                owner=owner,
                addresses=lost,
                live=True,
            )

    def _of_former_machines(self, location: LocationLeases) -> Iterator[Finding]:
        """Leases with this node's name from another machine, which was replaced or has the same name."""
        machine, network = known_machine(self._folders.journal), location.network
        ours = (network.node, network.name)
        leases = [lease for lease in location.leases if (lease.node, lease.owner.network) == ours and machine]
        for other in sorted({lease.machine for lease in leases} - {"", machine}):
            addresses = tuple(lease.address for lease in leases if lease.machine == other)
            text = f"machine {other} has {len(addresses)} leases in {network} under the name {network.node}"
            yield Finding(kind=FORMER, text=text, network=network, addresses=addresses)

    def _duplicates(self) -> Iterator[Finding]:
        held = self._held()
        networks: dict[Address, set[str]] = {}
        for (name, address), holders in sorted(held.items(), key=_by_number):
            networks.setdefault(address, set()).add(name)
            if len(holders) > 1:
                whose = "; ".join(f"{_named(*holder)} in {', '.join(stores)}" for holder, stores in holders.items())
                yield Finding(kind=DUPLICATE, text=f"{address} of {name} has {len(holders)} owners: {whose}")
        for address, names in networks.items():
            paths = self._sandboxes.namespaces.get(address, ())
            # Networks may have the same ranges: then there is a sandbox for each.
            if len(paths) > len(names):
                text = f"{address} of {', '.join(sorted(names))} is in {len(paths)} namespaces: {', '.join(paths)}"
                yield Finding(kind=DUPLICATE, text=text, addresses=(address,))

    def _held(self) -> dict[tuple[str, Address], dict[Holder, dict[str, None]]]:
        """The holders of each address of a network, and the stores in which they hold it."""
        # A dict keeps the order of an owner's stores: several descriptions may lead to one cluster.
        held: dict[tuple[str, Address], dict[Holder, dict[str, None]]] = {}
        for location in self._inventory.locations:
            store = location.network.directory or location.network.backend
            for lease in location.leases:
                holders = held.setdefault((location.network.name, lease.address), {})
                holders.setdefault(_holder(lease.owner), {})[store] = None
        pods = {
            (lease.owner.network, lease.address, lease.owner.pod, lease.owner.ifname)
            for location in self._inventory.locations
            for lease in location.leases
            if lease.owner.pod and location.network.backend == KUBERNETES
        }
        for entry in self._inventory.entries:
            pod = entry.owner.pod, entry.owner.ifname
            for claim in (entry.claims or ()) if entry.phase == HELD else ():
                if (entry.owner.network, claim.address, *pod) in pods:
                    continue  # The pod still has the address, in another sandbox: its lease is counted.
                holders = held.setdefault((entry.owner.network, claim.address), {})
                holders.setdefault(_holder(entry.owner), {})["the journal"] = None
        return held

    def _tombstones(self, network: Network) -> list[Entry]:
        return [entry for entry in self._inventory.entries_at(network) if entry.phase == TOMBSTONE]

    def _is_live(self, owner: Owner, addresses: Iterable[Address]) -> bool:
        return bool(self._sandboxes.uses(owner.container_id, owner.ifname, addresses))


def confirmed(first: list[Finding], second: list[Finding]) -> list[Finding]:
    """The findings of two consecutive scans.

    A call in progress during the first has finished or advanced by the second.
    """
    return [finding for finding in first if finding in second]


def path_of(folders: Folders, owner: Owner) -> str:
    """The file of an owner's entry."""
    return path_in(folders.journal, owner)


def _leak(network: Network, owner: Owner, addresses: tuple[Address, ...], entry: Entry | None = None) -> Finding:
    text = f"{_owned(owner, addresses)} in {network}: no container on this node uses it"
    return Finding(kind=LEAK, text=text, network=network, owner=owner, addresses=addresses, entry=entry)


def _replaced(network: Network) -> Finding:
    text = f"{network} was replaced, or restored from a backup: it has lost leases of this node"
    return Finding(kind=REPLACED, text=text, network=network)


def _waiting(entry: Entry, network: Network) -> Finding:
    addresses = tuple(claim.address for claim in entry.claims or ())
    text = f"{_owned(entry.owner, addresses)}: still to be released in {network}"
    return Finding(kind=WAITING, text=text, network=network, owner=entry.owner, addresses=addresses, entry=entry)


def _has_taken_over(lease: Lease, owner: Owner) -> bool:
    """Whether the address belongs to a later sandbox of the owner's pod."""
    same = bool(owner.pod) and (lease.owner.pod, lease.owner.ifname) == (owner.pod, owner.ifname)
    return same and lease.owner.container_id != owner.container_id


def _by_owner(leases: Iterable[Lease]) -> list[tuple[Owner, tuple[Address, ...]]]:
    owned: dict[Holder, tuple[Owner, list[Address]]] = {}
    for lease in leases:
        owned.setdefault(_holder(lease.owner), (lease.owner, []))[1].append(lease.address)
    return [(owner, tuple(addresses)) for owner, addresses in owned.values()]


def _holder(owner: Owner) -> Holder:
    return owner.container_id, owner.ifname


def _by_number(item: tuple[tuple[str, Address], object]) -> tuple[str, int, int]:
    (name, address), _holders = item
    return name, address.version, address.number


def _owned(owner: Owner, addresses: Iterable[Address]) -> str:
    pod = f" of {owner.pod}" if owner.pod else ""
    return f"{', '.join(map(str, addresses)) or 'addresses'} of {_named(*_holder(owner))}{pod}"


def _named(container_id: str, ifname: str) -> str:
    return f"{container_id}/{ifname}".rstrip("/") if container_id else "an unknown owner"
