"""Rids a device that has come home of what its pod left on it, before anybody else can get it.

A pod with CAP_NET_ADMIN can stack a link on its device and move that link to another namespace, from where it goes on
using the device; it can attach an XDP program, and change offloads, queues and limits. A new network device has nothing
of all that: the device's driver is unbound and bound again whenever something is there that no setting takes back, and
whenever nobody could look (docs/adr/0025-what-a-pod-leaves-on-its-device.md).
"""

from __future__ import annotations

import time

from cni.errors import CniError, TryAgainLater
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.host.netlink import Link
    from cni.log import Log
    from cni.sriov.kernel import Kernel
    from cni.sriov.model import DeviceAttachment

TENANTS = {"xdp": "an XDP program is attached to it", "promiscuity": "something wants it promiscuous"}
"""Parts of a tuning that no setting takes back."""

RESET_SECONDS = 3.0
"""Bound for a driver that resets the VF after its VLAN has gone: i40e takes up to two seconds."""

_PAUSE = 0.05


class RenewalRules(Value):
    """When a device gets a new network device.

    `untouched`: nobody can have used it yet, so that it may be at home. `always`: the node's administrator trusts no
    look. `later`: this call has no time for it.
    """

    untouched: bool = False
    always: bool = False
    later: bool = False


NO_RULES = RenewalRules()


def renew(kernel: Kernel, attachment: DeviceAttachment, log: Log, rules: RenewalRules, *, alone: bool) -> str:
    """Rebinds the driver if it has to be; which network device has been looked at, empty without any to look at.

    `alone`: the device is home without us. The name, addresses, flags and tuning of the network device that the driver
    makes are for the caller to restore. Raises `CniError`.
    """
    if _link(kernel, attachment) is None:
        return ""
    reasons = _reasons(kernel, attachment, rules, alone=alone)
    if reasons:
        _rebind(kernel, attachment, log, rules, reasons)
    return kernel.netdev_instance(attachment.device)


def unfit_tuning(kernel: Kernel, attachment: DeviceAttachment, rules: RenewalRules) -> list[str]:
    """Puts back the tuning that was found; what of it the device does not take.

    The PF's settings come first: iavf takes offloads of VLANs off a VF as long as its PF has given it a VLAN, and allows
    them again after the reset of the VF that follows.
    """
    resets = attachment.settings.vlan is not None and not rules.later
    deadline = time.monotonic() + (RESET_SECONDS if resets else 0)
    while (left := _tune(kernel, attachment)) and time.monotonic() < deadline:
        time.sleep(_PAUSE)  # no event tells when a driver has finished its reset
    return left


def _tune(kernel: Kernel, attachment: DeviceAttachment) -> list[str]:
    link = _link(kernel, attachment)
    if link is None or not attachment.tuning:
        return []
    try:
        wanted = different(attachment.tuning, kernel.tuning(link))
        if not wanted:
            return []
        kernel.tune(link, wanted)
        left = different(wanted, kernel.tuning(link))
    except CniError as failure:
        return [failure.msg]
    return [f"{name} is not {value} as it was" for name, value in left.items()]


def renew_for(kernel: Kernel, attachment: DeviceAttachment, log: Log, rules: RenewalRules, unfit: list[str]) -> bool:
    """Rebinds the driver for a tuning that the device does not take; whether it has: a new network device gets no newer one."""
    if kernel.netdev_instance(attachment.device) != attachment.netdev_instance:
        log.warning(f"{attachment.device} has a new network device, but not as it was: {'; '.join(unfit)}")
        return False
    _rebind(kernel, attachment, log, rules, unfit)
    return True


def different(found: dict[str, str], present: dict[str, str]) -> dict[str, str]:
    """The parts of a tuning that are not as found, with the values found."""
    return {name: value for name, value in found.items() if present.get(name) != value and name not in TENANTS}


def _link(kernel: Kernel, attachment: DeviceAttachment) -> Link | None:
    """The network device of a device that is home, with the driver that it had."""
    at_home = attachment.netdev is not None and kernel.driver(attachment.device) == attachment.driver
    return kernel.link(attachment.device, None) if at_home else None


def _reasons(kernel: Kernel, attachment: DeviceAttachment, rules: RenewalRules, *, alone: bool) -> list[str]:
    """Why the device needs a new network device; empty when it does not."""
    present, link = kernel.netdev_instance(attachment.device), kernel.link(attachment.device, None)
    if link is None or attachment.netdev_instance not in ("", present):
        return []  # It has got one since.
    if attachment.looked and attachment.looked == present:
        return []  # An earlier try has looked, and what hindered it was something else.
    if alone and not rules.untouched:
        return ["it came home by itself"]
    if rules.always and not rules.untouched:
        return ["the node's configuration requires it"]
    tuning = kernel.tuning(link)
    found = [what for name, what in TENANTS.items() if _number(tuning[name]) > _number(attachment.tuning.get(name, ""))]
    return found + [f"{one} is stacked on it" for one in kernel.stacked(link)]


def _number(text: str) -> int:
    """0 for what a damaged record has in the place of a number."""
    return int(text) if text.isascii() and text.isdecimal() else 0


def _rebind(kernel: Kernel, attachment: DeviceAttachment, log: Log, rules: RenewalRules, reasons: list[str]) -> None:
    device = attachment.device
    if rules.later:
        raise TryAgainLater(f"its driver is to be bound anew, which takes too long here: {'; '.join(reasons)}")
    log.info(f"rebinding {device} to {attachment.driver}: {'; '.join(reasons)}")
    override = kernel.device(device).driver_override  # an administrator may have changed it since it was found
    kernel.bind(device, "", override)
    kernel.bind(device, attachment.driver, override)
