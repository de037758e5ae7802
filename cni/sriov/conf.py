"""Configuration of the `sriov` plugin: the model from which table, JSON Schema and reference are generated.

The keys are sriov-cni's, and those of its ancestors by hustcat, Intel and xftony, which `deprecated_keys` translates;
`mtu`, `driver`, `promisc`, `allmulticast`, `args.cni.mac` and `strictConfig` are ours.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from cni.config.model_fields import Arguments, IpamSection, MacText, Model, Mtu, PciText, folded
from cni.config.schema import Rule
from cni.sriov.rules import cross_check

Switch = Literal["on", "off"]
Vlan = Annotated[int, Field(ge=0, le=4094)]
Qos = Annotated[int, Field(ge=0, le=7)]
Rate = Annotated[int, Field(ge=0, le=4294967295)]


class RuntimeConfig(Model):
    """Values of the runtime for the capabilities that the configuration declares. Other keys are ignored."""

    mac: MacText | None = Field(
        None, description="MAC address of the pod's interface; has priority over every other source."
    )
    deviceID: PciText | None = Field(None, description="PCI address of the VF, if the runtime passes it here.")
    CNIDeviceInfoFile: str | None = Field(None, description="Path where the runtime expects the device-info document.")


class Dpdk(Model):
    """The older plugins' section for user-space drivers."""

    dpdk_driver: str | None = Field(None, description="Old name of `driver`.")
    kernel_driver: str | None = Field(None, description="Driver that DEL binds to a VF that was found without one.")
    dpdk_tool: str | None = Field(None, description="Refused: no program is run from a configuration.")
    pci_addr: Any = Field(None, description="Ignored; it was filled in by the older plugins.")
    ifname: Any = Field(None, description="Ignored; it was filled in by the older plugins.")
    vfid: Any = Field(None, description="Ignored; it was filled in by the older plugins.")


class SriovConf(Model):
    """Network configuration of the plugin `sriov`."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [key]} for key in ("deviceID", "master", "if0")]}
    )

    cniVersion: str | None = Field(None, description="Version of the CNI specification, 0.1.0 to 1.1.0.")
    name: str | None = Field(None, description="Name of the network.")
    type: str | None = Field(None, description="`sriov`.")
    deviceID: PciText | None = Field(
        None, description="PCI address of the VF; Multus adds it from the device plugin's allocation."
    )
    master: str | None = Field(
        None, description="Name of a PF: without `deviceID`, a free VF of this PF is chosen. Formerly `if0`."
    )
    vf: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        None, description="Number of the VF on `master`. Default: the first free VF."
    )
    pfOnly: bool | None = Field(
        None, description="true: the pod gets the PF itself, if it has no VFs and the host does not use it."
    )
    driver: str | None = Field(
        None,
        description="Driver for the VF in the pod, such as vfio-pci, or a network driver that supports the VF; DEL binds the original driver.",
    )
    vlan: Vlan | None = Field(None, description="VLAN ID that the PF adds and strips; 0 removes one, absent leaves it.")
    vlanQoS: Qos | None = Field(None, description="VLAN priority, 0 to 7; needs `vlan`. Default 0.")
    vlanProto: Annotated[Literal["802.1q", "802.1ad"], BeforeValidator(folded), Rule("folded")] | None = Field(
        None, description="VLAN tag protocol; needs `vlan`. Default 802.1q."
    )
    mac: MacText | None = Field(None, description="MAC address of the pod's interface.")
    mtu: Mtu | None = Field(None, description="MTU of the pod's interface in bytes; restored at DEL.")
    spoofchk: Switch | None = Field(
        None, description="Whether the PF drops frames whose source address is not the VF's."
    )
    trust: Switch | None = Field(None, description="Whether the VF may change its MAC address and go promiscuous.")
    query_rss: Switch | None = Field(
        None, description="Whether the VF may read its RSS table and hash key, which some cards share with the PF."
    )
    link_state: Literal["auto", "enable", "disable"] | None = Field(None, description="Link state that the VF sees.")
    min_tx_rate: Rate | None = Field(None, description="Guaranteed transmit rate in Mbit/s; 0 means no guarantee.")
    max_tx_rate: Rate | None = Field(None, description="Transmit rate limit in Mbit/s; 0 means no limit.")
    promisc: Switch | None = Field(None, description="on: the pod's interface receives all frames; needs `trust`.")
    allmulticast: Switch | None = Field(
        None, description="on: the interface receives all multicast frames; needs `trust`."
    )
    ipam: IpamSection | None = Field(
        None, description="The IPAM plugin and its configuration. Default: no addresses (L2)."
    )
    logLevel: str | None = Field(
        None, description="panic, error, warning, info or debug (each step, with its duration). Default info."
    )
    logFile: str | None = Field(
        None,
        description="Log file below /var/log: a new file, or an existing log of Barewire. Otherwise the log goes to stderr.",
    )
    strictConfig: bool | None = Field(None, description="true: refuse unknown keys instead of warning about them.")
    runtimeConfig: RuntimeConfig | None = Field(None, description="Filled in by the runtime.")
    args: Arguments | None = Field(None, description="Arguments of the invocation.")
    capabilities: Any = Field(None, description="Capabilities that the runtime may fill in, such as `mac`.")
    dns: Any = Field(None, description="Ignored; name service comes from the IPAM plugin.")
    ipMasq: Any = Field(None, description="Ignored; for other plugins.")
    prevResult: Any = Field(None, description="Filled in by the runtime.")
    disableCheck: Any = Field(None, description="For the runtime.")
    disableGC: Any = Field(None, description="For the runtime.")
    pciBusID: Any = Field(None, description="Filled in by Multus beside `deviceID`; ignored.")
    if0: str | None = Field(None, description="Old name of `master`.")
    if0name: Any = Field(None, description="Ignored: the runtime chooses the interface's name (CNI_IFNAME).")
    l2enable: bool | None = Field(None, description="true: no addresses, which is the same as no `ipam`.")
    dpdk: Dpdk | None = Field(None, description="Old form of `driver`.")
    cniDir: Any = Field(None, description="Ignored: records are in /var/lib/cni/barewire.")
    deviceinfo: Any = Field(None, description="Ignored; it was filled in by the older plugins.")
    pci_addr: Any = Field(None, description="Ignored; it was filled in by the older plugins.")
    resourceName: Any = Field(None, description="Written by some controllers; ignored.")

    @model_validator(mode="after")
    def _cross_check(self) -> SriovConf:
        values: Any = self.model_dump()
        problems = cross_check(values)
        if problems:
            raise ValueError("; ".join(f"{path}: {text}" for path, text in problems))
        return self
