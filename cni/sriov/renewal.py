"""Removes the changes that a pod left on its device, before another pod can get the device.

A pod with CAP_NET_ADMIN can stack a link on its device and move that link to another namespace, from where it continues
to use the device. It can attach an XDP program, and change offloads, queues and limits. A new network device has none
of these changes. So the device's driver is unbound and bound again if a change cannot be undone by a setting, and if
the device could not be inspected (docs/adr/0025-what-a-pod-leaves-on-its-device.md).
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
"""Parts of a tuning that no setting can undo."""

RESET_SECONDS = 3.0
"""Time limit for a driver that resets the VF after its VLAN was removed: i40e needs up to two seconds."""

_PAUSE = 0.05


class RenewalRules(Value):
    """The conditions under which a device gets a new network device.

    `untouched`: no pod can have used it yet, so it may be on the host. `always`: the node's administrator does not rely
    on inspections. `later`: this call has no time for it.
    """

    untouched: bool = False
    always: bool = False
    later: bool = False


NO_RULES = RenewalRules()


def renew(kernel: Kernel, attachment: DeviceAttachment, log: Log, rules: RenewalRules, *, alone: bool) -> str:
    """Rebinds the driver if necessary. Returns the network device that has been inspected; empty if there is none.

    `alone`: the device returned to the host by itself. The caller restores name, addresses, flags and tuning of the
    network device that the driver creates. Raises `CniError`.
    """
    if _link(kernel, attachment) is None:
        return ""
    reasons = _reasons(kernel, attachment, rules, alone=alone)
    if reasons:
        _rebind(kernel, attachment, log, rules, reasons)
    return kernel.netdev_instance(attachment.device)


def unfit_tuning(kernel: Kernel, attachment: DeviceAttachment, rules: RenewalRules) -> list[str]:
    """Restores the found tuning. Returns the parts that the device does not accept.

    The PF's settings are restored first: iavf disables offloads of VLANs on a VF while its PF has set a VLAN for it,
    and enables them after the reset of the VF that follows.
    """
    resets = attachment.settings.vlan is not None and not rules.later
    deadline = time.monotonic() + (RESET_SECONDS if resets else 0)
    while (left := _tune(kernel, attachment)) and time.monotonic() < deadline:
        time.sleep(_PAUSE)  # no event reports that a driver has finished its reset
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
    """Rebinds the driver for a tuning that the device does not accept. Returns whether it did.

    A network device that is already new is not replaced again.
    """
    if kernel.netdev_instance(attachment.device) != attachment.netdev_instance:
        log.warning(f"{attachment.device} has a new network device, but not as it was: {'; '.join(unfit)}")
        return False
    _rebind(kernel, attachment, log, rules, unfit)
    return True


def different(found: dict[str, str], present: dict[str, str]) -> dict[str, str]:
    """The parts of a tuning that differ from the found ones, with the found values."""
    return {name: value for name, value in found.items() if present.get(name) != value and name not in TENANTS}


def _link(kernel: Kernel, attachment: DeviceAttachment) -> Link | None:
    """The network device of a device on the host with its former driver."""
    at_home = attachment.netdev is not None and kernel.driver(attachment.device) == attachment.driver
    return kernel.link(attachment.device, None) if at_home else None


def _reasons(kernel: Kernel, attachment: DeviceAttachment, rules: RenewalRules, *, alone: bool) -> list[str]:
    """The reasons why the device needs a new network device; empty if it does not."""
    present, link = kernel.netdev_instance(attachment.device), kernel.link(attachment.device, None)
    if link is None or attachment.netdev_instance not in ("", present):
        return []  # It has a new one already.
    if attachment.looked and attachment.looked == present:
        return []  # An earlier removal has inspected it, and failed for another reason.
    if alone and not rules.untouched:
        return ["it came home by itself"]
    if rules.always and not rules.untouched:
        return ["the node's configuration requires it"]
    tuning = kernel.tuning(link)
    found = [what for name, what in TENANTS.items() if _number(tuning[name]) > _number(attachment.tuning.get(name, ""))]
    return found + [f"{one} is stacked on it" for one in kernel.stacked(link)]


def _number(text: str) -> int:
    """The number; 0 if a damaged record contains none."""
    return int(text) if text.isascii() and text.isdecimal() else 0


def _rebind(kernel: Kernel, attachment: DeviceAttachment, log: Log, rules: RenewalRules, reasons: list[str]) -> None:
    device = attachment.device
    if rules.later:
        raise TryAgainLater(f"its driver has to be bound again, which takes too long here: {'; '.join(reasons)}")
    log.info(f"rebinding {device} to {attachment.driver}: {'; '.join(reasons)}")
    override = kernel.device(device).driver_override  # an administrator may have changed it since it was found
    kernel.bind(device, "", override)
    kernel.bind(device, attachment.driver, override)
