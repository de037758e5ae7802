"""Moves a device into a pod and back, setting by setting. Both ways can be repeated and can start half-way."""

from __future__ import annotations

import os
import time

from cni.errors import CniError, DriverUnfit, KernelRefused, TryAgainLater
from cni.host.netlink import KEPT_FLAGS
from cni.host.vf_settings import VfSettings
from cni.sriov import model, plan
from cni.sriov.renewal import NO_RULES, RenewalRules, renew, renew_for, unfit_tuning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cni.host.device import Device
    from cni.host.netlink import Link
    from cni.host.netns import Netns
    from cni.log import Log
    from cni.sriov.kernel import Kernel
    from cni.sriov.model import DeviceAttachment, Netdev

    _Step = Callable[[Kernel, DeviceAttachment, Netns | None], None]

NO_MAC = "00:00:00:00:00:00"
MAC_SECONDS = 3.0
"""Bound for a driver to take a MAC address: i40e and its kin reset the VF first, which takes up to two seconds."""

_MAC_PAUSE = 0.05


class DeviceNotClean(TryAgainLater):
    """The device is home, but some of its attributes are not as they were before the attachment."""


# Into the pod.


def attach(
    kernel: Kernel,
    attachment: DeviceAttachment,
    device: Device,
    netns: Netns,
    *,
    handing_over: Callable[[], object] = lambda: None,
) -> Link | None:
    """Binds the driver, applies the settings, moves the device into the pod and sets it up; the link as the pod sees it.

    None for a device that is given to user space: it stays where it is. `handing_over` is called before the first move
    into the pod: from then on, programs of the pod may have used the device, even if the move is refused half-way.
    """
    if attachment.wanted_driver:
        # Without an override the kernel binds only what the driver's ID table has.
        override = attachment.wanted_driver if attachment.userspace else ""
        kernel.bind(attachment.device, attachment.wanted_driver, override)
        device = kernel.device(attachment.device)
    for setting in plan.changes(attachment.settings, device.settings):
        kernel.set_vf(device, setting, attachment.settings)
    if attachment.userspace:
        return None
    host_link = _present(kernel, attachment, None)
    kernel.set_altnames(host_link, None, ())
    handing_over()
    _move_in(kernel, attachment, host_link, netns)
    if attachment.mac:
        _set_mac(kernel, attachment, netns, attachment.mac)
    if attachment.flags:
        flags = (attachment.flags, attachment.flags)
        kernel.change(_present(kernel, attachment, netns), netns, flags=flags)
    kernel.bring_up(_present(kernel, attachment, netns), netns)
    return _present(kernel, attachment, netns)


def _move_in(kernel: Kernel, attachment: DeviceAttachment, link: Link, netns: Netns) -> None:
    mark = model.mark(attachment.device, link.name, attachment.key)
    attributes: dict[str, Any] = {"name": attachment.key.ifname, "alias": mark}
    if attachment.mtu is not None and attachment.mtu != link.mtu:
        attributes["mtu"] = attachment.mtu
    try:
        kernel.move(link, None, netns, **attributes)
    except KernelRefused:
        # Not atomic, and older kernels take less in one message: step by step, which also tells what is refused.
        waiting = kernel.link(attachment.device, None)
        if waiting is not None:
            kernel.move(waiting, None, netns)
        for name, value in attributes.items():
            kernel.change(_present(kernel, attachment, netns), netns, **{name: value})


def _present(kernel: Kernel, attachment: DeviceAttachment, netns: Netns | None) -> Link:
    link = kernel.link(attachment.device, netns)
    if link is None:
        raise TryAgainLater(
            f"the network device of {attachment.device} is not where it was a moment ago",
            hint="was its driver rebound?",
        )
    return link


