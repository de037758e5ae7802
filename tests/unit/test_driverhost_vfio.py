"""The VFIO layer on a kernel that is a program; on the real one: tests/lab/test_driver_host.py."""

from __future__ import annotations

import ctypes
import errno
import resource
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from driverhost.errors import DeviceUnavailable, GroupNotViable, OutOfDmaMemory, Unsupported
from driverhost.vfio import iommu, uapi
from driverhost.vfio.device import VfioDevice
from driverhost.vfio.iova import LOWEST, IovaSpace
from driverhost.vfio.place import Place
from tests.drivers.vfio_kernel import RANGES, FakeKernel

ADDRESS = "0000:02:10.0"


@pytest.fixture(params=["group", "iommufd"])
def place(request, tmp_path):
    return place_of(tmp_path, iommufd=request.param == "iommufd")


@pytest.fixture
def kernel(tmp_path):
    return FakeKernel(root=str(tmp_path))


def place_of(folder, *, iommufd=False, strangers=()):
    device = folder / "sys/bus/pci/devices" / ADDRESS
    group = folder / "sys/kernel/iommu_groups/9"
    (device / "vfio-dev/vfio0").mkdir(parents=True)
    (group / "devices").mkdir(parents=True)
    (device / "iommu_group").symlink_to(group)
    (device / "vendor").write_text("0x8086\n")
    (device / "device").write_text("0x10ca\n")
    for name, driver in {ADDRESS: "vfio-pci", **dict(strangers)}.items():
        member = device.parent / name
        member.mkdir(exist_ok=True)
        (group / "devices" / name).symlink_to(member)
        (folder / "sys/bus/pci/drivers" / driver).mkdir(parents=True, exist_ok=True)
        (member / "driver").symlink_to(folder / "sys/bus/pci/drivers" / driver)
    if iommufd:
        (folder / "dev/vfio/devices").mkdir(parents=True)
        for node in ("iommu", "vfio/devices/vfio0"):
            (folder / "dev" / node).touch()
    return Place(ADDRESS, str(folder))


def test_a_device_has_registers_memory_interrupts_and_configuration(place, kernel):
    with VfioDevice(place, kernel) as device:
        assert (device.address, device.ids) == (ADDRESS, (0x8086, 0x10CA))
        registers = device.registers(0)
        registers[4] = 0xDEADBEEF
        assert registers[4] == 0xDEADBEEF
        assert [len(device.registers(0, bits)) for bits in (8, 16, 32)] == [0x4000, 0x2000, 0x1000]
        memory = device.memory(5000)
        address, size = kernel.mapped[memory.iova]
        assert (memory.size, size, memory.iova >= LOWEST) == (8192, 8192, True)
        memory.view[:5] = b"hello"
        assert ctypes.string_at(address, 5) == b"hello"
        assert kernel.triggers == {}
        assert device.interrupts(2) == kernel.triggers[uapi.MSIX_IRQ]
        assert len(device.faults()) == 2
        device.set_config(16, b"\1\2")
        assert device.config(15, 4) == b"\0\1\2\0"
    assert (kernel.opened, kernel.mapped) == ({}, {})


def test_it_is_reset_when_it_is_opened_and_without_dma_and_reset_before_its_memory_is_freed(place, kernel):
    with VfioDevice(place, kernel) as device:
        device.set_bus_master(enabled=True)
        assert kernel.config[4] & 4
        device.memory(4096)
        assert kernel.resets == 1
        kernel.order.clear()
    assert kernel.order[:3] == ["config 0200", "reset", "unmap"]
    device.close()


def test_a_device_without_a_reset_of_its_own_is_used_without(place, kernel):
    kernel.can_reset = False
    with VfioDevice(place, kernel):
        pass
    assert kernel.opened == {}


def test_what_the_device_does_not_have_is_an_error(place, kernel):
    with VfioDevice(place, kernel) as device:
        with pytest.raises(Unsupported, match="BAR 2"):
            device.registers(2)
        with pytest.raises(Unsupported, match="3 interrupts"):
            device.interrupts(4)


def test_a_group_that_is_not_viable_names_its_members(tmp_path):
    place = place_of(tmp_path, strangers={"0000:02:10.1": "e1000e", "0000:02:10.2": "pci-stub"})
    kernel = FakeKernel(root=str(tmp_path), viable=False)
    with pytest.raises(
        GroupNotViable, match=r"IOMMU group 9 of 0000:02:10.0 is not viable: 0000:02:10.1 \(e1000e\) has"
    ):
        VfioDevice(place, kernel)
    assert kernel.opened == {}


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.EBUSY, "one user at a time"),
        (errno.ENOENT, "bind the device to vfio-pci"),
        (errno.EPERM, "request it from the device plugin"),
        (errno.EACCES, "read and write permission"),
    ],
)
def test_a_node_that_cannot_be_opened_says_why(place, kernel, number, hint):
    kernel.refuse_open = dict.fromkeys(("/dev/vfio/9", "/dev/vfio/devices/vfio0"), number)
    with pytest.raises(DeviceUnavailable, match=r"cannot open .*/dev/vfio/") as failure:
        VfioDevice(place, kernel)
    assert hint in failure.value.hint
    assert kernel.opened == {}


def test_a_low_limit_of_locked_memory_is_named(place, kernel, monkeypatch):
    kernel.limit = 8192
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (8192, 8192))
    with VfioDevice(place, kernel) as device:
        device.memory(4096)
        with pytest.raises(OutOfDmaMemory, match=r"RLIMIT_MEMLOCK\) is 8192 bytes") as failure:
            device.memory(8192)
        assert "IPC_LOCK" in failure.value.hint
        assert len(kernel.mapped) == 1
        device.memory(4096)


