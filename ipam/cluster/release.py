"""Releases the addresses of journal entries, either immediately or in a later call of any network."""

from __future__ import annotations

import time

from cni.errors import CniError, InvalidConfig, TryAgainLater
from ipam.cluster.journal import name_of
from ipam.cluster.journal_entry import TOMBSTONE, Present

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ipam.cluster.journal import Journal
    from ipam.cluster.journal_entry import Entry
    from ipam.store import Cluster, ClusterConf, Owner

    OpenCluster = Callable[[ClusterConf, str, float], Cluster]
    """Takes the description of the cluster, the network's name in it, and the time limit of each call in seconds."""

DRAINED, DRAIN_SECONDS = 16, 2.0
"""How many tombstones an ADD or DEL retries, and for how many seconds, since they belong to other calls.

No attempt starts in the second half of this time, which limits the last one (`Journaled.drain`).
"""

MOST_NOTED = 1000
"""How many tombstones are read after a cluster did not respond; reading one takes 50 microseconds."""


class PendingReleases:
    """Opens the clusters of entries, each once. A cluster that has failed is not tried again for other entries.

    `present` is the current configuration of a network. It may lead to the clusters of the network's entries by new
    endpoints and files, while the leases stay where they are.
    """

    def __init__(
        self, journal: Journal, open_cluster: OpenCluster, seconds: float, present: Present | None = None
    ) -> None:
        self._journal = journal
        self._open = open_cluster
        self._seconds = seconds
        self._present = Present(network="", cluster_conf=None) if present is None else present
        self._opened: list[tuple[ClusterConf, str, Cluster]] = []
        self._failed: list[tuple[ClusterConf, CniError]] = []

    def cluster(self, cluster_conf: ClusterConf, shared: str) -> Cluster:
        """Opens a cluster. Raises the previous error of a cluster that has failed."""
        for failed, error in self._failed:
            if failed == cluster_conf:
                raise TryAgainLater(str(error))
        for known, network, cluster in self._opened:
            if (known, network) == (cluster_conf, shared):
                return cluster
        cluster = self._open(self._journal.with_machine(cluster_conf), shared, self._seconds)
        self._opened.append((cluster_conf, shared, cluster))
        return cluster

    def reached(self, entry: Entry) -> Cluster:
        """The entry's cluster, by the first valid description."""
        wrong: list[InvalidConfig] = []
        for cluster_conf in self._present.cluster_confs(entry):
            try:
                return self.cluster(cluster_conf, entry.shared)
            except InvalidConfig as error:
                wrong.append(error)
        raise wrong[0]

    def can_reach(self, entry: Entry) -> bool:
        """Whether the entry has a valid description of its cluster.

        A description that is refused without contacting the cluster is not valid.
        """
        try:
            self.reached(entry)
        except InvalidConfig:
            return False
        except CniError:
            return True
        return True

    @property
    def met_silence(self) -> bool:
        """Whether a cluster did not respond: then the call waits for no other cluster."""
        return any(isinstance(error, TryAgainLater) for _cluster_conf, error in self._failed)

    def free(self, entry: Entry) -> None:
        """Frees the addresses of the entry, and raises the cluster's errors."""
        if entry.claims == ():
            return  # The cluster might refuse every request.
        for cluster in self._ways(entry):
            self._give_back(cluster, entry)
            if entry.identity in ("", cluster.identity().cluster):
                return

    def _ways(self, entry: Entry) -> Iterator[Cluster]:
        """The entry's cluster by each valid description: the current configuration may lead to another cluster."""
        wrong: list[InvalidConfig] = []
        cluster_confs = self._present.cluster_confs(entry)
        for cluster_conf in cluster_confs:
            try:
                yield self.cluster(cluster_conf, entry.shared)
            except InvalidConfig as error:
                wrong.append(error)
        if len(wrong) == len(cluster_confs):
            raise wrong[0]

    def _give_back(self, cluster: Cluster, entry: Entry) -> None:
        try:
            if entry.claims is None:
                cluster.give_back_all(entry.owner)
            else:
                cluster.give_back(entry.claims, entry.owner)
        except CniError as error:
            self.give_up(cluster, error)
            raise

    def give_up(self, cluster: Cluster, error: CniError) -> None:
        """Records that the cluster has failed, so that it is not called again."""
        self._failed += [(cluster_conf, error) for cluster_conf, _shared, known in self._opened if known is cluster]

    def release_or_keep(self, entry: Entry) -> bool:
        """Frees the entry's addresses and removes the entry, or keeps it as a tombstone and returns False.

        The caller holds the owner's lock.
        """
        try:
            self.free(entry)
        except CniError as error:
            self._journal.warn(f"the addresses of {name_of(entry.owner)} could not be released yet: {error}")
            self._journal.save_tombstone(entry)
            return False
        self._journal.forget(entry.owner)
        return True

    def drain(self) -> None:
        """Retries a few tombstones that are due. Failures are only logged."""
        latest = time.monotonic() + DRAIN_SECONDS / 2
        for owner in self._journal.due_tombstones()[:DRAINED]:
            if time.monotonic() >= latest or self.met_silence:
                break
            try:
                self._flush(owner)
            except CniError as error:
                self._journal.warn(f"the tombstone of {name_of(owner)} is kept: {error}")
        self._note_silence()

    def _flush(self, owner: Owner) -> None:
        with self._journal.locked(owner, 0.0):
            # Read under the lock: the owner may hold the same addresses again by now.
            entry = self._journal.find(owner)
            if entry is None or entry.phase != TOMBSTONE:
                self._journal.remove_mark(owner)
            else:
                self.release_or_keep(entry)

    def _note_silence(self) -> None:
        """Counts the attempt for all tombstones of a silent cluster: otherwise each would make a call wait as long."""
        failed = [cluster_conf for cluster_conf, _error in self._failed]
        for owner in self._journal.tombstones()[:MOST_NOTED] if self.met_silence else ():
            entry = self._journal.find(owner)
            if entry is not None and any(cluster_conf in failed for cluster_conf in self._present.cluster_confs(entry)):
                self._journal.touch(owner)