def _set_mac(kernel: Kernel, attachment: DeviceAttachment, netns: Netns | None, mac: str) -> None:
    """Gives the network device its effective MAC address, in the way that its driver takes it.

    igb and its kin refuse a VF's own change once the PF has set an address, even to the same one; such a VF adopts
    the PF's address when it goes down. mlx5 never adopts it and wants it set. iavf adopts it late, after a reset.
    """
    deadline = time.monotonic() + MAC_SECONDS
    while True:
        link = _present(kernel, attachment, netns)
        if link.mac == mac:
            return
        try:
            kernel.change(link, netns, mac=mac)
        except KernelRefused as refusal:
            if not _adopted(kernel, attachment, link, netns, mac) and time.monotonic() > deadline:
                refusal.hint = "most drivers take it with trust: on"
                raise
        else:
            return


def _adopted(kernel: Kernel, attachment: DeviceAttachment, link: Link, netns: Netns | None, mac: str) -> bool:
    """Lets the VF go down, so that it may adopt the PF's address; pauses when it has not."""
    try:
        _up_and_down(kernel, link, netns)
        adopted = _present(kernel, attachment, netns).mac == mac
    except KernelRefused:
        # Drivers that reset the VF answer EBUSY or EAGAIN meanwhile.
        adopted = False
    if not adopted:
        # No event tells when a driver has finished its reset, so ask again soon.
        time.sleep(_MAC_PAUSE)
    return adopted


def _up_and_down(kernel: Kernel, link: Link, netns: Netns | None) -> None:
    kernel.change(link, netns, up=True)
    kernel.change(link, netns, up=False)


# And back.


def detach(
    kernel: Kernel,
    attachment: DeviceAttachment,
    netns: Netns | None,
    log: Log,
    *,
    rules: RenewalRules = NO_RULES,
    looked: Callable[[str], object] = lambda _instance: None,
) -> None:
    """Brings the device home, rids it of what the pod left on it, then restores what was found, whatever of it is changed.

    It is fetched from `netns`; None when it is at home, or came there when its namespace went: nobody has looked at it
    then before anything could be hidden. `looked` is called with the network device that has been looked at, and needs no
    further look.

    The settings that the PF holds of a VF keep its pod in the pod's network: they stay until the device is home.
    Every step runs, also after a failure, and only the final look decides.

    Raises `TryAgainLater` when the device is not home, and `DeviceNotClean` when it is home with other attributes than
    before; both name all differences, and what hindered the steps.
    """
    if kernel.in_use(attachment.device):
        # Its settings at the PF are what keeps a virtual machine that still runs in its network.
        raise TryAgainLater(
            f"{attachment.device} is still open in a process", hint="it ends with its virtual machine or DPDK program"
        )
    hindrances = _hindrances(kernel, attachment, netns, _HOMEWARD, log)
    device = kernel.device(attachment.device)
    if elsewhere := _elsewhere(attachment, device):
        what = f"{device.kind} {attachment.device} is {elsewhere}"
        keeps = "; its settings at the PF stay until it is home" if device.pf else ""
        raise _unfinished(TryAgainLater, f"{what}{keeps}", hindrances)
    try:
        looked(renew(kernel, attachment, log, rules, alone=netns is None))
    except CniError as failure:
        raise _not_rid(attachment, device, failure, hindrances) from failure
    hindrances += _hindrances(kernel, attachment, netns, _AT_HOME, log)
    _verify(kernel, attachment, hindrances, log)
    unfit = unfit_tuning(kernel, attachment, rules)
    if not unfit:
        return
    try:
        renewed = renew_for(kernel, attachment, log, rules, unfit)
    except CniError as failure:
        raise _not_rid(attachment, device, failure, hindrances) from failure
    if renewed:
        hindrances = _hindrances(kernel, attachment, netns, _AT_HOME, log)
        _verify(kernel, attachment, hindrances, log)
        if left := unfit_tuning(kernel, attachment, rules):
            log.warning(f"{attachment.device} has a new network device, but not as it was: {'; '.join(left)}")


