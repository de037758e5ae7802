"""The attachment of a device, and its form in a record. Values only, no I/O."""

from __future__ import annotations

from cni.attachment.record import Key, Record, fit
from cni.errors import IoFailure
from cni.host.drivers import gives_to_user_space
from cni.host.netlink import Link
from cni.host.vf_settings import VfInfo, VfSettings
from cni.pci import PciAddress, parse
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NotRequired, TypedDict

    from cni.jsontext import JsonObject

    class NetdevDict(TypedDict):
        """A `Netdev` in a record. `queue` is its `txqlen`: records have used this name from the start."""

        name: str
        mac: str
        permanent: str
        mtu: int
        queue: int
        group: int
        flags: int
        up: NotRequired[bool]
        alias: NotRequired[str]
        altnames: list[str]

    class FoundDict(TypedDict):
        """The `found` of a record. Records of earlier versions lack the keys that are not required.

        `settings` contains the fields of `VfInfo`. A removal adds `looked`; `repair` marks the record of a repair.
        """

        index: int
        pf: str
        driver: str
        instance: NotRequired[int]
        override: NotRequired[str]
        settings: JsonObject
        netdev: NetdevDict | None
        netdev_instance: NotRequired[str]
        tuning: NotRequired[dict[str, str]]
        looked: NotRequired[str]
        repair: NotRequired[bool]

    class WantedDict(TypedDict):
        """The `wanted` of a record. `settings` contains the fields of `VfSettings`."""

        settings: JsonObject
        mac: NotRequired[str | None]
        mtu: int | None
        driver: NotRequired[str]
        userspace: NotRequired[bool]
        flags: NotRequired[int]


PLUGIN = "sriov"
"""The value of `plugin` in our records."""


class Netdev(Value):
    """The attributes of a network device that an attachment or a pod can change.

    An empty `permanent` and an `mtu` of 0 stand for any value. `flags` are those of `netlink.KEPT_FLAGS`.
    """

    name: str
    mac: str
    permanent: str
    mtu: int
    txqlen: int
    group: int
    flags: int
    up: bool = False
    alias: str = ""
    altnames: tuple[str, ...] = ()


class DeviceAttachment(Value):
    """The attachment of a device: its owner, the found state and the requested state.

    `netdev` is None if the device had no network device, because its driver gives it to user space. `wanted_driver` is
    the driver that it gets for the attachment; empty if it keeps its own. `userspace`: nothing is moved into the pod.
    `instance` identifies the device that had the address then, `netdev_instance` and `tuning` belong to its network
    device then, see `Kernel`; they are 0 and empty in records that do not contain them. `looked` is the network device
    that a removal has inspected, since when no pod has had it; empty before that. `mac` is the effective MAC address in
    the pod. `flags` are those of `netlink.KEPT_FLAGS` that are set in the pod. Without a PF `pf` is empty.
    """

    key: Key
    device: PciAddress
    index: int
    pf: str
    driver: str
    found: VfInfo
    netdev: Netdev | None
    settings: VfSettings
    instance: int = 0
    mac: str | None = None
    mtu: int | None = None
    driver_override: str = ""
    wanted_driver: str = ""
    userspace: bool = False
    flags: int = 0
    netdev_instance: str = ""
    looked: str = ""
    tuning: dict[str, str] = {}  # noqa: RUF012 - values are never changed

    @property
    def expected_driver(self) -> str:
        """The driver of the device while it is attached."""
        return self.wanted_driver or self.driver

    @property
    def had_no_driver(self) -> bool:
        """Whether the device was found without a driver, and `driver` is the configured one."""
        return bool(self.driver) and self.netdev is None and not gives_to_user_space(self.driver)

    @property
    def drivers_at_home(self) -> tuple[str, ...]:
        """The drivers with which the device counts as restored.

        If it had no driver and does not accept the configured one, no driver counts as well.
        """
        return (self.driver, "") if self.had_no_driver else (self.driver,)


MARK = "barewire"
"""The first word of a mark."""

_ALIAS_BYTES = 255


_SPOOFCHK = {True: "on", False: "off", None: ""}


def mark(device: str, host_name: str, key: Key) -> str:
    """The owner's mark as an interface alias. It has at most 255 bytes; a very long container ID is cut."""
    return f"{MARK} {device} {host_name} {key}".encode()[:_ALIAS_BYTES].decode(errors="ignore")


def marked(alias: str) -> tuple[str, str, str] | None:
    """(device, host name, owner) of a mark; None for any other alias."""
    parts = alias.split(" ")
    return (parts[1], parts[2], parts[3]) if len(parts) == 4 and parts[0] == MARK else None


