"""Finds leases in whereabouts' pools whose pods are gone, by podref, the pod's UID and Multus' network-status.

It is meant for leases without an entry in any journal, after a node was reinstalled or lost its state. Leases that may
be in use are never freed.
"""

from __future__ import annotations

import datetime as dt
import time

from cni import jsontext
from cni.errors import CniError, DecodeFailure, InvalidConfig
from cni.kube.podspec import uids
from cni.value import Value
from ipam.address import parse_cidr
from ipam.command.networks import describe, entries
from ipam.kubernetes import whereabouts
from ipam.kubernetes.cluster import NOWHERE, open_kubernetes
from ipam.store import claim_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cni.jsontext import JsonObject
    from ipam.address import Address
    from ipam.command.networks import Folders, Network
    from ipam.command.sandboxes import Sandboxes
    from ipam.kubernetes.cluster import Kubernetes
    from ipam.store import ClusterConf, Lease


STATUS = ("k8s.v1.cni.cncf.io/network-status", "k8s.v1.cni.cncf.io/networks-status")
"""Multus' annotation, and its former name."""


class Verdict(Value):
    """A lease, and the reason why it is unused or cannot be judged.

    `location_index` is the index of its network's cluster_conf.
    """

    location_index: int
    cluster: str
    lease: Lease
    reason: str

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for the same lease in the same state."""
        owner = self.lease.owner
        return self.location_index, self.lease.address, owner.container_id, owner.ifname, owner.pod

    def __str__(self) -> str:
        owner = self.lease.owner
        who = f"{owner.container_id}/{owner.ifname}" + (f" of {owner.pod}" if owner.pod else "")
        return f"{self.lease.address}  {who}  {self.cluster}: {self.reason}"


class Scan(Value):
    """The result of a scan: unused leases, and those whose use cannot be determined."""

    lost: tuple[Verdict, ...]
    unclear: tuple[Verdict, ...]


class _Unclear(Exception):
    """The use of a lease cannot be determined. The message is the reason."""


class Reconciliation:
    """The leases in the networks' pools.

    `sandboxes` scans this node, whose own leases are left to `fsck`. Leases that are younger than `grace` seconds, or
    of unknown age, are skipped; 0 skips none. With a `kubeconfig`, its API server is used to look up pods.
    """

    def __init__(
        self,
        folders: Folders,
        networks: Iterable[Network],
        sandboxes: Callable[[], Sandboxes],
        *,
        grace: float,
        seconds: float,
        kubeconfig: str = "",
    ) -> None:
        self._folders = folders
        self._sandboxes = sandboxes
        self._grace = grace
        self._seconds = seconds
        confs = [
            network.cluster_conf
            for network in networks
            if network.cluster_conf is not None and network.backend == "kubernetes"
        ]
        self._cluster_confs = [conf for i, conf in enumerate(confs) if conf not in confs[:i]]
        self._pods = self._opened({**NOWHERE, "kubeconfig": kubeconfig}) if kubeconfig else None

    @property
    def has_pools(self) -> bool:
        return bool(self._cluster_confs)

    def scan(self) -> Scan:
        """Judges every lease.

        Raises `CniError` if a server or this node cannot be read, because then nothing is certain.
        """
        lost: dict[object, Verdict] = {}
        unclear: dict[object, Verdict] = {}
        for i, cluster_conf in enumerate(self._cluster_confs):
            cluster = self._opened(cluster_conf)
            # The pools are read first: a pod, and its sandbox on this node, exist before they have an address.
            leases = list(cluster.leases(""))
            sandboxes, ours = self._sandboxes(), self._journalled()
            pods: dict[str, JsonObject | None] = {}
            for lease in leases:
                key = lease.owner.container_id, lease.owner.ifname
                if key in ours or sandboxes.uses(*key, [lease.address]):
                    continue
                verdict = Verdict(location_index=i, cluster=describe(cluster_conf), lease=lease, reason="")
                try:
                    reason = self._reason(cluster, lease, pods)
                except _Unclear as why:
                    unclear[verdict.key] = verdict.replace(reason=str(why))
                    continue
                if reason:
                    lost[verdict.key] = verdict.replace(reason=reason)
        return Scan(lost=tuple(lost.values()), unclear=tuple(unclear.values()))

    def free(self, verdicts: Iterable[Verdict]) -> Iterator[Verdict]:
        """Frees those leases that are still unused, and yields each."""
        keys = {verdict.key for verdict in verdicts}
        lost = [verdict for verdict in self.scan().lost if verdict.key in keys]
        for i, cluster_conf in enumerate(self._cluster_confs):
            cluster = self._opened(cluster_conf)
            for verdict in lost:
                if verdict.location_index == i:
                    cluster.give_back((claim_on(verdict.lease.address),), verdict.lease.owner)
                    yield verdict

    def _reason(self, cluster: Kubernetes, lease: Lease, pods: dict[str, JsonObject | None]) -> str:
        """The reason why the lease is unused; empty if it may be in use. Raises `_Unclear`."""
        owner = lease.owner
        if not owner.pod:
            raise _Unclear("it names no pod")
        if owner.pod not in pods:
            try:
                pods[owner.pod] = (self._pods or cluster).pod(owner.pod)
            except InvalidConfig as error:
                raise _Unclear(f"{owner.pod!r} is not a valid name of a pod") from error
        pod = pods[owner.pod]
        shown = {} if pod is None else _shown(pod)
        if any(lease.address in addresses for addresses in shown.values()):
            return ""
        reserved = cluster.reserved(lease.address) or {}
        signed = whereabouts.is_signed(reserved, owner)
        uid = whereabouts.pod_uid(reserved) if signed else ""
        if pod is None:
            # A reservation of an earlier container may be much older than the lease, but it had the same pod.
            return self._if_old(
                reserved, "its pod does not exist", known=signed or whereabouts.is_for_pod(reserved, owner)
            )
        if uid and uid not in uids(pod):
            return self._if_old(reserved, "its pod was created again", known=True)
        if owner.ifname in shown:
            return self._if_old(reserved, "its pod has another address now", known=signed)
        return ""

    def _if_old(self, reserved: JsonObject, reason: str, *, known: bool) -> str:
        """The reason, if the lease is old enough. With `known` the reservation was made together with the lease."""
        if self._grace <= 0:
            return reason
        age = _age(reserved) if known else None
        if age is None:
            raise _Unclear(f"{reason}, but the age of the lease is unknown (--older-than 0 frees it)")
        return reason if age >= self._grace else ""

    def _journalled(self) -> set[tuple[str, str]]:
        journal = [entry for entry in entries(self._folders) if not isinstance(entry, str)]
        return {
            (entry.owner.container_id, entry.owner.ifname)
            for entry in journal
            if entry.cluster_conf.get("kind") == "kubernetes"
        }

    def _opened(self, cluster_conf: ClusterConf) -> Kubernetes:
        return open_kubernetes(cluster_conf, "", self._seconds, self._folders.policy.api_servers())


def _shown(pod: JsonObject) -> dict[str, set[Address]]:
    """The addresses of each interface in Multus' network-status. Raises `_Unclear` if Multus cannot have written it."""
    metadata = pod.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    if not isinstance(annotations, dict):
        return {}
    text = next((annotations[name] for name in STATUS if annotations.get(name)), None)
    if text is None:
        return {}
    try:
        shown: dict[str, set[Address]] = {}
        for status in jsontext.loads(str(text).encode()):
            addresses = {
                parse_cidr(ip if "/" in ip else f"{ip}/{128 if ':' in ip else 32}", "")[0]
                for ip in status.get("ips") or ()
            }
            shown.setdefault(str(status.get("interface") or ""), set()).update(addresses)
    except (DecodeFailure, CniError, AttributeError, TypeError) as error:
        raise _Unclear("the network-status of its pod cannot be read") from error
    return shown


def _age(reserved: JsonObject) -> float | None:
    """Seconds since a reservation was made, by this node's clock; None if the time is unknown."""
    metadata = reserved.get("metadata")
    text = metadata.get("creationTimestamp") if isinstance(metadata, dict) else None
    try:
        made = dt.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time.time() - made.timestamp() if made.tzinfo else None
