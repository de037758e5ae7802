"""A simulated host: PCI functions in a sysfs of its own, with a kernel that binds drivers."""

from __future__ import annotations

import errno
import shutil
import threading
from typing import TYPE_CHECKING, Any

from cni.errors import KernelRefused
from cni.host.sysfs import Sysfs
from deviceplugin.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PF = "0000:01:00.0"
VFS = ["0000:01:10.0", "0000:01:10.2", "0000:01:10.4", "0000:01:10.6"]
GPU, SOUND = "0000:02:00.0", "0000:02:00.1"
DISK = "0000:03:00.0"
BRIDGE = "0000:00:1c.0"


class PciHost:
    """Starts empty. `used` has the host's uses of functions, `open` the devices that a process has open, `writes` all
    writes.

    `refuse` maps a file's name to the error of a write to it. `vfio_pci` accepts every device, as the real driver does.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sys, self.dev, self.info = root / "sys", root / "dev", root / "devinfo"
        self.cdi = root / "cdi"
        self.devices = self.sys / "bus/pci/devices"
        self.devices.mkdir(parents=True)
        (self.dev / "vfio").mkdir(parents=True)
        (self.dev / "vfio/vfio").touch()
        self.driver("vfio-pci")
        self.used: dict[str, str] = {}
        self.records: set[str] = set()
        self.open: set[str] = set()
        self.writes: list[tuple[str, str]] = []
        self.refuse: dict[str, int] = {}
        self.killed_at = ""
        self.before_write: Callable[[str, str], None] | None = None
        self._lock = threading.Lock()
        self.home: dict[str, str] = {}

    def driver(self, name: str) -> Path:
        folder = self.sys / "bus/pci/drivers" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def add(self, address: str, *, driver: str = "", group: str = "", netdev: str = "", **attributes: Any) -> None:
        """Adds a function; `attributes` are files (`class_`, `vendor`, `numa_node`, ...) with their text."""
        place = self.sys / "devices/pci0000:00" / address
        place.mkdir(parents=True)
        (self.devices / address).symlink_to(place)
        files = {
            "class": "0x020000",
            "vendor": "0x8086",
            "device": "0x154c",
            "numa_node": "0",
            "driver_override": "(null)",
        }
        for name, text in (files | {key.rstrip("_"): value for key, value in attributes.items()}).items():
            (place / name).write_text(f"{text}\n")
        (place / "reset").touch()
        if group:
            self._join(place, address, group)
        if netdev:
            self.netdev(address, netdev)
        self.home[address] = driver
        self.bind(address, driver)

    def add_vf(self, pf: str, number: int, address: str, **options: Any) -> None:
        self.add(address, **options)
        (self.devices / address / "physfn").symlink_to(self.sys / "devices/pci0000:00" / pf)
        (self.devices / pf / f"virtfn{number}").symlink_to(self.sys / "devices/pci0000:00" / address)

    def remove(self, address: str) -> None:
        for link in self.devices.glob("*/virtfn*"):
            if link.readlink().name == address:
                link.unlink()
        for member in self.sys.glob(f"kernel/iommu_groups/*/devices/{address}"):
            member.unlink()
        (self.devices / address).unlink()
        shutil.rmtree(self.sys / "devices/pci0000:00" / address)

    def netdev(self, address: str, name: str, *, carrier: bool = True, kind: str = "1") -> None:
        folder = self.sys / "class/net" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in (("type", kind), ("carrier", str(int(carrier))), ("operstate", "up" if carrier else "down")):
            (folder / file).write_text(f"{text}\n")
        (self.devices / address / "net" / name).mkdir(parents=True)

    def bind(self, address: str, driver: str) -> None:
        place = self.devices / address
        link, group = place / "driver", place / "iommu_group"
        link.unlink(missing_ok=True)
        node = self.dev / "vfio" / group.readlink().name if group.exists() else None
        if driver:
            link.symlink_to(self.driver(driver))
        if node is not None and driver == "vfio-pci":
            node.touch()
        elif node is not None and not self._has_vfio_member(node.name):
            node.unlink(missing_ok=True)

    def bound(self, address: str) -> str:
        link = self.devices / address / "driver"
        return link.readlink().name if link.is_symlink() else ""

    def host(self) -> Host:
        host = Host(
            Sysfs(str(self.sys)),
            dev=str(self.dev),
            device_info=str(self.info),
            cdi_folder=str(self.cdi),
            uses=lambda _inventory: self.used,
            has_record=self.records.__contains__,
            write=self.write,
        )
        host.in_use = self.open.__contains__  # type: ignore[method-assign, assignment]
        host.opened = self.open.intersection  # type: ignore[method-assign, assignment]
        return host

    def write(self, path: str, text: str, _deadline: float) -> None:
        """Acts as the kernel does after a write. A write named by `killed_at` also kills the process."""
        name = path.rpartition("/")[2]
        if self.before_write:
            self.before_write(path, text.strip())
        with self._lock:
            self._write(path, name, text)

    def _write(self, path: str, name: str, text: str) -> None:
        self.writes.append((name, text.strip()))
        if name in self.refuse:
            refused = KernelRefused(f"write of {text.strip()!r} to {path}: the kernel refused")
            refused.number = self.refuse[name]
            raise refused
        self._act(path, name, text.strip())
        if name == self.killed_at:
            raise Killed

    def _act(self, path: str, name: str, text: str) -> None:
        if name == "driver_override":
            address = path.split("/")[-2]
            (self.devices / address / name).write_text(f"{text or '(null)'}\n")
        elif name == "unbind":
            self.bind(text, "")
        elif name == "drivers_probe":
            override = (self.devices / text / "driver_override").read_text().strip()
            self.bind(text, override if override != "(null)" else self.home[text])
        elif name == "bind":
            driver = path.split("/")[-2]
            if driver != self.home[text]:
                refused = KernelRefused(f"{driver} does not know {text}")
                refused.number = errno.ENODEV
                raise refused
            if self.bound(text):
                refused = KernelRefused("it has a driver")
                refused.number = errno.EBUSY
                raise refused
            self.bind(text, driver)

    def _join(self, place: Path, address: str, group: str) -> None:
        members = self.sys / "kernel/iommu_groups" / group / "devices"
        members.mkdir(parents=True, exist_ok=True)
        (members / address).symlink_to(place)
        (place / "iommu_group").symlink_to(members.parent)

    def _has_vfio_member(self, group: str) -> bool:
        members = (self.sys / "kernel/iommu_groups" / group / "devices").iterdir()
        return any(self.bound(member.name) == "vfio-pci" for member in members)


class Killed(BaseException):
    """Ends the process without any of our clean-up, like `kill -9`."""


def card(host: PciHost, *, vfs: int = 4, driver: str = "iavf") -> None:
    """A PF with VFs, each in its own IOMMU group."""
    host.add(BRIDGE, class_="0x060400", group="1")
    host.add(PF, driver="i40e", group="2", netdev="eth0", device="0x1572", sriov_totalvfs="8")
    for number in range(vfs):
        host.add_vf(
            PF,
            number,
            VFS[number],
            driver=driver,
            group=str(10 + number),
            netdev=f"eth0v{number}" if driver == "iavf" else "",
        )


def graphics(host: PciHost, *, sound_driver: str = "vfio-pci") -> None:
    """A graphics card whose sound function is in the same IOMMU group."""
    host.add(GPU, class_="0x030200", vendor="0x10de", device="0x1bb3", driver="vfio-pci", group="20", numa_node="1")
    host.add(SOUND, class_="0x040300", vendor="0x10de", device="0x10f0", driver=sound_driver, group="20", numa_node="1")


def many(host: PciHost, cards: int, vfs: int) -> list[dict[str, Any]]:
    """Cards with VFs, each in its own IOMMU group. Returns a resource for the VFs of each card."""
    for number in range(cards):
        pf = f"0000:{number + 0x10:02x}:00.0"
        host.add(pf, driver="i40e", group=str(number), netdev=f"eth{number}", device="0x1572", sriov_totalvfs=str(vfs))
        for vf in range(vfs):
            group = str(1000 + number * vfs + vf)
            host.add_vf(pf, vf, many_vf(number, vf), driver="vfio-pci", group=group)
    return [{"resourceName": f"r{number}", "selectors": {"pfNames": [f"eth{number}"]}} for number in range(cards)]


def many_vf(number: int, vf: int) -> str:
    """The address of a VF of one of many cards."""
    return f"0000:{number + 0x10:02x}:{2 + vf // 8:02x}.{vf % 8}"
