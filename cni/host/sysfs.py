"""Reads PCI devices, virtual functions and their network devices from sysfs.

Missing files give an empty result. Failed reads raise `IoFailure` instead: too many open files must not look like "no
devices" or "not in use".
"""

from __future__ import annotations

import errno
import os

from cni import pci
from cni.errors import IoFailure
from cni.host.drivers import gives_to_user_space
from cni.host.files import read_small

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.pci import PciAddress

_FAILURES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EACCES, errno.EPERM)
"""Errors of reading a directory or a link that do not mean that it is missing."""


class Sysfs:
    """The host's sysfs; `root` is the mount point (tests pass a recorded tree)."""

    def __init__(self, root: str = "/sys") -> None:
        self.root = root
        self._devices = f"{root}/bus/pci/devices"
        self._net = f"{root}/class/net"

    def exists(self, device: PciAddress) -> bool:
        """Whether the host has the PCI device."""
        return os.path.isdir(f"{self._devices}/{device}")

    def instance(self, device: PciAddress) -> int:
        """A number that identifies the device, and changes when it is created again; 0 if there is none.

        It is the number of its directory, which exists as long as the device, independent of the driver. The kernel
        increments it for each new directory, and starts again with a boot.
        """
        try:
            return os.stat(f"{self._devices}/{device}").st_ino
        except OSError as error:
            _refuse_failure(f"{self._devices}/{device}", error)
            return 0

    def physfn(self, device: PciAddress) -> PciAddress | None:
        """The PF of a VF; None if the device is not a VF (or the PF is not visible, as inside a virtual machine)."""
        target = _link(f"{self._devices}/{device}/physfn")
        return pci.parse(target) if target else None

    def vf_index(self, pf: PciAddress, vf: PciAddress) -> int | None:
        """The number of a VF on its PF; None if the PF does not list it."""
        for name in _entries(f"{self._devices}/{pf}"):
            if name.startswith("virtfn") and _link(f"{self._devices}/{pf}/{name}") == vf:
                return int(name[len("virtfn") :])
        return None

    def vfs(self, pf: PciAddress) -> list[PciAddress]:
        """The VFs of a PF, by their number."""
        return list(self.numbered_vfs(pf).values())

    def numbered_vfs(self, pf: PciAddress) -> dict[int, PciAddress]:
        """The VFs of a PF and their numbers, sorted by these."""
        numbers = [name[len("virtfn") :] for name in _entries(f"{self._devices}/{pf}") if name.startswith("virtfn")]
        ordered = sorted(int(number) for number in numbers if number.isdigit())
        links = {number: _link(f"{self._devices}/{pf}/virtfn{number}") for number in ordered}
        # A VF may be missing while the PF's VFs are being removed.
        return {number: pci.parse(link) for number, link in links.items() if link}

    def number(self, device: PciAddress, attribute: str) -> int:
        """A number in the device's directory (sriov_numvfs, sriov_totalvfs); 0 if there is none."""
        text = read_small(f"{self._devices}/{device}/{attribute}").strip()
        return int(text) if text.isdigit() else 0

    def addresses(self, known: Mapping[str, PciAddress] | None = None) -> list[PciAddress]:
        """The PCI devices of the host, sorted.

        Names that are known need not be parsed again: a host can have thousands.
        """
        before = known or {}
        return [before.get(name) or pci.parse(name) for name in sorted(_entries(self._devices))]

    def text(self, device: PciAddress, attribute: str) -> str:
        """The content of a file in the device's directory (numa_node, vendor), or empty."""
        return read_small(f"{self._devices}/{device}/{attribute}").decode(errors="replace").strip()

    def names(self, device: PciAddress, folder: str) -> list[str]:
        """The names in a folder of the device's directory (infiniband, vfio-dev), sorted."""
        return sorted(_entries(f"{self._devices}/{device}/{folder}"))

    def place(self, device: PciAddress) -> str:
        """The path of the device below the root of its PCI hierarchy; symlinks are followed."""
        return os.path.realpath(f"{self._devices}/{device}")

    def link_text(self, name: str, attribute: str) -> str:
        """The content of a file of a network device of the host (type, carrier), or empty."""
        return read_small(f"{self._net}/{name}/{attribute}").decode(errors="replace").strip()

    def parent(self, name: str) -> PciAddress | None:
        """The PCI device of a network device of the host, or None."""
        address = _link(f"{self._net}/{name}/device")
        try:
            return pci.parse(address) if address else None
        except ValueError:
            return None  # a virtio or platform device

    def netdevs(self, device: PciAddress) -> list[str]:
        """Names of the device's network devices that are in the host's network namespace, sorted."""
        return sorted(_entries(f"{self._devices}/{device}/net"))

    def netdev_instance(self, device: PciAddress) -> str:
        """A value that identifies the device's current network device, in any namespace; empty if there is none.

        The directory is created and removed with the network device, and stays when it moves to another namespace.
        """
        try:
            return str(os.stat(f"{self._devices}/{device}/net").st_ino)
        except OSError as error:
            _refuse_failure(f"{self._devices}/{device}/net", error)
            return ""

    def uplink(self, pf: PciAddress) -> str | None:
        """The PF's own network device. In switchdev mode the VFs' representors are its siblings, which are skipped."""
        for name in self.netdevs(pf):
            # phys_port_name exists on every device and returns EOPNOTSUPP if the driver has none.
            if not _is_representor(read_small(f"{self._net}/{name}/phys_port_name").decode().strip()):
                return name
        return None

    def driver(self, device: PciAddress) -> str:
        """Name of the driver that is bound to the device, or empty."""
        return _link(f"{self._devices}/{device}/driver")

    def override(self, device: PciAddress) -> str:
        """The driver that driver_override names, or empty."""
        text = read_small(f"{self._devices}/{device}/driver_override").decode(errors="replace").strip()
        return "" if text == "(null)" else text

    def pci_id(self, device: PciAddress) -> str:
        """Vendor and device in the format of `lspci -n`, such as 8086:10ca."""
        numbers = [read_small(f"{self._devices}/{device}/{name}").decode().strip() for name in ("vendor", "device")]
        return ":".join(number.removeprefix("0x") for number in numbers)

    def is_network(self, device: PciAddress) -> bool:
        """Whether the device's PCI class is 02, network controller."""
        return read_small(f"{self._devices}/{device}/class").startswith(b"0x02")

    def is_infiniband(self, device: PciAddress) -> bool:
        """Whether the device's PCI class is 0207, InfiniBand controller."""
        return read_small(f"{self._devices}/{device}/class").startswith(b"0x0207")

    def is_bridge(self, device: PciAddress) -> bool:
        """Whether the device's PCI class is 06, bridge."""
        return read_small(f"{self._devices}/{device}/class").startswith(b"0x06")

    def in_user_space(self, device: PciAddress) -> bool:
        """Whether its driver gives the device to user space: it then has a VFIO or UIO device."""
        return any(_entries(f"{self._devices}/{device}/{kind}") for kind in ("vfio-dev", "uio")) or (
            # Kernels before 6.1 have no vfio-dev.
            gives_to_user_space(self.driver(device))
        )

    def node_numbers(self, device: PciAddress) -> set[int]:
        """The device numbers of its VFIO and UIO device nodes."""
        found = set()
        for kind in ("vfio-dev", "uio"):
            for name in _entries(f"{self._devices}/{device}/{kind}"):
                found |= _number_in(f"{self._devices}/{device}/{kind}/{name}")
        return found.union(*map(_number_in, self._groups(device)))

    def has_vfio_group(self, device: PciAddress) -> bool:
        """Whether VFIO provides the device's group, even if a container's /dev does not show it."""
        return any(map(os.path.exists, self._groups(device)))

    def _groups(self, device: PciAddress) -> list[str]:
        group = self.iommu_group(device)
        return [f"{self.root}/class/vfio/{name}" for name in (group, f"noiommu-{group}")] if group else []

    def iommu_group(self, device: PciAddress) -> str:
        """The number of its IOMMU group, or empty."""
        return _link(f"{self._devices}/{device}/iommu_group")

    def group_members(self, device: PciAddress) -> list[PciAddress]:
        """The PCI devices of its IOMMU group, including itself."""
        members = []
        for name in sorted(_entries(f"{self._devices}/{device}/iommu_group/devices")):
            try:
                members.append(pci.parse(name))
            except ValueError:
                continue  # not on the PCI bus
        return members

    def uppers(self, name: str) -> list[str]:
        """The network devices that are stacked on a network device of the host: VLANs, bridges, bonds."""
        return sorted(entry[len("upper_") :] for entry in _entries(f"{self._net}/{name}") if entry.startswith("upper_"))


def _is_representor(port_name: str) -> bool:
    # Uplinks have no port name, or "p0"; representors "pf0vf3", "pf0sf1", "c1pf0vf0", or (old drivers) a bare number.
    return port_name.isdigit() or "vf" in port_name or "sf" in port_name or port_name.startswith(("pf", "c"))


def _link(path: str) -> str:
    try:
        return os.path.basename(os.readlink(path))
    except OSError as error:
        _refuse_failure(path, error)
        return ""
    except ValueError:  # a NUL byte, in a name from a configuration
        return ""


def _number_in(folder: str) -> set[int]:
    """The device number in a device's directory."""
    major, _, minor = read_small(f"{folder}/dev").decode().strip().partition(":")
    return {os.makedev(int(major), int(minor))} if major.isdigit() and minor.isdigit() else set()


def _entries(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError as error:
        _refuse_failure(path, error)
        return []


def _refuse_failure(path: str, error: OSError) -> None:
    if error.errno in _FAILURES:
        raise IoFailure(f"cannot look at {path}: {os.strerror(error.errno)}", hint="see dmesg and ulimit -n") from error
