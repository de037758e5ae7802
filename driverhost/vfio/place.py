"""Where a device's nodes are."""

from __future__ import annotations

import os

from driverhost.errors import DeviceUnavailable


class Place:
    """The nodes of one PCI device, found by sysfs. `root` replaces `/` in tests.

    Raises `DeviceUnavailable` when the device does not exist or has no IOMMU group.
    """

    def __init__(self, address: str, root: str = "/") -> None:
        self.address = address
        self._sysfs = os.path.join(root, "sys/bus/pci/devices")
        self._dev = os.path.join(root, "dev")
        device = f"{self._sysfs}/{address}"
        if not os.path.isdir(device):
            raise DeviceUnavailable(f"there is no PCI device {address}", hint="see lspci -D")
        if not os.path.exists(f"{device}/iommu_group"):
            raise DeviceUnavailable(
                f"{address} has no IOMMU group",
                hint="enable the IOMMU in the firmware and on the kernel's command line",
            )
        self.group = os.path.basename(os.readlink(f"{device}/iommu_group"))

    @property
    def container_node(self) -> str:
        return f"{self._dev}/vfio/vfio"

    @property
    def group_node(self) -> str:
        return f"{self._dev}/vfio/{self.group}"

    @property
    def iommu_node(self) -> str:
        return f"{self._dev}/iommu"

    @property
    def device_node(self) -> str:
        """Of the device's own node, which Linux has since 6.6; empty when it has none."""
        try:
            names = os.listdir(f"{self._sysfs}/{self.address}/vfio-dev")
        except FileNotFoundError:
            return ""
        return f"{self._dev}/vfio/devices/{names[0]}" if names else ""

    @property
    def has_iommufd(self) -> bool:
        """Whether both nodes that iommufd needs are there: a container may have been given the group's only."""
        return bool(self.device_node) and os.path.exists(self.device_node) and os.path.exists(self.iommu_node)

    @property
    def ids(self) -> tuple[int, int]:
        """Vendor and device."""
        vendor, device = (self._number(name) for name in ("vendor", "device"))
        return vendor, device

    def strangers(self) -> list[str]:
        """The members of the group with a driver that is not VFIO's, and its name."""
        members = sorted(os.listdir(f"{self._sysfs}/{self.address}/iommu_group/devices"))
        drivers = {member: self._driver(member) for member in members}
        return [
            f"{member} ({driver})" for member, driver in drivers.items() if driver not in ("", "vfio-pci", "pci-stub")
        ]

    def _driver(self, address: str) -> str:
        try:
            return os.path.basename(os.readlink(f"{self._sysfs}/{address}/driver"))
        except FileNotFoundError:
            return ""

    def _number(self, name: str) -> int:
        with open(f"{self._sysfs}/{self.address}/{name}") as file:
            return int(file.read(), 16)
