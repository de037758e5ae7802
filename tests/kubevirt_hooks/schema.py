"""KubeVirt's own schema of a domain: the parts that virt-launcher keeps when it reads a domain back, and their form.

Go's encoder writes no empty tags, and writes the fields of a structure in its order; unknown elements are dropped.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape, quoteattr

# An interface: its children in order, with their attributes. A socket's type and path and queue sizes are missing.
INTERFACE = {
    "address": ("type", "domain", "bus", "slot", "function"),
    "source": ("network", "dev", "bridge", "mode"),
    "target": ("dev", "managed"),
    "model": ("type",),
    "mac": ("address",),
    "mtu": ("size",),
    "boot": ("order",),
    "link": ("state",),
    "alias": ("name",),
    "driver": ("name", "queues", "iommu"),
    "rom": ("enabled",),
    "acpi": ("index",),
    "backend": ("type", "logFile"),
    "portForward": ("proto", "address", "dev"),
}
MEMORY_BACKING = {
    "hugepages": (),
    "source": ("type",),
    "access": ("mode",),
    "allocation": ("mode",),
    "nosharepages": (),
}
CELL = ("id", "cpus", "memory", "unit", "memAccess")
FIRST_SLOT = 1


def read_back(domain: bytes) -> bytes:
    """The domain of the second pass: libvirt has given each interface an address, and KubeVirt has read and rewritten
    it.
    """
    root = ET.fromstring(domain)
    for slot, interface in enumerate(root.findall("devices/interface"), FIRST_SLOT):
        if interface.find("address") is None:
            place = {"type": "pci", "domain": "0x0000", "bus": f"0x{slot:02x}", "slot": "0x00", "function": "0x0"}
            ET.SubElement(interface, "address", place)
        _keep(interface, INTERFACE)
    for backing in root.findall("memoryBacking"):
        _keep(backing, MEMORY_BACKING)
    for cell in root.findall("cpu/numa/cell"):
        cell.attrib = {name: cell.attrib[name] for name in CELL if name in cell.attrib}
    # Of QEMU's own elements the schema has only the command line.
    for override in root.findall("{http://libvirt.org/schemas/domain/qemu/1.0}override"):
        root.remove(override)
    return written(root)


def written(element: ET.Element, indent: str = "", space: str = "") -> bytes:
    """The element as Go's `xml.MarshalIndent` with tabs writes it. `space` is the namespace around it."""
    own, _, name = element.tag.rpartition("}")
    named = {"xmlns": own[1:]} if own != space else {}
    attributes = "".join(f" {key}={quoteattr(value)}" for key, value in {**named, **element.attrib}.items())
    inside = escape((element.text or "").strip()).encode()
    for child in element:
        inside += f"\n{indent}\t".encode() + written(child, f"{indent}\t", own)
    if len(element):
        inside += f"\n{indent}".encode()
    return f"<{name}{attributes}>".encode() + inside + f"</{name}>".encode()


def _keep(element: ET.Element, fields: dict[str, tuple[str, ...]]) -> None:
    children = [child for name in fields for child in element.findall(name)]
    for child in children:
        child.attrib = {name: child.attrib[name] for name in fields[child.tag] if name in child.attrib}
    element[:] = children
