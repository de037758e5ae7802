"""The changes of `fsck --repair` and `release`.

Each item is read again under its lock, and changed only if it is unmodified.
"""

from __future__ import annotations

import time
from functools import partial

from cni.errors import CniError, TryAgainLater
from ipam.address import Address
from ipam.cluster.journal import Journal, name_of
from ipam.cluster.journal_entry import HELD, Entry
from ipam.cluster.release import PendingReleases
from ipam.cluster.retaking import Retaking
from ipam.command.fsck import LEAK, REPLACED, UNJOURNALED, UNLEASED, WAITING
from ipam.local.directory import Directory
from ipam.ranges import range_of
from ipam.store import Claim, claim_on
from ipam.stores import LOCK_SECONDS, SECONDS, open_cluster, open_living_cluster

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ipam.command.fsck import Finding
    from ipam.command.networks import Folders, Network
    from ipam.store import Cluster, ClusterConf, Owner


class Repair:
    """Changes to one node.

    All methods raise `CniError` on failure, and `TryAgainLater` if the state has changed meanwhile.
    """

    def __init__(self, folders: Folders, warn: Callable[[str], None], *, seconds: float = SECONDS) -> None:
        self._folders = folders
        self._journal = Journal(folders.journal, folders.run, warn=warn)
        self._seconds = seconds
        # Leases that are taken for this node are protected by signs of life, like those of an ADD.
        open_living = partial(
            open_living_cluster, run=folders.index, policy=folders.policy, entries=self._journal.entries
        )
        self._releases = PendingReleases(self._journal, open_living, seconds)

    def repair(self, finding: Finding) -> bool:
        """Returns whether the finding was repaired; False if the operator must decide."""
        if finding.kind == REPLACED and finding.network is not None:
            self.take_again(finding.network)
            return True
        done = _REPAIRS.get(finding.kind)
        if done is None or finding.network is None or finding.owner is None:
            return False
        done(self, finding, finding.network, finding.owner)
        return True

    def release(self, network: Network, owner: Owner, addresses: Iterable[Address], node: str) -> None:
        """Frees the leases of an interface in one location. `node` is the node of the leases in a cluster."""
        if network.cluster_conf is None:
            self._free_files(network, owner, addresses)
            return
        with self._journal.locked(owner, self._seconds):
            entry = self._journal.find(owner)
            if entry is not None and _is_at(entry, network):
                self._release_now(entry)
                return
            cluster_conf: ClusterConf = {**network.cluster_conf, "node": node or network.node}
            cluster = open_cluster(cluster_conf, network.shared, self._seconds, self._folders.policy)
            cluster.give_back(tuple(map(claim_on, addresses)), owner)

    def take_again(self, network: Network) -> None:
        """Takes all leases in the journal again, in a cluster that was replaced."""
        cluster_conf = network.cluster_conf or {}
        retaking = Retaking(self._journal, self._releases, network.name, cluster_conf, network.shared)
        retaking.retake_all(self._releases.cluster(cluster_conf, network.shared), time.monotonic() + self._seconds)

    def free_leak(self, finding: Finding, network: Network, owner: Owner) -> None:
        if finding.entry is not None:
            self.release_entry(finding, network, owner)
        elif network.cluster_conf is None:
            self._free_files(network, owner, finding.addresses)
        else:
            self._free_unjournalled(network, owner, finding.addresses)

    def release_entry(self, finding: Finding, _network: Network, owner: Owner) -> None:
        """Releases the addresses of the entry, and removes it."""
        with self._journal.locked(owner, self._seconds):
            entry = self._journal.find(owner)
            if entry is not None:
                _require_same(entry, finding.entry)
                self._release_now(entry)

    def forget(self, entry: Entry) -> bool:
        """Gives a tombstone up. Returns whether its addresses were released after all; otherwise they stay leased."""
        with self._journal.locked(entry.owner, self._seconds):
            _require_same(self._journal.find(entry.owner), entry)
            if self._releases.release_or_keep(entry):
                return True
            self._journal.forget(entry.owner)
            return False

    def lease_again(self, finding: Finding, network: Network, owner: Owner) -> None:
        """Takes the addresses of a living owner again; the entry of a dead one is released."""
        if not finding.live:
            self.release_entry(finding, network, owner)
            return
        with self._journal.locked(owner, self._seconds):
            entry = self._journal.find(owner)
            _require_same(entry, finding.entry)
            claims = entry.claims or () if entry else ()
            refused = self._cluster(network).take(claims, owner)
        if refused:
            texts = ", ".join(str(claim.address) for claim in refused)
            raise TryAgainLater(f"another owner has {texts} now", hint=f"recreate the pod of {owner.container_id}")

    def note(self, finding: Finding, network: Network, owner: Owner) -> None:
        """Writes the entry for the leases of a living owner."""
        with self._journal.locked(owner, self._seconds):
            entry = self._journal.find(owner)
            if entry is not None and entry.phase != HELD:
                raise _changed(owner)
            held = self._cluster(network).held(tuple(_claim(network, address) for address in finding.addresses), owner)
            known = entry.claims or () if entry else ()
            noted = Entry(
                owner=owner,
                phase=HELD,
                claims=(*known, *held),
                cluster_conf=network.cluster_conf or {},
                shared=network.shared,
                node=network.node,
            )
            self._journal.save(noted)

    def _free_files(self, network: Network, owner: Owner, addresses: Iterable[Address]) -> None:
        expected = (owner.container_id, owner.ifname)
        with Directory(self._folders.directory_of(network), min(self._seconds, LOCK_SECONDS)) as directory:
            for address in map(str, addresses):
                entry = directory.lease_file(address)
                if entry is not None and entry[1:] != expected:
                    raise _changed(owner)
                directory.remove(address)

    def _free_unjournalled(self, network: Network, owner: Owner, addresses: Iterable[Address]) -> None:
        """Frees addresses that have no entry."""
        with self._journal.locked(owner, self._seconds):
            entry = self._journal.find(owner)
            journalled = {claim.address for claim in entry.claims or ()} if entry else set()
            if journalled.intersection(addresses) or (entry is not None and entry.phase != HELD):
                raise _changed(owner)
            self._cluster(network).give_back(tuple(map(claim_on, addresses)), owner)

    def _release_now(self, entry: Entry) -> None:
        if not self._releases.release_or_keep(entry):
            raise TryAgainLater(
                f"{name_of(entry.owner)} is kept as a tombstone: the cluster could not be reached",
                hint="if that cluster is gone for good, use barewire-ipam forget",
            )

    def _cluster(self, network: Network) -> Cluster:
        return self._releases.cluster(network.cluster_conf or {}, network.shared)


