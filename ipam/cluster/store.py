"""A cluster of addresses as one node uses it: each request is recorded in the node's journal first.

So a call may be killed at any time: the journal has the addresses that it took, and later calls release them or give
them to the same owner again. An address is not given to another owner before the cluster has confirmed its release.
"""

from __future__ import annotations

import time

from cni.errors import (
    AddressesExhausted,
    AddressTaken,
    CniError,
    InvalidConfig,
    IoFailure,
    NotAvailable,
    RefusedForGood,
    TryAgainLater,
)
from cni.rollback import run_all
from ipam.cluster.candidates import Candidates, fitting, has_room, seed_of
from ipam.cluster.identity import UNKNOWN, Replaced
from ipam.cluster.journal import Journal, name_of
from ipam.cluster.journal_entry import HELD, INTENT, TOMBSTONE, Entry, Present
from ipam.cluster.known_identity import load_identity, save_identity
from ipam.cluster.lost_pools import find_lost, parts_of, retake_lost, shows_loss
from ipam.cluster.occupied import Occupied
from ipam.cluster.release import DRAIN_SECONDS, PendingReleases
from ipam.store import claim_on, ignore, owner_fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipam.address import Address
    from ipam.cluster.identity import Identity
    from ipam.cluster.release import OpenCluster
    from ipam.cluster.retaking import Retaking
    from ipam.ranges import RangeSet
    from ipam.store import Claim, Cluster, ClusterConf, Lease, Owner, Report

    Valid = set[tuple[str, str]]
    Wanted = tuple[tuple[RangeSet, ...], tuple[Address | None, ...]]
    """The range sets, and for each the requested address or None."""

__all__ = ["SECONDS", "Journal", "Journaled"]

SECONDS = 10.0
"""Time limit of a call. A few round trips take milliseconds."""

MOST_OF_MACHINE = 10_000
"""How many leases of a network GC keeps in memory. No node has so many, whatever a server says."""


