"""What sriov-cni left on a node where this plugin took its place: its pods are deleted by its own records.

`<folder>/<container ID>-<ifname>` is its record of an attachment: its configuration with `OrigVfState`, the VF as found.
`<folder>/pci/<PCI address>` holds the path of the network namespace that has the VF. Facts: sriov-cni 2.x, read in source.
"""

from __future__ import annotations

import os

from cni import jsontext, pci
from cni.device import VfSettings
from cni.errors import CniError, IoFailure
from cni.host.files import read_file, remove_file
from cni.host.netlink import ETH_P_8021AD, IFF_MULTICAST, LINK_STATES, VfInfo
from cni.sriov.attach import NO_MAC, random_mac
from cni.sriov.model import DeviceAttachment, Netdev
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.device import Device
    from cni.pci import PciAddress
    from cni.record import Key

FOLDER = "/var/lib/cni/sriov"

_SWITCH = {"on": True, "off": False}


class Former(Value):
    """An attachment that sriov-cni made: its record's file, its device, and what the record says."""

    path: str
    device: PciAddress
    document: dict[str, Any]


class Predecessor:
    """sriov-cni's state; `folder` is where it keeps it."""

    def __init__(self, folder: str = FOLDER) -> None:
        self._folder = folder

    def find(self, key: Key) -> Former | None:
        """Its record of an attachment, or None."""
        return self._read(f"{self._folder}/{key.container_id}-{key.ifname}")

    def of_device(self, device: PciAddress) -> Former | None:
        """Its record of the attachment that has the device, or None."""
        for name in _files(self._folder):
            former = self._read(f"{self._folder}/{name}")
            if former is not None and former.device == device:
                return former
        return None

    def owner(self, device: PciAddress) -> str:
        """The path of the network namespace that it gave the device to, or empty."""
        content = read_file(self._allocation(device))
        return content.decode(errors="replace").strip() if content else ""

    def forget(self, former: Former) -> None:
        """Removes its record, and its note of who has the device."""
        remove_file(self._allocation(former.device))
        remove_file(former.path)

    def release(self, device: PciAddress) -> None:
        """Removes its note of who has the device."""
        remove_file(self._allocation(device))

    def drop(self, former: Former) -> None:
        """Removes its record only: the device is another's."""
        remove_file(former.path)

    def _allocation(self, device: PciAddress) -> str:
        return f"{self._folder}/pci/{device}"

    def _read(self, path: str) -> Former | None:
        try:
            content = read_file(path)
            document = jsontext.loads(content) if content else None
            if not isinstance(document, dict):
                return None
            return Former(path=path, device=pci.parse(str(jsontext.member(document, "deviceID"))), document=document)
        except (CniError, ValueError):
            return None  # Nothing of ours, or cut: then the VF's own marks are all there is.


def attachment(former: Former, key: Key, device: Device) -> DeviceAttachment:
    """Its attachment as one of ours, so that the same way leads back. Raises `IoFailure` when its record is malformed.

    It did not keep everything: the link goes back down, without alias and flags, and its MTU stays where it has none.
    """
    document, state = former.document, jsontext.member(former.document, "OrigVfState") or {}
    try:
        name = str(jsontext.member(state, "HostIFName") or "")
        return DeviceAttachment(
            key=key,
            device=former.device,
            index=device.index,
            pf=device.pf,
            driver=device.driver,
            override=device.override,
            found=_found(state, device),
            netdev=_netdev(state, name) if name else None,
            settings=_settings(document),
            mac=jsontext.member(document, "mac") or None,
            userspace=not name,
        )
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise IoFailure(
            f"sriov-cni's record {former.path} is malformed: {error}", hint="move it away; the next ADD repairs the VF"
        ) from error


def _found(state: dict[str, Any], device: Device) -> VfInfo:
    value = jsontext.member
    present = device.settings
    return present.replace(
        mac=value(state, "AdminMAC") or present.mac,
        vlan=value(state, "Vlan") or 0,
        qos=value(state, "VlanQoS") or 0,
        proto="802.1ad" if value(state, "VlanProto") == ETH_P_8021AD else "802.1q",
        spoofchk=None if present.spoofchk is None else bool(value(state, "SpoofChk")),
        trust=None if present.trust is None else bool(value(state, "Trust")),
        min_tx_rate=value(state, "MinTxRate") or 0,
        max_tx_rate=value(state, "MaxTxRate") or 0,
        link_state=None if present.link_state is None else LINK_STATES[value(state, "LinkState") or 0],
    )


def _netdev(state: dict[str, Any], name: str) -> Netdev:
    return Netdev(
        name=name,
        mac=_address(state) or random_mac(),
        permanent="",
        mtu=jsontext.member(state, "MTU") or 0,
        queue=1000,
        group=0,
        flags=IFF_MULTICAST,
    )


def _address(state: dict[str, Any]) -> str:
    """The VF's own address; it kept that of a VF only where it changed it, else the PF's view of it tells."""
    kept = str(jsontext.member(state, "EffectiveMAC") or jsontext.member(state, "AdminMAC") or "")
    return "" if kept == NO_MAC else kept


def _settings(document: dict[str, Any]) -> VfSettings:
    value = jsontext.member
    vlan = value(document, "vlan")
    tagged = vlan is not None
    rated = value(document, "min_tx_rate") is not None or value(document, "max_tx_rate") is not None
    return VfSettings(
        vlan=vlan,
        qos=(value(document, "vlanQoS") or 0) if tagged else None,
        proto=str(value(document, "vlanProto") or "802.1q").lower() if tagged else None,
        mac=value(document, "mac") or None,
        spoofchk=_SWITCH.get(str(value(document, "spoofchk"))),
        trust=_SWITCH.get(str(value(document, "trust"))),
        min_tx_rate=(value(document, "min_tx_rate") or 0) if rated else None,
        max_tx_rate=(value(document, "max_tx_rate") or 0) if rated else None,
        link_state=value(document, "link_state") or None,
    )


def _files(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if os.path.isfile(f"{folder}/{name}"))
    except FileNotFoundError:
        return []
