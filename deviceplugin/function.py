"""A PCI function as one look at the host found it, and all of them together. Values, no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cni.pci import PciAddress

NETWORK, ACCELERATOR, BRIDGE, DISPLAY = "02", "12", "06", "03"
"""PCI base classes."""


class Function(Value):
    """A PCI function. Numbers of PCI are lower-case hexadecimal without a prefix.

    `pf`, `pf_name` and `vf_index` tell of a VF which one it is; `vfs` and `most_vfs` what the function has as a PF.
    `carrier` is that of the PF, or of the function itself; None where no network device can tell. `root` is the PCI host
    bridge, `vfio` the name of the device node in /dev/vfio/devices, `instance` another number for a function made anew.
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
        """What it is, wherever it is: another device that gets its address has another one, unless it is of the same model."""
        return f"{self.vendor}:{self.device} {self.subsystem} {self.pci_class}"

    @property
    def is_bridge(self) -> bool:
        return self.base_class == BRIDGE

    @property
    def uplink(self) -> str:
        """The name of its PF's network device, or of its own where it is no VF."""
        return self.pf_name if self.pf else next(iter(self.netdevs), "")


def forbidden(function: Function, used: Mapping[str, str]) -> str:
    """The rule that keeps a function from everybody whatever a configuration says, or empty. `used`: what the host needs, and why."""
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
        """Whether the function is another state of one of the inventory that is in the same IOMMU group."""
        known = self.functions.get(function.address)
        return known is not None and (known.group, known.pci_class) == (function.group, function.pci_class)

    def with_states(self, functions: Mapping[str, Function]) -> Inventory:
        """The inventory with other states of some of its functions, which are in the same IOMMU groups as before."""
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
        """The members of its IOMMU group without bridges, itself among them. A bridge or a function without a group is alone."""
        return (function,) if function.is_bridge else self._groups.get(function.group) or (function,)
