"""The host's own uses of its PCI functions, on simulated hosts."""

from __future__ import annotations

import errno
import os

import pytest

from cni.errors import KernelRefused
from cni.host.sysfs import Sysfs
from deviceplugin import hostuse
from deviceplugin.hostuse import HostUse
from deviceplugin.inventory import Scanner
from tests.kubelet.pcihost import DISK, PF, PciHost
from tests.recording_log import RecordingLog

DISK_PLACE = f"devices/pci0000:00/{DISK}"


class Kernel:
    """The links of the host and their uses; None for a kernel that refuses."""

    def __init__(self, uses):
        self._uses = uses

    def link_by_name(self, name, _netns):
        return name

    def host_uses(self, link, *, leftovers):
        assert not leftovers
        uses = self._uses.get(link, [])
        if uses is None:
            raise KernelRefused("the kernel refused")
        return uses


@pytest.fixture
def host(tmp_path):
    host = PciHost(tmp_path)
    host.add(PF, driver="i40e", netdev="eth0")
    host.add(DISK, driver="nvme", class_="0x010802")
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/swaps").write_text("Filename Type Size Used Priority\n")
    (tmp_path / "proc/1/mountinfo").write_text("")
    return host


def used(host, uses=None, claimed=()):
    sysfs = Sysfs(str(host.sys))
    nodes = [f"{host.dev}/{name}" for name in claimed]
    use = HostUse(sysfs, RecordingLog(), str(host.root / "proc"), str(host.dev), nodes.__contains__)
    use._kernel = Kernel(uses or {})  # type: ignore[assignment]
    return use(Scanner(sysfs).scan())


def block(host, number, place, slaves=()):
    """A block device below a folder of sysfs, composed of others."""
    folder = host.sys / place
    (folder / "slaves").mkdir(parents=True)
    for slave in slaves:
        (folder / "slaves" / slave.rpartition("/")[2]).symlink_to(host.sys / slave)
    for links, name in (("dev/block", number), ("class/block", place.rpartition("/")[2])):
        (host.sys / links).mkdir(parents=True, exist_ok=True)
        (host.sys / links / name).symlink_to(folder)


def mounted(host, number, source="/dev/x", target="/"):
    (host.root / "proc/1/mountinfo").write_text(f"21 1 {number} / {target} rw shared:1 - ext4 {source} rw\n")


def interface(host, name, place):
    (host.sys / place).mkdir(parents=True)
    link = host.sys / "class/net" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(host.sys / place)


def test_a_host_that_uses_nothing_keeps_nothing_back(host):
    assert used(host) == {}


def test_a_function_is_used_when_its_network_device_is_also_where_virtio_is_between(host):
    interface(host, "eth1", f"devices/pci0000:00/{DISK}/virtio0/net/eth1")
    assert used(host, {"eth1": ["a route goes through it"]}) == {DISK: "the host uses eth1: a route goes through it"}


def test_what_the_kernel_does_not_tell_counts_as_used(host):
    interface(host, "eth1", f"devices/pci0000:00/{PF}/net2/eth1")
    assert used(host, {"eth1": None}) == {PF: "the host may use eth1: the kernel refused"}


def test_the_controller_of_a_mounted_disk_is_used(host):
    block(host, "259:1", f"{DISK_PLACE}/nvme/nvme0/nvme0n1/nvme0n1p1")
    mounted(host, "259:1", target="/var")
    assert used(host) == {DISK: "/var is mounted from it"}


def test_the_controllers_below_volumes_and_raids_are_used(host):
    block(host, "8:0", f"{DISK_PLACE}/ata1/block/sda")
    block(host, "9:0", "devices/virtual/block/md0", [f"{DISK_PLACE}/ata1/block/sda"])
    block(host, "253:0", "devices/virtual/block/dm-0", ["devices/virtual/block/md0"])
    mounted(host, "253:0")
    assert used(host) == {DISK: "/ is mounted from it"}


