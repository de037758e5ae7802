"""Plans an attachment from the request, the configuration and the found VF: every policy rule of the plugin. Pure."""

from __future__ import annotations

from cni.attachment.record import Key
from cni.errors import DeviceBusy, DriverUnfit, InvalidConfig
from cni.host.drivers import gives_to_user_space
from cni.host.netlink import IFF_ALLMULTI, IFF_PROMISC
from cni.host.vf_settings import SETTINGS, VfSettings, shown
from cni.sriov import model
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from cni.host.device import Device
    from cni.host.vf_settings import Setting, VfInfo
    from cni.sriov.conf_sections import SriovConfDict

RESTORED = ("mtu", "alias", "txqlen", "group")
"""Attributes of the network device that are restored with one message each."""

VERIFIED = ("mac", "mtu", "up", "alias")
"""Attributes of the network device that must be restored: with another value it is not clean, or has an owner's mark.

The name is not among them, because another device may have it. Neither is the permanent address: most drivers have a
fixed one, and only igbvf's can be restored.
"""

_FLAGS = {"promisc": IFF_PROMISC, "allmulticast": IFF_ALLMULTI}


class Surroundings(Value):
    """The node's information about a device that is not in the device itself.

    `uses` lists how the host uses its network device, `viability_problems` the reasons why its IOMMU group cannot be
    used from user space; `open_in_process`: a process has it open. `netdev_instance` and `tuning` belong to its network
    device.
    """

    uses: tuple[str, ...] = ()
    viability_problems: tuple[str, ...] = ()
    open_in_process: bool = False
    netdev_instance: str = ""
    tuning: dict[str, str] = {}  # noqa: RUF012 - values are never changed


ALONE = Surroundings()


def plan(key: Key, conf: SriovConfDict, device: Device, surroundings: Surroundings = ALONE) -> model.DeviceAttachment:
    """Plans an ADD with the found device. `conf` is the result of `parse_request`.

    Raises `InvalidConfig` for settings that this device cannot have, `DeviceBusy` if the host needs it, and
    `DriverUnfit`.
    """
    driver = wanted_driver(conf, device)
    userspace = gives_to_user_space(driver) if driver else device.userspace
    settings = wanted_settings(conf if device.pf else {**conf, "mac": None})
    _require_suitable(conf, device, settings)
    if userspace and not conf.get("driver"):
        # sriov-cni ignores mtu, so there are networks with an mtu for pools of VFIO devices.
        conf = conf.copy()
        conf.pop("mtu", None)
    if userspace:
        _require_nothing_of_a_netdev(conf, device)
    _require_trust(conf, device, settings)
    _require_free(device, driver, surroundings)
    return model.DeviceAttachment(
        key=key,
        device=device.address,
        instance=device.instance,
        index=device.index,
        pf=device.pf,
        driver=device.driver or (conf.get("dpdk") or {}).get("kernel_driver", ""),
        driver_override=device.driver_override,
        found=device.settings,
        netdev=model.netdev(device.link) if device.link else None,
        settings=settings,
        mac=conf.get("mac"),
        mtu=conf.get("mtu"),
        wanted_driver=driver,
        userspace=userspace,
        flags=wanted_flags(conf),
        netdev_instance=surroundings.netdev_instance,
        tuning=surroundings.tuning,
    )


def _require_free(device: Device, driver: str, surroundings: Surroundings) -> None:
    """Raises `DeviceBusy` for a device that is in use or elsewhere, and `DriverUnfit` if it cannot have the driver."""
    if surroundings.open_in_process:
        raise DeviceBusy(
            f"{device.kind} {device.address} is open in a process (driver: {device.driver})",
            hint="it is free when that virtual machine or DPDK program has ended",
        )
    _require_unused(device, surroundings.uses)
    if driver:
        _require_viable(device, driver, surroundings.viability_problems)
    if not device.userspace and (device.driver or not driver):
        # A device that has a driver and no network device here is in another namespace: binding would remove it from
        # there.
        _require_at_home(device)


def wanted_settings(conf: Mapping[str, Any]) -> VfSettings:
    """The settings at the PF that a valid configuration requests."""
    wanted: dict[str, Any] = {}
    for row in SETTINGS.values():
        if any(conf.get(field.key) is not None for field in row.fields):
            for field in row.fields:
                word = conf.get(field.key)
                wanted[field.name] = field.default if word is None else field.words.get(word, word)
    return VfSettings(**wanted)


def wanted_driver(conf: SriovConfDict, device: Device) -> str:
    """The driver to which the device has to be bound; empty if it keeps its driver."""
    driver = str(conf.get("driver") or "")
    return "" if driver == device.driver else driver


def wanted_flags(conf: SriovConfDict) -> int:
    """The interface flags that a valid configuration requests."""
    return sum(flag for name, flag in _FLAGS.items() if conf.get(name) == "on")