def _not_rid(attachment: DeviceAttachment, device: Device, failure: CniError, hindrances: list[str]) -> TryAgainLater:
    what = f"{device.kind} {attachment.device} is not rid of what its pod left on it"
    return _unfinished(DeviceNotClean, f"{what}: {failure.msg}", hindrances)


def _hindrances(
    kernel: Kernel, attachment: DeviceAttachment, netns: Netns | None, steps: tuple[_Step, ...], log: Log
) -> list[str]:
    """Runs every step; what hindered any of them."""
    found = []
    for step in steps:
        try:
            step(kernel, attachment, netns)
        except CniError as failure:
            log.warning(f"on the way home: {failure.msg}")
            found.append(failure.msg)
    return found


def _elsewhere(attachment: DeviceAttachment, device: Device) -> str:
    """Where the device is when it is not home; empty when it is."""
    if device.driver not in attachment.drivers_at_home and _is_ours(attachment, device):
        return f"still bound to {device.driver or 'no driver'}"
    # A device that somebody gave another driver has no network device to bring home.
    if attachment.netdev is not None and device.link is None and device.driver == attachment.driver:
        return "not back on the host"
    return ""


def _verify(kernel: Kernel, attachment: DeviceAttachment, hindrances: list[str], log: Log) -> None:
    device, found = kernel.device(attachment.device), attachment.netdev
    what = f"{device.kind} {attachment.device}"
    if elsewhere := _elsewhere(attachment, device):
        raise _unfinished(TryAgainLater, f"{what} is {elsewhere}", hindrances)
    if left := _differences(attachment, device):
        raise _unfinished(DeviceNotClean, f"{what} is not as it was before the attachment", [*left, *hindrances])
    if device.link is not None and found is not None and device.link.name != found.name:
        log.warning(f"{attachment.device} is back as {device.link.name}: {found.name} is another device's name now")


def _is_ours(attachment: DeviceAttachment, device: Device) -> bool:
    """Whether nobody else gave the device a driver; without any, it is what a killed call left half done."""
    return device.driver in ("", attachment.driver, attachment.expected_driver)


def _unfinished(kind: type[TryAgainLater], what: str, left: list[str]) -> TryAgainLater:
    return kind(f"{what}: {'; '.join(left)}" if left else what, hint="every ADD and DEL tries again")


def _differences(attachment: DeviceAttachment, device: Device) -> list[str]:
    left = plan.differences(plan.restoration(attachment), device.settings)
    if attachment.settings.mac and attachment.found.mac and device.settings.mac != attachment.found.mac:
        left.append(f"the MAC address at the PF is {device.settings.mac}, was {attachment.found.mac}")
    if (
        attachment.wanted_driver
        and _is_ours(attachment, device)
        and device.driver_override != attachment.driver_override
    ):
        left.append(
            f"driver_override is {device.driver_override or 'empty'}, was {attachment.driver_override or 'empty'}"
        )
    found = attachment.netdev
    for name in plan.VERIFIED if device.link is not None and found is not None else ():
        now, then = getattr(device.link, name), getattr(found, name)
        if now != then and (then or name != "mtu"):
            left.append(f"{name} is {now!r}, was {then!r}" if name == "alias" else f"{name} is {now}, was {then}")
    return left


def _restore_driver(kernel: Kernel, attachment: DeviceAttachment, _netns: Netns | None) -> None:
    device = kernel.device(attachment.device)
    if not _is_ours(attachment, device):
        return  # Somebody gave it another driver meanwhile, on purpose.
    # Without a driver it is what a killed call left half done, and that call may have cleared the override.
    ours = bool(attachment.wanted_driver) or not device.driver
    override = attachment.driver_override if ours else device.driver_override
    if attachment.wanted_driver or device.driver != attachment.driver:
        try:
            kernel.bind(attachment.device, attachment.driver, override)
        except DriverUnfit:
            if not attachment.had_no_driver:
                raise
            kernel.bind(attachment.device, "", override)
            raise


