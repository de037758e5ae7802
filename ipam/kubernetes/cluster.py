"""Leases in whereabouts' Kubernetes resources, so that both plugins can use the same ranges at the same time.

One JSON patch leases an address, and tests that it is free: the API server applies all of a patch or nothing. So there
is no lock, and whereabouts, whose patches test the version of the whole pool, notices each of our leases.
"""

from __future__ import annotations

from cni.errors import AddressesExhausted, KubeRefused, NotAvailable, RefusedForGood, TryAgainLater
from cni.kube.config import open_cluster
from cni.rollback import on_failure
from ipam.cluster.identity import Anonymous
from ipam.kubernetes import whereabouts
from ipam.kubernetes.api import Api
from ipam.kubernetes.pools import Made, Pools
from ipam.kubernetes.reservations import Reservations
from ipam.kubernetes.whereabouts import POOLS
from ipam.store import ignore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from cni.errors import CniError
    from cni.jsontext import JsonObject
    from cni.kube.access import Access
    from cni.kube.config import Cluster
    from ipam.address import Address
    from ipam.kubernetes.whereabouts import PoolLocation
    from ipam.ranges import Range
    from ipam.store import Claim, ClusterConf, Lease, Owner, Report

    Claims = tuple[Claim, ...]

SECONDS = 10.0
"""Time limit of one call: its two requests take milliseconds."""

NOWHERE: ClusterConf = {"kind": "kubernetes", "namespace": "", "network_name": "", "overlapping": True, "subnets": []}
"""A location without leases, for looking up nodes and pods. The kubeconfig must be added."""

_DEFAULT_NAMESPACE = "kube-system"


def open_kubernetes(cluster_conf: ClusterConf, network: str, seconds: float, access: Access) -> Kubernetes:
    """Opens the backend that a cluster_conf describes; `seconds` limits each call. Raises `InvalidConfig`."""
    location = whereabouts.pool_location(cluster_conf)
    return Kubernetes(open_cluster(location.kubeconfig, access), location, network, seconds)


