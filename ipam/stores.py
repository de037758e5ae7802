"""Opens the store that a configuration selects. Backends are imported on demand, because those of clusters load TLS."""

from __future__ import annotations

import os

from cni.errors import InvalidConfig
from cni.host.files import component
from ipam.config.location import DATA_DIRECTORY, LOCAL
from ipam.config.policy import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cni.log import Log
    from ipam.cluster.journal_entry import Entry
    from ipam.cluster.store import Journal
    from ipam.config.location import LeaseLocation
    from ipam.local.store import FindOccupied
    from ipam.store import Cluster, ClusterConf, Owner, Store

    Entries = Callable[[], Iterable[Entry]]

JOURNAL = "/var/lib/cni/barewire/.ipam"
RUN = "/run/barewire/ipam"
SECONDS = 10.0
"""Limit for one call to a cluster's backend."""

DEFAULTS = Policy()
LOCK_SECONDS = 50.0
"""Limit for acquiring the lock of a network's directory; a call holds it for milliseconds."""


class Stores:
    """The stores of this node.

    `seconds` limits each call to a store; None selects the store's own limit. `policy` decides which paths and files a
    configuration may name.
    """

    def __init__(
        self,
        log: Log,
        *,
        policy: Policy = DEFAULTS,
        journal: str = JOURNAL,
        run: str = RUN,
        seconds: float | None = None,
    ) -> None:
        self._log = log
        self.policy = policy
        self.strict_status = policy.node.strict_status
        self._folder = journal
        self._run = run
        self._seconds = seconds

    def open(self, location: LeaseLocation) -> Store:
        """The configured store. Raises `InvalidConfig` when the description of its cluster is incomplete."""
        if location.backend != LOCAL and location.cluster_conf is None:
            raise InvalidConfig(f"ipam.{location.backend}: the section does not say how to reach the cluster")
        return self._local(location) if location.backend == LOCAL else self._journaled(location)

    def all(self, location: LeaseLocation, owner: Owner) -> list[Store]:
        """All stores that may have addresses of the owner: the configuration may have changed since its ADD."""
        stores = []
        if location.backend != LOCAL or (os.path.isdir(self._folder) and self._journal().find(owner) is not None):
            stores.append(self._journaled(location))
        return stores + self._known_local(location)

    def of_network(self, location: LeaseLocation) -> list[Store]:
        """The configured store, and the journal if another backend was configured before.

        The configuration may be incomplete.
        """
        stores = self._known_local(location)
        if location.backend != LOCAL:
            return [*stores, self._journaled(location)]
        if os.path.isdir(f"{self._folder}/{component(location.network)}"):
            stores.append(self._journaled(location))
        return stores

    def _known_local(self, location: LeaseLocation) -> list[Store]:
        """The store in the directory of leases, if that can contain any.

        DEL must not fail where no ADD can have succeeded.
        """
        if location.backend != LOCAL and not os.path.isdir(location.directory):
            return []
        try:
            return [self._local(location)]
        except InvalidConfig as error:
            self._log.warning(f"no address is released from the directory of leases: {error.msg}")
            return []

    def _local(self, location: LeaseLocation) -> Store:
        from ipam.local.store import Local  # noqa: PLC0415 - a cluster's backend does not pay for it

        directory = self.policy.data_directory(location.directory)
        return Local(
            directory, self._run, occupied=self._occupied(location, directory), lock_seconds=self._bound(LOCK_SECONDS)
        )

    def _occupied(self, location: LeaseLocation, directory: str) -> FindOccupied | None:
        """The addresses in use in former locations of the network's leases; None if there are no such locations."""
        others = tuple(other for other in self._directories(location) if other != directory)
        if not others and not os.path.isdir(f"{self._folder}/{component(location.network)}"):
            return None
        from ipam.cluster.occupied import Occupied  # noqa: PLC0415 - hardly any node has had another backend

        return lambda owner: Occupied(owner, self._folder, others)

    def _directories(self, location: LeaseLocation) -> tuple[str, ...]:
        """The directories of host-local that may contain leases of the network."""
        directories = dict.fromkeys((location.directory, f"{DATA_DIRECTORY}/{component(location.network)}"))
        return tuple(path for path in directories if os.path.isdir(path))

    def _journaled(self, location: LeaseLocation) -> Store:
        from ipam.cluster.store import Journaled  # noqa: PLC0415 - most nodes have no cluster's addresses

        return Journaled(
            self._journal(),
            location.node or self.policy.node_name(),
            location.network,
            location.cluster_conf,
            self._open_cluster,
            shared=location.shared,
            directories=self._directories(location),
            seconds=self._bound(SECONDS),
        )

    def _open_cluster(self, cluster_conf: ClusterConf, network: str, seconds: float) -> Cluster:
        entries = self._journal().entries
        return open_living_cluster(cluster_conf, network, seconds, run=self._run, policy=self.policy, entries=entries)

    def _journal(self) -> Journal:
        from ipam.cluster.store import Journal  # noqa: PLC0415 - as above

        return Journal(self._folder, warn=self._log.warning)

    def _bound(self, seconds: float) -> float:
        return seconds if self._seconds is None else min(seconds, self._seconds)


def open_cluster(cluster_conf: ClusterConf, network: str, seconds: float, policy: Policy) -> Cluster:
    """Opens the cluster that `cluster_conf` describes. Raises `InvalidConfig`."""
    if cluster_conf.get("kind") == "etcd":
        from ipam.etcd.cluster import open_etcd  # noqa: PLC0415 - it brings TLS along

        return open_etcd(cluster_conf, network, seconds, policy.certificates(cluster_conf))
    if cluster_conf.get("kind") == "kubernetes":
        from ipam.kubernetes.cluster import open_kubernetes  # noqa: PLC0415 - (the same)

        return open_kubernetes(cluster_conf, network, seconds, policy.api_servers())
    raise InvalidConfig(f"unknown backend {cluster_conf.get('kind')!r}")


def open_living_cluster(
    cluster_conf: ClusterConf, network: str, seconds: float, *, run: str, policy: Policy, entries: Entries
) -> Cluster:
    """Opens the cluster for a call by the node itself, which also renews the node's sign of life.

    `entries` returns the entries of the node's journal: its leases may carry a former name of the node.
    """
    if cluster_conf.get("kind") == "etcd":
        from ipam.etcd.heartbeat import open_living_etcd  # noqa: PLC0415 - it brings TLS along

        return open_living_etcd(cluster_conf, network, seconds, policy.certificates(cluster_conf), run, entries)
    return open_cluster(cluster_conf, network, seconds, policy)
