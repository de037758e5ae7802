"""Moves a VF into a pod and back, setting by setting. Both ways can be repeated and can start half-way."""

from __future__ import annotations

import os
import time

from cni.errors import CniError, KernelRefused, TryAgainLater
from cni.host.netlink import KEPT_FLAGS
from cni.sriov import plan
from cni.vf import VfSettings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cni.host.netlink import Link
    from cni.host.netns import Netns
    from cni.log import Log
    from cni.ports import Kernel
    from cni.sriov.model import VfAttachment
    from cni.vf import Vf

NO_MAC = "00:00:00:00:00:00"
MAC_SECONDS = 3.0
"""Bound for a driver to take a MAC address: i40e and its kin reset the VF first, which takes up to two seconds."""

_MAC_PAUSE = 0.05


class VfNotClean(TryAgainLater):
    """The VF is home, but some of its attributes are not as they were before the attachment."""


# Into the pod.


def attach(kernel: Kernel, attachment: VfAttachment, vf: Vf, netns: Netns) -> Link:
    """Applies the settings, moves the VF into the pod and sets it up; the link as the pod sees it."""
    for setting in plan.changes(attachment.settings, vf.settings):
        kernel.set_vf(vf, setting, attachment.settings)
    host_link = _present(kernel, attachment, None)
    kernel.set_altnames(host_link, None, ())
    _move_in(kernel, attachment, host_link, netns)
    if attachment.settings.mac:
        _set_mac(kernel, attachment, netns, attachment.settings.mac)
    kernel.bring_up(_present(kernel, attachment, netns), netns)
    return _present(kernel, attachment, netns)


def _move_in(kernel: Kernel, attachment: VfAttachment, link: Link, netns: Netns) -> None:
    attributes: dict[str, Any] = {"name": attachment.key.ifname, "alias": attachment.mark}
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


def _present(kernel: Kernel, attachment: VfAttachment, netns: Netns | None) -> Link:
    link = kernel.link(attachment.device, netns)
    if link is None:
        raise TryAgainLater(
            f"the network device of {attachment.device} is not where it was a moment ago",
            hint="was its driver rebound?",
        )
    return link


def _set_mac(kernel: Kernel, attachment: VfAttachment, netns: Netns | None, mac: str) -> None:
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


def _adopted(kernel: Kernel, attachment: VfAttachment, link: Link, netns: Netns | None, mac: str) -> bool:
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


def detach(kernel: Kernel, attachment: VfAttachment, vf: Vf, netns: Netns | None, log: Log) -> None:
    """Brings the VF home and restores what was found, whatever of it is changed.

    Every step runs, also after a failure, and only the final look decides.

    Raises `TryAgainLater` when the VF is not home, and `VfNotClean` when it is home with other attributes than before;
    both name all differences, and what hindered the steps.
    """
    hindrances: list[str] = []
    for step in (_restore_settings, _restore_macs, _bring_home, _restore_netdev):
        try:
            step(kernel, attachment, vf, netns)
        except CniError as failure:
            hindrances.append(failure.msg)
    _verify(kernel, attachment, hindrances, log)


def _verify(kernel: Kernel, attachment: VfAttachment, hindrances: list[str], log: Log) -> None:
    vf = kernel.vf(attachment.device)
    # A VF that has another driver by now has no network device to bring home.
    away = vf.link is None and vf.driver == attachment.driver
    left = _differences(attachment, vf)
    for hindrance in hindrances:
        log.warning(f"on the way home: {hindrance}")
    if away:
        raise _unfinished(TryAgainLater, f"VF {attachment.device} is not back on the host", [*left, *hindrances])
    if left:
        what = f"VF {attachment.device} is not as it was before the attachment"
        raise _unfinished(VfNotClean, what, [*left, *hindrances])
    if vf.link is not None and vf.link.name != attachment.netdev.name:
        log.warning(
            f"{attachment.device} is back as {vf.link.name}: {attachment.netdev.name} is another device's name now"
        )


def _unfinished(kind: type[TryAgainLater], what: str, left: list[str]) -> TryAgainLater:
    return kind(f"{what}: {'; '.join(left)}" if left else what, hint="every ADD and DEL tries again")


def _differences(attachment: VfAttachment, vf: Vf) -> list[str]:
    left = plan.differences(plan.restoration(attachment), vf.settings)
    if attachment.settings.mac and attachment.found.mac and vf.settings.mac != attachment.found.mac:
        left.append(f"the MAC address at the PF is {vf.settings.mac}, was {attachment.found.mac}")
    for name in plan.VERIFIED if vf.link is not None else ():
        present, found = getattr(vf.link, name), getattr(attachment.netdev, name)
        if present != found:
            left.append(f"{name} is {present}, was {found}")
    return left