class Kubernetes(Anonymous):
    """Implements `ipam.store.Cluster`, for one process and one thread. Also raises `KubeRefused`."""

    def __init__(self, cluster: Cluster, location: PoolLocation, network: str, seconds: float = SECONDS) -> None:
        self._location = location
        self._network = network
        self._api = Api(cluster, location.namespace or cluster.namespace or _DEFAULT_NAMESPACE, seconds)
        self._pools = Pools(self._api, location.network_name)
        self._reservations = Reservations(self._api, location.network_name) if location.overlapping else None
        # Addresses known to be in use, possibly by an owner of another range that is not in the pool.
        self._reserved: dict[str, set[int]] = {}

    def close(self) -> None:
        """Closes the connection, which calls share. The next call opens a new one."""
        self._api.close()

    def used_numbers(self, range_: Range) -> Container[int] | None:
        """See `ipam.store.Cluster`: an attempt is one small patch, but reading returns the whole pool.

        So only a pool that was just read is used: for the leases of the pod, or after a refused attempt.
        """
        cidr = whereabouts.subnet(range_)
        pool = self._pools.read(cidr)
        return None if pool is None else pool.used(range_, self._reserved.get(cidr, ()))

    def find_free(self, range_: Range, start: int) -> int | None:
        self._api.begin()
        cidr = whereabouts.subnet(range_)
        taken = self._pools.look(cidr).used(range_, self._reserved.get(cidr, ()))
        for first, last in ((start, range_.last), (range_.first, start - 1)):
            for number in range_.walk(first, last):
                if number not in taken:
                    return number
        return None

    def held(self, claims: Claims, owner: Owner) -> Claims:
        self._api.begin()
        return self._pools.held(claims, owner)

    def take(self, claims: Claims, owner: Owner) -> Claims:
        return self._taken(claims, owner, lost=False)

    def retake(self, claims: Claims, owner: Owner) -> Claims:
        """See `ipam.store.Cluster`: a reservation outlives its deleted pool, and may name an earlier sandbox."""
        return self._taken(claims, owner, lost=True)

    def parts(self) -> dict[str, str]:
        """See `ipam.store.Cluster`: the parts are the pools, by subnet."""
        return dict(self._pools.uids)

    def leases_of_pod(self, owner: Owner) -> tuple[Lease, ...]:
        """See `ipam.store.Cluster`."""
        self._api.begin()
        pools = [self._pools.look(cidr) for cidr in self._location.subnets]
        return tuple(lease for pool in pools for lease in pool.leases_of_pod(owner))

    def give_back(self, claims: Claims, owner: Owner) -> None:
        self._api.begin()
        self._free(self._placed(claims), claims, owner)

    def give_back_all(self, owner: Owner) -> None:
        self._api.begin()
        pools = [pool for cidr in self._location.subnets if (pool := self._pools.find(cidr)).exists]
        self.give_back(tuple(claim for pool in pools for claim in whereabouts.claims_of(pool.document, owner)), owner)

    def leases_of_node(self) -> Iterator[Lease]:
        """See `ipam.store.Cluster`: whereabouts' resources do not contain node names."""
        yield from ()

    def reach(self) -> None:
        """See `ipam.store.Cluster`. The requests are rehearsals, and change nothing."""
        self._api.begin()
        try:
            for cidr in self._location.subnets[:1]:
                self._api.patch(POOLS, self._pools.name(cidr), [])
            if self._reservations:
                self._reservations.rehearse()
        except (KubeRefused, TryAgainLater) as error:
            raise NotAvailable(error.msg, hint=error.details) from error

    def leases(self, network: str, damaged: Report = ignore) -> Iterator[Lease]:
        """See `ipam.store.Cluster`. Pools are not separated by network: all leases in them are listed."""
        self._api.begin()
        for cidr in self._location.subnets:
            pool = self._pools.find(cidr)
            if pool.exists:
                yield from whereabouts.leases(pool.document, network, damaged)

    def node_is_alive(self, name: str) -> bool:
        """Whether the node exists and its kubelet reports it ready. Raises `KubeRefused`, `TryAgainLater`."""
        self._api.begin()
        node = self._api.node(name) or {}
        status = node.get("status")
        conditions = status.get("conditions") if isinstance(status, dict) else None
        well_formed = (
            [condition for condition in conditions if isinstance(condition, dict)]
            if isinstance(conditions, list)
            else []
        )
        return any(condition.get("type") == "Ready" and condition.get("status") == "True" for condition in well_formed)

    def knows_node(self, name: str) -> bool:
        """Whether there is a Node object of this name. Raises the same errors as `node_is_alive`."""
        self._api.begin()
        return self._api.node(name) is not None

    def pod(self, pod: str) -> JsonObject | None:
        """Returns the object of a pod (namespace/name), or None if there is none.

        Raises `InvalidConfig` for an invalid name.
        """
        self._api.begin()
        namespace, _, name = pod.partition("/")
        return self._api.pod(namespace, name)

    def reserved(self, address: Address) -> JsonObject | None:
        """The object that reserves the address across pools."""
        self._api.begin()
        return self._reservations.find(address) if self._reservations else None

    def node_of(self, pod: str) -> str | None:
        """The node to which a pod (namespace/name) is bound, or an empty string; None if there is no such pod."""
        bound = self.pod(pod)
        spec = None if bound is None else bound.get("spec")
        return None if bound is None else str(spec.get("nodeName") or "") if isinstance(spec, dict) else ""

    def give_up(self, claim: Claim, owner: Owner, pod: str) -> bool:
        """See `ipam.kubernetes.reservations.Allocations`."""
        return self._pools.give_up(self._placed((claim,)), owner, pod)

    def entries_of(self, claim: Claim) -> list[JsonObject]:
        """See `ipam.kubernetes.reservations.Allocations`."""
        return self._pools.entries_of(self._placed((claim,)))

    def _taken(self, claims: Claims, owner: Owner, *, lost: bool) -> Claims:
        self._api.begin()
        made = Made()
        try:
            with on_failure(self._undo, made, owner):
                # The allocation comes first, as in whereabouts, which does not expect a reservation that it has not
                # seen before.
                others = self._pools.add(claims, owner, made) or self._reserve(claims, owner, made, lost=lost)
        except (RefusedForGood, AddressesExhausted) as error:
            # After both errors the owner has nothing.
            raise _is_undone(error) from error
        if others:
            self._undo(made, owner)
        return others

    def _reserve(self, claims: Claims, owner: Owner, made: Made, *, lost: bool) -> Claims:
        fresh = () if lost else made.added
        others = self._reservations.add(claims, owner, made.reserved, fresh) if self._reservations else ()
        for claim in others:
            self._reserved.setdefault(whereabouts.subnet(claim.range), set()).add(claim.address.number)
        return others

    def _free(self, allocated: Claims, reserved: Claims, owner: Owner) -> None:
        # The allocation goes last: it names the owner if this is interrupted.
        if self._reservations:
            self._reservations.remove(reserved, owner, self)
        self._pools.remove(allocated, owner)

    def _placed(self, claims: Claims) -> Claims:
        return whereabouts.placed(claims, self._location.subnets)

    def _undo(self, made: Made, owner: Owner) -> None:
        self._free(tuple(made.added), tuple(made.reserved), owner)
        self._pools.hand_back(made.taken_over, owner)


def _is_undone(error: RefusedForGood | AddressesExhausted) -> CniError:
    """The error, or a weaker one if not everything could be undone."""
    if not getattr(error, "__notes__", None):
        return error
    kind = KubeRefused if isinstance(error, RefusedForGood) else TryAgainLater
    return kind(error.msg, hint=error.details)
