"""The state of sriov-cni on a node where Barewire has replaced it: its pods are deleted by its own records.

`<folder>/<container ID>-<ifname>` is its record of an attachment: its configuration with `OrigVfState`, the found state
of the VF. `<folder>/pci/<PCI address>` contains the path of the network namespace that has the VF. Source of these
facts: the code of sriov-cni 2.x.
"""

from __future__ import annotations

import os

from cni import jsontext, pci
from cni.errors import CniError, DeviceBusy, IoFailure
from cni.host.files import component, read_file, remove_file
from cni.host.netlink import IFF_MULTICAST
from cni.host.netns import OptionalNetns
from cni.host.vf_settings import ETH_P_8021AD, LINK_STATES, VfInfo, VfSettings
from cni.names import is_ifname
from cni.sriov.attach import NO_MAC, DeviceNotClean, detach, random_mac
from cni.sriov.model import DeviceAttachment, Netdev
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.attachment.record import Key
    from cni.attachment.records import Attachments
    from cni.host.device import Device
    from cni.host.netlink import Link
    from cni.jsontext import JsonObject
    from cni.log import Log
    from cni.pci import PciAddress
    from cni.sriov.kernel import Kernel

FOLDER = "/var/lib/cni/sriov"

_SWITCH = {"on": True, "off": False}


class SriovCniRecord(Value):
    """An attachment that sriov-cni made: the path of its record, its device, and the content of the record."""

    path: str
    device: PciAddress
    document: JsonObject


