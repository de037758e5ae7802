"""Binds PCI devices to drivers.

A network driver gets only devices that its ID table has: the kernel compares when the address is written to the
driver's `bind`. With driver_override it does not compare, and a driver that probes foreign hardware can crash the
kernel. So the override is used for VFIO and UIO, whose tables are empty, and to restore a driver that an administrator
bound with it.
"""

from __future__ import annotations

import errno
import os
import time

from cni.errors import DriverUnfit, KernelRefused, TryAgainLater
from cni.host.drivers import gives_to_user_space, needs_iommu_group
from cni.host.files import refuse_shortage
from cni.host.processes import opened
from cni.host.sysfs_write import write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cni.host.sysfs import Sysfs
    from cni.pci import PciAddress

BIND_SECONDS = 15.0
"""Time limit for unbinding a driver and binding another one: igbvf takes 0.1 s, mlx5 up to several seconds."""

PROBE_SECONDS = 1.0
"""Time limit for the start of a probe: the kernel probes at once, or as soon as a worker is free."""

_PAUSE = 0.01
_HARMLESS = ("pci-stub",)
_VIRTIO = "virtio-pci"


class Drivers:
    """The drivers of the host's PCI devices. `dev` is the directory of device nodes."""

    def __init__(self, sysfs: Sysfs, dev: str = "/dev", write: Callable[[str, str, float], None] = write) -> None:
        self._sysfs = sysfs
        self._writer = write
        self._bus = f"{sysfs.root}/bus/pci"
        self._dev = dev

    def bind(self, device: PciAddress, driver: str, override: str) -> None:
        """Binds `driver` to the device (empty: none), and sets its driver_override to `override`.

        A network driver is bound through the override only if `override` names it, as it was found.

        Returns when the driver's network device or device node exists. It can be repeated, also for a device that an
        interrupted call left without a driver. Raises `DriverUnfit`, `KernelRefused`,
        `TryAgainLater`.
        """
        deadline = time.monotonic() + BIND_SECONDS
        if self._sysfs.driver(device) != driver:
            if driver and not os.path.isdir(f"{self._bus}/drivers/{driver}"):
                raise DriverUnfit(f"driver {driver} for {device} is not loaded", hint=f"modprobe {driver}")
            self._require_idle(device)
            if driver and (gives_to_user_space(driver) or driver == override):
                self._replace(device, driver, deadline)
            else:
                self._replace_by_own(device, driver, deadline)
        self._override(device, override, deadline)

    def _replace(self, device: PciAddress, driver: str, deadline: float) -> None:
        """Binds the driver regardless of its ID table; with the override no other driver can bind the device."""
        self._override(device, driver, deadline)
        self._unbind(device, deadline)
        self._write("drivers_probe", device, deadline)
        self._await(device, driver, deadline)

    def _replace_by_own(self, device: PciAddress, driver: str, deadline: float) -> None:
        """Binds the driver if its ID table has the device, and otherwise keeps the network device.

        An empty name means no driver.
        """
        if driver:
            # Only for a moment: an override that was found must not be lost if the call is killed.
            self._override(device, "", deadline)
        present = self._sysfs.driver(device)
        if driver and present and not gives_to_user_space(present):
            self._require_match(device, driver, deadline)
        self._unbind(device, deadline)
        if driver:
            self._bind_own(device, driver, deadline)
            self._await(device, driver, deadline)

    def _unbind(self, device: PciAddress, deadline: float) -> None:
        if self._sysfs.driver(device):
            self._write(f"devices/{device}/driver/unbind", device, deadline)

    def _require_match(self, device: PciAddress, driver: str, deadline: float) -> None:
        """A test without effect: the kernel compares IDs first, and then refuses a device that has a driver (EBUSY)."""
        try:
            self._bind_own(device, driver, deadline)
        except KernelRefused as refusal:
            if refusal.number != errno.EBUSY:
                raise

    def _bind_own(self, device: PciAddress, driver: str, deadline: float) -> None:
        try:
            self._write(f"drivers/{driver}/bind", device, deadline)
        except KernelRefused as refusal:
            if refusal.number != errno.ENODEV:
                raise
            raise DriverUnfit(
                f"driver {driver} does not support {device} (PCI ID {self._sysfs.pci_id(device)})",
                hint=f"drivers for it: modprobe -R $(cat /sys/bus/pci/devices/{device}/modalias)",
            ) from refusal

    def viability_problems(self, device: PciAddress) -> list[str]:
        """The reasons why VFIO cannot give the device to user space: an IOMMU group that is missing or not viable."""
        if not self._sysfs.iommu_group(device):
            return ["it is in no IOMMU group: switch the IOMMU on (firmware, and intel_iommu=on where it is Intel's)"]
        return [
            f"{member} of its IOMMU group is bound to {driver}"
            for member in self._sysfs.group_members(device)
            if member != device and not self._sysfs.is_bridge(member)
            if (driver := self._sysfs.driver(member)) and not needs_iommu_group(driver) and driver not in _HARMLESS
        ]

    def in_use(self, device: PciAddress) -> bool:
        """Whether a process has the device open, through VFIO or UIO.

        Raises `IoFailure` if this cannot be determined.
        """
        return bool(self.opened([device]))

    def opened(self, devices: Iterable[PciAddress]) -> set[PciAddress]:
        """The devices that a process has open. Raises `IoFailure` if this cannot be determined."""
        found: set[PciAddress] = set()
        numbers: dict[PciAddress, set[int]] = {}
        for device in devices:
            if not gives_to_user_space(self._sysfs.driver(device)):
                continue
            # A group can be open only once, so an attempt to open it shows the state.
            answers = [_is_busy(node) for node in self._nodes(device)]
            if True in answers:
                found.add(device)
            elif False not in answers:
                # UIO, and VFIO without groups, let several processes open a device: only their descriptors show it. A
                # container's /dev may also lack the node of a group, or not allow opening it.
                numbers[device] = self._sysfs.node_numbers(device)
        busy = opened(set().union(*numbers.values()))
        return found | {device for device, some in numbers.items() if some & busy}

    def _require_idle(self, device: PciAddress) -> None:
        # While a process has the device open, VFIO blocks the write that unbinds its driver.
        if self.in_use(device):
            raise TryAgainLater(
                f"{device} is still open in a process",
                hint=f"end its virtual machine or DPDK program: fuser -v /dev/vfio/{self._sysfs.iommu_group(device)}",
            )

    def _override(self, device: PciAddress, driver: str, deadline: float) -> None:
        if self._sysfs.override(device) != driver:
            self._write(f"devices/{device}/driver_override", driver or "\n", deadline)

    def _await(self, device: PciAddress, driver: str, deadline: float) -> None:
        refused = time.monotonic() + PROBE_SECONDS
        while not self._ready(device, driver):
            # drivers_probe reports no error if the driver refuses the device; some drivers are probed later.
            given_up = refused if not self._sysfs.driver(device) else deadline
            if time.monotonic() > given_up:
                raise TryAgainLater(f"driver {driver} did not bind to {device} in time", hint="see dmesg")
            time.sleep(_PAUSE)  # sysfs sends no event when a driver is bound

    def _ready(self, device: PciAddress, driver: str) -> bool:
        if self._sysfs.driver(device) != driver:
            return False
        if not gives_to_user_space(driver):
            return not self._makes_netdev(device, driver) or bool(self._sysfs.netdevs(device))
        nodes = self._nodes(device)
        return not needs_iommu_group(driver) or any(map(os.path.exists, nodes)) or self._sysfs.has_vfio_group(device)

    def _makes_netdev(self, device: PciAddress, driver: str) -> bool:
        """Whether the kernel driver creates a network device in the device's own directory.

        That of virtio is further below.
        """
        return self._sysfs.is_network(device) and driver != _VIRTIO

    def _nodes(self, device: PciAddress) -> list[str]:
        """Possible paths of VFIO's device node for the group; the second is for VFIO without an IOMMU."""
        group = self._sysfs.iommu_group(device)
        return [f"{self._dev}/vfio/{group}", f"{self._dev}/vfio/noiommu-{group}"] if group else []

    def _write(self, file: str, text: str, deadline: float) -> None:
        self._writer(f"{self._bus}/{file}", text, deadline)


def _is_busy(node: str) -> bool | None:
    """Whether the group's node is open; None if an attempt to open it does not show this."""
    try:
        os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        refuse_shortage(node, error)
        return True if error.errno == errno.EBUSY else None
    return False
