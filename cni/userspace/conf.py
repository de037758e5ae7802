"""Configuration of the `userspace` plugin: the model from which table, JSON Schema and reference are generated.

`host`, `container`, `sharedDir`, `kubeconfig`, `logFile` and `logLevel` are userspace-cni's; the other keys are ours.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cni.config.model_fields import Arguments, IpamSection, MacText, Model, Section, folded
from cni.config.schema import Rule
from cni.userspace.rules import cross_check

Vlan = Annotated[int, Field(ge=1, le=4094)]
OldVlan = Annotated[int, Field(ge=0, le=4094)]
Trunk = Annotated[int, Field(ge=0, le=4094)]
Bits = Annotated[int, Field(ge=0, le=1 << 50)]
PortMtu = Annotated[int, Field(ge=68, le=9702)]
"""OVS's DPDK ports accept frames of 9728 bytes. ovs-vswitchd only logs a larger MTU, and the port keeps its 1500."""

Id = Annotated[int, Field(ge=0, le=(1 << 32) - 2)]


class Vhost(Section):
    """The vhost-user socket."""

    mode: str | None = Field(
        None,
        description="In `host` only `client`, in `container` only `server`: the vswitch connects, and the application "
        "listens. Required with `host.iftype`, because in userspace-cni a missing mode lets the vswitch listen.",
    )
    group: str | None = Field(None, description="Group (name or number) of the socket's directory.")
    socketfile: str | None = Field(
        None, description="Name of the socket, without a directory. Default: made from container and interface."
    )


class Memif(Section):
    """For the engine VPP, which is not supported."""

    role: str | None = Field(None, description="For VPP; not supported.")
    mode: str | None = Field(None, description="For VPP; not supported.")
    socketfile: str | None = Field(None, description="For VPP; not supported.")


class Bridge(Section):
    """The bridge of the vswitch."""

    bridgeName: str | None = Field(None, description="Name of the bridge. Default br0.")
    bridgeId: Any = Field(None, description="For VPP; ignored.")
    vlanId: OldVlan | None = Field(None, description="Deprecated; use `vlan`. 0 means no VLAN.")


class Host(Section):
    """The port on the host."""

    engine: str | None = Field(None, description="`ovs-dpdk`.")
    iftype: str | None = Field(None, description="`vhostuser`, which is the default.")
    netType: str | None = Field(None, description="`bridge`, which is the default.")
    vhost: Vhost | None = Field(None, description="The vhost-user socket.")
    memif: Memif | None = Field(None, description="For VPP; not supported.")
    bridge: Bridge | None = Field(None, description="The bridge.")


class Container(Section):
    """Instructions for the application, copied to the pod's annotation unchanged."""

    engine: str | None = Field(None, description="Default: `host.engine`.")
    iftype: str | None = Field(None, description="Default: `host.iftype`.")
    netType: str | None = Field(None, description="Default `interface`.")
    vhost: Vhost | None = Field(None, description="`mode` can only be `server`.")
    memif: Memif | None = Field(None, description="For VPP; not supported.")
    bridge: Bridge | None = Field(None, description="Passed on.")


class Bandwidth(Section):
    """Limits as in the CNI project's bandwidth plugin: ingress is the traffic that the pod receives."""

    ingressRate: Bits | None = Field(
        None, description="Rate at which the pod receives, in bits per second; 0 means no limit."
    )
    ingressBurst: Bits | None = Field(None, description="Its burst in bits. Default 8000000.")
    egressRate: Bits | None = Field(
        None, description="Rate at which the pod sends, in bits per second; 0 means no limit."
    )
    egressBurst: Bits | None = Field(None, description="Its burst in bits. Default 8000000.")


class SocketDirectory(Section):
    """Owner and permissions of the socket's directory."""

    owner: Id | None = Field(None, description="User ID of the owner.")
    group: Id | None = Field(None, description="Group ID; `host.vhost.group` takes a name.")
    mode: str | None = Field(None, description="Permissions in octal digits, such as 0770.")
    acl: list[str] | None = Field(
        None, description="Entries of the default ACL, such as user:107:rwx, for the directory and the files in it."
    )
    selinuxLabel: str | None = Field(None, description="SELinux label, such as system_u:object_r:container_file_t:s0.")


class RuntimeConfig(Model):
    """Values of the runtime for the capabilities that the configuration declares. Other keys are ignored."""

    mac: MacText | None = Field(
        None, description="MAC address of the pod's interface; has priority over every other source."
    )
    bandwidth: Bandwidth | None = Field(None, description="Limits; they have priority over `bandwidth`.")
    CNIDeviceInfoFile: str | None = Field(None, description="Path where the runtime expects the device-info document.")