class SriovCniState:
    """Handles the attachments that sriov-cni made. `folder` is the directory of its state."""

    def __init__(self, kernel: Kernel, attachments: Attachments, log: Log, folder: str = FOLDER) -> None:
        self._kernel = kernel
        self._attachments = attachments
        self._log = log
        self._folder = folder

    def reclaim_or_refuse(self, device: PciAddress, key: Key) -> None:
        """Raises `DeviceBusy` if sriov-cni's pod still exists; otherwise restores the device to the host.

        Called with the device's lock held.
        """
        path = self._owner(device)
        if not path:
            return
        with OptionalNetns(self._kernel.find_netns(path)) as netns:
            if netns is not None:
                raise DeviceBusy(
                    f"sriov-cni attached {device} to {path}",
                    hint="it is freed by that pod's DEL, or when the pod is gone",
                )
        records = self._of_device(device)
        if records:
            self._bring_home(records[0], key, "")
        for older in records[1:]:
            remove_file(older.path)
        remove_file(self._allocation(device))

    def delete(self, key: Key, path: str) -> None:
        """Removes sriov-cni's attachment, if it has one with that key, unless the device has another owner by now.

        `path` is the path of the pod's network namespace, or empty.
        """
        record = self._made(key)
        if record is None:
            return
        with self._attachments.locked(record.device):
            if self._is_anothers(record.device, path):
                self._log.warning(f"{record.device} is another's now: it is left alone")
                remove_file(record.path)
                return
            try:
                self._bring_home(record, key, path)
            except DeviceNotClean as error:
                # The record stays, and the next ADD of the device tries again. It does not block the pod's deletion.
                self._log.error(f"{error}")

    def drift(self, key: Key, path: str) -> list[str] | None:
        """The differences of sriov-cni's attachment from its record, one line each; None if it has none with that key.

        `path` is the path of the pod's network namespace. Settings are not compared: the records do not contain all of
        them.
        """
        record = self._made(key)
        if record is None:
            return None
        with self._kernel.netns(path) as netns:
            if self._kernel.exists(record.device) and self._kernel.in_user_space(record.device):
                return []
            link = self._kernel.link(record.device, netns) if self._kernel.exists(record.device) else None
        if link is None:
            return [f"{record.device}, which sriov-cni attached, is not in the pod"]
        self._log.info(f"sriov-cni attached {record.device}: only its place and name are compared")
        return (
            [] if link.name == key.ifname else [f"{record.device} is called {link.name} in the pod, not {key.ifname}"]
        )

    def is_alive(self, device: PciAddress) -> bool:
        """Whether a living pod has the device from sriov-cni."""
        path = self._owner(device)
        if not path:
            return False
        with OptionalNetns(self._kernel.find_netns(path)) as netns:
            return netns is not None

    def _made(self, key: Key) -> SriovCniRecord | None:
        """sriov-cni's record of the attachment."""
        return self._read(f"{self._folder}/{component(f'{key.container_id}-{key.ifname}')}")

    def _is_anothers(self, device: PciAddress, path: str) -> bool:
        """Whether the device has another owner than the pod at the path. A DEL may come late, and without a path."""
        owner = self._owner(device)
        if self._attachments.of_device(device) is not None:
            return True
        if not owner:
            return False
        if path:
            return os.path.realpath(owner) != os.path.realpath(path)
        with OptionalNetns(self._kernel.find_netns(owner)) as netns:
            return netns is not None

    def _bring_home(self, record: SriovCniRecord, key: Key, path: str) -> None:
        if self._kernel.exists(record.device):
            with OptionalNetns(self._kernel.find_netns(path) if path else None) as netns:
                device = self._kernel.device(record.device)
                link = device.link or (self._kernel.link(record.device, netns) if netns is not None else None)
                detach(self._kernel, attachment(record, key, device, link), netns, self._log)
        remove_file(self._allocation(record.device))
        remove_file(record.path)

    def _of_device(self, device: PciAddress) -> list[SriovCniRecord]:
        """sriov-cni's records of the device, the newest first: it does not remove all of them."""
        records = [self._read(path) for path in _files(self._folder)]
        return [record for record in records if record is not None and record.device == device]

    def _owner(self, device: PciAddress) -> str:
        """The path of the network namespace to which sriov-cni gave the device, or empty."""
        content = read_file(self._allocation(device))
        path = content.decode(errors="replace").strip() if content else ""
        return path if path.startswith("/") and "\0" not in path else ""

    def _allocation(self, device: PciAddress) -> str:
        return f"{self._folder}/pci/{component(device)}"

    def _read(self, path: str) -> SriovCniRecord | None:
        try:
            content = read_file(path)
            document = jsontext.loads(content) if content else None
            if not isinstance(document, dict):
                return None
            return SriovCniRecord(
                path=path, device=pci.parse(str(jsontext.member(document, "deviceID"))), document=document
            )
        except (CniError, ValueError):
            return None  # The file is of another program, or incomplete: then only the VF's own marks remain.


def attachment(record: SriovCniRecord, key: Key, device: Device, link: Link | None) -> DeviceAttachment:
    """sriov-cni's attachment as a `DeviceAttachment`. Raises `IoFailure` if its record is malformed.

    `link` is the device's link in its present namespace. sriov-cni did not record everything: the link is restored as
    down, without alias and flags, and keeps its MTU if the record has none. Before 2.3 the record's fields were not in
    `OrigVfState`.
    """
    document = record.document
    try:
        state = jsontext.member(document, "OrigVfState") or _early_state(document)
        return DeviceAttachment(
            key=key,
            device=record.device,
            index=device.index,
            pf=device.pf,
            driver=device.driver,
            driver_override=device.driver_override,
            found=_found(state, device),
            netdev=None if device.userspace else _netdev(state, document, link),
            settings=_settings(document),
            mac=_mac(document, "mac") or None,
            userspace=device.userspace,
        )
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise IoFailure(
            f"sriov-cni's record {record.path} is malformed: {error}", hint="move it away; the next ADD repairs the VF"
        ) from error


def _early_state(document: JsonObject) -> JsonObject:
    """The original state in records without `OrigVfState`, which contain only names and MAC addresses.

    Driver defaults are assumed for the rest.
    """
    kept = {name: jsontext.member(document, name) for name in ("AdminMAC", "EffectiveMAC")}
    name = jsontext.member(document, "HostIFName") or jsontext.member(document, "HostIFNames")
    return {**kept, "HostIFName": name, "SpoofChk": True}


