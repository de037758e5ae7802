"""The MTU of the guest, as a property of its card. Pure.

libvirt applies `<mtu>` to a network device of the host as well. A vhost-user interface has no such device, so libvirt
(tested: 9.0 and 11.3) does not start the machine: "Cannot set interface MTU". The property of QEMU needs none.
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


def offer(document: Document, wanted: Mapping[str, int | None]) -> None:
    """Notes the changes that set, or remove, the MTUs of the cards with these aliases. Raises `InvalidConfig`."""
    mtus = {alias: mtu for alias, mtu in wanted.items() if mtu is not None}
    override = document.root.first("qemu:override")
    if override is None:
        if mtus:
            _add(document, mtus)
        return
    devices = [each for each in override.all("qemu:device") if each.attributes.get("alias") in wanted]
    gone = [each for each in devices if each.attributes["alias"] not in mtus and _is_ours(each)]
    if gone and not mtus and len(gone) == len(override.children):
        gone = [override]
    for element in gone:
        document.replace(element.start - len(document.indent(element)), element.end, b"")
    _set(document, override, [each for each in devices if each.attributes["alias"] in mtus], mtus)


def _set(document: Document, override: Element, present: list[Element], mtus: Mapping[str, int]) -> None:
    for device in present:
        alias = device.attributes["alias"]
        if not _is_ours(device):
            raise InvalidConfig(f"qemu:override: another hook of the machine sets properties of {alias}")
        document.replace(device.start, device.end, _device(alias, mtus[alias], document.indent(device)))
    indent = document.child_indent(override)
    missing = mtus.keys() - {device.attributes["alias"] for device in present}
    document.put_first(override, [_device(alias, mtus[alias], indent) for alias in mtus if alias in missing])


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


def _is_ours(device: Element) -> bool:
    """Whether it contains only the property that this module writes."""
    frontend = device.children[0] if len(device.children) == 1 else None
    value = frontend.children[0] if frontend and len(frontend.children) == 1 else None
    return (
        frontend is not None
        and value is not None
        and device.attributes.keys() == {"alias"}
        and (frontend.name, frontend.attributes) == ("qemu:frontend", {})
        and (value.name, value.children) == ("qemu:property", [])
        and value.attributes.keys() == {"name", "type", "value"}
        and (value.attributes["name"], value.attributes["type"]) == (_PROPERTY, "unsigned")
    )
