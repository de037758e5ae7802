"""What sysfs tells of a device before a driver is bound to it, on trees as kernels make them. Binding itself: the lab."""

from __future__ import annotations

import pytest

from cni.errors import DriverUnfit
from cni.host.binding import Drivers
from cni.host.sysfs import Sysfs
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
        return Drivers(Sysfs(str(self.root)), dev=str(self.root / "dev"))


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_unbound_members_and_bridges_do_not_hinder(tree):
    assert tree.drivers.hindrances(VF) == []


@pytest.mark.parametrize("driver", ["vfio-pci", "mlx5_vfio_pci", "pci-stub"])
def test_members_of_vfio_or_nobody_do_not_hinder(tree, driver):
    tree.bind(SIBLING, driver)
    assert tree.drivers.hindrances(VF) == []


def test_a_member_with_another_driver_hinders_and_is_named(tree):
    tree.bind(SIBLING, "e1000")
    assert tree.drivers.hindrances(VF) == [f"{SIBLING} of its IOMMU group is bound to e1000"]


def test_a_device_without_a_group_is_told_about_the_iommu(tree):
    (tree.root / "bus/pci/devices" / VF / "iommu_group").unlink()
    (told,) = tree.drivers.hindrances(VF)
    assert "IOMMU" in told


def test_a_driver_that_is_not_there_is_refused_before_anything_is_written(tree):
    with pytest.raises(DriverUnfit) as caught:
        tree.drivers.bind(VF, "vfio-pci", "vfio-pci")
    assert caught.value.hint == "modprobe vfio-pci"
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


def test_a_device_is_known_to_be_for_user_space_by_its_vfio_device_or_its_drivers_name(tree):
    sysfs = Sysfs(str(tree.root))
    assert not sysfs.in_user_space(VF)
    (tree.root / "bus/pci/devices" / VF / "vfio-dev/vfio0").mkdir(parents=True)
    assert sysfs.in_user_space(VF)
    for driver in ("vfio-pci", "ice-vfio-pci", "uio_pci_generic", "igb_uio"):
        tree.bind(SIBLING, driver)
        assert sysfs.in_user_space(SIBLING), driver