class UserspaceConf(Model):
    """Network configuration of the plugin `userspace`."""

    cniVersion: str | None = Field(None, description="Version of the CNI specification, 0.1.0 to 1.1.0.")
    name: str | None = Field(None, description="Name of the network.")
    type: str | None = Field(None, description="`userspace`.")
    host: Host = Field(description="The port on the host.")
    container: Container | None = Field(None, description="Instructions for the application, copied to the annotation.")
    vlan: Vlan | None = Field(None, description="VLAN of the port: its frames are untagged at the pod.")
    trunks: list[Trunk] | None = Field(None, description="VLANs that the pod sends and receives with their tags.")
    vlanMode: Literal["access", "trunk", "native-tagged", "native-untagged"] | None = Field(
        None, description="OVS's vlan_mode. Default: derived from `vlan` and `trunks`."
    )
    mac: MacText | None = Field(
        None, description="MAC address of the pod's interface. Default: derived from the attachment."
    )
    mtu: PortMtu | None = Field(None, description="MTU of the port in bytes.")
    bandwidth: Bandwidth | None = Field(None, description="Rate limits of the pod.")
    txRetries: Annotated[int, Field(ge=0, le=32)] | None = Field(
        None, description="How often OVS retries when the pod's queue is full (tx-retries-max). OVS's default is 8."
    )
    txSteering: Annotated[Literal["thread", "hash"], BeforeValidator(folded), Rule("folded")] | None = Field(
        None, description="How OVS spreads frames over the pod's queues (tx-steering)."
    )
    createBridge: bool | None = Field(
        None, description="true: a missing bridge is created, and removed with its last port."
    )
    ovsdb: str | None = Field(
        None,
        description="Database of Open vSwitch, unix:PATH in /run/openvswitch, or one that the node allows (unix:PATH, "
        "tcp:IP:PORT). Default unix:/var/run/openvswitch/db.sock.",
    )
    volume: str | None = Field(
        None,
        description="Name of the pod's volume (emptyDir or hostPath) for the socket. Default shared-dir; in virt-launcher "
        "pods of KubeVirt sockets.",
    )
    containerDir: str | None = Field(
        None,
        description="Path of the socket's directory in containers. Default: from the pod's volumeMounts, or the usual path.",
    )
    sharedDir: str | None = Field(
        None,
        description="Directory on the host for pods without that volume, in a socket directory; each interface gets a "
        "subdirectory.",
    )
    socketNaming: Literal["attachment", "interface"] | None = Field(
        None,
        description="Source of the socket's name. Default attachment; in the volume sockets of a virt-launcher pod "
        "interface, which KubeVirt's sidecar can predict.",
    )
    socketDirectory: SocketDirectory | None = Field(
        None,
        description="Owner and permissions of the socket's directory. Default: as they are; in virt-launcher pods a "
        "default ACL for ovs-vswitchd's user, if that is not root.",
    )
    allowUnsafeSocketDir: bool | None = Field(
        None,
        description="true: the vswitch gets the pod's directory itself, whose symlinks it follows. See docs/userspace.md.",
    )
    vhostDir: str | None = Field(
        None,
        description="Directory in which the vswitch finds the sockets: the node's (default /run/barewire/vhost), or a subdirectory.",
    )
    kubeletRoot: str | None = Field(
        None, description="Directory of the kubelet, if the node allows it. Default: the node's, or /var/lib/kubelet."
    )
    kubeconfig: str | None = Field(
        None,
        description="Access to the API server, to read and annotate the pod; a file in a usual location, such as /etc/cni/net.d.",
    )
    annotations: bool | None = Field(
        None,
        description="Whether the pod is annotated. Default: true with `kubeconfig`. true without `kubeconfig` uses in-cluster access.",
    )
    ipam: IpamSection | None = Field(
        None, description="The IPAM plugin; its addresses are returned and not configured. Default: none."
    )
    logLevel: str | None = Field(
        None, description="panic, error, warning, info, debug or verbose (each step, with its duration). Default info."
    )
    logFile: str | None = Field(
        None,
        description="Log file below /var/log: a new file, or an existing log of Barewire. Otherwise the log goes to stderr.",
    )
    strictConfig: bool | None = Field(None, description="true: refuse unknown keys instead of warning about them.")
    runtimeConfig: RuntimeConfig | None = Field(None, description="Filled in by the runtime.")
    args: Arguments | None = Field(None, description="Arguments of the invocation.")
    capabilities: Any = Field(None, description="Capabilities that the runtime may fill in, such as `mac`.")
    deviceID: Any = Field(None, description="Filled in by Multus; ignored.")
    pciBusID: Any = Field(None, description="Filled in by Multus; ignored.")
    resourceName: Any = Field(None, description="Written by some controllers; ignored.")
    dns: Any = Field(None, description="Ignored; name service comes from the IPAM plugin.")
    ipMasq: Any = Field(None, description="Ignored; for other plugins.")
    prevResult: Any = Field(None, description="Filled in by the runtime.")
    disableCheck: Any = Field(None, description="For the runtime.")
    disableGC: Any = Field(None, description="For the runtime.")

    @model_validator(mode="after")
    def _cross_check(self) -> UserspaceConf:
        values: Any = self.model_dump(exclude_none=True)
        problems = cross_check(values)
        if problems:
            raise ValueError("; ".join(f"{path}: {text}" for path, text in problems))
        return self
