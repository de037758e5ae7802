"""Reads the PCI functions of the host from sysfs.

A host can have thousands of functions, and is scanned after each event. So constant properties of a function are read
once, folders that a kind of function does not have are not read, and an event that names functions causes reads of
these only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cni.errors import IoFailure
from cni.host.drivers import gives_to_user_space
from cni.value import Value
from deviceplugin.function import NETWORK, Function, Inventory

if TYPE_CHECKING:
    from collections.abc import Mapping, Set as AbstractSet

    from cni.host.sysfs import Sysfs
    from cni.pci import PciAddress

_LINK_TYPES = {"1": "ether", "32": "infiniband"}
"""The kernel's numbers (ARPHRD_*), with the names in configurations of sriov-network-device-plugin."""


class Scanner:
    """Scans repeatedly, and keeps the last result."""

    def __init__(self, sysfs: Sysfs) -> None:
        self._sysfs = sysfs
        self._inventory = Inventory(functions={})
        self._addresses: Mapping[str, PciAddress] = {}

    def scan(self, named: AbstractSet[str] | None = None) -> Inventory:
        """The current state of all functions. A function that disappears during the scan is left out.

        If functions are named, only these are read, with their VFs, PFs and members of their IOMMU groups, and also new
        functions. Raises `IoFailure`; the last result does not change then.
        """
        addresses = self._sysfs.addresses(self._addresses)
        before, functions = self._inventory, self._inventory.functions
        if functions and not addresses:
            raise IoFailure("the host has no PCI device any more", hint="look whether /sys is mounted")
        present = {*addresses}
        looked_at = present if named is None else self._related(named) | (present - functions.keys())
        parents: dict[PciAddress, _Parent] = {}
        seen = {address: self._function(address, parents) for address in addresses if address in looked_at}
        self._addresses = {address: address for address in addresses}
        changed: dict[str, Function] = {
            address: one for address, one in seen.items() if functions.get(address) is not one
        }
        if functions.keys() == present and all(map(before.keeps_group, changed.values())):
            self._inventory = before.with_states(changed) if changed else before
        else:
            found = {address: seen.get(address) or functions[address] for address in addresses}
            self._inventory = Inventory({address: one for address, one in found.items() if one.vendor})
        return self._inventory

    def _related(self, named: AbstractSet[str]) -> set[str]:
        """The functions, and those whose state depends on theirs."""
        inventory, found = self._inventory, set(named)
        for function in [inventory.functions[address] for address in named if address in inventory.functions]:
            found.update((function.pf, *function.vfs), (mate.address for mate in inventory.group_of(function)))
        return found

    def _function(self, address: PciAddress, parents: dict[PciAddress, _Parent]) -> Function:
        instance = self._sysfs.instance(address)
        known = self._inventory.get(address)
        if known is None or known.instance != instance:
            known = self._born(address, instance)
        state = self._state(known, parents)
        # The same value for the same state, so that results that others derived from it stay valid.
        unchanged = all(getattr(known, name) == value for name, value in state.items())
        return known if unchanged else known.replace(**state)

    def _born(self, address: PciAddress, instance: int) -> Function:
        """A function with its constant properties."""
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
    """Properties of a PF, read once for all its VFs. `numbers` contains the numbers of the VFs by address."""

    name: str
    numbers: Mapping[str, int]


def _parent(sysfs: Sysfs, pf: PciAddress) -> _Parent:
    numbers: dict[str, int] = {vf: number for number, vf in sysfs.numbered_vfs(pf).items()}
    return _Parent(name=sysfs.uplink(pf) or "", numbers=numbers)


def _rdma_nodes(sysfs: Sysfs, address: PciAddress) -> tuple[str, ...]:
    names = (*sysfs.names(address, "infiniband_verbs"), *sysfs.names(address, "infiniband_mad"))
    return tuple(name for name in names if name.startswith(("uverbs", "umad", "issm")))


def _carrier(sysfs: Sysfs, netdev: str) -> bool | None:
    # Reading the carrier of a link that is down fails; such a link has no carrier.
    if not netdev or not sysfs.link_text(netdev, "operstate"):
        return None
    return sysfs.link_text(netdev, "carrier") == "1"


def _hex(sysfs: Sysfs, address: PciAddress, attribute: str) -> str:
    return sysfs.text(address, attribute).removeprefix("0x").lower()


def _number(text: str) -> int:
    return int(text) if text.lstrip("-").isdigit() else -1


def _root(place: str) -> str:
    return next((part for part in place.split(os.sep) if part.startswith("pci") and ":" in part), "")