def test_the_controllers_of_a_disk_with_several_paths_are_used(host):
    subsystem = "devices/virtual/nvme-subsystem/nvme-subsys0"
    block(host, "259:1", f"{subsystem}/nvme0n1")
    (host.sys / DISK_PLACE / "nvme/nvme0").mkdir(parents=True)
    (host.sys / subsystem / "nvme0").symlink_to(host.sys / DISK_PLACE / "nvme/nvme0")
    mounted(host, "259:1")
    assert used(host) == {DISK: "/ is mounted from it"}


def test_the_controllers_of_a_mounted_partition_of_a_disk_with_several_paths_are_used(host):
    subsystem = "devices/virtual/nvme-subsystem/nvme-subsys0"
    block(host, "259:2", f"{subsystem}/nvme0n1/nvme0n1p1")
    (host.sys / DISK_PLACE / "nvme/nvme0").mkdir(parents=True)
    (host.sys / subsystem / "nvme0").symlink_to(host.sys / DISK_PLACE / "nvme/nvme0")
    mounted(host, "259:2")
    assert used(host) == {DISK: "/ is mounted from it"}


def test_a_disk_of_zfs_is_used_though_no_mount_names_it(host):
    """It was offered, so the disk of the pool was taken away from the host that runs from it."""
    block(host, "259:0", f"{DISK_PLACE}/nvme/nvme0/nvme0n1")
    mounted(host, "0:29", "rpool/ROOT/debian")
    assert used(host) == {}
    assert used(host, claimed=["nvme0n1"]) == {DISK: "the host has nvme0n1 open for itself"}


def test_a_disk_of_which_something_is_made_is_used_also_when_that_is_a_partition(host):
    partition = f"{DISK_PLACE}/nvme/nvme0/nvme0n1/nvme0n1p2"
    block(host, "259:0", f"{DISK_PLACE}/nvme/nvme0/nvme0n1")
    block(host, "259:2", partition)
    (host.sys / partition / "partition").write_text("2\n")
    assert used(host, claimed=["nvme0n1p2"]) == {}, "the whole disk tells it"
    (host.sys / partition / "holders/dm-0").mkdir(parents=True)
    assert used(host) == {DISK: "dm-0 of the host is made of nvme0n1p2"}


def test_disks_below_no_function_are_not_opened(host):
    block(host, "7:0", "devices/virtual/block/loop0")
    assert used(host, claimed=["loop0"]) == {}


@pytest.mark.parametrize(("number", "claimed"), [(errno.EBUSY, True), (errno.ENOMEDIUM, False), (errno.ENOENT, False)])
def test_a_disk_is_claimed_when_the_kernel_does_not_give_it_to_another_one(monkeypatch, number, claimed):
    flags: list[int] = []

    def refuse(_path, how):
        flags.append(how)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    assert hostuse.is_claimed("/dev/sda") is claimed
    assert flags[0] & os.O_EXCL
    assert not flags[0] & os.O_ACCMODE


def test_what_the_host_swaps_to_and_the_disk_that_a_mount_names_only_are_used(host, monkeypatch):
    block(host, "8:0", f"{DISK_PLACE}/ata1/block/sda")
    monkeypatch.setattr(hostuse, "_number", {"/dev/sda": "8:0"}.get)
    mounted(host, "0:42", "/dev/sda")
    assert used(host) == {DISK: "/ is mounted from it"}
    (host.root / "proc/1/mountinfo").write_text("")
    (host.root / "proc/swaps").write_text("Filename Type Size\n/dev/sda partition 100\n")
    assert used(host) == {DISK: "the host swaps to it"}


def test_the_function_of_a_console_is_used(host):
    (host.sys / "class/tty/console").mkdir(parents=True)
    (host.sys / "class/tty/console/active").write_text("tty0 ttyS4\n")
    (host.sys / DISK_PLACE / "tty/ttyS4").mkdir(parents=True)
    os.symlink(host.sys / DISK_PLACE / "tty/ttyS4", host.sys / "class/tty/ttyS4")
    assert used(host) == {DISK: "ttyS4 is a console"}
