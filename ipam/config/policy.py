"""Which directories, files and clusters a network's configuration may name, according to the node's administrator."""

from __future__ import annotations

import os

from cni.host.trusted import Roots, reserved
from cni.node.node import NodeConf
from cni.value import Value
from ipam.config.location import KUBERNETES, Defaults, section_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.kube.access import Access
    from cni.node.node import EtcdAccess
    from cni.protocol.request import Request
    from ipam.config.conf_sections import EtcdDict, UncheckedIpamDict
    from ipam.store import ClusterConf

DATA_ROOTS = ("/var/lib/cni", "/run", "/var/run")
RESERVED = (
    ("/var/lib/cni", ("barewire", "cache", "multus", "results", "sriov", "usrspcni", "vhostuser")),
    ("/run", (
        "barewire", "calico", "cilium", "containerd", "credentials", "crio", "cryptsetup", "dbus", "docker", "flannel",
        "initctl", "initramfs", "k3s", "libvirt", "lock", "log", "mount", "netns", "nologin", "openvswitch", "secrets",
        "sudo", "systemd", "tmpfiles.d", "udev", "user", "utmp", "xtables.lock",
    )),
)  # fmt: skip
"""Directories of other programs that read the files in them, and files that they look up by name.

They are listed by parent directory: see `Roots.reserved`.
"""

RESOLV_CONFS = (
    "/etc/resolv.conf",
    "/etc/cni",
    "/etc/kubernetes/resolv.conf",
    "/run/systemd/resolve",
    "/run/NetworkManager",
    "/run/netconfig",
    "/run/resolvconf",
    "/run/k3s",
    "/usr/lib/systemd/resolv.conf",
)
"""Files and directories that describe a host's name service."""

_RESOLVERS = ("/run/systemd/resolve",)
"""systemd's resolver runs as a user of its own, which owns its files."""

_ETCD_KEYS = ("endpoints", "prefix", "caFile", "certFile", "keyFile")

CREDENTIALS = ("/etc/barewire", "/etc/cni", "/etc/kubernetes/cni")
"""Directories of certificates for etcd. Certificates for a control plane's own etcd are elsewhere, except Calico's."""

_CALICO = ("/etc/cni/net.d", ("calico-tls",))


class Policy(Value):
    """The node configuration, applied to the names in a network's configuration.

    `start` is the directory from which paths are checked (`Roots.start`). `flat_files` are the paths of whereabouts'
    second configuration file; None selects the usual ones.
    """

    node: NodeConf = NodeConf()
    start: str = "/"
    flat_files: tuple[str, ...] | None = None

    def data_directory(self, path: str) -> str:
        """Returns the directory of a network's leases with symlinks resolved; it need not exist.

        Raises `InvalidConfig`.
        """
        allowed = (*DATA_ROOTS, *self.node.addresses.data_roots)
        roots = self._roots(allowed, key="addresses.dataDirs", reserved=RESERVED)
        return roots.destination(path, "ipam.dataDir")

    def resolv_conf(self, path: str, largest: int) -> bytes:
        """Reads a file that describes a name service. Raises `InvalidConfig`."""
        allowed = (*RESOLV_CONFS, *self.node.addresses.resolv_confs)
        roots = self._roots(allowed, key="addresses.resolvConfs", entrusted=_RESOLVERS)
        return roots.content(path, "ipam.resolvConf", largest)

    def certificates(self, cluster_conf: ClusterConf) -> Roots:
        """The directories of the files that the description of an etcd may name.

        The administrator's own description may name any file that only root can change. No other description may name
        the administrator's certificate and key, wherever they are: with another prefix or endpoint they would serve a
        purpose that the administrator has not permitted.
        """
        ours = self.etcd() or {}
        named = {key: value for key, value in cluster_conf.items() if key in _ETCD_KEYS and value}
        if ours and dict(ours.items()) == named:
            return self._roots(("/",))
        allowed = (*CREDENTIALS, *self.node.addresses.credentials)
        identity = [reserved(path) for path in (ours.get("certFile"), ours.get("keyFile")) if path]
        return self._roots(allowed, key="addresses.credentials", reserved=(_CALICO, *identity))

    def _roots(self, allowed: tuple[str, ...], **more: Any) -> Roots:
        return Roots(allowed=allowed, owners=self.node.trusted_owners, start=self.start, **more)

    def etcd(self) -> EtcdDict | None:
        """The node's own access to etcd, as a section `etcd`."""
        access = self.node.addresses.etcd
        return _section(access) if access.endpoints else None

    def defaults(self, request: Request | None = None) -> Defaults:
        """The defaults for a network. Raises `InvalidConfig` if whereabouts' second file exists and is invalid.

        That file is read only for networks in whereabouts' form for which no other kubeconfig is configured.
        """
        addresses = self.node.addresses
        defaults = Defaults(backend=addresses.backend, etcd=self.etcd(), network_etcd=addresses.network_etcd)
        section: UncheckedIpamDict = {} if request is None else section_of(request)
        if not self._is_in_kubernetes(section):
            return defaults
        access = section.get("kubernetes")
        has_own = isinstance(access, dict) and bool(access.get("kubeconfig"))
        # The store finds the node's own kubeconfig by itself.
        is_known = has_own or bool(self.node.kubernetes.kubeconfig)
        kubeconfig = "" if is_known else self._whereabouts_kubeconfig(section)
        backend = addresses.backend or (KUBERNETES if is_known or kubeconfig else "")
        return defaults.replace(backend=backend, kubeconfig=kubeconfig)

    def _is_in_kubernetes(self, section: UncheckedIpamDict) -> bool:
        """Whether a network has whereabouts' form and no other backend is configured for it."""
        backend = section.get("backend") or self.node.addresses.backend or section.get("datastore")
        has_ranges = bool(section.get("range") or section.get("range_start") or section.get("ipRanges"))
        return has_ranges and backend in (None, "", KUBERNETES)

    def _whereabouts_kubeconfig(self, section: UncheckedIpamDict) -> str:
        from ipam.config.flat_file import PLACES, kubeconfig  # noqa: PLC0415 - other networks have no second file

        path = section.get("configuration_path")
        paths = PLACES if self.flat_files is None else self.flat_files
        return kubeconfig(path if isinstance(path, str) else "", paths, self.api_servers().kubeconfigs())

    def api_servers(self) -> Access:
        from cni.kube.access import access_of  # noqa: PLC0415 - most calls ask no API server

        return access_of(self.node, self.start)

    def with_kubeconfig(self, path: str) -> Policy:
        """The same policy, with the kubeconfig trusted as if the node configuration named it."""
        kubernetes = self.node.kubernetes
        more = kubernetes.replace(kubeconfigs=(*kubernetes.kubeconfigs, path))
        return self.replace(node=self.node.replace(kubernetes=more))

    def node_name(self) -> str:
        """The name of this node in a cluster."""
        if self.node.node_name:
            return self.node.node_name
        from ipam.config.node_name import of_kubelet  # noqa: PLC0415 - only clusters of addresses know nodes by names

        return of_kubelet(self.node.kubelet_root, self.start, self.node.trusted_owners) or os.uname().nodename


def _section(etcd: EtcdAccess) -> EtcdDict:
    """Access to an etcd, with the keys of a network's configuration."""
    section: EtcdDict = {"endpoints": list(etcd.endpoints)}
    if etcd.prefix:
        section["prefix"] = etcd.prefix
    if etcd.ca_file:
        section["caFile"] = etcd.ca_file
    if etcd.cert_file:
        section["certFile"] = etcd.cert_file
    if etcd.key_file:
        section["keyFile"] = etcd.key_file
    return section