def _restore_settings(kernel: Kernel, attachment: VfAttachment, vf: Vf, _netns: Netns | None) -> None:
    wanted = plan.restoration(attachment)
    _every(*[_sending(kernel, vf, name, wanted) for name in plan.changes(wanted, vf.settings)])


def _sending(kernel: Kernel, vf: Vf, name: str, wanted: VfSettings) -> Callable[[], None]:
    return lambda: kernel.set_vf(vf, name, wanted)


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


def _restore_macs(kernel: Kernel, attachment: VfAttachment, vf: Vf, netns: Netns | None) -> None:
    """Restores the PF's, the effective and the permanent MAC address, where any of them is not as found.

    This happens where the VF is: in the pod it may go up and down without anything on the host taking notice.
    """
    found, place = attachment.netdev, None
    link = kernel.link(attachment.device, None)
    if link is None and netns is not None:
        place, link = netns, kernel.link(attachment.device, netns)
    admin = kernel.vf(attachment.device).settings.mac
    wanted = attachment.found.mac or admin
    if link is None:
        if attachment.settings.mac and admin != wanted:
            kernel.set_vf(vf, "mac", VfSettings(mac=wanted))
        return
    if (admin, link.mac) == (wanted, found.mac) and found.permanent in ("", link.permanent):
        return
    _down(kernel, link, place)
    _free_admin_mac(kernel, vf)
    _restore_netdev_macs(kernel, attachment, place, vf)
    if attachment.found.mac and kernel.vf(attachment.device).settings.mac != wanted:
        kernel.set_vf(vf, "mac", VfSettings(mac=wanted))


def _free_admin_mac(kernel: Kernel, vf: Vf) -> None:
    # igb keeps a hidden flag "set by the PF", which refuses the VF's own changes for ever; the zero address clears it.
    # Some drivers (bnx2x) know no zero address; they have no such flag either.
    try:
        kernel.set_vf(vf, "mac", VfSettings(mac=NO_MAC))
    except KernelRefused:
        return


def _restore_netdev_macs(kernel: Kernel, attachment: VfAttachment, place: Netns | None, vf: Vf) -> None:
    # Going down, the VF may have adopted the PF's address as its effective and its permanent one: look again.
    link, found = _present(kernel, attachment, place), attachment.netdev
    first = found.permanent or found.mac
    if link.mac == first:
        # The kernel does not pass on an address that the link has already, so the PF would not hear of it.
        _try_mac(kernel, attachment, place, vf, random_mac())
    _try_mac(kernel, attachment, place, vf, first)
    if found.permanent not in ("", link.permanent):
        # igbvf takes the PF's view, which followed the line above, as its permanent address when it goes down.
        _up_and_down(kernel, link, place)
    if first != found.mac:
        _try_mac(kernel, attachment, place, vf, found.mac)


def _try_mac(kernel: Kernel, attachment: VfAttachment, place: Netns | None, vf: Vf, mac: str) -> None:
    try:
        kernel.change(_present(kernel, attachment, place), place, mac=mac)
    except KernelRefused:
        # The driver lets only the PF set it; a VF that goes down adopts the PF's.
        kernel.set_vf(vf, "mac", VfSettings(mac=mac))
        _set_mac(kernel, attachment, place, mac)


def random_mac() -> str:
    """A random unicast, locally administered MAC address."""
    octets = bytearray(os.urandom(6))
    octets[0] = octets[0] & 0xFC | 0x02
    return octets.hex(":")


def _bring_home(kernel: Kernel, attachment: VfAttachment, _vf: Vf, netns: Netns | None) -> None:
    if netns is None or kernel.link(attachment.device, None) is not None:
        return
    link = kernel.link(attachment.device, netns)
    if link is None:
        return
    kernel.remove_stacked(link, netns)
    # A name that the host has already keeps the link from coming home, and a pod may have given it any.
    kernel.set_altnames(link, netns, ())
    found = attachment.netdev
    free = kernel.named(found.name, None) is None
    name = found.name if free else "dev%d"
    try:
        # The move sets the link down, and a VF that its PF gave an address adopts the PF's address then.
        kernel.move(link, netns, None, name=name, mtu=found.mtu, alias=found.alias)
    except KernelRefused:
        waiting = kernel.link(attachment.device, netns)
        if waiting is not None:
            kernel.move(waiting, netns, None, name=name)


def _restore_netdev(kernel: Kernel, attachment: VfAttachment, _vf: Vf, _netns: Netns | None) -> None:
    link, found = kernel.link(attachment.device, None), attachment.netdev
    if link is None:
        return
    steps: list[Callable[[], None]] = []
    holder = kernel.named(found.name, None)
    if link.name != found.name and (holder is None or holder.index == link.index):
        steps.append(lambda: _rename(kernel, link, found.name))
    changed = {name: getattr(found, name) for name in plan.RESTORED if getattr(link, name) != getattr(found, name)}
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