_REPAIRS = {
    LEAK: Repair.free_leak,
    UNLEASED: Repair.lease_again,
    UNJOURNALED: Repair.note,
    WAITING: Repair.release_entry,
}


def repaired(repair: Repair, findings: Iterable[Finding]) -> list[tuple[Finding, str]]:
    """The findings that were not repaired, and the reasons."""
    left = []
    for finding in findings:
        try:
            if not repair.repair(finding):
                left.append((finding, "not repaired automatically: decide by hand"))
        except CniError as error:
            left.append((finding, ": ".join(part for part in (error.msg, error.hint) if part)))
    return left


def _is_at(entry: Entry, network: Network) -> bool:
    return (entry.cluster_conf, entry.shared) == (network.cluster_conf, network.shared)


def _claim(network: Network, address: Address) -> Claim:
    homes = (range_of(ranges, address) for ranges in network.sets)
    home = next((range_ for range_ in homes if range_ is not None), None)
    return claim_on(address) if home is None else Claim(range=home, address=address)


def _require_same(entry: Entry | None, expected: Entry | None) -> None:
    if entry != expected and expected is not None:
        raise _changed(expected.owner)


def _changed(owner: Owner) -> TryAgainLater:
    return TryAgainLater(f"{name_of(owner)} has changed meanwhile", hint="run it again")