def _restore_settings(kernel: Kernel, attachment: DeviceAttachment, _netns: Netns | None) -> None:
    wanted, device = plan.restoration(attachment), kernel.device(attachment.device)
    _every(*[_sending(kernel, device, name, wanted) for name in plan.changes(wanted, device.settings)])


def _sending(kernel: Kernel, device: Device, name: str, wanted: VfSettings) -> Callable[[], None]:
    return lambda: kernel.set_vf(device, name, wanted)


def _every(*steps: Callable[[], None]) -> None:
    """Runs every step; what failed is raised as one error that says it all."""
    failures = []
    for step in steps:
        try:
            step()
        except CniError as failure:
            failures.append(failure.msg)
    if failures:
        raise TryAgainLater("; ".join(failures))


def _restore_macs(kernel: Kernel, attachment: DeviceAttachment, _netns: Netns | None) -> None:
    """Restores the PF's, the effective and the permanent MAC address, where any of them is not as found.

    An address that the PF sets is a pin: an untrusted VF cannot change it any more, and nothing tells whether a VF is
    pinned. So where the PF had to set one for the pod, it sets the one that was found at the end, also when that is
    what it reports already; elsewhere the VF's own way is tried, which leaves a VF pinned or not, as it was.
    """
    device, found = kernel.device(attachment.device), attachment.netdev
    if not device.pf:
        _restore_own_mac(kernel, attachment, device.link, None)
        return
    admin, requested = device.settings.mac, attachment.settings.mac is not None
    link = device.link
    if link is None or found is None:
        wanted = attachment.found.mac or admin
        if requested and (wanted, admin) != (NO_MAC, NO_MAC):
            kernel.set_vf(device, "mac", VfSettings(mac=wanted))
        return
    # Where nothing tells what the PF said before, it is not to go on with the pod's address.
    wanted = attachment.found.mac or found.mac
    if (admin, link.mac) != (wanted, found.mac) or found.permanent not in ("", link.permanent):
        _down(kernel, link, None)
        if requested:
            _free_admin_mac(kernel, device)
        _restore_netdev_macs(kernel, attachment, found, None, device)
        admin = kernel.device(attachment.device).settings.mac
    pinned = requested and wanted != NO_MAC
    if pinned or (admin != wanted and (attachment.found.mac or admin != NO_MAC)):
        kernel.set_vf(device, "mac", VfSettings(mac=wanted))


def _restore_own_mac(kernel: Kernel, attachment: DeviceAttachment, link: Link | None, place: Netns | None) -> None:
    """Without a PF there is only the network device's own address; some drivers change it only while it is down."""
    if link is None or attachment.netdev is None or link.mac == attachment.netdev.mac:
        return
    _down(kernel, link, place)
    kernel.change(link, place, mac=attachment.netdev.mac)


def _free_admin_mac(kernel: Kernel, device: Device) -> None:
    # igb keeps a hidden flag "set by the PF", which refuses the VF's own changes for ever; the zero address clears it.
    # Some drivers (bnx2x) know no zero address; they have no such flag either.
    try:
        kernel.set_vf(device, "mac", VfSettings(mac=NO_MAC))
    except KernelRefused:
        return  # A driver that is only busy is waited for, and then a `TryAgainLater`.


def _restore_netdev_macs(
    kernel: Kernel, attachment: DeviceAttachment, found: Netdev, place: Netns | None, device: Device
) -> None:
    # Going down, the VF may have adopted the PF's address as its effective and its permanent one: look again.
    link = _present(kernel, attachment, place)
    first = found.permanent or found.mac
    if link.mac == first:
        # The kernel does not pass on an address that the link has already, so the PF would not hear of it.
        _try_mac(kernel, attachment, place, device, random_mac())
    _try_mac(kernel, attachment, place, device, first)
    if found.permanent not in ("", link.permanent):
        # igbvf takes the PF's view, which followed the line above, as its permanent address when it goes down.
        _up_and_down(kernel, link, place)
    if first != found.mac:
        _try_mac(kernel, attachment, place, device, found.mac)


