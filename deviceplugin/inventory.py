"""Looks at the PCI functions of the host, through sysfs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from deviceplugin.function import Function, Inventory

if TYPE_CHECKING:
    from cni.host.sysfs import Sysfs
    from cni.pci import PciAddress

_LINK_TYPES = {"1": "ether", "32": "infiniband"}
"""The kernel's numbers (ARPHRD_*) and the names that sriov-network-device-plugin's configurations have for them."""


def scan(sysfs: Sysfs) -> Inventory:
    """All functions as they are now. One that vanishes meanwhile is left out."""
    found = [_function(sysfs, address) for address in sysfs.addresses()]
    return Inventory(functions={function.address: function for function in found if function.vendor})


def _function(sysfs: Sysfs, address: PciAddress) -> Function:
    pf = sysfs.physfn(address)
    netdevs = tuple(sysfs.netdevs(address))
    pf_name = (sysfs.uplink(pf) or "") if pf else ""
    return Function(
        address=address,
        pci_class=_hex(sysfs, address, "class"),
        vendor=_hex(sysfs, address, "vendor"),
        device=_hex(sysfs, address, "device"),
        subsystem=":".join(_hex(sysfs, address, name) for name in ("subsystem_vendor", "subsystem_device")),
        driver=sysfs.driver(address),
        override=sysfs.override(address),
        instance=sysfs.instance(address),
        group=sysfs.iommu_group(address),
        numa=_number(sysfs.text(address, "numa_node")),
        root=_root(sysfs.place(address)),
        pf=pf or "",
        pf_name=pf_name,
        vf_index=-1 if pf is None else _index(sysfs.vf_index(pf, address)),
        vfs=tuple(sysfs.vfs(address)),
        most_vfs=sysfs.number(address, "sriov_totalvfs"),
        netdevs=netdevs,
        link_type=_LINK_TYPES.get(sysfs.link_text(netdevs[0], "type"), "") if netdevs else "",
        carrier=_carrier(sysfs, pf_name or next(iter(netdevs), "")),
        rdma=tuple(sysfs.names(address, "infiniband")),
        rdma_nodes=_rdma_nodes(sysfs, address),
        uio=next(iter(sysfs.names(address, "uio")), ""),
        vfio=next(iter(sysfs.names(address, "vfio-dev")), ""),
        acpi_index=sysfs.text(address, "acpi_index"),
        boot_vga=sysfs.text(address, "boot_vga") == "1",
    )


def _rdma_nodes(sysfs: Sysfs, address: PciAddress) -> tuple[str, ...]:
    names = (*sysfs.names(address, "infiniband_verbs"), *sysfs.names(address, "infiniband_mad"))
    return tuple(name for name in names if name.startswith(("uverbs", "umad", "issm")))


def _carrier(sysfs: Sysfs, netdev: str) -> bool | None:
    # A link that is down does not answer: it has no carrier as well.
    if not netdev or not sysfs.link_text(netdev, "operstate"):
        return None
    return sysfs.link_text(netdev, "carrier") == "1"


def _hex(sysfs: Sysfs, address: PciAddress, attribute: str) -> str:
    return sysfs.text(address, attribute).removeprefix("0x").lower()


def _number(text: str) -> int:
    return int(text) if text.lstrip("-").isdigit() else -1


def _index(number: int | None) -> int:
    return -1 if number is None else number


def _root(place: str) -> str:
    return next((part for part in place.split(os.sep) if part.startswith("pci") and ":" in part), "")
