"""Devices whose record is lost: identified by the mark on the device itself, and restored to a clean state.

A pod with NET_ADMIN can forge an alias. So a mark counts only if we know that we set it (`Attachments.marked`), and on
the host only if nothing there uses the device. The device gets the name that we recorded.
"""

from __future__ import annotations

from cni import pci
from cni.attachment.record import DEVICE, Key, Record
from cni.host.netlink import IFF_MULTICAST
from cni.host.vf_settings import VfInfo, VfSettings
from cni.sriov import model, plan
from cni.sriov.attach import random_mac

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.attachment.records import Mark
    from cni.host.device import Device
    from cni.host.netlink import Link
    from cni.host.netns import Netns
    from cni.pci import PciAddress
    from cni.sriov.kernel import Kernel

_DEFAULT_MTU = 1500


def marked_at_home(kernel: Kernel, device: PciAddress) -> Link | None:
    """The device's link, if it is on the host and has an owner's mark for the device."""
    link = kernel.link(device, None) if kernel.exists(device) else None
    return link if link is not None and _marked_for(link, device) else None


def objection(kernel: Kernel, link: Link, mark: Mark | None) -> str:
    """Why a marked link on the host is not cleaned; empty if it is. `mark` is the mark that we set, if any."""
    if mark is None or not model.names_owner(link.alias, mark.key):
        return "Barewire did not set it since the last boot"
    return host_use(kernel, link)


def host_use(kernel: Kernel, link: Link) -> str:
    """How the host uses the link; empty if it does not. Changes by a pod do not count: cleaning removes them."""
    uses = kernel.host_uses(link, leftovers=False)
    return f"the host uses it: {', '.join(uses)}" if uses else ""


def is_ours(key: Key, mark: Mark | None) -> bool:
    """Whether we set the mark of that attachment."""
    return mark is not None and mark.key == key


def orphans(kernel: Kernel) -> list[PciAddress]:
    """The devices on the host that have the mark of an owner."""
    return [pci.parse(link.parent) for link in marked_links(kernel, None)]


def marked_links(kernel: Kernel, netns: Netns | None) -> list[Link]:
    """The links in that namespace whose mark names their own PCI address."""
    return [link for link in kernel.links(netns, model.MARK) if link.parent and _marked_for(link, link.parent)]


def marked_key(link: Link, mark: Mark | None) -> Key:
    """The owner according to a link's mark. `mark` is the mark that we set: an alias has no space for long names."""
    if mark is not None and model.names_owner(link.alias, mark.key):
        return mark.key
    parts = model.marked(link.alias)
    names = (*(parts[2].split("/") if parts else ()), "", "", "")
    return Key(network=names[0], container_id=names[1], ifname=names[2])


def marked_devices(kernel: Kernel, key: Key, netns: Netns | None) -> list[PciAddress]:
    """The devices in that namespace whose mark names this attachment and their own PCI address."""
    return [pci.parse(link.parent) for link in marked_links(kernel, netns) if model.names_owner(link.alias, key)]


def record(
    kernel: Kernel, device: PciAddress, netns: Netns | None, owner: Key, note: str, boot_id: str
) -> Record | None:
    """The record by which the device is moved from `netns` to the host and cleaned, as by any other record.

    None if the device is elsewhere than in `netns` (None: the host).
    """
    attachment = _attachment(kernel, device, netns, note)
    if attachment is None:
        return None
    found: model.FoundDict = {**model.found_document(attachment), "repair": True}
    return Record(
        key=owner,
        plugin=model.PLUGIN,
        device=device,
        netns=netns.path if netns is not None else "",
        netns_identity=netns.identity if netns is not None else "",
        boot_id=boot_id,
        left=(DEVICE,),
        found=found,
        wanted=model.wanted_document(attachment),
        removing=True,
    )


def is_repair(record: Record) -> bool:
    """Whether the record was made to repair a device: it does not contain the attachment's addresses."""
    return bool(model.found_of(record).get("repair"))


def _attachment(kernel: Kernel, device: PciAddress, netns: Netns | None, note: str) -> model.DeviceAttachment | None:
    """An attachment whose removal takes the pod's settings off the device. Little is known about the former state.

    The `note` of its mark contains the known part. A device without a name in it keeps its present one.
    """
    name, spoofchk = model.noted(note)
    present, link = kernel.device(device), kernel.link(device, netns)
    if link is None and present.driver and not present.userspace:
        return None
    wanted = _reported_only(plan.clean_settings(spoofchk), present.settings) if present.pf else VfSettings()
    return model.DeviceAttachment(
        key=Key(network="", container_id="", ifname=""),
        device=device,
        index=present.index,
        pf=present.pf,
        driver=present.driver,
        instance=present.instance,
        driver_override=present.driver_override,
        found=_as_found(present, wanted),
        netdev=_clean_netdev(present, link, name) if link is not None else None,
        netdev_instance=kernel.netdev_instance(device) if link is not None else "",
        settings=wanted,
        userspace=present.userspace,
    )


def _clean_netdev(present: Device, link: Link, name: str) -> model.Netdev:
    return model.netdev(link).replace(
        name=name or link.name,
        # The pod's address must not stay on the VF: the pod's successor may have it on another device by now.
        mac=random_mac() if present.pf else link.permanent or link.mac,
        permanent="",
        mtu=_DEFAULT_MTU,
        flags=IFF_MULTICAST,
        up=False,
        alias="",
    )


def _as_found(present: Device, wanted: VfSettings) -> VfInfo:
    return VfInfo(index=present.index, **wanted.as_dict()) if present.pf else present.settings


def _marked_for(link: Link, device: str) -> bool:
    parts = model.marked(link.alias)
    return parts is not None and parts[0] == device


def _reported_only(settings: VfSettings, present: VfInfo) -> VfSettings:
    unknown = {name: None for name in settings.as_dict() if getattr(present, name) is None}
    return settings.replace(**unknown)
