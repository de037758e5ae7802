"""Reading a device in sysfs, and writes that bind a driver, on trees as kernels make them."""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import ClassVar

import pytest

from cni.errors import DriverUnfit, KernelRefused, TryAgainLater
from cni.host.binding import Drivers
from cni.host.drivers import is_bindable
from cni.host.sysfs import Sysfs
from cni.host.sysfs_write import write
from cni.pci import PciAddress

VF, SIBLING, BRIDGE = PciAddress("0000:01:10.0"), PciAddress("0000:01:10.1"), PciAddress("0000:00:1c.0")


class Tree:
    """A sysfs with three devices in one IOMMU group."""

    def __init__(self, root):
        self.root = root
        self.device(VF, "0x020000", "igbvf", group="7")
        self.device(SIBLING, "0x020000", "", group="7")
        self.device(BRIDGE, "0x060400", "pcieport", group="7")

    def device(self, address, pci_class, driver, group):
        folder = self.root / "bus/pci/devices" / address
        folder.mkdir(parents=True)
        (folder / "class").write_text(f"{pci_class}\n")
        (folder / "driver_override").write_text("(null)\n")
        (folder / "vendor").write_text("0x8086\n")
        (folder / "device").write_text("0x10ca\n")
        members = self.root / "kernel/iommu_groups" / group / "devices"
        members.mkdir(parents=True, exist_ok=True)
        (members / address).symlink_to(folder)
        (folder / "iommu_group").symlink_to(members.parent)
        self.bind(address, driver)

    def bind(self, address, driver):
        link = self.root / "bus/pci/devices" / address / "driver"
        link.unlink(missing_ok=True)
        if driver:
            folder = self.root / "bus/pci/drivers" / driver
            folder.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder)

    @property
    def drivers(self):
        return Drivers(Sysfs(str(self.root)), dev=str(self.root / "dev"), write=Bus(self).write)


class Bus:
    """The PCI bus behind a tree: igbvf and vfio-pci are loaded, and sfc, whose ID table has none of the devices."""

    TABLES: ClassVar[dict[str, set[str]]] = {"igbvf": {VF}, "vfio-pci": set(), "sfc": set()}

    def __init__(self, tree):
        self.tree = tree
        self.root = tree.root / "bus/pci"
        for driver in self.TABLES:
            (self.root / "drivers" / driver).mkdir(parents=True, exist_ok=True)

    def write(self, path, text, _deadline):
        match os.path.relpath(path, self.root).split("/"):
            case ["devices", device, "driver_override"]:
                (self.root / "devices" / device / "driver_override").write_text(text.strip() or "(null)")
            case ["devices", device, "driver", "unbind"]:
                self._bind(device, "")
            case ["drivers_probe"]:
                override = self.drivers_override(text)
                for driver, table in self.TABLES.items():
                    if driver == override or (not override and text in table):
                        self._bind(text, driver)
            case ["drivers", driver, "bind"]:
                self._bind_by_table(text, driver)

    def drivers_override(self, device):
        return Sysfs(str(self.tree.root)).override(device)

    def _bind_by_table(self, device, driver):
        override = self.drivers_override(device)
        if driver != override if override else device not in self.TABLES[driver]:
            raise refused(errno.ENODEV)
        if (self.root / "devices" / device / "driver").exists():
            raise refused(errno.EBUSY)
        self._bind(device, driver)

    def _bind(self, device, driver):
        assert driver != "sfc", "Oops in efx_init_struct"
        self.tree.bind(device, driver)
        net = self.root / "devices" / device / "net"
        (net / "eth7").mkdir(parents=True) if driver == "igbvf" else remove(net)
        node = self.tree.root / "dev/vfio/7"
        node.parent.mkdir(parents=True, exist_ok=True)
        node.touch() if driver == "vfio-pci" else node.unlink(missing_ok=True)


def remove(net):
    if net.exists():
        (net / "eth7").rmdir()
        net.rmdir()


def refused(number):
    error = KernelRefused(os.strerror(number))
    error.number = number
    return error


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_unbound_members_and_bridges_do_not_block_the_group(tree):
    assert tree.drivers.viability_problems(VF) == []


