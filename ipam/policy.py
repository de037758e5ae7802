"""What the node's administrator lets a network's configuration name: directories, files, and access to clusters."""

from __future__ import annotations

import os

from cni.host.trusted import Roots
from cni.node.node import NodeConf
from cni.value import Value
from ipam.place import KUBERNETES, Defaults, section_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from cni.kube.access import Access
    from cni.node.node import EtcdAccess
    from cni.request import Request

DATA_ROOTS = ("/var/lib/cni", "/run", "/var/run")
RESERVED = (
    *(f"/var/lib/cni/{name}" for name in ("barewire", "cache", "multus", "results", "sriov", "usrspcni", "vhostuser")),
    *(f"/run/{name}" for name in ("barewire", "calico", "cilium", "containerd", "credentials", "crio", "cryptsetup")),
    *(
        f"/run/{name}"
        for name in ("dbus", "docker", "flannel", "initctl", "initramfs", "k3s", "libvirt", "lock", "log")
    ),
    *(
        f"/run/{name}"
        for name in ("mount", "netns", "nologin", "openvswitch", "secrets", "sudo", "systemd", "tmpfiles.d")
    ),
    *(f"/run/{name}" for name in ("udev", "user", "utmp", "xtables.lock")),
)
"""Directories of other programs, which read what is put there, and files that they look for by their names."""

RESOLV_CONFS = (
    "/etc/resolv.conf",
    "/etc/cni",
    "/etc/kubernetes/resolv.conf",
    "/run/systemd/resolve",
    "/run/NetworkManager",
    "/run/resolvconf",
    "/run/k3s",
    "/usr/lib/systemd/resolv.conf",
)
"""Where a host's name service is described."""

_RESOLVERS = ("/run/systemd/resolve",)
"""systemd's resolver runs as a user of its own, to which its files belong."""

_WHEREABOUTS = ("range", "range_start", "ipRanges")
"""Keys of whereabouts' ranges."""

_ETCD = {
    "endpoints": "endpoints",
    "prefix": "prefix",
    "caFile": "ca_file",
    "certFile": "cert_file",
    "keyFile": "key_file",
}

CREDENTIALS = ("/etc/barewire", "/etc/cni", "/etc/kubernetes/cni")
"""Where certificates for an etcd are. Those for a control plane's own etcd are elsewhere, but for Calico's."""

_CALICO = ("/etc/cni/net.d/calico-tls",)


class Policy(Value):
    """The node configuration, as judgement of what is named. `start` is where judging begins (`Roots.start`).

    `flat_files` are the places of whereabouts' second configuration file; None for the usual ones.
    """

    node: NodeConf = NodeConf()
    start: str = "/"
    flat_files: tuple[str, ...] | None = None

    def data_directory(self, path: str) -> str:
        """The directory of a network's leases, without symlinks; it need not exist. Raises `InvalidConfig`."""
        roots = Roots(
            allowed=(*DATA_ROOTS, *self.node.addresses.data_roots),
            key="addresses.dataDirs",
            reserved=RESERVED,
            start=self.start,
        )
        return roots.destination(path, "ipam.dataDir")

    def resolv_conf(self, path: str, largest: int) -> bytes:
        """The content of a file with a name service. Raises `InvalidConfig`."""
        allowed = (*RESOLV_CONFS, *self.node.addresses.resolv_confs)
        roots = Roots(allowed=allowed, key="addresses.resolvConfs", entrusted=_RESOLVERS, start=self.start)
        return roots.content(path, "ipam.resolvConf", largest)

    def certificates(self, document: Mapping[str, Any]) -> Roots:
        """The places of the files that a description of an etcd may name.

        The administrator's description may name any file that only root can change. No other one may name these: with
        another prefix or endpoint the certificates would serve a purpose that the administrator has not allowed.
        """
        ours = self.etcd()
        if ours and ours == {key: document[key] for key in _ETCD if document.get(key)}:
            return Roots(allowed=("/",), start=self.start)
        allowed = (*CREDENTIALS, *self.node.addresses.credentials)
        return Roots(allowed=allowed, key="addresses.credentials", reserved=_CALICO, start=self.start)

    def etcd(self) -> dict[str, Any] | None:
        """The node's own access to etcd, as a section `etcd`."""
        access = self.node.addresses.etcd
        return _section(access) if access.endpoints else None

    def defaults(self, request: Request | None = None) -> Defaults:
        """What networks that say nothing use. Raises `InvalidConfig` for a file of whereabouts that cannot be used.

        The file is read for a network with ranges of whereabouts' kind only.
        """
        addresses = self.node.addresses
        kubeconfig = "" if request is None else self._whereabouts_kubeconfig(section_of(request))
        return Defaults(
            backend=addresses.backend or (KUBERNETES if kubeconfig else ""),
            etcd=self.etcd(),
            kubeconfig="" if self.node.kubernetes.kubeconfig else kubeconfig,
            network_etcd=addresses.network_etcd,
        )

    def _whereabouts_kubeconfig(self, section: dict[str, Any]) -> str:
        access = section.get("kubernetes")
        has_access = isinstance(access, dict) and bool(access.get("kubeconfig"))
        backend = section.get("backend") or self.node.addresses.backend
        if has_access or backend not in (None, "", KUBERNETES) or not any(map(section.get, _WHEREABOUTS)):
            return ""
        from ipam.flat_file import PLACES, kubeconfig  # noqa: PLC0415 - other networks have no second file

        path = section.get("configuration_path")
        places = PLACES if self.flat_files is None else self.flat_files
        return kubeconfig(path if isinstance(path, str) else "", places, self.api_servers().kubeconfigs())

    def api_servers(self) -> Access:
        from cni.kube.access import access_of  # noqa: PLC0415 - most calls ask no API server

        return access_of(self.node, self.start)

    def with_kubeconfig(self, path: str) -> Policy:
        """The same, and that kubeconfig is as good as one that the node configuration names."""
        kubernetes = self.node.kubernetes
        more = kubernetes.replace(kubeconfigs=(*kubernetes.kubeconfigs, path))
        return self.replace(node=self.node.replace(kubernetes=more))

    def node_name(self) -> str:
        """What this node is called in a cluster."""
        if self.node.node_name:
            return self.node.node_name
        from ipam.node_name import of_kubelet  # noqa: PLC0415 - only clusters of addresses know nodes by names

        return of_kubelet(self.node.kubelet_root, self.start) or os.uname().nodename


def _section(etcd: EtcdAccess) -> dict[str, Any]:
    """Access to an etcd, with the keys of a network's configuration."""
    told = {name: getattr(etcd, field) for name, field in _ETCD.items()}
    return {name: list(value) if name == "endpoints" else value for name, value in told.items() if value}