def _require_suitable(conf: SriovConfDict, device: Device, settings: VfSettings) -> None:
    if not device.is_network:
        raise InvalidConfig(
            f"deviceID: {device.address} is not a network device", hint="only devices of PCI class 02 are attached"
        )
    if device.is_infiniband:
        raise InvalidConfig(
            f"deviceID: {device.address} is an InfiniBand device", hint="its GUIDs are set by the plugin ib-sriov"
        )
    if conf.get("pfOnly") and device.pf:
        raise InvalidConfig(f"pfOnly: {device.address} is a VF", hint="name a PF, or remove pfOnly")
    if device.pf:
        return
    if device.total_vfs and not conf.get("pfOnly"):
        raise InvalidConfig(
            f"deviceID: {device.address} is a PF", hint="name one of its VFs, or say pfOnly to give the PF itself away"
        )
    keys = [key for name, key in _KEYS.items() if conf.get(key) is not None and getattr(settings, name) is not None]
    if keys:
        raise InvalidConfig(
            f"{', '.join(keys)}: {device.kind} {device.address} has no PF on this host that could apply it",
            hint="a VF inside a virtual machine gets such settings from the hypervisor; remove them here",
        )


def _require_nothing_of_a_netdev(conf: SriovConfDict, device: Device) -> None:
    requested = [name for name in ("mtu", *_FLAGS) if conf.get(name) not in (None, "off")]
    if conf.get("mac") and not device.pf:
        requested.append("mac")
    if requested:
        raise InvalidConfig(
            f"{', '.join(requested)}: {device.kind} {device.address} is for user space, without a network device to set it on",
            hint="the program in the pod sets it through its own driver",
        )


def _require_trust(conf: SriovConfDict, device: Device, settings: VfSettings) -> None:
    trusted = device.settings.trust if settings.trust is None else settings.trust
    requested = [name for name in _FLAGS if conf.get(name) == "on"]
    if requested and device.pf and trusted is False:
        raise InvalidConfig(f"{', '.join(requested)}: needs a trusted VF", hint="add trust: on")


def _require_unused(device: Device, uses: Sequence[str]) -> None:
    if device.link is not None and device.link.master:
        raise DeviceBusy(
            f"the network device {device.link.name} of {device.kind} {device.address} is enslaved to a bridge, bond or VRF on the host",
            hint=f"take it out of its bridge, bond or VRF first: ip link set {device.link.name} nomaster",
        )
    if device.num_vfs and not device.pf:
        raise DeviceBusy(
            f"PF {device.address} has {device.num_vfs} VFs, which would be lost to the host",
            hint=f"remove them first: echo 0 >/sys/bus/pci/devices/{device.address}/sriov_numvfs",
        )
    if device.netdevs > 1 and not device.pf:
        raise DeviceBusy(
            f"{device.kind} {device.address} has {device.netdevs} network devices",
            hint="a function with several ports is not given away whole",
        )
    if uses:
        name = device.link.name if device.link is not None else ""
        raise DeviceBusy(
            f"the host itself uses {device.kind} {device.address} ({name}): {', '.join(uses)}",
            hint="a device that the node needs is not given to a pod; addresses and routes of a VF usually come from "
            "NetworkManager or systemd-networkd: mark VFs as unmanaged there, and remove what they set: "
            f"ip addr flush dev {name}",
        )


def _require_viable(device: Device, driver: str, problems: Sequence[str]) -> None:
    if problems:
        raise DriverUnfit(
            f"{device.address} cannot be bound to {driver}: {'; '.join(problems)}",
            hint="all devices of an IOMMU group go to user space together: bind or unbind the others first",
        )


def _require_at_home(device: Device) -> None:
    if device.link is None:
        raise DeviceBusy(
            f"{device.kind} {device.address} has no network device on the host (driver: {device.driver or 'none'})",
            hint="it is bound to no network driver (the key `driver` binds one), or is in a network namespace of "
            "something that Barewire did not attach",
        )


def changes(settings: VfSettings, present: VfInfo) -> list[str]:
    """The messages that change the PF's settings to the requested ones, in the order of sending.

    A MAC address is always sent: an untrusted VF cannot change an address that its PF has set, but it can change
    others.
    """
    return [name for name, row in SETTINGS.items() if _differs(row, settings, present) or _is_pin(row, settings)]


def _is_pin(row: Setting, settings: VfSettings) -> bool:
    return row.of_netdev and _is_requested(row, settings)


def _is_requested(row: Setting, settings: VfSettings) -> bool:
    return any(getattr(settings, field.name) is not None for field in row.fields)


def _differs(row: Setting, settings: VfSettings, present: VfInfo) -> bool:
    requested = [field.name for field in row.fields if getattr(settings, field.name) is not None]
    return any(getattr(settings, name) != getattr(present, name) for name in requested)


def restoration(attachment: model.DeviceAttachment) -> VfSettings:
    """The found settings of the messages that the attachment sends, without the MAC address (see `attach`)."""
    rows = [row for row in SETTINGS.values() if not row.of_netdev and _is_requested(row, attachment.settings)]
    return VfSettings(**{field.name: getattr(attachment.found, field.name) for row in rows for field in row.fields})


def differences(settings: VfSettings, present: VfInfo) -> list[str]:
    """The settings with a wrong value, with both values, for the reports of CHECK and DEL."""
    found = []
    for name, wanted in settings.as_dict().items():
        value = getattr(present, name)
        if wanted is not None and wanted != value:
            what = "the MAC address at the PF" if name == "mac" else _KEYS[name]
            found.append(f"{what} is {shown(value)}, not {shown(wanted)}")
    return found


def clean_settings(spoofchk: bool | None) -> VfSettings:
    """The settings for a VF whose state before its attachment is unknown. `spoofchk` comes from its note."""
    clean = {field.name: field.clean for row in SETTINGS.values() for field in row.fields}
    return VfSettings(**{**clean, "spoofchk": spoofchk})


_KEYS = {field.name: field.key for row in SETTINGS.values() for field in row.fields}
