"""What an attachment does to a VF, and how its record says so. All values, no I/O."""

from __future__ import annotations

from cni.errors import IoFailure
from cni.host.netlink import Link, VfInfo
from cni.pci import PciAddress
from cni.record import Key, Record
from cni.value import Value
from cni.vf import VfSettings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Netdev(Value):
    """The attributes of a VF's network device that an attachment changes, or that a pod can change.

    `permanent` empty is any; `flags` are those of `netlink.KEPT_FLAGS`.
    """

    name: str
    mac: str
    permanent: str
    mtu: int
    queue: int
    group: int
    flags: int
    up: bool = False
    alias: str = ""
    altnames: tuple[str, ...] = ()


class VfAttachment(Value):
    """One attachment of one VF: whose it is, what was found, what is wanted."""

    key: Key
    device: PciAddress
    index: int
    pf: PciAddress
    driver: str
    found: VfInfo
    netdev: Netdev
    settings: VfSettings
    mtu: int | None = None

    @property
    def mark(self) -> str:
        """The interface alias that names device, host name and owner on the device itself."""
        return mark(self.device, self.netdev.name, self.key)


_MARK, _ALIAS_BYTES = "barewire", 255


def mark(device: str, host_name: str, key: Key) -> str:
    """The owner's mark as an interface alias: at most 255 bytes, so that a very long container ID is cut."""
    return f"{_MARK} {device} {host_name} {key}"[:_ALIAS_BYTES]


def marked(alias: str) -> tuple[str, str, str] | None:
    """(device, host name, owner) of a mark; None for any other alias."""
    parts = alias.split(" ")
    return (parts[1], parts[2], parts[3]) if len(parts) == 4 and parts[0] == _MARK else None


def names_owner(alias: str, key: Key) -> bool:
    """Whether the alias is a mark of this attachment."""
    parts = marked(alias)
    return parts is not None and alias == mark(parts[0], parts[1], key)


def netdev(link: Link) -> Netdev:
    """What is to be restored of a link."""
    return Netdev(
        name=link.name,
        mac=link.mac,
        permanent=link.permanent,
        mtu=link.mtu,
        queue=link.queue,
        group=link.group,
        flags=link.kept_flags,
        up=link.up,
        alias=link.alias,
        altnames=link.altnames,
    )


def found_document(attachment: VfAttachment) -> dict[str, Any]:
    """The record's `found`: what DEL needs to restore."""
    return {
        "index": attachment.index,
        "pf": attachment.pf,
        "driver": attachment.driver,
        "settings": attachment.found.as_dict(),
        "netdev": {**attachment.netdev.as_dict(), "altnames": list(attachment.netdev.altnames)},
    }


def wanted_document(attachment: VfAttachment) -> dict[str, Any]:
    """The record's `wanted`: what ADD applies."""
    return {"settings": attachment.settings.as_dict(), "mtu": attachment.mtu}


def from_record(record: Record) -> VfAttachment:
    """The attachment that a record tells of. Raises `IoFailure` when the record does not hold one."""
    try:
        device = record.found["netdev"]
        return VfAttachment(
            key=record.key,
            device=PciAddress(record.device),
            index=record.found["index"],
            pf=PciAddress(record.found["pf"]),
            driver=record.found["driver"],
            found=VfInfo(**record.found["settings"]),
            netdev=Netdev(**{**device, "altnames": tuple(device["altnames"])}),
            settings=VfSettings(**record.wanted["settings"]),
            mtu=record.wanted["mtu"],
        )
    except (KeyError, TypeError) as error:
        raise IoFailure(
            f"the record of {record.key} is damaged: {error}",
            hint="move its file away; the next ADD repairs the device",
        ) from error
