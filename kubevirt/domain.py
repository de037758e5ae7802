"""The change of the domain, from text to text: each interface of our binding becomes one of type vhostuser. Pure.

virt-launcher calls its hooks again with the domain that it has read back from libvirt. Its schema has dropped the
socket's path and the sizes of the queues by then. So each call builds the interface again from the machine. It keeps
only the address on the guest's bus, which libvirt has assigned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.errors import InvalidConfig
from kubevirt import guest_mtu
from kubevirt.markup import Document, tag
from kubevirt.memory import share
from kubevirt.port import ABSENT, ports

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubevirt.machine import Machine
    from kubevirt.markup import Element
    from kubevirt.port import Port, Sight

QUEUE_SIZE = 1024
"""QEMU's maximum. With the default, 256, bursts of a DPDK program lose packets."""

_ALIAS = "ua-"
"""The prefix that libvirt requires of aliases of its users; KubeVirt adds the network's name."""


def change(text: bytes, machine: Machine, binding: str, sight: Sight) -> bytes:
    """The domain for libvirt. Raises `InvalidConfig` if the machine's interfaces cannot work."""
    if not machine.of_binding(binding):
        return text
    document = Document(text)
    devices = _devices(document)
    present = _present(devices)
    # An absent interface may have lost its network too. It is not added again.
    bound = [each for each in machine.of_binding(binding) if each.state != ABSENT or each.name in present]
    if not bound:
        return text
    wanted = ports(machine, bound, sight, _macs(present), _vcpus(document.root))
    share(document, machine)
    guest_mtu.offer(document, {_ALIAS + port.network: port.mtu for port in wanted})
    _put(document, devices, wanted, present, [each.name for each in machine.spec.domain.devices.interfaces])
    return document.changed()


def sockets(text: bytes, machine: Machine, binding: str) -> dict[str, str]:
    """The paths of the sockets in a domain that `change` has returned, by the names of their networks."""
    if not machine.of_binding(binding):
        return {}
    present = _present(_devices(Document(text)))
    sources = {
        each.name: present[each.name].first("source") for each in machine.of_binding(binding) if each.name in present
    }
    return {name: source.attributes["path"] for name, source in sources.items() if source}


def interface(port: Port, address: bytes = b"", indent: bytes = b"") -> bytes:
    """The element. `address` is the existing `<address>` element on the guest's bus, or empty."""
    queues = {} if port.queues is None else {"queues": port.queues}
    sizes = {"rx_queue_size": QUEUE_SIZE, "tx_queue_size": QUEUE_SIZE}
    parts = [
        tag("mac", {"address": port.mac}),
        tag("source", {"type": "unix", "path": port.path, "mode": "server"}),
        tag("target", {"dev": port.ifname}),
        tag("model", {"type": port.model}),
        tag("driver", {"name": "vhost", **queues, **sizes}),
        *([tag("boot", {"order": port.boot_order})] if port.boot_order is not None else []),
        *([tag("link", {"state": "down"})] if port.link_down else []),
        tag("alias", {"name": _ALIAS + port.network}),
        *([] if port.option_rom else [tag("rom", {"enabled": "no"})]),
        *([tag("acpi", {"index": port.acpi_index})] if port.acpi_index else []),
        *([address] if address else _wanted_address(port)),
    ]
    return tag("interface", {"type": "vhostuser"}, parts, indent)


def _wanted_address(port: Port) -> list[bytes]:
    if not port.pci_address:
        return []
    domain, bus, rest = port.pci_address.split(":")
    slot, function = rest.split(".")
    place = {"domain": domain, "bus": bus, "slot": slot, "function": function}
    return [tag("address", {"type": "pci", **{key: f"0x{value}" for key, value in place.items()}})]


def _devices(document: Document) -> Element:
    devices = document.root.first("devices")
    if document.root.name != "domain" or devices is None:
        raise InvalidConfig("the text from virt-launcher is no domain with devices")
    return devices


def _present(devices: Element) -> dict[str, Element]:
    """The interfaces by the names of their networks."""
    found: dict[str, Element] = {}
    for element in devices.all("interface"):
        alias = element.first("alias")
        name = alias.attributes.get("name", "") if alias else ""
        if name.startswith(_ALIAS):
            found[name.removeprefix(_ALIAS)] = element
    return found


def _macs(present: Mapping[str, Element]) -> dict[str, str]:
    macs = {name: element.first("mac") for name, element in present.items()}
    return {name: mac.attributes.get("address", "") for name, mac in macs.items() if mac}


def _vcpus(root: Element) -> int:
    text = vcpu.text.strip() if (vcpu := root.first("vcpu")) else ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0


def _put(
    document: Document, devices: Element, wanted: list[Port], present: Mapping[str, Element], order: list[str]
) -> None:
    """Puts each one in the place of its predecessor, or behind the interface that precedes it in the machine."""
    for port in wanted:
        if old := present.get(port.network):
            address = old.first("address")
            kept = document.bytes_of(address) if address else b""
            document.replace(old.start, old.end, interface(port, kept, document.indent(old)))
    first = devices.first("interface")
    homeless: list[Port] = []
    for port in wanted:
        if port.network in present:
            continue
        before = [present[name] for name in order[: order.index(port.network)] if name in present]
        if behind := max(before, key=lambda element: element.start, default=None):
            indent = document.indent(behind)
            document.put_after(behind, interface(port, indent=indent), indent)
        elif first:
            document.put_before(first, interface(port, indent=document.indent(first)))
        else:
            homeless.append(port)
    _put_into_empty(document, devices, homeless)


def _put_into_empty(document: Document, devices: Element, wanted: list[Port]) -> None:
    """Puts them behind the emulator, where KubeVirt writes interfaces, or before all devices."""
    if emulator := devices.first("emulator"):
        indent = document.indent(emulator)
        for port in wanted:
            document.put_after(emulator, interface(port, indent=indent), indent)
    else:
        indent = document.child_indent(devices)
        document.put_first(devices, [interface(port, indent=indent) for port in wanted])