def test_a_device_that_does_not_exist_or_has_no_group_is_an_error(tmp_path):
    with pytest.raises(DeviceUnavailable, match="there is no PCI device"):
        Place(ADDRESS, str(tmp_path))
    (tmp_path / "sys/bus/pci/devices" / ADDRESS).mkdir(parents=True)
    with pytest.raises(DeviceUnavailable, match="has no IOMMU group"):
        Place(ADDRESS, str(tmp_path))


def test_iommufd_is_used_when_both_its_nodes_are_there(tmp_path):
    assert place_of(tmp_path / "with", iommufd=True).has_iommufd
    assert not place_of(tmp_path / "without").has_iommufd


# Addresses.


@given(
    ranges=st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 40)).map(sorted).map(tuple), max_size=5),
    sizes=st.lists(st.tuples(st.integers(1, 1 << 30), st.sampled_from([4096, 1 << 21])), max_size=10),
)
def test_addresses_are_in_a_range_aligned_and_given_once(ranges, sizes):
    space = IovaSpace(ranges)
    given_out: list[tuple[int, int]] = []
    for size, alignment in sizes:
        try:
            start = space.take(size, alignment)
        except OutOfDmaMemory:
            continue
        assert start % alignment == 0
        assert start >= LOWEST
        assert any(first <= start and start + size - 1 <= last for first, last in ranges)
        given_out.append((start, start + size))
    distinct = len({tuple(each) for each in ranges}) == len(ranges)
    if distinct and all(one[1] < other[0] for one, other in pairwise(sorted(ranges))):
        ordered = sorted(given_out)
        assert all(one[1] <= other[0] for one, other in pairwise(ordered))


@given(info=st.binary(min_size=24, max_size=200), offset=st.integers(0, 300))
def test_ranges_are_found_or_the_smallest_iommu_is_assumed_whatever_the_capabilities_are(info, offset):
    try:
        found = iommu.ranges_in(info, offset)
    except OutOfDmaMemory:
        return
    assert isinstance(found, list)


def test_ranges_are_those_of_the_kernel(place, kernel):
    with VfioDevice(place, kernel) as device:
        assert device._iommu.space._ranges == [(LOWEST, RANGES[0][1]), RANGES[1]]


# The kernel's own header is the oracle of our numbers.


def test_numbers_and_structures_are_those_of_the_kernel_s_header(tmp_path):
    names = "GET_API_VERSION CHECK_EXTENSION SET_IOMMU GROUP_GET_STATUS GROUP_SET_CONTAINER GROUP_GET_DEVICE_FD".split()
    names += "DEVICE_GET_INFO DEVICE_GET_REGION_INFO DEVICE_GET_IRQ_INFO DEVICE_SET_IRQS DEVICE_RESET".split()
    numbers = {f"VFIO_{name}": getattr(uapi, name) for name in names}
    numbers |= {f"VFIO_{name}": getattr(uapi, name) for name in ("IOMMU_GET_INFO", "IOMMU_MAP_DMA", "IOMMU_UNMAP_DMA")}
    numbers |= {
        "VFIO_TYPE1v2_IOMMU": uapi.TYPE1V2_IOMMU,
        "VFIO_PCI_CONFIG_REGION_INDEX": uapi.CONFIG_REGION,
        "VFIO_PCI_MSIX_IRQ_INDEX": uapi.MSIX_IRQ,
        "VFIO_PCI_ERR_IRQ_INDEX": uapi.ERROR_IRQ,
        "VFIO_PCI_REQ_IRQ_INDEX": uapi.REQUEST_IRQ,
        "VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE": uapi.IOVA_RANGES_CAPABILITY,
        "VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER": uapi.IRQ_SET_EVENTFD | uapi.IRQ_SET_TRIGGER,
        "VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE": uapi.DMA_READ_WRITE,
        "sizeof(struct vfio_group_status)": uapi.GROUP_STATUS.size,
        "sizeof(struct vfio_region_info)": uapi.REGION_INFO.size,
        "sizeof(struct vfio_irq_info)": uapi.IRQ_INFO.size,
        "sizeof(struct vfio_irq_set)": uapi.IRQ_SET.size,
        "sizeof(struct vfio_iommu_type1_dma_map)": uapi.DMA_MAP.size,
        "sizeof(struct vfio_iommu_type1_dma_unmap)": uapi.DMA_UNMAP.size,
        "offsetof(struct vfio_iommu_type1_info, cap_offset)": uapi.TYPE1_INFO.size - 4,
        "offsetof(struct vfio_iommu_type1_info_cap_iova_range, iova_ranges)": 16,
    }
    prints = "".join(f'printf("%ld\\n", (long)({name}));' for name in numbers)
    source = f"#include <stddef.h>\n#include <stdio.h>\n#include <linux/vfio.h>\nint main(void) {{ {prints} }}\n"
    (tmp_path / "numbers.c").write_text(source)
    program = Path(tmp_path / "numbers")
    subprocess.run(["cc", "-o", program, tmp_path / "numbers.c"], check=True, timeout=60)
    output = subprocess.run([program], capture_output=True, text=True, check=True, timeout=60).stdout
    assert dict(zip(numbers, map(int, output.split()), strict=True)) == numbers


def test_a_memory_that_cannot_be_unmapped_does_not_keep_the_device_open(place, kernel, monkeypatch):
    device = VfioDevice(place, kernel)
    device.memory(4096)

    def refused(*_arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(type(device._iommu), "unmap", refused)
    with pytest.raises(OSError, match="Input/output error"):
        device.close()
    assert kernel.opened == {}