class Journaled:
    """Implements `Store`. `network` is the runtime's name for the network, and `shared` the cluster's, if it differs.

    `cluster_conf` describes the cluster. It is None on a node without configuration, which can release what is in the
    journal. `directories` are those of host-local for this network: addresses leased there earlier are in use.
    """

    def __init__(  # noqa: PLR0913 - one parameter per part of a location
        self,
        journal: Journal,
        node: str,
        network: str,
        cluster_conf: ClusterConf | None,
        open_cluster: OpenCluster,
        *,
        shared: str | None = None,
        directories: tuple[str, ...] = (),
        seconds: float = SECONDS,
    ) -> None:
        self._journal = journal
        self._node = node
        self._network = network
        # The cluster stores the node's name with each lease, and an entry must suffice to find the lease again.
        self._cluster_conf: ClusterConf | None = None if cluster_conf is None else {**cluster_conf, "node": node}
        self._open_cluster = open_cluster
        self._shared = network if shared is None else shared
        self._directories = directories
        self._seconds = seconds

    def allocate(
        self, owner: Owner, sets: tuple[RangeSet, ...], requested: tuple[Address | None, ...]
    ) -> tuple[Claim, ...]:
        """See `Store`. After `TryAgainLater` the outcome of an entry may be unknown; DEL resolves it."""
        # Tombstones have a time limit of their own, because they may wait for another cluster than this call.
        self.drain()
        deadline = time.monotonic() + self._seconds
        with self._journal.locked(owner, _left(deadline)):
            # The last request starts in the first half of the time, and takes at most the other half.
            bound = _left(deadline) / 2
            entry = self._journal.find(owner)
            kept = self._kept(entry, sets, requested)
            # Claims that are kept carry the node's name of that time, and new ones beside them must carry the same.
            intent = self._entry(owner, INTENT, (), node=entry.node if entry is not None and any(kept) else self._node)
            cluster = self._opened(intent.cluster_conf, self._shared, bound)
            self._give_back_rest(entry, kept)
            self._expect(cluster, intent)
            if None not in kept and not self._take(cluster, _known(kept), intent):
                return self._held(self._identified(cluster, intent), _known(kept), entry)
            return self._allocate_new(cluster, intent, (sets, requested), kept, deadline - bound)

    def release(self, owner: Owner) -> None:
        """See `Store`. If the cluster cannot be reached, the entry is kept as a tombstone.

        A later call frees it.
        """
        with self._journal.locked(owner, self._seconds):
            entry = self._journal.find(owner) or self._unknown(owner)
            if entry is not None and not self._releases(self._seconds / 2).release_or_keep(entry):
                return
        self.drain()

    def addresses(self, owner: Owner) -> tuple[Address, ...]:
        """The owner's addresses in both journal and cluster. Without an entry, the cluster alone decides."""
        entry = self._journal.find(owner)
        if entry is None:
            return self._addresses_without_entry(owner)
        if entry.phase != HELD or not entry.claims:
            return ()
        cluster = self._releases(self._seconds).reached(entry)
        return tuple(claim.address for claim in cluster.held(entry.claims, entry.owner))

    def gc(self, valid: Valid) -> None:
        """See `Store`. Also frees leases with this node's name and identity that have no entry.

        Two machines that were cloned with their machine ID, and have the same name, free each other's leases.
        """
        self._journal.sweep(self._network)
        self.drain()
        deadline = time.monotonic() + self._seconds
        releases = self._releases(_left(deadline) / 2)
        # The cluster is read before the journal, because a concurrent ADD writes its entry first.
        ours: list[Lease] = []
        run_all(
            lambda: self._regain(releases),
            lambda: ours.extend(self._of_node(releases)),
            lambda: self._collect(valid, releases, deadline),
            lambda: run_all(*[lambda lease=lease: self._free_lost(lease, valid, releases, deadline) for lease in ours]),
        )

    def require_writable(self) -> None:
        """See `Store`."""
        try:
            self._journal.require_writable()
        except IoFailure as error:
            raise NotAvailable(error.msg, hint=error.hint) from error

    def status(self, sets: tuple[RangeSet, ...]) -> None:
        """See `Store`."""
        self.require_writable()
        cluster = self._cluster(self._seconds)
        cluster.reach()
        for ranges in sets:
            if not any(has_room(cluster, range_) for range_ in ranges):
                raise NotAvailable(f"every address of {', '.join(map(str, ranges))} is in use")

    def leases(self, damaged: Report = ignore) -> Iterator[Lease]:
        """The leases of all nodes."""
        return self._cluster(self._seconds).leases(self._shared, damaged)

    def drain(self) -> None:
        """Retries a few tombstones of any network, for a short time."""
        self._releases(DRAIN_SECONDS / 2).drain()

    def _kept(
        self, entry: Entry | None, sets: tuple[RangeSet, ...], requested: tuple[Address | None, ...]
    ) -> tuple[Claim | None, ...]:
        """The claims that the owner already holds, one per set.

        They remain valid if access, other sets or the node's name change.
        """
        claims: tuple[Claim, ...] = ()
        if entry is not None and entry.phase == HELD and self._is_here(entry):
            claims = entry.claims or ()
        return fitting(claims, sets, requested)

    def _is_here(self, entry: Entry) -> bool:
        return entry.shared == self._shared and self._present().is_place_of(entry)

    def _give_back_rest(self, entry: Entry | None, kept: tuple[Claim | None, ...]) -> None:
        """Releases the addresses of the entry that are not kept."""
        if entry is None:
            return
        addresses = {claim.address for claim in _known(kept)}
        rest = entry.claims and tuple(claim for claim in entry.claims if claim.address not in addresses)
        if rest is None or rest:
            self._releases(self._seconds / 2).free(entry.replace(claims=rest))

    def _held(self, intent: Entry, claims: tuple[Claim, ...], known: Entry | None) -> tuple[Claim, ...]:
        held = intent.replace(phase=HELD, claims=claims)
        if held != known:
            self._journal.save(held)
        return claims

    def _candidates(
        self,
        cluster: Cluster,
        owner: Owner,
        sets: tuple[RangeSet, ...],
        requested: tuple[Address | None, ...],
        latest: float,
    ) -> list[Candidates]:
        seed, occupied = seed_of(owner), Occupied(owner, self._journal.folder, self._directories)
        per_set = [
            Candidates(cluster, ranges, wanted, seed, occupied) for ranges, wanted in zip(sets, requested, strict=True)
        ]
        had = self._of_pod(cluster, owner, occupied, latest) if owner.pod else ()
        for candidate_set, earlier in zip(per_set, fitting(had, sets, requested), strict=True):
            candidate_set.earlier = earlier
        return per_set

    def _allocate_new(
        self,
        cluster: Cluster,
        intent: Entry,
        wanted: Wanted,
        kept: tuple[Claim | None, ...],
        latest: float,
    ) -> tuple[Claim, ...]:
        try:
            claims = self._tried(
                cluster, intent, self._candidates(cluster, intent.owner, *wanted, latest), kept, latest
            )
        except (AddressesExhausted, AddressTaken, InvalidConfig):
            # The cluster has refused every attempt, or could not be reached at all: only the kept claims remain.
            if any(kept):
                identity = cluster.identity().cluster
                self._journal.save(intent.replace(phase=HELD, claims=_known(kept), identity=identity))
            else:
                self._journal.forget(intent.owner)
            raise
        except RefusedForGood:
            # The owner has nothing new. Without an entry, its DEL would search for addresses with a permission that it
            # lacks.
            self._journal.save(intent.replace(phase=HELD, claims=_known(kept)))
            raise
        # If the power fails before this is on disk, no container survives that could miss the address.
        self._journal.append(self._identified(cluster, intent).replace(phase=HELD, claims=claims), lasting=False)
        return claims

    def _tried(
        self,
        cluster: Cluster,
        intent: Entry,
        candidates: list[Candidates],
        kept: tuple[Claim | None, ...],
        latest: float,
    ) -> tuple[Claim, ...]:
        """Takes an address of each set. Each attempt is recorded before it is made."""
        claims = tuple(known or candidate_set.first() for known, candidate_set in zip(kept, candidates, strict=True))
        self._journal.save(intent.replace(claims=claims))
        while True:
            refused = self._take(cluster, claims, intent)
            if not refused:
                return claims
            if time.monotonic() > latest:
                raise TryAgainLater("no address: other nodes took every candidate before the deadline")
            pairs = zip(candidates, claims, strict=True)
            claims = tuple(candidate_set.next(claim) if claim in refused else claim for candidate_set, claim in pairs)
            self._journal.append(intent.replace(claims=claims), lasting=True)

    def _addresses_without_entry(self, owner: Owner) -> tuple[Address, ...]:
        """The owner's addresses in the cluster without an entry: another plugin that shares it may have leased them."""
        if self._cluster_conf is None:
            return ()
        leases = self._cluster(self._seconds).leases_of_pod(owner)
        return tuple(lease.address for lease in leases if _key(lease.owner) == _key(owner))

    def _take(self, cluster: Cluster, claims: tuple[Claim, ...], intent: Entry) -> tuple[Claim, ...]:
        """Like `Cluster.take`. If the cluster was replaced, this node's leases are taken again first."""
        try:
            return cluster.take(claims, intent.owner)
        except Replaced:
            self._retaking(intent.cluster_conf).retake_all(cluster, self._half(), intent.owner)
            cluster.expect(UNKNOWN)
            return cluster.take(claims, intent.owner)

    def _of_pod(self, cluster: Cluster, owner: Owner, occupied: Occupied, latest: float) -> tuple[Claim, ...]:
        """Returns the leases of the pod's interface.

        Leases that a deleted part of the cluster has lost are taken again first.
        """
        leases = cluster.leases_of_pod(owner)
        if shows_loss(occupied.lines() if cluster.parts() else (), cluster.parts()):
            entries = self._journal.of_network(self._network)
            gone = find_lost(entries, cluster, self._present(), owner, self._journal.modified)
            if gone:
                retake_lost(self._journal, cluster, gone, latest)
                leases = cluster.leases_of_pod(owner)
        return tuple(claim_on(lease.address) for lease in leases)

    def _expect(self, cluster: Cluster, intent: Entry) -> None:
        known = self._known_identity(intent.cluster_conf)
        if known.left:
            self._retaking(intent.cluster_conf).retake_refused(known, self._half(), intent.owner)
        cluster.expect(known)

    def _retaking(self, cluster_conf: ClusterConf) -> Retaking:
        from ipam.cluster.retaking import Retaking  # noqa: PLC0415 - seldom is a cluster restored

        releases = self._releases(self._seconds / 2)
        return Retaking(self._journal, releases, self._network, cluster_conf, self._shared)

    def _half(self) -> float:
        return time.monotonic() + self._seconds / 2

    def _known_identity(self, cluster_conf: ClusterConf) -> Identity:
        return load_identity(
            self._journal.folder, self._network, self._journal.with_machine(cluster_conf), self._shared
        )

    def _identified(self, cluster: Cluster, intent: Entry) -> Entry:
        """The entry with the cluster's name after a lease. The identity is saved for the next call."""
        identity = cluster.identity()
        if identity != UNKNOWN:
            save_identity(
                self._journal.folder,
                self._network,
                self._journal.with_machine(intent.cluster_conf),
                self._shared,
                identity,
            )
        return intent.replace(identity=identity.cluster, parts=parts_of(cluster))

    def _unknown(self, owner: Owner) -> Entry | None:
        """A tombstone for an owner without an entry, whose addresses are unknown: the journal may have been lost."""
        if self._cluster_conf is None:
            return None
        try:
            self._cluster(self._seconds)
        except InvalidConfig as error:
            # Its ADD most likely failed for the same reason. A tombstone could never be released, and every GC would
            # fail.
            self._journal.warn(f"no addresses are released for {name_of(owner)}: {error}")
            return None
        return self._entry(owner, TOMBSTONE, None)

    def _collect(self, valid: Valid, releases: PendingReleases, deadline: float) -> None:
        """Releases the entries that are not valid, and the tombstones."""
        # Whatever node they name: the journal is this node's, which may have been renamed.
        present = self._present()
        gone = [entry for entry in self._journal.of_network(self._network) if not _stays(entry, valid)]
        here = [entry.owner for entry in gone if present.is_place_of(entry)]
        elsewhere = [entry.owner for entry in gone if not present.is_place_of(entry)]
        run_all(
            *[lambda owner=entry: self._collect_one(owner, valid, releases, deadline) for entry in here],
            *[lambda owner=entry: self._collect_elsewhere(owner, valid, releases, deadline) for entry in elsewhere],
        )

    def _collect_elsewhere(self, owner: Owner, valid: Valid, releases: PendingReleases, deadline: float) -> None:
        """Releases an entry in another cluster.

        That cluster may be gone for good, so a failure does not fail the GC.
        """
        if not _left(deadline):
            return
        with self._journal.locked(owner, _left(deadline)):
            entry = self._journal.find(owner)
            if entry is None or _stays(entry, valid):
                return
            if not releases.met_silence:
                releases.release_or_keep(entry)
            elif entry.phase != TOMBSTONE:
                self._journal.save_tombstone(entry)

    def _collect_one(self, owner: Owner, valid: Valid, releases: PendingReleases, deadline: float) -> None:
        with self._journal.locked(owner, _some_left(deadline)):
            entry = self._journal.find(owner)
            if entry is None or _stays(entry, valid) or releases.release_or_keep(entry):
                return
            # Only a correct configuration can help, so this is a warning, as it is for DEL.
            if releases.can_reach(entry):
                raise TryAgainLater(f"the addresses of {name_of(owner)} are not released yet")

    def _regain(self, releases: PendingReleases) -> None:
        """Takes leases again that a replaced cluster has lost."""
        known = UNKNOWN if self._cluster_conf is None else self._known_identity(self._cluster_conf)
        if known == UNKNOWN:
            return
        cluster = releases.cluster(self._configured(), self._shared)
        try:
            is_replaced = cluster.is_replaced(known, self._network)
        except CniError as error:
            releases.give_up(cluster, error)
            raise
        if is_replaced:
            self._retaking(self._configured()).retake_all(cluster, self._half())
        elif known.left:
            self._retaking(self._configured()).retake_refused(known, self._half())

    def _of_node(self, releases: PendingReleases) -> list[Lease]:
        if self._cluster_conf is None:
            return []
        try:
            cluster = releases.cluster(self._cluster_conf, self._shared)
        except InvalidConfig as error:
            # An upgrade may have made the configured files invalid. The journal's leases are collected all the same.
            self._journal.warn(f"the cluster of network {self._network} is not searched for leaked addresses: {error}")
            return []
        try:
            return [lease for _, lease in zip(range(MOST_OF_MACHINE), self._mine(cluster), strict=False)]
        except CniError as error:
            releases.give_up(cluster, error)
            raise

    def _mine(self, cluster: Cluster) -> Iterator[Lease]:
        # Leases of another machine with this name, or of an unknown one, are not known to our runtime.
        ours = (self._network, self._journal.machine)
        mine = (lease for lease in cluster.leases_of_node() if (lease.owner.network, lease.machine) == ours)
        # Locks and files are named after owners, so an owner from a cluster must be valid.
        return (lease for lease in mine if not owner_fault(lease.owner))

    def _free_lost(self, lease: Lease, valid: Valid, releases: PendingReleases, deadline: float) -> None:
        """Frees an address without an entry: the journal was lost, or a request took effect after it was given up."""
        with self._journal.locked(lease.owner, _some_left(deadline)):
            entry = self._journal.find(lease.owner)
            if not _is_justified(entry, lease, valid):
                releases.free(self._entry(lease.owner, TOMBSTONE, (claim_on(lease.address),)))

    def _entry(self, owner: Owner, phase: str, claims: tuple[Claim, ...] | None, node: str = "") -> Entry:
        node = node or self._node
        cluster_conf: ClusterConf = {**self._configured(), "node": node}
        return Entry(owner=owner, phase=phase, claims=claims, cluster_conf=cluster_conf, shared=self._shared, node=node)

    def _configured(self) -> ClusterConf:
        if self._cluster_conf is None:
            raise InvalidConfig(f"network {self._network}: no cluster is configured for its addresses")
        return self._cluster_conf

    def _cluster(self, seconds: float) -> Cluster:
        return self._opened(self._configured(), self._shared, seconds)

    def _opened(self, cluster_conf: ClusterConf, shared: str, seconds: float) -> Cluster:
        return self._open_cluster(self._journal.with_machine(cluster_conf), shared, seconds)

    def _releases(self, seconds: float) -> PendingReleases:
        return PendingReleases(self._journal, self._open_cluster, seconds, self._present())

    def _present(self) -> Present:
        return Present(network=self._network, cluster_conf=self._cluster_conf)


def _known(kept: tuple[Claim | None, ...]) -> tuple[Claim, ...]:
    return tuple(claim for claim in kept if claim is not None)


def _stays(entry: Entry, valid: Valid) -> bool:
    return entry.phase != TOMBSTONE and _key(entry.owner) in valid


def _is_justified(entry: Entry | None, lease: Lease, valid: Valid) -> bool:
    """Whether the lease is justified by its entry, or without one by an owner that the runtime knows."""
    if entry is None:
        return _key(lease.owner) in valid
    return entry.phase != HELD or lease.address in {claim.address for claim in entry.claims or ()}


def _key(owner: Owner) -> tuple[str, str]:
    return owner.container_id, owner.ifname


def _some_left(deadline: float) -> float:
    left = _left(deadline)
    if not left:
        raise TryAgainLater("not all addresses were released in time; the next GC continues")
    return left


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)
