"""Frees the addresses of a dead node, and refuses if the node is alive, because its pods still use them."""

from __future__ import annotations

from cni.errors import InvalidConfig, NotAvailable
from cni.value import Value
from ipam.command.networks import describe, entries
from ipam.etcd import dead_node
from ipam.etcd.cluster import keys_of
from ipam.etcd.gateway import Gateway, servers
from ipam.etcd.heartbeat import Alive
from ipam.kubernetes.cluster import NOWHERE, open_kubernetes
from ipam.store import claim_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Literal

    from ipam.command.networks import Folders, Network
    from ipam.etcd.keys import Keys
    from ipam.kubernetes.cluster import Kubernetes
    from ipam.store import ClusterConf, Lease


_OF_NODE: tuple[Literal["node", "machine"], ...] = ("node", "machine")
"""The keys of an etcd's cluster_conf that differ by node."""


class Unknown(NotAvailable):
    """No node has this name: it is probably misspelt."""


class Freed(Value):
    """A lease in a cluster that was freed or is to be freed.

    With `gone` its pod does not exist, so its node is unknown.
    """

    cluster: str
    lease: Lease
    gone: bool = False

    def __str__(self) -> str:
        owner = self.lease.owner
        who = f"{owner.container_id}/{owner.ifname}" + (f" of {owner.pod}" if owner.pod else "")
        return f"{self.lease.address}  {who}  {self.cluster}"


class DeadNode:
    """The leases of the node `name` in the clusters of the networks."""

    def __init__(
        self, folders: Folders, networks: Iterable[Network], name: str, seconds: float, *, kubeconfig: str = ""
    ) -> None:
        self._folders = folders
        self._name = name
        self._seconds = seconds
        networks = [network for network in networks if network.cluster_conf is not None]
        self._own = {folders.policy.node_name(), *(network.node for network in networks)}
        self._etcd = places_in_etcd(networks)
        self._kubernetes = _each(
            [network.cluster_conf or {} for network in networks if network.backend == "kubernetes"]
        )
        self._named_api_server: list[ClusterConf] = [{**NOWHERE, "kubeconfig": kubeconfig}] if kubeconfig else []

    @property
    def has_clusters(self) -> bool:
        return bool(self._etcd or self._kubernetes)

    def require_dead(self) -> None:
        """Raises `Alive` if a cluster, or the API server of the kubeconfig, reports the node as alive."""
        if self._name in self._own:
            raise Alive(
                f"{self._name} is this node, which is alive", hint="use barewire-ipam fsck for leaks of this node"
            )
        for cluster_conf in self._etcd:
            dead_node.require_dead(*self._gateway(cluster_conf))
        for cluster_conf in [*self._kubernetes, *self._named_api_server]:
            if self._opened(cluster_conf).node_is_alive(self._name):
                raise Alive(f"{self._name} is alive: its Node object is Ready", hint="drain it, or power it off")

    def require_known(self, leases: Iterable[Freed]) -> None:
        """Raises `Unknown` if neither a lease nor a Node object has the name."""
        if any(not lease.gone for lease in leases):
            return
        if any(
            self._opened(cluster_conf).knows_node(self._name)
            for cluster_conf in [*self._kubernetes, *self._named_api_server]
        ):
            return
        raise Unknown(
            f"the node {self._name} is unknown: no Node object, no pod with a lease and no lease names it",
            hint="check its spelling with barewire-ipam list",
        )

    def leases(self) -> list[Freed]:
        """The node's leases, and the leases of pods that do not exist, on whatever node they were (`gone`)."""
        leases = [
            Freed(cluster=describe(cluster_conf), lease=lease)
            for cluster_conf in self._etcd
            for lease in dead_node.leases(*self._gateway(cluster_conf))
        ]
        return leases + [
            freed
            for cluster_conf in self._kubernetes
            for freed in self._of_pods(self._opened(cluster_conf), cluster_conf)
        ]

    def free(self, *, gone_pods: bool) -> Iterator[Freed]:
        """Frees the leases, and yields each; those that are `gone` only on request.

        Raises `Alive` if the node has come back.
        """
        for cluster_conf in self._etcd:
            for lease in dead_node.free(*self._gateway(cluster_conf), self._seconds):
                yield Freed(cluster=describe(cluster_conf), lease=lease)
        for cluster_conf in self._kubernetes:
            cluster = self._opened(cluster_conf)
            for freed in self._of_pods(cluster, cluster_conf):
                if gone_pods or not freed.gone:
                    cluster.give_back((claim_on(freed.lease.address),), freed.lease.owner)
                    yield freed

    def _of_pods(self, cluster: Kubernetes, cluster_conf: ClusterConf) -> Iterator[Freed]:
        """The leases whose pods are bound to the node or do not exist any more, except those in this node's journal."""
        ours = {
            (entry.owner.container_id, entry.owner.ifname)
            for entry in entries(self._folders)
            if not isinstance(entry, str) and entry.cluster_conf.get("kind") == cluster_conf["kind"]
        }
        nodes: dict[str, str | None] = {}
        # The pools are read first: a pod exists before it has an address.
        for lease in list(cluster.leases("")):
            pod = lease.owner.pod
            if not pod or (lease.owner.container_id, lease.owner.ifname) in ours:
                continue
            if pod not in nodes:
                nodes[pod] = _node_of(cluster, pod)
            if nodes[pod] in (None, self._name):
                yield Freed(cluster=describe(cluster_conf), lease=lease, gone=nodes[pod] is None)

    def _gateway(self, cluster_conf: ClusterConf) -> tuple[Gateway, Keys]:
        return gateway_to(self._folders, cluster_conf, self._name, self._seconds)

    def _opened(self, cluster_conf: ClusterConf) -> Kubernetes:
        return open_kubernetes(cluster_conf, "", self._seconds, self._folders.policy.api_servers())


def places_in_etcd(networks: Iterable[Network]) -> list[ClusterConf]:
    """The settings that lead to the networks' etcds, without repetitions."""
    return _each(
        [
            _etcd_part(network.cluster_conf)
            for network in networks
            if network.cluster_conf is not None and network.backend == "etcd"
        ]
    )


def gateway_to(folders: Folders, cluster_conf: ClusterConf, node: str, seconds: float) -> tuple[Gateway, Keys]:
    """The cluster of a description, and the keys of a node in it."""
    keys = keys_of({**cluster_conf, "node": node}, "any")
    return Gateway(servers(cluster_conf, folders.policy.certificates(cluster_conf)), seconds), keys


def _node_of(cluster: Kubernetes, pod: str) -> str | None:
    try:
        return cluster.node_of(pod)
    except InvalidConfig:
        return ""  # An invalid pod name: the owner of the lease is unknown.


def _etcd_part(cluster_conf: ClusterConf) -> ClusterConf:
    """The settings that lead to the cluster. All networks in it are searched."""
    part: ClusterConf = {**cluster_conf}
    for key in _OF_NODE:
        part.pop(key, None)
    return part


def _each(cluster_confs: list[ClusterConf]) -> list[ClusterConf]:
    """The descriptions without repetitions."""
    return [conf for i, conf in enumerate(cluster_confs) if conf not in cluster_confs[:i]]
