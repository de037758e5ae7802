"""The node's configuration as values: what its administrator decides about every network of the node.

The defaults are those of a node without a file: strict, and wide enough for configurations in the usual places.
"""

from __future__ import annotations

from cni.value import Value

PATH = "/etc/barewire/node.json"
KUBELET_ROOT = "/var/lib/kubelet"


class DevicePolicy(Value):
    """Limits on what networks may request of `sriov`.

    `drivers` are the drivers that `driver` may name; None allows drivers for user space, and network drivers for the
    devices that they support. `pfs` are the PFs (names or PCI addresses) whose devices may be attached; None allows all.
    `rebind`: every DEL binds the device's driver anew.
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
    host, and of kubelet directories. `vhost_dir` is where the vswitch finds the sockets; empty for the default.
    """

    ovsdb: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    kubelet_roots: tuple[str, ...] = ()
    vhost_dir: str = ""


class CredentialPolicy(Value):
    """Access to API servers: the kubeconfig of networks that name none, and files or directories that they may name."""

    kubeconfig: str = ""
    kubeconfigs: tuple[str, ...] = ()


class EtcdAccess(Value):
    """Access to the node's etcd, for networks that name none."""

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
    """The whole configuration. An empty `node_name` stands for the name that the kubelet or the host has.

    `delegate_seconds` bounds a call of another IPAM plugin; 0 stands for the default. `strict_status`: STATUS fails also
    for the lacks of a single network. `trusted_owners` are IDs of users and groups who may change the files that networks
    name, as root may.
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
