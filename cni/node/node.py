"""The node configuration as values: the administrator's decisions about all networks of the node.

The defaults apply to a node without the file. They are strict, but allow configurations with the usual locations.
"""

from __future__ import annotations

from cni.value import Value

PATH = "/etc/barewire/node.json"
KUBELET_ROOT = "/var/lib/kubelet"


class DevicePolicy(Value):
    """Limits on what networks may request of `sriov`.

    `drivers` are the drivers that `driver` may name; None allows drivers for user space, and network drivers for the
    devices that they support. `pfs` are the PFs (names or PCI addresses) whose devices may be attached; None allows
    all. `rebind`: every DEL binds the device's driver again.
    """

    drivers: tuple[str, ...] | None = None
    pfs: tuple[str, ...] | None = None
    pf_only: bool = True
    by_pf: bool = True
    promisc: bool = True
    rebind: bool = False


class SocketPolicy(Value):
    """Limits on what networks may request of `userspace`.

    `ovsdb`, `roots` and `kubelet_roots` extend the plugin's own lists of databases, of directories for sockets on the
    host, and of kubelet directories. `vhost_dir` is the directory in which the vswitch finds the sockets; empty for the
    default.
    """

    ovsdb: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    kubelet_roots: tuple[str, ...] = ()
    vhost_dir: str = ""


class CredentialPolicy(Value):
    """Access to API servers: the kubeconfig for networks without one, and the kubeconfigs that networks may name."""

    kubeconfig: str = ""
    kubeconfigs: tuple[str, ...] = ()


class EtcdAccess(Value):
    """Access to the node's etcd, for networks that do not name any."""

    endpoints: tuple[str, ...] = ()
    prefix: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


class AddressPolicy(Value):
    """Defaults and limits of `barewire-ipam`.

    `data_roots`, `resolv_confs` and `credentials` extend the directories of leases, the files with a name service, and
    the directories of certificates that networks may name. `network_etcd`: whether networks may name an etcd.
    """

    backend: str = ""
    etcd: EtcdAccess = EtcdAccess()
    network_etcd: bool = True
    data_roots: tuple[str, ...] = ()
    resolv_confs: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()


class NodeConf(Value):
    """The whole configuration. An empty `node_name` means the name of the kubelet or the host.

    `delegate_seconds` limits a call of another IPAM plugin; 0 means the default. `strict_status`: STATUS also fails for
    problems of a single network. `trusted_owners` are IDs of users and groups that may change files of networks like
    root.
    """

    node_name: str = ""
    kubelet_root: str = KUBELET_ROOT
    cni_conf_dirs: tuple[str, ...] = ("/etc/cni/net.d", "/etc/cni/multus/net.d")
    cni_bin_dirs: tuple[str, ...] = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
    log_roots: tuple[str, ...] = ("/var/log",)
    delegate_seconds: int = 0
    strict_status: bool = False
    trusted_owners: tuple[int, ...] = ()
    devices: DevicePolicy = DevicePolicy()
    sockets: SocketPolicy = SocketPolicy()
    kubernetes: CredentialPolicy = CredentialPolicy()
    addresses: AddressPolicy = AddressPolicy()