def names_owner(alias: str, key: Key) -> bool:
    """Whether the alias is a mark of this attachment."""
    parts = marked(alias)
    return parts is not None and alias == mark(parts[0], parts[1], key)


def note(attachment: DeviceAttachment) -> str:
    """The data for a repair without a record: the name on the host, and the found spoof check if it changes."""
    name = attachment.netdev.name if attachment.netdev is not None else ""
    changes = attachment.settings.spoofchk is not None
    return f"{name} {_SPOOFCHK[attachment.found.spoofchk]}" if changes else name


def noted(text: str) -> tuple[str, bool | None]:
    """(name on the host or empty, found spoof check or None) of a note."""
    name, _, word = text.partition(" ")
    return name, {shown: value for value, shown in _SPOOFCHK.items()}.get(word)


def netdev(link: Link) -> Netdev:
    """The attributes of a link that are restored later."""
    return Netdev(
        name=link.name,
        mac=link.mac,
        permanent=link.permanent,
        mtu=link.mtu,
        txqlen=link.txqlen,
        group=link.group,
        flags=link.kept_flags,
        up=link.up,
        alias=link.alias,
        altnames=link.altnames,
    )


def found_document(attachment: DeviceAttachment) -> FoundDict:
    """The record's `found`: the state that DEL restores."""
    link = attachment.netdev
    return {
        "index": attachment.index,
        "pf": attachment.pf,
        "driver": attachment.driver,
        "instance": attachment.instance,
        "override": attachment.driver_override,
        "settings": attachment.found.as_dict(),
        "netdev": _netdev_document(link) if link else None,
        "netdev_instance": attachment.netdev_instance,
        "tuning": attachment.tuning,
    }


def _netdev_document(found: Netdev) -> NetdevDict:
    return {
        "name": found.name,
        "mac": found.mac,
        "permanent": found.permanent,
        "mtu": found.mtu,
        "queue": found.txqlen,
        "group": found.group,
        "flags": found.flags,
        "up": found.up,
        "alias": found.alias,
        "altnames": list(found.altnames),
    }


def _netdev_of(document: NetdevDict) -> Netdev:
    return Netdev(
        name=document["name"],
        mac=document["mac"],
        permanent=document["permanent"],
        mtu=document["mtu"],
        txqlen=document["queue"],
        group=document["group"],
        flags=document["flags"],
        up=document.get("up", False),
        alias=document.get("alias", ""),
        altnames=tuple(document["altnames"]),
    )


def wanted_document(attachment: DeviceAttachment) -> WantedDict:
    """The record's `wanted`: the state that ADD applies."""
    return {
        "settings": attachment.settings.as_dict(),
        "mac": attachment.mac,
        "mtu": attachment.mtu,
        "driver": attachment.wanted_driver,
        "userspace": attachment.userspace,
        "flags": attachment.flags,
    }


def found_of(record: Record) -> FoundDict:
    """The `found` of a record. Its values are as the file has them: `from_record` validates them."""
    found: Any = record.found
    document: FoundDict = found
    return document


def _wanted_of(record: Record) -> WantedDict:
    wanted: Any = record.wanted
    document: WantedDict = wanted
    return document


def from_record(record: Record) -> DeviceAttachment:
    """The attachment that a record describes. Raises `IoFailure` when the record does not contain one."""
    found, wanted = found_of(record), _wanted_of(record)
    try:
        link = found["netdev"]
        attachment = DeviceAttachment(
            key=record.key,
            device=parse(record.device),
            index=found["index"],
            pf=parse(found["pf"]) if found["pf"] else "",
            driver=found["driver"],
            found=VfInfo(**found["settings"]),
            netdev=_netdev_of(link) if link else None,
            settings=VfSettings(**wanted["settings"]),
            instance=found.get("instance", 0),
            mtu=wanted["mtu"],
            # Records of schema 1 date from a time when every device was a VF and kept its driver.
            mac=wanted.get("mac", wanted["settings"]["mac"]),
            driver_override=found.get("override", ""),
            wanted_driver=wanted.get("driver", ""),
            userspace=wanted.get("userspace", False),
            flags=wanted.get("flags", 0),
            netdev_instance=found.get("netdev_instance", ""),
            looked=found.get("looked", ""),
            tuning=found.get("tuning", {}),
        )
        return fit(attachment)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IoFailure(
            f"the record of {record.key} is damaged: {error}",
            hint="move its file away; the next ADD repairs the device",
        ) from error


def pf_of(record: Record) -> str:
    """The PF of the attached device; empty if it has none, and if the record is damaged."""
    try:
        return from_record(record).pf
    except IoFailure:
        return ""
