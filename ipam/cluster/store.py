"""A cluster of addresses as one node uses it: what is asked for is in the node's journal first.

So a call may be killed anywhere. What it took is found in the journal and given back, or given again to the same owner;
an address is nobody else's before the cluster has said so.
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
from ipam.cluster.lost_pools import find_lost, parts_of, retake_lost
from ipam.cluster.occupied import Occupied
from ipam.cluster.release import DRAIN_SECONDS, PendingReleases
from ipam.store import claim_on, ignore, owner_fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ipam.address import Address
    from ipam.cluster.identity import Identity
    from ipam.cluster.release import OpenCluster
    from ipam.cluster.retaking import Retaking
    from ipam.ranges import RangeSet
    from ipam.store import Claim, Cluster, Lease, Owner, Tell

    Valid = set[tuple[str, str]]
    Wanted = tuple[tuple[RangeSet, ...], tuple[Address | None, ...]]
    """Sets of ranges, and for each the requested address, if there is one."""

__all__ = ["SECONDS", "Journal", "Journaled"]

SECONDS = 10.0
"""Bound of a call: a few round trips take milliseconds."""

MOST_OF_MACHINE = 10_000
"""Leases of a network that GC keeps in mind: no node has so many, whatever a server says."""


class Journaled:
    """A `Store`. `network` is what the runtime calls it, `shared` what the cluster does, if that is something else.

    `cluster_conf` describes the cluster; None on a node without configuration, which can release what the journal knows.
    `directories` are host-local's of this network: what is leased there, from before, is in use.
    """

    def __init__(  # noqa: PLR0913 - one parameter per part of a place
        self,
        journal: Journal,
        node: str,
        network: str,
        cluster_conf: dict[str, Any] | None,
        open_cluster: OpenCluster,
        *,
        shared: str | None = None,
        directories: tuple[str, ...] = (),
        seconds: float = SECONDS,
    ) -> None:
        self._journal = journal
        self._node = node
        self._network = network
        # The cluster writes the node's name to what it takes, and must know it when an entry is all there is.
        self._cluster_conf = None if cluster_conf is None else {**cluster_conf, "node": node}
        self._open_cluster = open_cluster
        self._shared = network if shared is None else shared
        self._directories = directories
        self._seconds = seconds

    def allocate(
        self, owner: Owner, sets: tuple[RangeSet, ...], requested: tuple[Address | None, ...]
    ) -> tuple[Claim, ...]:
        """See `Store`. A `TryAgainLater` can leave an entry whose outcome is unknown: DEL finds it out."""
        # Tombstones have a time of their own: they may wait for a cluster that has nothing to do with this call's.
        self.drain()
        deadline = time.monotonic() + self._seconds
        with self._journal.locked(owner, _left(deadline)):
            # The last call begins at half of the time, and takes the other half at most.
            bound = _left(deadline) / 2
            entry = self._journal.find(owner)
            kept = self._kept(entry, sets, requested)
            # What the owner keeps bears the name that the node had then, and what it gets beside it must bear the same.
            intent = self._entry(owner, INTENT, (), node=entry.node if entry is not None and any(kept) else self._node)
            cluster = self._opened(intent.cluster_conf, self._shared, bound)
            self._give_back_rest(entry, kept)
            self._expect(cluster, intent)
            if None not in kept and not self._take(cluster, _known(kept), intent):
                return self._held(self._identified(cluster, intent), _known(kept), entry)
            return self._anew(cluster, intent, (sets, requested), kept, deadline - bound)

    def release(self, owner: Owner) -> None:
        """See `Store`. What the cluster cannot be told now is kept as a tombstone, and a later call tells it."""
        with self._journal.locked(owner, self._seconds):
            entry = self._journal.find(owner) or self._unknown(owner)
            if entry is not None and not self._releases(self._seconds / 2).release_or_keep(entry):
                return
        self.drain()

    def addresses(self, owner: Owner) -> tuple[Address, ...]:
        """What the journal says that the owner has, and the cluster, too; without an entry, what the cluster says."""
        entry = self._journal.find(owner)
        if entry is None:
            return self._untold(owner)
        if entry.phase != HELD or not entry.claims:
            return ()
        cluster = self._releases(self._seconds).reached(entry)
        return tuple(claim.address for claim in cluster.held(entry.claims, entry.owner))

    def gc(self, valid: Valid) -> None:
        """See `Store`. Frees also what bears this node's name and identity in the cluster while no entry tells of it.

        Two machines that were cloned with their machine ID, and have one name, free each other's living addresses.
        """
        self._journal.sweep(self._network)
        self.drain()
        deadline = time.monotonic() + self._seconds
        releases = self._releases(_left(deadline) / 2)
        # The cluster is asked before the journal is read: an ADD that goes on meanwhile has its entry first.
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

    def leases(self, damaged: Tell = ignore) -> Iterator[Lease]:
        """Those of all nodes."""
        return self._cluster(self._seconds).leases(self._shared, damaged)

    def drain(self) -> None:
        """Tells clusters, of any network, what they could not be told: a few tombstones, for a short time."""
        self._releases(DRAIN_SECONDS / 2).drain()

    def _kept(
        self, entry: Entry | None, sets: tuple[RangeSet, ...], requested: tuple[Address | None, ...]
    ) -> tuple[Claim | None, ...]:
        """What the owner has already, for each set: of access, other sets, or the node's name, it does not depend."""
        claims: tuple[Claim, ...] = ()
        if entry is not None and entry.phase == HELD and self._is_here(entry):
            claims = entry.claims or ()
        return fitting(claims, sets, requested)

    def _is_here(self, entry: Entry) -> bool:
        return entry.shared == self._shared and self._present().is_place_of(entry)

    def _give_back_rest(self, entry: Entry | None, kept: tuple[Claim | None, ...]) -> None:
        """What the entry tells of and is not kept."""
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
        had = self._of_pod(cluster, owner, latest) if owner.pod else ()
        for candidate_set, earlier in zip(per_set, fitting(had, sets, requested), strict=True):
            candidate_set.earlier = earlier
        return per_set

    def _anew(
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
            # The cluster has said no to every try, or could not be asked at all: only what the owner had is left.
            if any(kept):
                identity = cluster.identity().cluster
                self._journal.save(intent.replace(phase=HELD, claims=_known(kept), identity=identity))
            else:
                self._journal.forget(intent.owner)
            raise
        except RefusedForGood:
            # Nothing more is the owner's than before. Without an entry, its DEL would ask for what may be left, and wait
            # for a right that nobody will grant.
            self._journal.save(intent.replace(phase=HELD, claims=_known(kept)))
            raise
        # Where the power fails before this is on disk, no container is left that could miss the address.
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
        """What the cluster has given: each try is noted before it is made."""
        claims = tuple(known or candidate_set.first() for known, candidate_set in zip(kept, candidates, strict=True))
        self._journal.save(intent.replace(claims=claims))
        while True:
            refused = self._take(cluster, claims, intent)
            if not refused:
                return claims
            if time.monotonic() > latest:
                raise TryAgainLater("others were faster all the time: no address was got in time")
            pairs = zip(candidates, claims, strict=True)
            claims = tuple(candidate_set.next(claim) if claim in refused else claim for candidate_set, claim in pairs)
            self._journal.append(intent.replace(claims=claims), lasting=True)

    def _untold(self, owner: Owner) -> tuple[Address, ...]:
        """What the cluster says without an entry: another plugin, which shares it, may have leased it."""
        if self._cluster_conf is None:
            return ()
        leases = self._cluster(self._seconds).leases_of_pod(owner)
        return tuple(lease.address for lease in leases if _key(lease.owner) == _key(owner))

    def _take(self, cluster: Cluster, claims: tuple[Claim, ...], intent: Entry) -> tuple[Claim, ...]:
        """As `Cluster.take`. Where the cluster was replaced, what this node has is taken again before anything else."""
        try:
            return cluster.take(claims, intent.owner)
        except Replaced:
            self._retaking(intent.cluster_conf).retake_all(cluster, self._half(), intent.owner)
            cluster.expect(UNKNOWN)
            return cluster.take(claims, intent.owner)

    def _of_pod(self, cluster: Cluster, owner: Owner, latest: float) -> tuple[Claim, ...]:
        """What the pod's interface has; before that, what a deleted part of the cluster has lost is taken again."""
        leases = cluster.leases_of_pod(owner)
        if cluster.parts():
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

    def _retaking(self, cluster_conf: dict[str, Any]) -> Retaking:
        from ipam.cluster.retaking import Retaking  # noqa: PLC0415 - seldom is a cluster restored

        releases = self._releases(self._seconds / 2)
        return Retaking(self._journal, releases, self._network, cluster_conf, self._shared)

    def _half(self) -> float:
        return time.monotonic() + self._seconds / 2

    def _known_identity(self, cluster_conf: dict[str, Any]) -> Identity:
        return load_identity(
            self._journal.folder, self._network, self._journal.with_machine(cluster_conf), self._shared
        )

    def _identified(self, cluster: Cluster, intent: Entry) -> Entry:
        """With the cluster's name, after something was taken; what the next call expects of it is noted."""
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
        """Where there is no entry: whatever the owner has, since the journal may be lost."""
        if self._cluster_conf is None:
            return None
        try:
            self._cluster(self._seconds)
        except InvalidConfig as error:
            # Most likely its ADD failed for the same reason. A tombstone could not be settled, and no GC would succeed.
            self._journal.warn(f"nothing is released for {name_of(owner)}: {error}")
            return None
        return self._entry(owner, TOMBSTONE, None)

    def _collect(self, valid: Valid, releases: PendingReleases, deadline: float) -> None:
        """Releases the entries that are not valid, and the tombstones."""
        # Whatever node they name: the journal is this node's, which may have had another name.
        present = self._present()
        gone = [entry for entry in self._journal.of_network(self._network) if not _stays(entry, valid)]
        here = [entry.owner for entry in gone if present.is_place_of(entry)]
        elsewhere = [entry.owner for entry in gone if not present.is_place_of(entry)]
        run_all(
            *[lambda owner=entry: self._collect_one(owner, valid, releases, deadline) for entry in here],
            *[lambda owner=entry: self._collect_elsewhere(owner, valid, releases, deadline) for entry in elsewhere],
        )

    def _collect_elsewhere(self, owner: Owner, valid: Valid, releases: PendingReleases, deadline: float) -> None:
        """What is in another cluster than the network's: that one may be gone for good, and fails no GC."""
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
            # Until the configuration is mended no call can help, so it is a warning, as it is for DEL.
            if releases.can_reach(entry):
                raise TryAgainLater(f"the addresses of {name_of(owner)} are not released yet")

    def _regain(self, releases: PendingReleases) -> None:
        """Takes again what a cluster that was replaced does not know."""
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
            # What the configuration names may be refused since an upgrade: what the journal tells is still collected.
            self._journal.warn(f"the cluster of network {self._network} is not searched for lost addresses: {error}")
            return []
        try:
            return [lease for _place, lease in zip(range(MOST_OF_MACHINE), self._mine(cluster), strict=False)]
        except CniError as error:
            releases.give_up(cluster, error)
            raise

    def _mine(self, cluster: Cluster) -> Iterator[Lease]:
        # Another machine of this name, or nobody knows which: its containers are none that our runtime tells of.
        ours = (self._network, self._journal.machine)
        mine = (lease for lease in cluster.leases_of_node() if (lease.owner.network, lease.machine) == ours)
        # Whatever a cluster says: locks and files are named after owners.
        return (lease for lease in mine if not owner_fault(lease.owner))

    def _free_lost(self, lease: Lease, valid: Valid, releases: PendingReleases, deadline: float) -> None:
        """Frees an address of which no entry tells: the journal was lost, or a request arrived after all hope."""
        with self._journal.locked(lease.owner, _some_left(deadline)):
            entry = self._journal.find(lease.owner)
            if not _tells(entry, lease, valid):
                releases.free(self._entry(lease.owner, TOMBSTONE, (claim_on(lease.address),)))

    def _entry(self, owner: Owner, phase: str, claims: tuple[Claim, ...] | None, node: str = "") -> Entry:
        node = node or self._node
        cluster_conf = {**self._configured(), "node": node}
        return Entry(owner=owner, phase=phase, claims=claims, cluster_conf=cluster_conf, shared=self._shared, node=node)

    def _configured(self) -> dict[str, Any]:
        if self._cluster_conf is None:
            raise InvalidConfig(f"network {self._network}: no cluster is configured that has its addresses")
        return self._cluster_conf

    def _cluster(self, seconds: float) -> Cluster:
        return self._opened(self._configured(), self._shared, seconds)

    def _opened(self, cluster_conf: dict[str, Any], shared: str, seconds: float) -> Cluster:
        return self._open_cluster(self._journal.with_machine(cluster_conf), shared, seconds)

    def _releases(self, seconds: float) -> PendingReleases:
        return PendingReleases(self._journal, self._open_cluster, seconds, self._present())

    def _present(self) -> Present:
        return Present(network=self._network, cluster_conf=self._cluster_conf)


def _known(kept: tuple[Claim | None, ...]) -> tuple[Claim, ...]:
    return tuple(claim for claim in kept if claim is not None)


def _stays(entry: Entry, valid: Valid) -> bool:
    return entry.phase != TOMBSTONE and _key(entry.owner) in valid


def _tells(entry: Entry | None, lease: Lease, valid: Valid) -> bool:
    """Whether the lease has a reason: its entry, or without one an owner whom the runtime knows."""
    if entry is None:
        return _key(lease.owner) in valid
    return entry.phase != HELD or lease.address in {claim.address for claim in entry.claims or ()}


def _key(owner: Owner) -> tuple[str, str]:
    return owner.container_id, owner.ifname


def _some_left(deadline: float) -> float:
    left = _left(deadline)
    if not left:
        raise TryAgainLater("the time was too short for all that is to be freed; the next GC goes on")
    return left


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)
