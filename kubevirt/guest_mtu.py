"""The MTU that the guest is offered, as a property of its card. Pure.

libvirt has `<mtu>`, and sets it on a network device of the host as well. A vhost-user interface has none, so that libvirt (9.0 and
11.3 were tried) does not start the machine: "Cannot set interface MTU". QEMU's own property can be given beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.errors import InvalidConfig
from kubevirt.markup import step_of, tag

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubevirt.markup import Document, Element

NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
_PROPERTY = "host_mtu"


def offer(document: Document, mtus: Mapping[str, int]) -> None:
    """Notes the changes that give the cards of these aliases their MTUs. Raises `InvalidConfig`."""
    if not mtus:
        return
    override = document.root.first("qemu:override")
    if override is None:
        _add(document, mtus)
        return
    present = {device.attributes.get("alias", ""): device for device in override.all("qemu:device")}
    for alias, device in present.items():
        if alias in mtus:
            _require_ours(device, alias)
            document.replace(device.start, device.end, _device(alias, mtus[alias], document.indent(device)))
    indent = document.child_indent(override)
    missing = {alias: mtu for alias, mtu in mtus.items() if alias not in present}
    document.put_first(override, [_device(alias, mtu, indent) for alias, mtu in missing.items()])


def _add(document: Document, mtus: Mapping[str, int]) -> None:
    last = document.root.children[-1]
    indent = document.indent(last)
    inner = indent + step_of(indent) if indent else b""
    declared = document.root.attributes.get("xmlns:qemu") == NAMESPACE
    devices = [_device(alias, mtu, inner) for alias, mtu in mtus.items()]
    element = tag("qemu:override", {} if declared else {"xmlns:qemu": NAMESPACE}, devices, indent)
    document.put_after(last, element, indent)


def _device(alias: str, mtu: int, indent: bytes) -> bytes:
    inner = indent + step_of(indent) if indent else b""
    value = tag("qemu:property", {"name": _PROPERTY, "type": "unsigned", "value": mtu})
    return tag("qemu:device", {"alias": alias}, [tag("qemu:frontend", inner=[value], indent=inner)], indent)


def _require_ours(device: Element, alias: str) -> None:
    names = [each.attributes.get("name") for each in device.all("qemu:frontend", "qemu:property")]
    if names != [_PROPERTY]:
        raise InvalidConfig(f"qemu:override: another hook of the machine sets properties of {alias}")
