"""Moves a VF into a pod and back, setting by setting. Both ways can be repeated and can start half-way."""

from __future__ import annotations

import errno
import os

from cni.errors import KernelRefused, TryAgainLater
from cni.host.rtnetlink import NetlinkError
from cni.rollback import run_all
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
    from cni.sriov.model import Netdev, VfAttachment
    from cni.vf import Vf

NO_MAC = "00:00:00:00:00:00"
_MAC_TRIES = 3


def attach(kernel: Kernel, attachment: VfAttachment, vf: Vf, netns: Netns) -> Link:
    """Applies the settings, moves the VF into the pod and sets it up; the link as the pod sees it."""
    for setting in plan.changes(attachment.settings, vf.settings):
        kernel.set_vf(vf, setting, attachment.settings)
    assert vf.link is not None  # the plan refuses a VF without a link  # noqa: S101
    _refusing("altnames", kernel.set_altnames, vf.link, None, ())
    _move_in(kernel, attachment, vf.link, netns)
    link = _present(kernel, attachment, netns)
    if attachment.settings.mac:
        _set_mac(kernel, link, netns, attachment.settings.mac)
    _refusing("link up", kernel.bring_up, link, netns)
    return _present(kernel, attachment, netns)


def _move_in(kernel: Kernel, attachment: VfAttachment, link: Link, netns: Netns) -> None:
    attributes = {"name": attachment.key.ifname, "alias": attachment.mark}
    if attachment.mtu is not None and attachment.mtu != link.mtu:
        attributes["mtu"] = attachment.mtu
    try:
        kernel.move(link, None, netns, **attributes)
    except NetlinkError:
        # Not atomic, and older kernels take less in one message: step by step, which also tells what is refused.
        _move_stepwise(kernel, attachment.device, None, netns, attributes)


def _move_stepwise(
    kernel: Kernel, device: Any, source: Netns | None, target: Netns | None, attributes: dict[str, Any]
) -> None:
    waiting = kernel.link(device, source)
    if waiting is not None:
        _refusing("move between network namespaces", kernel.move, waiting, source, target)
    link = kernel.link(device, target)
    if link is None:
        raise TryAgainLater(f"the network device of {device} vanished during the move", hint="was its driver rebound?")
    for name, value in attributes.items():
        _refusing(f"{name} {value}", kernel.change, link, target, **{name: value})


def _present(kernel: Kernel, attachment: VfAttachment, netns: Netns) -> Link:
    link = kernel.link(attachment.device, netns)
    if link is None:
        raise TryAgainLater(f"the network device of {attachment.device} left the pod", hint="was its driver rebound?")
    return link


def _set_mac(kernel: Kernel, link: Link, netns: Netns | None, mac: str) -> None:
    """Gives the network device its effective MAC address, in the way that the driver takes it.

    igb and its kin refuse a VF's own change once the PF has set an address, even to the same one; such a VF adopts
    the PF's address when it goes down. Others (mlx5) never adopt it and want it set; others (iavf) adopt it late.
    """
    refusal = ""
    for _ in range(_MAC_TRIES):
        try:
            kernel.change(link, netns, mac=mac)
        except NetlinkError as error:
            refusal = error.reason
        else:
            return
        _refusing(f"link up and down for mac {mac}", _up_and_down, kernel, link, netns)
        current = kernel.named(link.name, netns)
        if current is not None and current.mac == mac:
            return
    raise KernelRefused(f"mac {mac}: the driver of {link.name} refused: {refusal}", hint="most drivers take it with trust: on")


def _up_and_down(kernel: Kernel, link: Link, netns: Netns | None) -> None:
    kernel.change(link, netns, up=True)
    kernel.change(link, netns, up=False)


