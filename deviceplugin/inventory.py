"""Looks at the PCI functions of the host, through sysfs.

A host can have thousands, and is looked at after each of its events. So what a function cannot change in its life is read once,
and folders that its kind does not have are not looked for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cni.host.drivers import gives_to_user_space
from cni.value import Value
from deviceplugin.function import NETWORK, Function, Inventory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.host.sysfs import Sysfs
    from cni.pci import PciAddress

_LINK_TYPES = {"1": "ether", "32": "infiniband"}
"""The kernel's numbers (ARPHRD_*) and the names that sriov-network-device-plugin's configurations have for them."""


class Scanner:
    """Looks again and again."""

    def __init__(self, sysfs: Sysfs) -> None:
        self._sysfs = sysfs
        self._known: Mapping[str, Function] = {}

    def scan(self) -> Inventory:
        """All functions as they are now. One that vanishes meanwhile is left out."""
        parents: dict[PciAddress, _Parent] = {}
        found = [self._function(address, parents) for address in self._sysfs.addresses()]
        self._known = {function.address: function for function in found if function.vendor}
        return Inventory(functions=self._known)

    def _function(self, address: PciAddress, parents: dict[PciAddress, _Parent]) -> Function:
        instance = self._sysfs.instance(address)
        known = self._known.get(address)
        if known is None or known.instance != instance:
            known = self._born(address, instance)
        state = self._state(known, parents)
        # The same value for the same state: what others have found out about it stays true.
        unchanged = all(getattr(known, name) == value for name, value in state.items())
        return known if unchanged else known.replace(**state)

    def _born(self, address: PciAddress, instance: int) -> Function:
        """What stays as it is for the life of a function."""
        sysfs = self._sysfs
        return Function(
            address=address,
            instance=instance,
            pci_class=_hex(sysfs, address, "class"),
            vendor=_hex(sysfs, address, "vendor"),
            device=_hex(sysfs, address, "device"),
            subsystem=":".join(_hex(sysfs, address, name) for name in ("subsystem_vendor", "subsystem_device")),
            root=_root(sysfs.place(address)),
            pf=sysfs.physfn(address) or "",
            most_vfs=sysfs.number(address, "sriov_totalvfs"),
            acpi_index=sysfs.text(address, "acpi_index"),
            boot_vga=sysfs.text(address, "boot_vga") == "1",
        )

    def _state(self, function: Function, parents: dict[PciAddress, _Parent]) -> dict[str, Any]:
        sysfs, address = self._sysfs, function.address
        pf = sysfs.physfn(address) if function.pf else None
        if pf and pf not in parents:
            parents[pf] = _parent(sysfs, pf)
        parent = parents[pf] if pf else _Parent(name="", numbers={})
        driver = sysfs.driver(address)
        for_user = gives_to_user_space(driver)
        netdevs = tuple(sysfs.netdevs(address)) if function.base_class == NETWORK else ()
        has_rdma = function.base_class == NETWORK and not for_user
        return {
            "driver": driver,
            "override": sysfs.override(address),
            "group": sysfs.iommu_group(address),
            "numa": _number(sysfs.text(address, "numa_node")),
            "pf_name": parent.name,
            "vf_index": parent.numbers.get(address, -1),
            "vfs": tuple(sysfs.vfs(address)) if function.most_vfs else (),
            "netdevs": netdevs,
            "link_type": _LINK_TYPES.get(sysfs.link_text(netdevs[0], "type"), "") if netdevs else "",
            "carrier": _carrier(sysfs, parent.name or next(iter(netdevs), "")),
            "rdma": tuple(sysfs.names(address, "infiniband")) if has_rdma else (),
            "rdma_nodes": _rdma_nodes(sysfs, address) if has_rdma else (),
            "uio": next(iter(sysfs.names(address, "uio")), "") if for_user else "",
            "vfio": next(iter(sysfs.names(address, "vfio-dev")), "") if for_user else "",
        }


class _Parent(Value):
    """What a PF says of its VFs, looked at once for all of them: `numbers` by their addresses."""

    name: str
    numbers: Mapping[str, int]


def _parent(sysfs: Sysfs, pf: PciAddress) -> _Parent:
    numbers: dict[str, int] = {vf: number for number, vf in sysfs.numbered_vfs(pf).items()}
    return _Parent(name=sysfs.uplink(pf) or "", numbers=numbers)


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


def _root(place: str) -> str:
    return next((part for part in place.split(os.sep) if part.startswith("pci") and ":" in part), "")
