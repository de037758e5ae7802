"""Moves a device into a pod and back, setting by setting. Both directions can be repeated, and can start half-way."""

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
"""Time limit for a driver to apply a MAC address: i40e and related drivers reset the VF first, for up to two
seconds."""

_MAC_PAUSE = 0.05


class DeviceNotClean(TryAgainLater):
    """The device is on the host, but some of its attributes differ from those before the attachment."""


# Into the pod.


def attach(
    kernel: Kernel,
    attachment: DeviceAttachment,
    device: Device,
    netns: Netns,
    *,
    handing_over: Callable[[], object] = lambda: None,
) -> Link | None:
    """Binds the driver, applies the settings, and moves the device into the pod; returns the link in the pod.

    Returns None for a device for user space, which is not moved. `handing_over` is called before the first move into
    the pod: from then on, programs of the pod may have used the device, even if the move is refused half-way.
    """
    if attachment.wanted_driver:
        # Without an override the kernel binds only devices in the driver's ID table.
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
        # The move is not atomic, and older kernels accept fewer attributes in one message. Single steps also show which
        # attribute is refused.
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
    """Sets the effective MAC address of the network device in the way that its driver supports.

    Once the PF has set an address, igb and related drivers refuse a change by the VF, even to the same address; such a
    VF adopts the PF's address when it goes down. mlx5 never adopts it, and the VF must set it. iavf adopts it late,
    after a reset.
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
    """Lets the VF go down, so that it can adopt the PF's address. Pauses if it did not."""
    try:
        _up_and_down(kernel, link, netns)
        adopted = _present(kernel, attachment, netns).mac == mac
    except KernelRefused:
        # Drivers that reset the VF return EBUSY or EAGAIN meanwhile.
        adopted = False
    if not adopted:
        # No event reports that a driver has finished its reset: try again soon.
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
    """Moves the device to the host, removes the pod's changes, and restores the found state.

    `netns` is the namespace of the device. It is None if the device is on the host, or came there when its namespace
    was removed: it was not inspected before the pod could hide changes. `looked` is called with the network device that
    has been inspected, and needs no further inspection.

    The settings that the PF has for a VF keep its pod in the pod's network. They stay until the device is on the host.
    Every step runs, also after a failure; only the final comparison decides.

    Raises `TryAgainLater` if the device is not on the host, and `DeviceNotClean` if it is there with other attributes
    than before. Both name all differences, and the reasons of steps that failed.
    """
    if kernel.in_use(attachment.device):
        # Its settings at the PF keep a virtual machine that is still running in its network.
        raise TryAgainLater(
            f"{attachment.device} is still open in a process", hint="it ends with its virtual machine or DPDK program"
        )
    failures = _failures_of(kernel, attachment, netns, _HOMEWARD, log)
    device = kernel.device(attachment.device)
    if elsewhere := _elsewhere(attachment, device):
        what = f"{device.kind} {attachment.device} is {elsewhere}"
        keeps = "; its settings at the PF stay until it is home" if device.pf else ""
        raise _unfinished(TryAgainLater, f"{what}{keeps}", failures)
    try:
        looked(renew(kernel, attachment, log, rules, alone=netns is None))
    except CniError as failure:
        raise _not_cleaned(attachment, device, failure, failures) from failure
    failures += _failures_of(kernel, attachment, netns, _AT_HOME, log)
    _verify(kernel, attachment, failures, log)
    if unfit := unfit_tuning(kernel, attachment, rules):
        try:
            renewed = renew_for(kernel, attachment, log, rules, unfit)
        except CniError as failure:
            raise _not_cleaned(attachment, device, failure, failures) from failure
        if renewed:
            _restore_new_netdev(kernel, attachment, netns, log, rules)


def _restore_new_netdev(
    kernel: Kernel, attachment: DeviceAttachment, netns: Netns | None, log: Log, rules: RenewalRules
) -> None:
    """Restores the found state once more, after the driver has made a new network device."""
    _verify(kernel, attachment, _failures_of(kernel, attachment, netns, _AT_HOME, log), log)
    if left := unfit_tuning(kernel, attachment, rules):
        log.warning(f"{attachment.device} has a new network device, but not as it was: {'; '.join(left)}")


def _not_cleaned(attachment: DeviceAttachment, device: Device, failure: CniError, failures: list[str]) -> TryAgainLater:
    what = f"{device.kind} {attachment.device} still has changes that its pod made"
    return _unfinished(DeviceNotClean, f"{what}: {failure.msg}", failures)


def _failures_of(
    kernel: Kernel, attachment: DeviceAttachment, netns: Netns | None, steps: tuple[_Step, ...], log: Log
) -> list[str]:
    """Runs every step. Returns the reasons of those that failed."""
    found = []
    for step in steps:
        try:
            step(kernel, attachment, netns)
        except CniError as failure:
            log.warning(f"on the way home: {failure.msg}")
            found.append(failure.msg)
    return found


def _elsewhere(attachment: DeviceAttachment, device: Device) -> str:
    """Where the device is if it is not on the host with its driver; empty if it is."""
    if device.driver not in attachment.drivers_at_home and _is_ours(attachment, device):
        return f"still bound to {device.driver or 'no driver'}"
    # A device with a driver of another owner has no network device to move to the host.
    if attachment.netdev is not None and device.link is None and device.driver == attachment.driver:
        return "not back on the host"
    return ""


