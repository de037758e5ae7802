"""A PCI network device as found on the host. All values, no I/O."""

from __future__ import annotations

from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.host.netlink import Link
    from cni.host.vf_settings import VfInfo
    from cni.pci import PciAddress


class Device(Value):
    """A VF with its PF, a PF, or a device without either: inside a virtual machine a VF's PF cannot be seen.

    Without a PF here `pf` and its fields are empty and `settings` says nothing. `link` is None while the network device
    is in another namespace, or there is none. `instance` is another number when the
    device was made anew. `override` is the kernel's driver_override, `userspace` whether the
    driver gives the device to user space (VFIO, UIO). `netdevs` counts its network
    devices on the host; `vfs` and `most_vfs` are what it has as a PF.
    """

    address: PciAddress
    driver: str
    settings: VfInfo
    link: Link | None
    instance: int = 0
    override: str = ""
    userspace: bool = False
    is_network: bool = True
    is_infiniband: bool = False
    index: int = -1
    pf: str = ""
    pf_name: str = ""
    pf_index: int = 0
    pf_driver: str = ""
    pf_mtu: int = 0
    netdevs: int = 1
    vfs: int = 0
    most_vfs: int = 0

    @property
    def kind(self) -> str:
        """What messages call it."""
        return "VF" if self.pf else "PF" if self.most_vfs else "device"
