"""Rids a device that has come home of what its pod left on it, before anybody else can get it.

A pod with CAP_NET_ADMIN can stack a link on its device and move that link to another namespace, from where it goes on
using the device; it can attach an XDP program, and change offloads, queues and limits. A new network device has nothing
of all that: the device's driver is unbound and bound again whenever something is there that no setting takes back, and
whenever nobody could look (docs/adr/0025-what-a-pod-leaves-on-its-device.md).
"""

from __future__ import annotations

from cni.errors import CniError, TryAgainLater

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.host.netlink import Link
    from cni.log import Log
    from cni.ports import Kernel
    from cni.sriov.model import DeviceAttachment

TENANTS = {"xdp": "an XDP program is attached to it", "promiscuity": "something wants it promiscuous"}
"""Parts of a tuning that no setting takes back."""


def renew(kernel: Kernel, attachment: DeviceAttachment, log: Log, *, alone: bool, always: bool = False) -> None:
    """Rebinds the driver if it has to be, and puts back the tuning that was found. Repeating it is harmless.

    `alone`: the device came home without us. `always`: the node's administrator trusts no look. The driver and the name, addresses and flags of the network device that it
    makes are for the caller to restore. Raises `CniError`.
    """
    device = attachment.device
    link = kernel.link(device, None)
    if link is None or attachment.netdev is None or kernel.driver(device) != attachment.driver:
        return
    reasons = _reasons(kernel, attachment, link, alone, always)
    if reasons:
        _rebind(kernel, attachment, log, reasons)
    try:
        left = _tune(kernel, attachment)
    except CniError as failure:
        left = [failure.msg]
    if left and not reasons:
        _rebind(kernel, attachment, log, left)
        left = _tune(kernel, attachment)
    if left:
        log.warning(f"{device} has a new network device, but not as it was: {'; '.join(left)}")


def different(found: dict[str, str], present: dict[str, str]) -> dict[str, str]:
    """The parts of a tuning that are not as found, with the values found."""
    return {name: value for name, value in found.items() if present.get(name) != value and name not in TENANTS}


def _reasons(kernel: Kernel, attachment: DeviceAttachment, link: Link, alone: bool, always: bool) -> list[str]:
    """Why the device needs a new network device; empty when it does not."""
    if attachment.netdev_instance not in ("", kernel.netdev_instance(attachment.device)):
        return []  # It has got one since.
    if alone:
        return ["it came home by itself"]
    if always:
        return ["the node's configuration requires it"]
    present = kernel.tuning(link)
    found = [
        what for name, what in TENANTS.items() if _number(present[name]) > _number(attachment.tuning.get(name, ""))
    ]
    return found + [f"{one} is stacked on it" for one in kernel.stacked(link)]


def _number(text: str) -> int:
    """0 for what a damaged record has in the place of a number."""
    return int(text) if text.isascii() and text.isdecimal() else 0


def _rebind(kernel: Kernel, attachment: DeviceAttachment, log: Log, reasons: list[str]) -> None:
    device = attachment.device
    log.info(f"rebinding {device} to {attachment.driver}: {'; '.join(reasons)}")
    override = kernel.device(device).override
    kernel.bind(device, "", override)
    kernel.bind(device, attachment.driver, override)


def _tune(kernel: Kernel, attachment: DeviceAttachment) -> list[str]:
    """Puts back what differs; what differs still."""
    link = kernel.link(attachment.device, None)
    if link is None:
        raise TryAgainLater(f"{attachment.device} has no network device after its driver was bound again")
    wanted = different(attachment.tuning, kernel.tuning(link)) if attachment.tuning else {}
    if not wanted:
        return []
    kernel.tune(link, wanted)
    left = different(wanted, kernel.tuning(link))
    return [f"{name} is not {value} as it was" for name, value in left.items()]