def _verify(kernel: Kernel, attachment: DeviceAttachment, failures: list[str], log: Log) -> None:
    device, found = kernel.device(attachment.device), attachment.netdev
    what = f"{device.kind} {attachment.device}"
    if elsewhere := _elsewhere(attachment, device):
        raise _unfinished(TryAgainLater, f"{what} is {elsewhere}", failures)
    if left := _differences(attachment, device):
        raise _unfinished(DeviceNotClean, f"{what} is not as it was before the attachment", [*left, *failures])
    if device.link is not None and found is not None and device.link.name != found.name:
        log.warning(f"{attachment.device} is back as {device.link.name}: {found.name} is another device's name now")


def _is_ours(attachment: DeviceAttachment, device: Device) -> bool:
    """Whether no one else bound a driver to the device. Without a driver, a killed call left it half done."""
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
    if not attachment.wanted_driver and kernel.driver(attachment.device) == attachment.driver:
        return  # A look at the whole device takes a dozen files and a request to its PF.
    device = kernel.device(attachment.device)
    if not _is_ours(attachment, device):
        return  # It has been given another driver meanwhile, on purpose.
    # If it has no driver, a killed call left it half done, and may have cleared the override.
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
    wanted = plan.restoration(attachment)
    if wanted == VfSettings():
        return  # The pod's network requested none, as most do.
    device = kernel.device(attachment.device)
    _every(*[_sending(kernel, device, name, wanted) for name in plan.changes(wanted, device.settings)])


def _sending(kernel: Kernel, device: Device, name: str, wanted: VfSettings) -> Callable[[], None]:
    return lambda: kernel.set_vf(device, name, wanted)


def _every(*steps: Callable[[], None]) -> None:
    """Runs every step, and raises all failures as one error."""
    failures = []
    for step in steps:
        try:
            step()
        except CniError as failure:
            failures.append(failure.msg)
    if failures:
        raise TryAgainLater("; ".join(failures))


def _restore_macs(kernel: Kernel, attachment: DeviceAttachment, _netns: Netns | None) -> None:
    """Restores the PF's, the effective and the permanent MAC address if any of them differs from the found one.

    An address that the PF sets is a pin: an untrusted VF cannot change it any more, and the kernel does not report
    whether a VF is pinned. So if the PF had to set an address for the pod, it finally sets the found one, even if it
    already reports that. Otherwise the VF itself is tried, which leaves it pinned or unpinned, as it was.
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
    # If the PF's former address is unknown, the PF must not keep the pod's address.
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


def _restore_own_mac(kernel: Kernel, attachment: DeviceAttachment, link: Link | None, netns: Netns | None) -> None:
    """Without a PF only the network device has an address. Some drivers change it only while the device is down."""
    if link is None or attachment.netdev is None or link.mac == attachment.netdev.mac:
        return
    _down(kernel, link, netns)
    kernel.change(link, netns, mac=attachment.netdev.mac)


def _free_admin_mac(kernel: Kernel, device: Device) -> None:
    # igb has a hidden flag "set by the PF", with which it refuses the VF's own changes. Only the zero address clears
    # it. Some drivers (bnx2x) refuse the zero address; they do not have such a flag.
    try:
        kernel.set_vf(device, "mac", VfSettings(mac=NO_MAC))
    except KernelRefused:
        return  # The call waits for a driver that is only busy, and then raises `TryAgainLater`.


def _restore_netdev_macs(
    kernel: Kernel, attachment: DeviceAttachment, found: Netdev, netns: Netns | None, device: Device
) -> None:
    # When it went down, the VF may have adopted the PF's address as its effective and its permanent one: look again.
    link = _present(kernel, attachment, netns)
    first = found.permanent or found.mac
    if link.mac == first:
        # The kernel does not pass on an address that the link already has, so the PF would not receive it.
        _try_mac(kernel, attachment, netns, device, random_mac())
    _try_mac(kernel, attachment, netns, device, first)
    if found.permanent not in ("", link.permanent):
        # When igbvf goes down, it takes the PF's address, which the line above has changed, as its permanent address.
        _up_and_down(kernel, link, netns)
    if first != found.mac:
        _try_mac(kernel, attachment, netns, device, found.mac)


def _try_mac(kernel: Kernel, attachment: DeviceAttachment, netns: Netns | None, device: Device, mac: str) -> None:
    try:
        kernel.change(_present(kernel, attachment, netns), netns, mac=mac)
    except KernelRefused:
        # The driver lets only the PF set it. A VF that goes down adopts the PF's address.
        kernel.set_vf(device, "mac", VfSettings(mac=mac))
        _set_mac(kernel, attachment, netns, mac)


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
    # An altname that the host already has prevents the move to the host, and a pod may have added any.
    kernel.set_altnames(link, netns, ())
    free = kernel.link_by_name(found.name, None) is None
    name = found.name if free else "dev%d"
    try:
        # The move sets the link down, and a VF whose PF gave it an address adopts that address then. The move also
        # takes the link out of a bond, which restores its former address. The mark stays as long as the PF has the
        # pod's settings.
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


def _down(kernel: Kernel, link: Link, netns: Netns | None) -> None:
    if link.up:
        kernel.change(link, netns, up=False)


_HOMEWARD: tuple[_Step, ...] = (_restore_driver, _bring_home)
_AT_HOME: tuple[_Step, ...] = (_restore_settings, _restore_macs, _restore_netdev)