def _found(state: JsonObject, device: Device) -> VfInfo:
    value = jsontext.member
    present = device.settings
    return present.replace(
        mac=_mac(state, "AdminMAC") or present.mac,
        vlan=_number(state, "Vlan"),
        qos=_number(state, "VlanQoS"),
        proto="802.1ad" if value(state, "VlanProto") == ETH_P_8021AD else "802.1q",
        spoofchk=None if present.spoofchk is None else bool(value(state, "SpoofChk")),
        trust=None if present.trust is None else bool(value(state, "Trust")),
        min_tx_rate=_number(state, "MinTxRate"),
        max_tx_rate=_number(state, "MaxTxRate"),
        link_state=None if present.link_state is None else LINK_STATES[_number(state, "LinkState")],
    )


def _netdev(state: JsonObject, document: JsonObject, link: Link | None) -> Netdev:
    value = jsontext.member
    kept = value(state, "HostIFName")
    name = kept if is_ifname(kept) else link.name if link else ""
    mac = _address(state, document, link) or random_mac()
    return Netdev(
        name=name,
        mac=mac,
        # igbvf adopts the pod's address as its permanent one. For drivers with a fixed one this changes nothing.
        permanent=mac,
        mtu=_number(state, "MTU"),
        txqlen=1000,
        group=0,
        flags=IFF_MULTICAST,
    )


def _address(state: JsonObject, document: JsonObject, link: Link | None) -> str:
    """The VF's own address: the recorded one, or the present one if the pod did not change it, or the PF's."""
    value = jsontext.member
    kept = _mac(state, "EffectiveMAC")
    if not kept and link is not None and not value(document, "mac"):
        kept = link.permanent or link.mac
    kept = kept or _mac(state, "AdminMAC")
    return "" if kept == NO_MAC else kept


def _settings(document: JsonObject) -> VfSettings:
    value = jsontext.member
    tagged = value(document, "vlan") is not None
    rated = value(document, "min_tx_rate") is not None or value(document, "max_tx_rate") is not None
    return VfSettings(
        vlan=_number(document, "vlan") if tagged else None,
        qos=_number(document, "vlanQoS") if tagged else None,
        proto=str(value(document, "vlanProto") or "802.1q").lower() if tagged else None,
        mac=_mac(document, "mac") or None,
        spoofchk=_SWITCH.get(str(value(document, "spoofchk"))),
        trust=_SWITCH.get(str(value(document, "trust"))),
        min_tx_rate=_number(document, "min_tx_rate") if rated else None,
        max_tx_rate=_number(document, "max_tx_rate") if rated else None,
        link_state=value(document, "link_state") or None,
    )


def _number(document: JsonObject, name: str) -> int:
    """The number; 0 if there is none. Raises `TypeError`, `ValueError`."""
    found = jsontext.member(document, name) or 0
    if not isinstance(found, int) or not 0 <= found < 1 << 32:
        raise ValueError(f"{name} is no number")
    return found


def _mac(document: JsonObject, name: str) -> str:
    """The address; empty if there is none. Raises `ValueError`."""
    found = jsontext.member(document, name) or ""
    packed = bytes.fromhex("".join(char for char in str(found) if char not in ":-."))
    if not isinstance(found, str) or len(packed) not in (0, 6):
        raise ValueError(f"{name} is no MAC address")
    return packed.hex(":")


def _files(folder: str) -> list[str]:
    """The paths of the files in a folder, the newest first."""
    try:
        paths = [f"{folder}/{name}" for name in os.listdir(folder)]
    except FileNotFoundError:
        return []
    return sorted((path for path in paths if os.path.isfile(path)), key=os.path.getmtime, reverse=True)
