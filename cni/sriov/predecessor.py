"""What sriov-cni left on a node where this plugin took its place: its pods are deleted by its own records.

`<folder>/<container ID>-<ifname>` is its record of an attachment: its configuration with `OrigVfState`, the VF as found.
`<folder>/pci/<PCI address>` holds the path of the network namespace that has the VF. Facts: sriov-cni 2.x, read in source.
"""

from __future__ import annotations

import os

from cni import jsontext, pci
from cni.device import VfSettings
from cni.errors import CniError, DeviceBusy, IoFailure
from cni.host.files import read_file, remove_file
from cni.host.netlink import ETH_P_8021AD, IFF_MULTICAST, LINK_STATES, VfInfo
from cni.host.netns import Optional
from cni.sriov.attach import NO_MAC, detach, random_mac
from cni.sriov.model import DeviceAttachment, Netdev
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.attachments import Attachments
    from cni.device import Device
    from cni.log import Log
    from cni.pci import PciAddress
    from cni.ports import Kernel
    from cni.record import Key

FOLDER = "/var/lib/cni/sriov"

_SWITCH = {"on": True, "off": False}


class Former(Value):
    """An attachment that sriov-cni made: its record's file, its device, and what the record says."""

    path: str
    device: PciAddress
    document: dict[str, Any]


class Predecessor:
    """What to do about the attachments that sriov-cni made; `folder` is where it keeps its state."""

    def __init__(self, kernel: Kernel, attachments: Attachments, log: Log, folder: str = FOLDER) -> None:
        self._kernel = kernel
        self._attachments = attachments
        self._log = log
        self._folder = folder

    def make_free(self, device: PciAddress, key: Key) -> None:
        """Refuses a device of a living pod of its, and brings home one that it left behind. Raises `DeviceBusy`.

        Called with the device's lock held.
        """
        path = self._owner(device)
        if not path:
            return
        with Optional(self._kernel.find_netns(path)) as netns:
            if netns is not None:
                raise DeviceBusy(
                    f"sriov-cni attached {device} to {path}",
                    hint="it is freed by that pod's DEL, or when the pod is gone",
                )
        former = self._of_device(device)
        if former is not None:
            self._bring_home(former, key, "")
        remove_file(self._allocation(device))

    def delete(self, key: Key, path: str) -> None:
        """Undoes its attachment, if it has one of that name, unless the device is another's by now.

        `path` is that of the pod's network namespace, or empty.
        """
        former = self._read(f"{self._folder}/{key.container_id}-{key.ifname}")
        if former is None:
            return
        with self._attachments.locked(former.device):
            owner = self._owner(former.device)
            foreign = owner and path and os.path.realpath(owner) != os.path.realpath(path)
            if foreign or self._attachments.of_device(former.device) is not None:
                self._log.warning(f"{former.device} is another's now: it is left alone")
                remove_file(former.path)
                return
            self._bring_home(former, key, path)

    def _bring_home(self, former: Former, key: Key, path: str) -> None:
        if self._kernel.exists(former.device):
            found = attachment(former, key, self._kernel.device(former.device))
            with Optional(self._kernel.find_netns(path) if path else None) as netns:
                detach(self._kernel, found, netns, self._log)
        remove_file(self._allocation(former.device))
        remove_file(former.path)

    def _of_device(self, device: PciAddress) -> Former | None:
        for name in _files(self._folder):
            former = self._read(f"{self._folder}/{name}")
            if former is not None and former.device == device:
                return former
        return None

    def _owner(self, device: PciAddress) -> str:
        """The path of the network namespace that it gave the device to, or empty."""
        content = read_file(self._allocation(device))
        return content.decode(errors="replace").strip() if content else ""

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
    mac = _address(state) or random_mac()
    return Netdev(
        name=name,
        mac=mac,
        # igbvf takes over the pod's as its own; for drivers with a fixed one this changes nothing.
        permanent=mac,
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
