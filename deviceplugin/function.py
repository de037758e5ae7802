"""A PCI function as a scan of the host found it, and all of them together. Values, no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cni.pci import PciAddress

NETWORK, ACCELERATOR, BRIDGE, DISPLAY = "02", "12", "06", "03"
"""PCI base classes."""


class Function(Value):
    """A PCI function. PCI IDs and classes are lower-case hexadecimal numbers without a prefix.

    `pf`, `pf_name` and `vf_index` identify a VF; `vfs` and `most_vfs` are set for a PF. `carrier` is the one of the PF,
    or of the function itself; None if no network device shows it. `root` is the PCI host bridge, `vfio` the name of the
    device node in /dev/vfio/devices. `instance` changes if a function is removed and created again.
    """

    address: PciAddress
    pci_class: str
    vendor: str
    device: str
    subsystem: str = ""
    driver: str = ""
    override: str = ""
    instance: int = 0
    group: str = ""
    numa: int = -1
    root: str = ""
    pf: str = ""
    pf_name: str = ""
    vf_index: int = -1
    vfs: tuple[PciAddress, ...] = ()
    most_vfs: int = 0
    netdevs: tuple[str, ...] = ()
    link_type: str = ""
    carrier: bool | None = None
    rdma: tuple[str, ...] = ()
    rdma_nodes: tuple[str, ...] = ()
    uio: str = ""
    vfio: str = ""
    acpi_index: str = ""
    boot_vga: bool = False

    @property
    def base_class(self) -> str:
        """The first two digits of the class: 02 is a network controller."""
        return self.pci_class[:2]

    @property
    def identity(self) -> str:
        """The model of the function. A device of another model with the same address has another identity."""
        return f"{self.vendor}:{self.device} {self.subsystem} {self.pci_class}"

    @property
    def is_bridge(self) -> bool:
        return self.base_class == BRIDGE

    @property
    def uplink(self) -> str:
        """The name of the network device of its PF, or its own network device if it is not a VF."""
        return self.pf_name if self.pf else next(iter(self.netdevs), "")


def forbidden(function: Function, used: Mapping[str, str]) -> str:
    """The rule that excludes a function in every configuration, or empty. `used` contains the uses of the host."""
    if function.base_class == BRIDGE:
        return "it is a bridge"
    if function.vfs:
        return f"it is a PF and has {len(function.vfs)} VFs"
    if function.boot_vga:
        return "it is the boot console"
    return used.get(function.address, "")


class Inventory:
    """The PCI functions of the host by their addresses."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        self.functions = functions
        self._groups: dict[str, tuple[Function, ...]] = {}
        for function in functions.values():
            if function.group and not function.is_bridge:
                self._groups[function.group] = (*self._groups.get(function.group, ()), function)

    def keeps_group(self, function: Function) -> bool:
        """Whether the inventory has this function, in the same IOMMU group."""
        known = self.functions.get(function.address)
        return known is not None and (known.group, known.pci_class) == (function.group, function.pci_class)

    def with_states(self, functions: Mapping[str, Function]) -> Inventory:
        """The inventory with new states of some functions, which are in the same IOMMU groups as before."""
        found = Inventory({})
        found.functions = {**self.functions, **functions}
        found._groups = dict(self._groups)
        for group in {function.group for function in functions.values()} & found._groups.keys():
            members = tuple(found.functions[member.address] for member in self._groups[group])
            found._groups[group] = members
        return found

    def __iter__(self) -> Iterator[Function]:
        return iter(self.functions.values())

    def get(self, address: str) -> Function | None:
        return self.functions.get(address)

    def group_of(self, function: Function) -> tuple[Function, ...]:
        """The members of its IOMMU group, including itself, without bridges.

        A bridge and a function without a group are alone.
        """
        return (function,) if function.is_bridge else self._groups.get(function.group) or (function,)
