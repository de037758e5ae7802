"""The location and the owner of leases: all that DEL needs of a configuration, however broken the rest is. Pure."""

from __future__ import annotations

from cni.config.validation import canonical
from cni.errors import CniError
from cni.names import file_name
from cni.paths import is_plain_path
from cni.protocol.cni_args import cni_arguments
from cni.value import Value
from ipam.store import Owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from cni.protocol.request import Request
    from ipam.config.conf_sections import EtcdDict, UncheckedIpamDict
    from ipam.store import ClusterConf

DATA_DIRECTORY = "/var/lib/cni/networks"
"""The default directory of host-local."""

PLUGIN = "barewire-ipam"
LOCAL, ETCD, KUBERNETES = "local", "etcd", "kubernetes"


class LeaseLocation(Value):
    """Where the leases of a network are kept.

    `directory` is host-local's, for backend local. `cluster_conf` describes a cluster; it is None if the configuration
    is incomplete. `shared` is the network's name in the cluster. An empty `node` stands for the host's own name.
    """

    backend: str
    network: str
    directory: str
    shared: str = ""
    cluster_conf: ClusterConf | None = None
    node: str = ""


class Defaults(Value):
    """The node configuration's values for networks that do not set them. `etcd` is a complete section `etcd`.

    If `network_etcd` is False, networks may not configure an etcd of their own.
    """

    backend: str = ""
    etcd: EtcdDict | None = None
    kubeconfig: str = ""
    network_etcd: bool = True

    def applied(self, section: UncheckedIpamDict) -> UncheckedIpamDict:
        """The section `ipam` with the defaults filled in."""
        completed: UncheckedIpamDict = {**section}
        if self.backend and not completed.get("backend"):
            completed["backend"] = self.backend
        if completed.get("backend") == ETCD and self.etcd and not completed.get("etcd"):
            completed["etcd"] = dict(self.etcd)
        access = completed.get("kubernetes") or {}
        if completed.get("backend") == KUBERNETES and self.kubeconfig and isinstance(access, dict):
            completed["kubernetes"] = {**access, "kubeconfig": access.get("kubeconfig") or self.kubeconfig}
        return completed

    def problems(self, section: object) -> list[tuple[str, str]]:
        """Settings of a section `ipam` that the node does not permit, as (JSON path, text)."""
        if self.network_etcd or not isinstance(section, dict) or not section.get("etcd"):
            return []
        return [
            ("ipam.etcd", "the node configuration does not permit an etcd of the network's own (addresses.networkEtcd)")
        ]


NONE = Defaults()

_ANY = ("any",)
_ACCESS = ["endpoints", "prefix", "caFile", "certFile", "keyFile", "kubeconfig", "namespace"]
_KEYS: dict[str, tuple[Any, ...]] = {
    "ipam": (
        "section",
        {
            **dict.fromkeys(["backend", "dataDir", "network_name", "nodeName", "enable_overlapping_ranges"], _ANY),
            **dict.fromkeys(["range", "range_start", "ipRanges", "configuration_path", "datastore"], _ANY),
            **dict.fromkeys(("etcd", "kubernetes"), ("section", dict.fromkeys(_ACCESS, _ANY))),
        },
    )
}
"""The subset of the table that is read here. Loading the whole table would take longer than all the rest of a DEL."""


def section_of(request: Request) -> UncheckedIpamDict:
    """The keys of the section `ipam` that say where leases are, by their canonical names."""
    value: Any = canonical(_KEYS, request.config).get("ipam")
    is_section = isinstance(value, dict)
    section: UncheckedIpamDict = value if is_section else {}
    return section


def lease_location(request: Request, defaults: Defaults = NONE) -> LeaseLocation:
    """The location of the leases, even if the rest of the configuration is invalid: DEL may have nothing better."""
    own = section_of(request)
    section = defaults.applied(own)
    backend = section.get("backend") if section.get("backend") in (ETCD, KUBERNETES) else LOCAL
    data = _text(section.get("dataDir"))
    shared = _text(section.get("network_name"))
    return LeaseLocation(
        backend=str(backend),
        network=request.network,
        directory=f"{data.rstrip('/') if data and is_plain_path(data) else DATA_DIRECTORY}/{file_name(request.network)}",
        shared=shared or request.network,
        cluster_conf=None if defaults.problems(own) else _cluster_conf(str(backend), request, section),
        node=_text(section.get("nodeName")),
    )


def _cluster_conf(backend: str, request: Request, section: UncheckedIpamDict) -> ClusterConf | None:
    return _CLUSTER_CONFS[backend](request, section) if backend in _CLUSTER_CONFS else None


def lease_owner(request: Request) -> Owner:
    """The attachment, and its pod according to CNI_ARGS."""
    try:
        arguments = cni_arguments(request.args)
    except CniError:
        arguments = {}  # ADD refuses them; DEL continues without.
    namespace, name = arguments.get("K8S_POD_NAMESPACE", ""), arguments.get("K8S_POD_NAME", "")
    return Owner(
        network=request.network,
        container_id=request.container_id,
        ifname=request.ifname,
        pod=f"{namespace}/{name}" if namespace and name else "",
        pod_uid=arguments.get("K8S_POD_UID", ""),
    )


def _etcd(_request: Request, ipam: UncheckedIpamDict) -> ClusterConf | None:
    section = ipam.get("etcd")
    if not isinstance(section, dict):
        return None
    endpoints = section.get("endpoints")
    if not isinstance(endpoints, list) or not endpoints or not all(isinstance(endpoint, str) for endpoint in endpoints):
        return None
    cluster_conf: ClusterConf = {"kind": ETCD, "endpoints": endpoints}
    for key in _OPTIONAL:
        if text := _text(section.get(key)):
            cluster_conf[key] = text
    return cluster_conf


def _kubernetes(request: Request, ipam: UncheckedIpamDict) -> ClusterConf:
    from ipam.config.request import own_keys  # noqa: PLC0415 - a DEL needs the ranges of whereabouts' pools only
    from ipam.config.rules import range_sets  # noqa: PLC0415 - (the same)
    from ipam.kubernetes import whereabouts  # noqa: PLC0415 - (the same)

    section = ipam.get("kubernetes")
    access = section if isinstance(section, dict) else {}
    unchecked: Any = {**own_keys(request), "ipam": ipam}
    try:
        sets = range_sets(unchecked, [])
    except (AttributeError, TypeError):
        sets = ()  # ADD reports the errors of the configuration; DEL uses the journal instead.
    return whereabouts.cluster_conf(
        whereabouts.PoolLocation(
            kubeconfig=_text(access.get("kubeconfig")),
            namespace=_text(access.get("namespace")),
            network_name=_text(ipam.get("network_name")),
            overlapping=ipam.get("enable_overlapping_ranges") is not False,
            subnets=whereabouts.subnets_of(sets),
        )
    )


_OPTIONAL: tuple[Literal["prefix", "caFile", "certFile", "keyFile"], ...] = ("prefix", "caFile", "certFile", "keyFile")
_CLUSTER_CONFS = {ETCD: _etcd, KUBERNETES: _kubernetes}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