@pytest.mark.parametrize("driver", ["vfio-pci", "mlx5_vfio_pci", "pci-stub"])
def test_members_of_vfio_or_without_a_driver_do_not_block_the_group(tree, driver):
    tree.bind(SIBLING, driver)
    assert tree.drivers.viability_problems(VF) == []


@pytest.mark.parametrize("driver", ["e1000", "igb_uio", "uio_pci_generic"])
def test_a_member_with_another_driver_blocks_the_group_and_is_named(tree, driver):
    tree.bind(SIBLING, driver)
    assert tree.drivers.viability_problems(VF) == [f"{SIBLING} of its IOMMU group is bound to {driver}"]


def test_a_device_without_a_group_is_refused_with_a_hint_about_the_iommu(tree):
    (tree.root / "bus/pci/devices" / VF / "iommu_group").unlink()
    (told,) = tree.drivers.viability_problems(VF)
    assert "IOMMU" in told


def test_a_driver_that_is_not_there_is_refused_before_anything_is_written(tree):
    with pytest.raises(DriverUnfit) as caught:
        tree.drivers.bind(VF, "uio_pci_generic", "uio_pci_generic")
    assert caught.value.hint == "modprobe uio_pci_generic"
    assert (tree.root / "bus/pci/devices" / VF / "driver_override").read_text() == "(null)\n"


@pytest.mark.parametrize("node", ["7", "noiommu-7"])
def test_a_driver_of_vfio_is_ready_when_its_device_node_is_there(tree, node):
    tree.bind(VF, "vfio-pci")
    assert not tree.drivers._ready(VF, "vfio-pci")
    (tree.root / "dev/vfio").mkdir(parents=True)
    (tree.root / "dev/vfio" / node).write_text("")
    assert tree.drivers._ready(VF, "vfio-pci")
    assert not tree.drivers.in_use(VF)


def test_a_network_driver_is_ready_when_its_network_device_is_there(tree):
    assert not tree.drivers._ready(VF, "igbvf")
    (tree.root / "bus/pci/devices" / VF / "net/eth7").mkdir(parents=True)
    assert tree.drivers._ready(VF, "igbvf")


@pytest.mark.parametrize(
    ("pci_class", "driver"),
    [("0x030200", "nouveau"), ("0x120000", "qat"), ("0x010802", "nvme"), ("0x020000", "virtio-pci")],
)
def test_a_kernel_driver_that_makes_no_network_device_is_ready_when_it_is_bound(tree, pci_class, driver):
    """Because a network device was awaited, a GPU or a disk was released only after 15 s, and with an error."""
    (tree.root / "bus/pci/devices" / VF / "class").write_text(f"{pci_class}\n")
    assert not tree.drivers._ready(VF, driver)
    tree.bind(VF, driver)
    assert tree.drivers._ready(VF, driver)


@pytest.mark.parametrize("name", ["7", "noiommu-7"])
def test_a_group_that_a_containers_dev_does_not_show_is_ready_and_in_use_while_a_process_has_it_open(tree, name):
    tree.bind(VF, "vfio-pci")
    group = tree.root / "class/vfio" / name
    group.mkdir(parents=True)
    assert tree.drivers._ready(VF, "vfio-pci")
    null = os.stat("/dev/null").st_rdev
    (group / "dev").write_text("4095:4095\n")
    assert not tree.drivers.in_use(VF)
    (group / "dev").write_text(f"{os.major(null)}:{os.minor(null)}\n")
    with open("/dev/null", "rb"):
        assert tree.drivers.in_use(VF)


def test_an_infiniband_device_is_known_by_its_class(tree):
    assert not Sysfs(str(tree.root)).is_infiniband(VF)
    (tree.root / "bus/pci/devices" / VF / "class").write_text("0x020700\n")
    assert Sysfs(str(tree.root)).is_infiniband(VF)


def test_a_device_is_known_to_be_for_user_space_by_its_vfio_device_or_its_drivers_name(tree):
    sysfs = Sysfs(str(tree.root))
    assert not sysfs.in_user_space(VF)
    (tree.root / "bus/pci/devices" / VF / "vfio-dev/vfio0").mkdir(parents=True)
    assert sysfs.in_user_space(VF)
    for driver in ("vfio-pci", "ice-vfio-pci", "uio_pci_generic", "igb_uio"):
        tree.bind(SIBLING, driver)
        assert sysfs.in_user_space(SIBLING), driver


