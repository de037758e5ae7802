"""The host, as the device plugin reads and changes it: scans, drivers, resets, device-info files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from cni.errors import IoFailure, KernelRefused
from cni.host import folders
from cni.host.binding import Drivers
from cni.host.drivers import gives_to_user_space
from cni.host.files import read_file, refuse_shortage, remove_file, write_file
from cni.value import Value
from deviceplugin import cdi, kernel_write
from deviceplugin.inventory import Scanner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Set as AbstractSet

    from cni.host.sysfs import Sysfs
    from cni.pci import PciAddress
    from deviceplugin.function import Inventory

DEVICE_INFO = "/var/run/k8s.cni.cncf.io/devinfo/dp"
"""The directory in which Multus expects the files of device plugins."""
RESET_SECONDS = 10.0
_NODE_FOLDERS = ("vfio", "vfio/devices", "infiniband")
_NODES = ("iommu", "vhost-net", "net/tun")


class Sight(Value):
    """A scan of the host: its functions, the host's uses of them (reasons by address), its device nodes."""

    inventory: Inventory
    used: Mapping[str, str]
    nodes: frozenset[str]

    def is_like(self, other: Sight) -> bool:
        """Whether both scans have the same result. Unchanged functions are the same values, so this is fast."""
        functions, others = self.inventory.functions, other.inventory.functions
        return functions == others and (self.used, self.nodes) == (other.used, other.nodes)


class _Drivers(Drivers):
    """Drivers for several threads."""

    def __init__(self, sysfs: Sysfs, dev: str, write: Callable[[str, str, float], None]) -> None:
        super().__init__(sysfs, dev, write)
        self._checking = threading.Lock()

    def opened(self, devices: Iterable[PciAddress]) -> set[PciAddress]:
        # A check opens the node of an IOMMU group for a moment. A second check at the same time, of another member,
        # would find the group open, as if a process had it.
        with self._checking:
            return super().opened(devices)


class Host:
    """`dev` is the directory of device nodes.

    `uses` returns the uses that the host makes of functions; `has_record` checks for records of our CNI plugins.
    """

    def __init__(
        self,
        sysfs: Sysfs,
        *,
        dev: str = "/dev",
        device_info: str = DEVICE_INFO,
        cdi_folder: str = cdi.FOLDER,
        uses: Callable[[Inventory], Mapping[str, str]],
        has_record: Callable[[str], bool] = lambda _device: False,
        write: Callable[[str, str, float], None] = kernel_write.write,
    ) -> None:
        self._sysfs = sysfs
        self._scanner = Scanner(sysfs)
        self._dev = dev
        self._device_info = device_info
        self._cdi = cdi_folder
        self._uses = uses
        self._write = write
        self._drivers = _Drivers(sysfs, dev, write)
        self.has_record = has_record

    def look(self, named: AbstractSet[str] | None = None) -> Sight:
        """Scans the host. If functions are named, only these are read again.

        Raises `IoFailure`: a partial scan is not used.
        """
        try:
            inventory = self._scanner.scan(named)
            return Sight(inventory=inventory, used=self._uses(inventory), nodes=self._device_nodes())
        except OSError as error:
            raise IoFailure(f"cannot look at the host: {error}", hint="see dmesg and ulimit -n") from error

    def bind(self, device: PciAddress, driver: str, override: str) -> None:
        """As `cni.host.binding.Drivers.bind`."""
        self._drivers.bind(device, driver, override)

    def in_use(self, device: PciAddress) -> bool:
        """Whether a process has the device open through VFIO or UIO. Raises `IoFailure` if that is unknown."""
        return device in self.opened([device])

    def opened(self, devices: Iterable[PciAddress]) -> AbstractSet[str]:
        """The devices that a process has open, in one scan of all processes. Raises `IoFailure`."""
        return self._drivers.opened(devices)

    def may_reset(self, device: PciAddress) -> bool:
        """Whether the device is bound to VFIO or UIO, and no process has it open.

        With a network driver, a reset would remove settings that a CNI plugin has made. Raises `IoFailure` if the
        processes cannot be examined.
        """
        return gives_to_user_space(self._sysfs.driver(device)) and not self.in_use(device)

    def netdev_is_away(self, device: PciAddress) -> bool:
        """Whether its network device is in another network namespace: its folder exists, and is empty in ours."""
        return bool(self._sysfs.netdev_instance(device)) and not self._sysfs.netdevs(device)

    def reset(self, device: PciAddress) -> None:
        """Resets the function if it can be reset. Raises `KernelRefused` and `TryAgainLater`."""
        path = f"{self._sysfs.root}/bus/pci/devices/{device}/reset"
        if not os.path.exists(path):
            return
        try:
            self._write(path, "1", time.monotonic() + RESET_SECONDS)
        except KernelRefused as refusal:
            # The kernel has no reset method for this function: a bus reset would affect other devices.
            if refusal.number != errno.ENOTTY:
                raise

    def write_info(self, name: str, document: dict[str, Any]) -> None:
        """Writes a device-info file. Raises `IoFailure`."""
        _make(self._device_info)
        write_file(f"{self._device_info}/{name}", json.dumps(document).encode())

    def remove_info(self, name: str) -> None:
        remove_file(f"{self._device_info}/{name}")

    def cdi_files(self) -> list[str]:
        """The names of our CDI files. Raises `IoFailure` if the directory cannot be read."""
        return [name for name in folders.entries(self._cdi) if cdi.may_be_ours(name) and self._is_ours(name)]

    def sweep_cdi(self) -> None:
        """Removes temporary files of killed processes. Raises `IoFailure`."""
        for name in filter(cdi.is_temporary, folders.entries(self._cdi)):
            remove_file(f"{self._cdi}/{name}")

    def write_cdi(self, name: str, document: dict[str, Any]) -> None:
        """Writes a CDI file. Raises `IoFailure`."""
        _make(self._cdi)
        write_file(f"{self._cdi}/{name}", json.dumps(document).encode())

    def remove_cdi(self, name: str) -> None:
        """Removes a CDI file, if there is one. Raises `IoFailure`."""
        # A read-only directory is no problem while it does not contain the file.
        if name in folders.entries(self._cdi):
            remove_file(f"{self._cdi}/{name}")

    def _is_ours(self, name: str) -> bool:
        path = f"{self._cdi}/{name}"
        try:
            return cdi.is_ours(read_file(path) or b"")
        except IoFailure as error:
            if isinstance(error.__cause__, OSError):
                refuse_shortage(path, error.__cause__)
            return False  # not a file, or not one that we wrote

    def _device_nodes(self) -> frozenset[str]:
        """Raises `OSError` if a folder exists and cannot be listed."""
        found = [f"/dev/{name}" for name in _NODES if os.path.lexists(f"{self._dev}/{name}")]
        for folder in _NODE_FOLDERS:
            with contextlib.suppress(FileNotFoundError):  # the host has no such devices
                found += [f"/dev/{folder}/{name}" for name in os.listdir(f"{self._dev}/{folder}")]
        return frozenset(found)


def _make(folder: str) -> None:
    try:
        os.makedirs(folder, 0o755, exist_ok=True)
    except OSError as error:
        raise IoFailure(f"cannot make {folder}: {os.strerror(error.errno or 0)}") from error
