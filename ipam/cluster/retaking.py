"""Takes the leases in the journal again after a cluster was replaced or restored.

This happens before anything else is leased there.
"""

from __future__ import annotations

import time

from cni.errors import TryAgainLater
from ipam.cluster.identity import CONTESTED
from ipam.cluster.journal import name_of
from ipam.cluster.journal_entry import HELD, cluster_location
from ipam.cluster.known_identity import load_identity, save_identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipam.cluster.identity import Identity
    from ipam.cluster.journal import Journal
    from ipam.cluster.journal_entry import Entry
    from ipam.cluster.release import PendingReleases
    from ipam.store import Cluster, ClusterConf, Owner


BUSY_SECONDS = 1.0
"""Limit for waiting for the lock of an owner that another call is working on."""


class Retaking:
    """Takes the leases of one network again, in the cluster of `cluster_conf`, which knows the network as `shared`.

    The description includes the node's name.
    """

    def __init__(
        self, journal: Journal, releases: PendingReleases, network: str, cluster_conf: ClusterConf, shared: str
    ) -> None:
        self._journal = journal
        self._releases = releases
        self._network = network
        self._cluster_conf = cluster_conf
        self._shared = shared
        self._latest: Identity | None = None

    def retake_all(self, cluster: Cluster, deadline: float, owner: Owner | None = None) -> None:
        """Takes all leases again, saves the identity of `cluster`, and logs a warning.

        Raises `TryAgainLater` if the time does not suffice. The caller holds the lock of `owner`, and takes the leases
        of `owner` itself.
        """
        with self._journal.locked_for_retaking(self._network, max(deadline - time.monotonic(), 0.0)):
            if not cluster.is_replaced(self._known_identity(), self._network):
                return  # Another call was faster.
            identity = cluster.identity()
            entries = [entry for entry in self._journal.of_network(self._network) if self._is_here(entry)]
            entries = [entry for entry in entries if entry.owner != owner]
            ours = [entry for entry in entries if not self._is_elsewhere(entry, identity)]
            lost = sum(self._take(entry.owner, identity, deadline) for entry in ours)
            self._save_identity(self._latest or identity, left=bool(lost))
        self._warn(len(ours), len(entries) - len(ours))

    def retake_refused(self, known: Identity, deadline: float, owner: Owner | None = None) -> None:
        """Retries addresses that another owner held: that owner may not have used them, and may have released them."""
        with self._journal.locked_for_retaking(self._network, max(deadline - time.monotonic(), 0.0)):
            entries = [entry for entry in self._journal.of_network(self._network) if self._is_here(entry)]
            ours = [entry for entry in entries if entry.identity == CONTESTED and entry.owner != owner]
            lost = sum(self._take(entry.owner, known, deadline) for entry in ours)
            if not lost:
                self._save_identity(self._latest or known, left=False)

    def _take(self, owner: Owner, current: Identity, deadline: float) -> int:
        """Returns the number of addresses that the owner has lost."""
        if time.monotonic() >= deadline:
            raise TryAgainLater("not all leases were taken again in a replaced etcd in time; the next call continues")
        with self._journal.locked(owner, BUSY_SECONDS):
            entry = self._journal.find(owner)
            if entry is None or entry.phase != HELD or not entry.claims:
                return 0  # Released meanwhile.
            cluster_conf: ClusterConf = {**self._cluster_conf, "node": entry.node}
            cluster = self._releases.cluster(cluster_conf, self._shared)
            # One claim at a time, so that an address of another owner does not prevent the others from being taken.
            refused = [claim for claim in entry.claims if cluster.take((claim,), entry.owner)]
            if entry.node == self._cluster_conf.get("node"):
                self._latest = cluster.identity()  # A former node name has another witness.
            kept = entry.replace(cluster_conf=cluster_conf, identity=CONTESTED if refused else current.cluster)
            if kept != entry:
                self._journal.save(kept)
        for claim in refused:
            self._journal.warn(
                f"{claim.address} of {name_of(owner)} is leased to another owner as well: run barewire-ipam fsck"
            )
        return len(refused)

    def _known_identity(self) -> Identity:
        return load_identity(
            self._journal.folder, self._network, self._journal.with_machine(self._cluster_conf), self._shared
        )

    def _save_identity(self, identity: Identity, *, left: bool) -> None:
        identity = identity.replace(left=left)
        cluster_conf = self._journal.with_machine(self._cluster_conf)
        save_identity(self._journal.folder, self._network, cluster_conf, self._shared, identity, replaced=True)

    def _is_here(self, entry: Entry) -> bool:
        return (entry.phase, entry.shared, cluster_location(entry.cluster_conf)) == (
            HELD,
            self._shared,
            cluster_location(self._cluster_conf),
        )

    def _is_elsewhere(self, entry: Entry, current: Identity) -> bool:
        """Whether the entry belongs to another cluster with other endpoints.

        Both may exist; `adopt` moves leases between them.
        """
        if entry.identity in ("", CONTESTED, current.cluster):
            return False
        before, now = set(_endpoints(entry.cluster_conf)), set(_endpoints(self._cluster_conf))
        return before != now and before.isdisjoint(now)

    def _warn(self, taken: int, elsewhere: int) -> None:
        text = f"the etcd of network {self._network} was replaced, or restored from a backup: "
        text += f"the leases of {taken} interfaces of this node were taken again"
        if elsewhere:
            text += f"; those of {elsewhere} more are in an etcd with other endpoints (barewire-ipam adopt moves them)"
        self._journal.warn(text)


def _endpoints(cluster_conf: ClusterConf) -> tuple[str, ...]:
    endpoints = cluster_conf.get("endpoints")
    return tuple(map(str, endpoints)) if isinstance(endpoints, (list, tuple)) else ()
