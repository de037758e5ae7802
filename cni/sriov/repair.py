"""Devices whose record is lost: recognized by the mark on the device itself, and put into a clean state.

A pod with NET_ADMIN can forge an alias. So the mark decides nothing but the name that the device gets on the host;
whose device it is follows from its PCI parent and from the records, which the caller looks at under the lock.
"""

from __future__ import annotations

from cni import pci
from cni.device import VfSettings
from cni.host.netlink import IFF_MULTICAST, VfInfo
from cni.record import Key
from cni.sriov import model, plan
from cni.sriov.attach import detach, random_mac

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.device import Device
    from cni.host.netlink import Link
    from cni.host.netns import Netns
    from cni.log import Log
    from cni.pci import PciAddress
    from cni.ports import Kernel

_DEFAULT_MTU = 1500


def orphaned(kernel: Kernel, device: PciAddress) -> bool:
    """Whether the VF is on the host and still carries an owner's mark for it."""
    link = kernel.link(device, None) if kernel.exists(device) else None
    return link is not None and _marked_for(link, device)


def orphans(kernel: Kernel, network: str | None = None) -> list[PciAddress]:
    """The devices on the host that carry the mark of an owner, in that network or in any."""
    return [
        pci.parse(link.parent) for link in marked_links(kernel, None) if network in (None, marked_key(link).network)
    ]


def marked_links(kernel: Kernel, netns: Netns | None) -> list[Link]:
    """The links in that namespace whose mark names their own PCI address."""
    return [link for link in kernel.everywhere(netns, model.MARK) if link.parent and _marked_for(link, link.parent)]


def marked_key(link: Link) -> Key:
    """Whose the mark of a marked link says that it is; names are cut where they were too long for an alias."""
    parts = model.marked(link.alias)
    names = (*(parts[2].split("/") if parts else ()), "", "", "")
    return Key(network=names[0], container_id=names[1], ifname=names[2])


def marked_devices(kernel: Kernel, key: Key, netns: Netns | None) -> list[PciAddress]:
    """The devices in that namespace whose mark names this attachment and their own PCI address."""
    return [pci.parse(link.parent) for link in marked_links(kernel, netns) if model.names_owner(link.alias, key)]


def clean(kernel: Kernel, device: PciAddress, netns: Netns | None, log: Log) -> None:
    """Brings the VF home from `netns` and gives it the kernel's defaults, since nothing tells how it was."""
    present, link = kernel.device(device), kernel.link(device, netns)
    if link is None:
        return
    log.warning(f"{present.kind} {device} has no record, only its mark: {link.alias!r}; resetting it")
    wanted = _reported_only(plan.clean_settings(), present.settings) if present.pf else VfSettings()
    attachment = model.DeviceAttachment(
        key=Key(network="", container_id="", ifname=""),
        device=device,
        index=present.index,
        pf=present.pf,
        driver=present.driver,
        override=present.override,
        found=_as_found(present, wanted),
        # The pod's address must not stay on the VF: the pod's successor may have it elsewhere by now.
        netdev=model.netdev(link).replace(
            name=_host_name(link),
            mac=random_mac() if present.pf else link.permanent or link.mac,
            permanent="",
            mtu=_DEFAULT_MTU,
            flags=IFF_MULTICAST,
            up=False,
            alias="",
        ),
        settings=wanted,
    )
    detach(kernel, attachment, netns, log)


def _as_found(present: Device, wanted: VfSettings) -> VfInfo:
    return VfInfo(index=present.index, **{**wanted.as_dict(), "mac": ""}) if present.pf else present.settings


def _marked_for(link: Link, device: str) -> bool:
    parts = model.marked(link.alias)
    return parts is not None and parts[0] == device


def _reported_only(settings: VfSettings, present: VfInfo) -> VfSettings:
    unknown = {name: None for name in settings.as_dict() if getattr(present, name) is None}
    return settings.replace(**unknown)


def _host_name(link: Link) -> str:
    parts = model.marked(link.alias)
    name = parts[1] if parts else ""
    usable = (
        0 < len(name.encode()) < 16 and name.isprintable() and not set(name) & set("/: %") and name not in (".", "..")
    )
    return name if usable else link.name
