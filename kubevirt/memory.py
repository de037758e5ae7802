"""Memory that the vswitch can map. Without it, the guest starts, but its interface has no link and no error. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.errors import InvalidConfig
from kubevirt.markup import tag

if TYPE_CHECKING:
    from kubevirt.machine import Machine
    from kubevirt.markup import Document, Element

MEMFD_ANNOTATION = "kubevirt.io/memfd"
"""With `false`, KubeVirt uses hugetlbfs instead of memfd for huge pages, which can be shared as well."""
_SHARED = {"mode": "shared"}
_SHAREABLE = ("memfd", "file")


def share(document: Document, machine: Machine) -> None:
    """Notes the changes that make all memory of the domain shared. Raises `InvalidConfig` if that is impossible."""
    root = document.root
    if root.first("launchSecurity") is not None:
        raise InvalidConfig(
            "launchSecurity: the vswitch cannot read the memory of a confidential machine",
            hint="give such a machine no vhost-user interface",
        )
    backing = root.first("memoryBacking")
    if backing is None:
        _add_backing(document, machine)
    else:
        _complete(document, backing, machine)
    for cell in root.all("cpu", "numa", "cell"):
        _share_cell(document, cell)
    for device in root.all("devices", "memory"):
        _require_shared(device, "access", "devices/memory")


def _add_backing(document: Document, machine: Machine) -> None:
    place = document.root.first("currentMemory") or document.root.first("memory")
    if place is None:
        indent = document.child_indent(document.root)
        document.put_first(document.root, [tag("memoryBacking", inner=_parts(None, machine), indent=indent)])
        return
    indent = document.indent(place)
    document.put_after(place, tag("memoryBacking", inner=_parts(None, machine), indent=indent), indent)


def _complete(document: Document, backing: Element, machine: Machine) -> None:
    source, access = backing.first("source"), backing.first("access")
    if source is not None and source.attributes.get("type") not in _SHAREABLE:
        raise InvalidConfig(f"memoryBacking: memory of source {source.attributes.get('type')} cannot be shared")
    if access is not None:
        _require_shared(access, "mode", "memoryBacking/access")
    document.put_first(backing, _parts(backing, machine))


def _parts(backing: Element | None, machine: Machine) -> list[bytes]:
    """The elements that are missing."""
    missing = {name for name in ("source", "access") if backing is None or backing.first(name) is None}
    # The user can choose huge pages without memfd: their files are shared too.
    if backing is not None and backing.first("hugepages") is not None:
        missing -= {"source"} if machine.metadata.annotations.get(MEMFD_ANNOTATION) == "false" else set()
    parts = {"source": tag("source", {"type": "memfd"}), "access": tag("access", _SHARED)}
    return [part for name, part in parts.items() if name in missing]


def _share_cell(document: Document, cell: Element) -> None:
    if "memAccess" in cell.attributes:
        _require_shared(cell, "memAccess", "cpu/numa/cell")
    else:
        document.add_attribute(cell, "memAccess", "shared")


def _require_shared(element: Element, attribute: str, where: str) -> None:
    if element.attributes.get(attribute, "shared") != "shared":
        raise InvalidConfig(
            f"{where}: {attribute} {element.attributes[attribute]} keeps the vswitch from the guest's memory",
            hint="another hook of the machine has set it",
        )
