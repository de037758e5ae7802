"""CHECK: the differences from the state that ADD made, one line each."""

from __future__ import annotations

from cni.attachment import device_info
from cni.host.addressing import gateways, network, resolved
from cni.host.netlink import IFF_ALLMULTI, IFF_PROMISC
from cni.sriov import model, plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cni.attachment.record import Record
    from cni.host.netlink import InterfaceRoute, Link
    from cni.host.netns import Netns
    from cni.host.vf_settings import VfSettings
    from cni.protocol.request import Request
    from cni.protocol.result import Interface, Result, Route
    from cni.sriov.kernel import Kernel

_FLAGS = {IFF_PROMISC: "promisc", IFF_ALLMULTI: "allmulticast"}


def drift(kernel: Kernel, request: Request, record: Record, netns: Netns) -> list[str]:
    """Every difference between the kernel's state and the state that ADD made, as prevResult reports it now.

    The specification requires that CHECK allows for later plugins of the chain. So prevResult determines MAC address,
    IP addresses and routes. Routes may be in any table (sbr, vrf). The MTU is not compared: tuning changes it and
    leaves the old value in prevResult.
    """
    attachment = model.from_record(record)
    present = kernel.instance(attachment.device)
    if not present or attachment.instance not in (0, present):
        new = ", but another one at its address" if present else ""
        return [f"the host has no device {attachment.device} any more{new}"]
    device = kernel.device(attachment.device)
    here = netns.identity == record.netns_identity and not attachment.userspace
    link = kernel.link(attachment.device, netns) if here else None
    problems = plan.differences(_own_settings(request, attachment, link), device.settings)
    if record.device_info:
        document = device_info.pci(attachment.device, attachment.pf)
        problems += device_info.difference(record.device_info, document)
    if device.driver != attachment.expected_driver:
        return [*problems, f"the driver is {device.driver or 'none'}, not {attachment.expected_driver}"]
    if attachment.userspace:
        return problems
    if not here:
        return [*problems, f"{request.netns} is not the network namespace that the device was put into"]
    if link is None:
        return [*problems, f"{device.kind} {attachment.device} is not in the pod"]
    return [*problems, *_link_drift(kernel, request, attachment, link, netns)]


def _own_settings(request: Request, attachment: model.DeviceAttachment, link: Link | None) -> VfSettings:
    """The settings that no later plugin has changed. A PF follows the MAC address that its VF takes, also in a bond."""
    mine = request.previous_interface()
    changed = mine is not None and mine.mac and mine.mac.lower() != attachment.mac
    enslaved = link is not None and link.master
    return attachment.settings.replace(mac=None) if changed or enslaved else attachment.settings


def _link_drift(
    kernel: Kernel,
    request: Request,
    attachment: model.DeviceAttachment,
    link: Link,
    netns: Netns,
) -> Iterator[str]:
    previous, mine = request.prev_result(), request.previous_interface()
    if link.name != request.ifname:
        yield f"the interface is named {link.name}, not {request.ifname}"
    if not link.up:
        yield f"{link.name} is down"
    if not model.names_owner(link.alias, attachment.key):
        yield f"its alias is {link.alias!r}, not the mark of its owner"
    for flag, name in _FLAGS.items():
        if attachment.flags & flag and not link.flags & flag:
            yield f"{name} is off, not on"
    mac = (mine.mac if mine else "") or attachment.mac
    # A bond gives its members a MAC address, and its plugin cannot change their results.
    if mac and link.mac != mac.lower() and not link.master:
        yield f"mac is {link.mac}, not {mac}"
    if previous is not None and mine is not None:
        yield from _missing_addresses(kernel, previous, mine, link, netns)
        # A link that is down has no routes. That is one difference, not several.
        if link.up:
            yield from _missing_routes(kernel, previous, mine, link, netns)


def _missing_addresses(kernel: Kernel, previous: Result, mine: Interface, link: Link, netns: Netns) -> Iterator[str]:
    index = previous.interfaces.index(mine)
    present = {(one.address, one.prefix) for one in kernel.addresses(link, netns)}
    for ip in previous.ips:
        if ip.interface == index and network(ip.address, "prevResult.ips")[1:] not in present:
            yield f"address {ip.address} is missing"


def _missing_routes(kernel: Kernel, previous: Result, mine: Interface, link: Link, netns: Netns) -> Iterator[str]:
    """Routes do not show which interface they belong to: if the pod has other interfaces, routes are not checked."""
    others = [one for one in previous.interfaces if one.sandbox and one != mine]
    if others:
        return
    present = kernel.routes(link, netns)
    defaults = gateways(tuple(ip for ip in previous.ips if ip.gateway))
    for route in previous.routes:
        if not any(_is_same(route, one, defaults) for one in present):
            yield f"route {route.dst}{f' via {route.gw}' if route.gw else ''} is missing"


def _is_same(route: Route, present: InterfaceRoute, defaults: dict[int, bytes]) -> bool:
    wanted = resolved(route, defaults)
    if (wanted.family, wanted.prefix) != (present.family, present.prefix):
        return False
    if wanted.prefix and wanted.destination != present.destination:
        return False
    if wanted.gateway and wanted.gateway != present.gateway:
        return False
    return route.table is None or route.table == present.table
