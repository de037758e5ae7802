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

    Without a visible PF, `pf` and its fields are empty and `settings` contains nothing. `link` is None while the
    network device is in another namespace, or there is none. `instance` changes when the device is created again.
    `userspace`: its driver gives the device to user space (VFIO, UIO). `netdevs` counts its network devices on the
    host. `driver_override`, `num_vfs` and `total_vfs` are attributes in sysfs; the last two are those of a PF.
    """

    address: PciAddress
    driver: str
    settings: VfInfo
    link: Link | None
    instance: int = 0
    driver_override: str = ""
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
    num_vfs: int = 0
    total_vfs: int = 0

    @property
    def kind(self) -> str:
        """The name in messages."""
        return "VF" if self.pf else "PF" if self.total_vfs else "device"
