"""The node's configuration: the model from which table, JSON Schema and reference are generated."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cni.config.model_fields import Section
from cni.node.rules import cross_check


class Devices(Section):
    """Limits on what networks may request of `sriov`."""

    drivers: list[str] | None = Field(
        None,
        description="Allowed values of `driver`. Default: drivers for user space, and network drivers for the devices that they support; `[]` allows none.",
    )
    pfs: list[str] | None = Field(
        None, description="PFs, by name or PCI address, whose devices may be attached. Default: all."
    )
    pfOnly: bool | None = Field(None, description="Whether a network may attach a whole PF (`pfOnly`). Default true.")
    master: bool | None = Field(
        None, description="Whether a network may choose a VF by `master`, without a device plugin. Default true."
    )
    promisc: bool | None = Field(
        None, description="Whether a network may set `promisc` and `allmulticast`. Default true."
    )
    rebind: bool | None = Field(
        None,
        description="Whether every DEL binds the device's driver again. By default only a DEL does that finds leftovers which it cannot remove otherwise.",
    )


class Sockets(Section):
    """Limits on what networks may request of `userspace`."""

    ovsdb: list[str] | None = Field(
        None,
        description="Databases that a network may name (`unix:PATH`, `tcp:IP:PORT`), in addition to the usual sockets.",
    )
    roots: list[str] | None = Field(
        None, description="Directories for sockets (`sharedDir`, hostPath volumes), in addition to the usual ones."
    )
    kubeletRoots: list[str] | None = Field(
        None, description="Directories of kubelets that a network may name, in addition to `kubeletRoot`."
    )
    vhostDir: str | None = Field(
        None, description="Directory where the vswitch finds the sockets. Default /run/barewire/vhost."
    )


class Kubernetes(Section):
    """Access to API servers."""

    kubeconfig: str | None = Field(None, description="The kubeconfig for networks that need one and do not name any.")
    kubeconfigs: list[str] | None = Field(
        None, description="Kubeconfigs, or directories of them, that a network may name, in addition to the usual ones."
    )


class Etcd(Section):
    """Access to etcd for networks with backend etcd that do not name any."""

    endpoints: list[str] | None = Field(None, description="Endpoints, http:// or https://.")
    prefix: str | None = Field(None, description="Prefix of all keys. Default: the default of `barewire-ipam`.")
    caFile: str | None = Field(None, description="Certificate authority that signed etcd's certificate.")
    certFile: str | None = Field(None, description="The client's certificate; needs `keyFile`.")
    keyFile: str | None = Field(None, description="The client's key.")


class Addresses(Section):
    """Defaults and limits of `barewire-ipam`."""

    backend: Literal["local", "etcd", "kubernetes"] | None = Field(
        None, description="Backend of networks that do not name any. Default: `local`."
    )
    etcd: Etcd | None = Field(None, description="Access to etcd for networks that do not name any.")
    networkEtcd: bool | None = Field(
        None, description="Whether a network may specify its own etcd (`ipam.etcd`). Default true."
    )
    dataDirs: list[str] | None = Field(
        None,
        description="Directories below which a network may store leases (`dataDir`), in addition to the usual ones.",
    )
    resolvConfs: list[str] | None = Field(
        None, description="Files, or directories of them, that `resolvConf` may name, in addition to the usual ones."
    )
    credentials: list[str] | None = Field(
        None,
        description="Directories of certificates, keys and tokens that a network may name, in addition to the usual ones.",
    )


class NodeFile(Section):
    """Configuration of the node (`/etc/barewire/node.json`)."""

    nodeName: str | None = Field(
        None, description="Name of this node in cluster backends. Default: the kubelet's, then the host's."
    )
    kubeletRoot: str | None = Field(None, description="Directory of the kubelet. Default /var/lib/kubelet.")
    cniConfDirs: list[str] | None = Field(
        None, description="Directories of network configurations. Default /etc/cni/net.d, /etc/cni/multus/net.d."
    )
    cniBinDirs: list[str] | None = Field(
        None, description="Directories of CNI plugins. Default /opt/cni/bin, /usr/lib/cni, /usr/libexec/cni."
    )
    logDirs: list[str] | None = Field(
        None, description="Directories below which `logFile` may be; `[]` allows no log file. Default /var/log."
    )
    delegateSeconds: Annotated[int, Field(ge=1, le=200)] | None = Field(
        None,
        description="Time limit for a call of another IPAM plugin, in seconds. Default: 50; whereabouts has 130 for ADD and 70 for DEL.",
    )
    strictStatus: bool | None = Field(
        None,
        description="true: STATUS also fails for a full range, an unreachable store or vswitch, a missing bridge or PF. Runtimes then report the node as NotReady. Default false: these are only logged.",
    )
    trustedOwners: list[Annotated[int, Field(ge=1, le=4294967294)]] | None = Field(
        None,
        description="Numeric IDs of users and groups that are trusted like root with files and directories that networks name: the user may own them, the group may write to them. Default: none.",
    )
    devices: Devices | None = Field(None, description="Limits on what networks may request of `sriov`.")
    sockets: Sockets | None = Field(None, description="Limits on what networks may request of `userspace`.")
    kubernetes: Kubernetes | None = Field(None, description="Access to API servers.")
    addresses: Addresses | None = Field(None, description="Defaults and limits of `barewire-ipam`.")

    @model_validator(mode="after")
    def _cross_check(self) -> NodeFile:
        values: Any = self.model_dump(exclude_none=True)
        problems = cross_check(values)
        if problems:
            raise ValueError("; ".join(f"{path}: {text}" for path, text in problems))
        return self
