"""Binds PCI devices to drivers, through driver_override and drivers_probe of sysfs."""

from __future__ import annotations

import errno
import os
import select
import time

from cni.drivers import gives_to_user_space, needs_iommu_group
from cni.errors import DriverUnfit, IoFailure, KernelRefused, TryAgainLater
from cni.host.processes import has_open

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from cni.host.sysfs import Sysfs
    from cni.pci import PciAddress

BIND_SECONDS = 15.0
"""Bound for taking a driver from a device and giving it another one: igbvf takes 0.1 s, mlx5 up to several."""

PROBE_SECONDS = 1.0
"""Bound for a driver to begin: the kernel probes at once, or as soon as a worker is free."""

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
        """Whether a process has the device open, through VFIO or UIO."""
        if not gives_to_user_space(self._sysfs.driver(device)):
            return False
        nodes = self._nodes(device)
        if any(map(os.path.exists, nodes)):
            return any(map(_is_busy, nodes))
        # UIO, and VFIO without groups, let several processes open a device: only their descriptors tell.
        numbers = self._sysfs.node_numbers(device)
        return bool(numbers) and has_open(numbers)

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
        refused = time.monotonic() + PROBE_SECONDS
        while not self._ready(device, driver):
            # drivers_probe says nothing of a driver that does not want the device; some drivers are probed later.
            given_up = refused if not self._sysfs.driver(device) else deadline
            if time.monotonic() > given_up:
                raise TryAgainLater(f"driver {driver} did not take {device}, or not in time", hint="dmesg says why")
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
        try:
            child = os.fork()
        except OSError as error:
            raise IoFailure(f"cannot start a process to write {path}: {os.strerror(error.errno or 0)}") from error
        if child == 0:
            _write_and_exit(path, text)
        if not _ends(child, deadline):
            os.kill(child, _SIGKILL)
            raise TryAgainLater(
                f"writing {text.strip()!r} to {path} takes more than {BIND_SECONDS:g} s", hint="see dmesg"
            )
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


def _ends(child: int, deadline: float) -> bool:
    """Whether the child ends before the deadline (monotonic seconds)."""
    ended = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
    finally:
        os.close(ended)


def _write_and_exit(path: str, text: str) -> NoReturn:
    """The child: writes, and ends with the errno of that, or 0.

    It keeps the lock's descriptor: while a driver holds it up, nobody else begins with this device. It does not keep the
    runtime's pipes: the runtime awaits their end, and a child in the kernel cannot be killed.
    """
    number = errno.EIO
    try:
        nowhere = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nowhere, fd)
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, text.encode())
        number = 0
    except OSError as error:
        number = error.errno or errno.EIO
    finally:
        os._exit(number)