def detach(kernel: Kernel, attachment: VfAttachment, vf: Vf, netns: Netns | None, log: Log) -> None:
    """Brings the VF home and restores what was found, whatever of it is changed. Every step runs, also after a failure.

    Raises `TryAgainLater` with all differences when the VF is not home and as it was.
    """
    run_all(
        lambda: _restore_settings(kernel, attachment, vf),
        lambda: _restore_macs(kernel, attachment, vf, netns),
        lambda: _bring_home(kernel, attachment, netns, log),
        lambda: _restore_netdev(kernel, attachment),
    )
    left = _not_restored(kernel, attachment, log)
    if left:
        raise TryAgainLater(
            f"VF {attachment.device} is not as it was before the attachment: {'; '.join(left)}",
            hint="every ADD and DEL tries again",
        )


def _restore_settings(kernel: Kernel, attachment: VfAttachment, vf: Vf) -> None:
    wanted = plan.restoration(attachment)
    run_all(*[_setting(kernel, vf, name, wanted) for name in plan.changes(wanted, vf.settings)])


def _setting(kernel: Kernel, vf: Vf, name: str, wanted: VfSettings) -> Callable[[], None]:
    return lambda: kernel.set_vf(vf, name, wanted)


def _bring_home(kernel: Kernel, attachment: VfAttachment, netns: Netns | None, log: Log) -> None:
    if kernel.link(attachment.device, None) is not None:
        return
    if netns is None:
        return
    link = kernel.link(attachment.device, netns)
    if link is None:
        return
    _refusing("deletion of stacked devices", kernel.remove_stacked, link, netns)
    attributes = {"name": attachment.netdev.name, "mtu": attachment.netdev.mtu, "alias": attachment.netdev.alias}
    try:
        # The move sets the link down, and a VF that its PF gave an address adopts the PF's address then.
        kernel.move(link, netns, None, **attributes)
    except NetlinkError as error:
        log.debug(f"move home in one step: {error.reason}")
        _move_home_stepwise(kernel, attachment, netns, attributes, log)


def _move_home_stepwise(
    kernel: Kernel, attachment: VfAttachment, netns: Netns | None, attributes: dict[str, Any], log: Log
) -> None:
    # Another device may have the name by now; under this pattern the kernel finds a free one.
    waiting = kernel.link(attachment.device, netns)
    if waiting is not None and kernel.named(attachment.netdev.name, None) is not None:
        _refusing("move between network namespaces", kernel.move, waiting, netns, None, name="dev%d")
    elif waiting is not None:
        _refusing("move between network namespaces", kernel.move, waiting, netns, None)
    log.debug(f"{attachment.device} moved home; {sorted(attributes)} follow")


def _restore_macs(kernel: Kernel, attachment: VfAttachment, vf: Vf, netns: Netns | None) -> None:
    """Restores the PF's, the effective and the permanent MAC address, where any of them is not as found.

    This happens where the VF is: in the pod it may go up and down without anything on the host taking notice.
    """
    found, place = attachment.netdev, None
    link = kernel.link(attachment.device, None)
    if link is None and netns is not None:
        place, link = netns, kernel.link(attachment.device, netns)
    admin = kernel.vf(attachment.device).settings.mac
    if link is None or (admin, link.mac, link.permanent) == (attachment.found.mac or admin, found.mac, found.permanent):
        return
    _down(kernel, link, place)
    _free_admin_mac(kernel, vf)
    # Going down, the VF may have adopted the PF's address as its effective and its permanent one: look again.
    _restore_netdev_macs(kernel, kernel.link(attachment.device, place) or link, place, found, vf)
    if attachment.found.mac and kernel.vf(attachment.device).settings.mac != attachment.found.mac:
        kernel.set_vf(vf, "mac", VfSettings(mac=attachment.found.mac))


def _free_admin_mac(kernel: Kernel, vf: Vf) -> None:
    # igb keeps a hidden flag "set by the PF", which refuses the VF's own changes for ever; the zero address clears it.
    # Some drivers (bnx2x) know no zero address; they have no such flag either.
    try:
        kernel.set_vf(vf, "mac", VfSettings(mac=NO_MAC))
    except KernelRefused:
        return