def _try_mac(kernel: Kernel, attachment: DeviceAttachment, place: Netns | None, device: Device, mac: str) -> None:
    try:
        kernel.change(_present(kernel, attachment, place), place, mac=mac)
    except KernelRefused:
        # The driver lets only the PF set it; a VF that goes down adopts the PF's.
        kernel.set_vf(device, "mac", VfSettings(mac=mac))
        _set_mac(kernel, attachment, place, mac)


def random_mac() -> str:
    """A random unicast, locally administered MAC address."""
    octets = bytearray(os.urandom(6))
    octets[0] = octets[0] & 0xFC | 0x02
    return octets.hex(":")


def _bring_home(kernel: Kernel, attachment: DeviceAttachment, netns: Netns | None) -> None:
    found = attachment.netdev
    if netns is None or found is None or kernel.link(attachment.device, None) is not None:
        return
    link = kernel.link(attachment.device, netns)
    if link is None:
        return
    kernel.remove_stacked(link, netns)
    # A name that the host has already keeps the link from coming home, and a pod may have given it any.
    kernel.set_altnames(link, netns, ())
    free = kernel.link_by_name(found.name, None) is None
    name = found.name if free else "dev%d"
    try:
        # The move sets the link down, and a VF that its PF gave an address adopts the PF's address then. It also takes it
        # out of a bond, which gives it the address that it had before. The mark stays while the PF's settings are the pod's.
        kernel.move(link, netns, None, name=name, mtu=found.mtu or link.mtu)
    except KernelRefused:
        waiting = kernel.link(attachment.device, netns)
        if waiting is not None:
            kernel.move(waiting, netns, None, name=name)


def _restore_netdev(kernel: Kernel, attachment: DeviceAttachment, _netns: Netns | None) -> None:
    link, found = kernel.link(attachment.device, None), attachment.netdev
    if link is None or found is None:
        return
    _every(
        lambda: _restore_name(kernel, link, found.name),
        # A link goes down to be renamed: look again.
        lambda: _restore_attributes(kernel, _present(kernel, attachment, None), found),
    )


def _restore_name(kernel: Kernel, link: Link, name: str) -> None:
    if link.name == name:
        return
    holder = kernel.link_by_name(name, None)
    if holder is None or holder.index == link.index:
        _rename(kernel, link, name)


def _restore_attributes(kernel: Kernel, link: Link, found: Netdev) -> None:
    steps: list[Callable[[], None]] = []
    changed = {name: getattr(found, name) for name in plan.RESTORED if getattr(link, name) != getattr(found, name)}
    if not found.mtu:
        changed.pop("mtu", None)
    for name, value in changed.items():
        steps.append(_changing(kernel, link, name, value))
    if set(link.altnames) != set(found.altnames):
        steps.append(lambda: kernel.set_altnames(link, None, found.altnames))
    if link.kept_flags != found.flags:
        steps.append(lambda: kernel.change(link, None, flags=(found.flags, KEPT_FLAGS)))
    if link.up != found.up:
        steps.append(lambda: kernel.change(link, None, up=found.up))
    _every(*steps)


def _changing(kernel: Kernel, link: Link, name: str, value: Any) -> Callable[[], None]:
    return lambda: kernel.change(link, None, **{name: value})


def _rename(kernel: Kernel, link: Link, name: str) -> None:
    if name in link.altnames:
        kernel.set_altnames(link, None, tuple(other for other in link.altnames if other != name))
    _down(kernel, link, None)
    kernel.change(link, None, name=name)


def _down(kernel: Kernel, link: Link, place: Netns | None) -> None:
    if link.up:
        kernel.change(link, place, up=False)


_HOMEWARD: tuple[_Step, ...] = (_restore_driver, _bring_home)
_AT_HOME: tuple[_Step, ...] = (_restore_settings, _restore_macs, _restore_netdev)
