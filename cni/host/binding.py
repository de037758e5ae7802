"""Binds PCI devices to drivers, through driver_override and drivers_probe of sysfs."""

from __future__ import annotations

import errno
import os
import select
import time

from cni.drivers import gives_to_user_space, needs_iommu_group
from cni.errors import DriverUnfit, KernelRefused, TryAgainLater

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.host.sysfs import Sysfs
    from cni.pci import PciAddress

BIND_SECONDS = 15.0
"""Bound for taking a driver from a device and giving it another one: igbvf takes 0.1 s, mlx5 up to several."""

_PAUSE = 0.01
_SIGKILL = 9  # the module `signal` costs an import of `enum`
_HARMLESS = ("pci-stub",)


class Drivers:
    """The drivers of the host's PCI devices. `dev` is where device nodes are."""

    def __init__(self, sysfs: Sysfs, dev: str = "/dev") -> None:
        self._sysfs = sysfs
        self._bus = f"{sysfs.root}/bus/pci"
        self._dev = dev

    def bind(self, device: PciAddress, driver: str, override: str) -> None:
        """Makes `driver` the device's driver (empty: none), and leaves `override` as its driver_override.

        Returns when the driver's network device or device node is there. Repeating it is harmless, and so is starting
        from a device that an interrupted call left without a driver. Raises `DriverUnfit`, `KernelRefused`,
        `TryAgainLater`.
        """
        deadline = time.monotonic() + BIND_SECONDS
        present = self._sysfs.driver(device)
        if present != driver:
            if driver and not os.path.isdir(f"{self._bus}/drivers/{driver}"):
                raise DriverUnfit(f"driver {driver} for {device} is not loaded", hint=f"modprobe {driver}")
            self._require_idle(device)
            # With the override set no other driver whose ID table has the device can get it.
            self._override(device, driver, deadline)
            if present:
                self._write(f"devices/{device}/driver/unbind", device, deadline)
            if driver:
                self._write("drivers_probe", device, deadline)
                self._await(device, driver, deadline)
        self._override(device, override, deadline)

    def hindrances(self, device: PciAddress) -> list[str]:
        """Why VFIO would not give the device to user space: an IOMMU group that is missing or not viable."""
        if not self._sysfs.iommu_group(device):
            return ["it is in no IOMMU group: switch the IOMMU on (firmware, and intel_iommu=on where it is Intel's)"]
        return [
            f"{member} of its IOMMU group is bound to {driver}"
            for member in self._sysfs.group_members(device)
            if member != device and not self._sysfs.is_bridge(member)
            if (driver := self._sysfs.driver(member)) and not gives_to_user_space(driver) and driver not in _HARMLESS
        ]

    def in_use(self, device: PciAddress) -> bool:
        """Whether a process has the device open through VFIO."""
        if not gives_to_user_space(self._sysfs.driver(device)):
            return False
        return any(map(_is_busy, self._nodes(device)))

    def _require_idle(self, device: PciAddress) -> None:
        # VFIO lets nobody take its driver away while a process has the device open: the write would wait for that.
        if self.in_use(device):
            raise TryAgainLater(
                f"{device} is still open in a process",
                hint=f"it ends with its virtual machine or DPDK program: fuser -v /dev/vfio/{self._sysfs.iommu_group(device)}",
            )

    def _override(self, device: PciAddress, driver: str, deadline: float) -> None:
        if self._sysfs.override(device) != driver:
            self._write(f"devices/{device}/driver_override", driver or "\n", deadline)

    def _await(self, device: PciAddress, driver: str, deadline: float) -> None:
        while not self._ready(device, driver):
            if time.monotonic() > deadline:
                raise TryAgainLater(
                    f"driver {driver} did not take {device} within {BIND_SECONDS:g} s", hint="dmesg says why"
                )
            time.sleep(_PAUSE)  # sysfs sends no event for a driver that is bound

    def _ready(self, device: PciAddress, driver: str) -> bool:
        if self._sysfs.driver(device) != driver:
            return False
        if not gives_to_user_space(driver):
            return bool(self._sysfs.netdevs(device))
        return not needs_iommu_group(driver) or any(map(os.path.exists, self._nodes(device)))

    def _nodes(self, device: PciAddress) -> list[str]:
        """Where VFIO's device node of its group can be; the second is for a kernel that was told to do without IOMMU."""
        group = self._sysfs.iommu_group(device)
        return [f"{self._dev}/vfio/{group}", f"{self._dev}/vfio/noiommu-{group}"] if group else []

    def _write(self, file: str, text: str, deadline: float) -> None:
        """Writes in a child: a driver can take any time, and nothing else gives the write a bound."""
        path = f"{self._bus}/{file}"
        # The child has the lock's descriptor too: while a driver holds it up, nobody else begins with this device.
        child = os.fork()
        if child == 0:
            os._exit(_written(path, text))
        ended = os.pidfd_open(child)
        try:
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                os.kill(child, _SIGKILL)
                raise TryAgainLater(
                    f"writing {text.strip()!r} to {path} takes more than {BIND_SECONDS:g} s", hint="see dmesg"
                )
        finally:
            os.close(ended)
        number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if number:
            refused = KernelRefused(
                f"write of {text.strip()!r} to {path}: the kernel refused: {os.strerror(abs(number))}"
            )
            refused.number = number
            raise refused


def _is_busy(node: str) -> bool:
    try:
        # A group can be open once.
        os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def _written(path: str, text: str) -> int:
    """The errno of writing, or 0."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, text.encode())
    except OSError as error:
        return error.errno or errno.EIO
    return 0