def _restore_netdev_macs(kernel: Kernel, link: Link, place: Netns | None, found: Netdev, vf: Vf) -> None:
    first = found.permanent or found.mac
    if link.mac == first:
        # The kernel does not pass on an address that the link has already, so the PF would not hear of it.
        _try_mac(kernel, link, place, vf, random_mac())
    _try_mac(kernel, link, place, vf, first)
    if link.permanent != found.permanent:
        # igbvf takes the PF's view, which followed the line above, as its permanent address when it goes down.
        _up_and_down(kernel, link, place)
    if first != found.mac:
        _try_mac(kernel, link, place, vf, found.mac)


def _try_mac(kernel: Kernel, link: Link, place: Netns | None, vf: Vf, mac: str) -> None:
    try:
        kernel.change(link, place, mac=mac)
    except NetlinkError:
        # The driver lets only the PF set it; a VF that goes down adopts the PF's.
        kernel.set_vf(vf, "mac", VfSettings(mac=mac))
        _set_mac(kernel, link, place, mac)


def random_mac() -> str:
    """A random unicast, locally administered MAC address."""
    octets = bytearray(os.urandom(6))
    octets[0] = octets[0] & 0xFC | 0x02
    return octets.hex(":")


def _down(kernel: Kernel, link: Link, place: Netns | None) -> None:
    if link.up:
        kernel.change(link, place, up=False)


def _restore_netdev(kernel: Kernel, attachment: VfAttachment) -> None:
    link, found = kernel.link(attachment.device, None), attachment.netdev
    if link is None:
        return
    steps: list[Callable[[], None]] = []
    holder = kernel.named(found.name, None)
    if link.name != found.name and (holder is None or holder.index == link.index):
        steps.append(lambda: _refusing(f"name {found.name}", _rename, kernel, link, found.name))
    if link.mtu != found.mtu:
        steps.append(lambda: _refusing(f"mtu {found.mtu}", kernel.change, link, None, mtu=found.mtu))
    if link.alias != found.alias:
        steps.append(lambda: _refusing("alias", kernel.change, link, None, alias=found.alias))
    if set(link.altnames) != set(found.altnames):
        steps.append(lambda: _refusing("altnames", kernel.set_altnames, link, None, found.altnames))
    steps.append(lambda: _refusing("link state", kernel.change, link, None, up=found.up))
    run_all(*steps)


def _rename(kernel: Kernel, link: Link, name: str) -> None:
    if name in link.altnames:
        kernel.set_altnames(link, None, tuple(other for other in link.altnames if other != name))
    _down(kernel, link, None)
    kernel.change(link, None, name=name)


def _not_restored(kernel: Kernel, attachment: VfAttachment, log: Log) -> list[str]:
    vf = kernel.vf(attachment.device)
    left = plan.differences(plan.restoration(attachment), vf.settings)
    if vf.link is None:
        # A VF that has another driver by now has no network device to restore; any other is still away.
        return left if vf.driver != attachment.driver else [*left, "its network device is not back on the host"]
    found = attachment.netdev
    for name in ("mac", "permanent", "mtu", "up"):
        if getattr(vf.link, name) != getattr(found, name):
            left.append(f"{name} is {getattr(vf.link, name)}, was {getattr(found, name)}")
    if vf.link.name != found.name:
        log.warning(f"{attachment.device} is back as {vf.link.name}: {found.name} is another device's name now")
    return left


def _refusing(what: str, action: Callable[..., object], *args: Any, **kwargs: Any) -> None:
    try:
        action(*args, **kwargs)
    except NetlinkError as error:
        hint = "the driver does not take this value" if error.errno in (errno.EINVAL, errno.ERANGE) else ""
        raise KernelRefused(f"{what}: the kernel refused: {error.reason}", hint=hint) from error