def state(tree):
    sysfs = Sysfs(str(tree.root))
    return sysfs.driver(VF), sysfs.override(VF), sysfs.netdevs(VF)


@pytest.mark.parametrize("found", ["", "vfio-pci", "sfc"])
def test_a_network_driver_without_the_device_in_its_id_table_is_refused_and_the_network_device_stays(tree, found):
    """With any override that names it, the kernel would let the driver probe foreign hardware."""
    drivers = tree.drivers
    drivers._override(VF, found, 0.0)
    (tree.root / "bus/pci/devices" / VF / "net/eth7").mkdir(parents=True)
    with pytest.raises(DriverUnfit, match=r"sfc does not support 0000:01:10.0 \(PCI ID 8086:10ca\)"):
        drivers.bind(VF, "sfc", "")
    assert state(tree) == ("igbvf", "", ["eth7"])
    drivers.bind(VF, "igbvf", found)
    assert state(tree) == ("igbvf", found, ["eth7"])


def test_neither_a_device_of_vfio_nor_one_without_a_driver_gets_a_foreign_network_driver(tree):
    drivers = tree.drivers
    for present in ("vfio-pci", ""):
        drivers.bind(VF, present, present)
        with pytest.raises(DriverUnfit, match="sfc does not support"):
            drivers.bind(VF, "sfc", "")


def test_a_driver_for_user_space_is_bound_by_the_override_and_the_own_one_by_its_id_table(tree):
    drivers = tree.drivers
    drivers.bind(VF, "vfio-pci", "vfio-pci")
    assert state(tree) == ("vfio-pci", "vfio-pci", [])
    drivers.bind(VF, "igbvf", "")
    assert state(tree) == ("igbvf", "", ["eth7"])


def test_a_device_whose_driver_is_only_unbound_keeps_its_override_meanwhile(tree, monkeypatch):
    drivers = tree.drivers
    drivers.bind(VF, "vfio-pci", "vfio-pci")
    written: list[str] = []
    write = drivers._writer

    def watched(path: str, text: str, deadline: float) -> None:
        written.append(path)
        write(path, text, deadline)

    monkeypatch.setattr(drivers, "_writer", watched)
    drivers.bind(VF, "", "vfio-pci")
    assert [os.path.basename(path) for path in written] == ["unbind"]
    assert state(tree) == ("", "vfio-pci", [])


def test_a_network_driver_that_an_administrator_bound_by_the_override_is_given_back_so(tree, monkeypatch):
    monkeypatch.setattr(Bus, "TABLES", {**Bus.TABLES, "igbvf": set()})
    drivers = tree.drivers
    drivers.bind(VF, "vfio-pci", "vfio-pci")
    drivers.bind(VF, "igbvf", "igbvf")
    assert state(tree) == ("igbvf", "igbvf", ["eth7"])


def test_the_kernels_refusal_of_a_write_is_reported_with_its_errno(tmp_path):
    with pytest.raises(KernelRefused, match="Is a directory") as failed:
        write(str(tmp_path), "text", time.monotonic() + 10)
    assert failed.value.number == errno.EISDIR


def test_a_write_in_which_the_kernel_kills_the_process_is_reported_as_that(tmp_path, monkeypatch):
    """An Oops of a driver does this. Reported as an errno, it was "Bad file descriptor"."""
    (tmp_path / "bind").touch()
    monkeypatch.setattr(os, "write", lambda *_args: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(KernelRefused, match="killed by signal 9") as failed:
        write(str(tmp_path / "bind"), "text", time.monotonic() + 10)
    assert failed.value.number == 0


def test_a_write_that_does_not_end_has_a_bound(tmp_path):
    os.mkfifo(tmp_path / "bind")
    with pytest.raises(TryAgainLater, match="in time"):
        write(str(tmp_path / "bind"), "text", time.monotonic() + 0.1)


@pytest.mark.parametrize("driver", ["virtio-pci", "nvme", "pci-stub", "../vfio-pci"])
def test_drivers_of_anything_but_network_devices_on_the_pci_bus_are_not_bindable(driver):
    assert not is_bindable(driver)
