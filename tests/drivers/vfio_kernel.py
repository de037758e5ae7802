"""A kernel with VFIO that is a program. It checks sizes, order and descriptors as the real one does.

Structures and errors: drivers/vfio and drivers/iommu/iommufd of Linux 6.6. tests/lab/test_driver_host.py has the real
kernel.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
from typing import Any

from driverhost.vfio import uapi

RANGES = [(0, 0xFEDFFFFF), (0xFEF00000, (1 << 39) - 1)]
CONFIG_OFFSET = 7 << 40
IRQS = {uapi.MSIX_IRQ: 3, uapi.ERROR_IRQ: 1, uapi.REQUEST_IRQ: 1}


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class FakeKernel:
    """One device in one group. `mapped` is the DMA that the IOMMU lets through, `opened` the open descriptors.

    `root` is the folder in which the test has put the nodes.
    """

    def __init__(self, root: str = "", *, viable: bool = True, can_reset: bool = True) -> None:
        self.root = root
        self.group = "/dev/vfio/9"
        self.viable = viable
        self.can_reset = can_reset
        self.opened: dict[int, str] = {}
        self.mapped: dict[int, tuple[int, int]] = {}
        self.config = bytearray(256)
        self.resets = 0
        self.triggers: dict[int, list[int]] = {}
        self.limit = 1 << 40
        self.refuse_open: dict[str, int] = {}
        self.order: list[str] = []
        self._numbers = itertools.count(1000)
        self._ready: set[str] = set()

    def open(self, path: str) -> int:
        path = path.removeprefix(self.root)
        if path in self.refuse_open:
            raise refused(self.refuse_open[path])
        if path == self.group and path in self.opened.values():
            raise refused(errno.EBUSY)
        return self._new(path)

    def close(self, descriptor: int) -> None:
        self.order.append(f"close {self.opened.pop(descriptor)}")

    def ioctl(self, descriptor: int, request: int, argument: bytearray | int) -> int:
        path = self.opened[descriptor]
        kind = "device" if path == "device" or "/devices/" in path else path.rsplit("/", 1)[-1]
        name = f"_{kind if kind in ('vfio', 'iommu', 'device') else 'group'}"
        handler: Any = getattr(self, name)
        return int(handler(request, argument) or 0)

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        assert self._kind(descriptor) == "device"
        return bytes(self.config[offset - CONFIG_OFFSET : offset - CONFIG_OFFSET + size])

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> None:
        assert self._kind(descriptor) == "device"
        self.config[offset - CONFIG_OFFSET : offset - CONFIG_OFFSET + len(data)] = data
        self.order.append(f"config {data.hex()}")

    def map_registers(self, descriptor: int, size: int, offset: int) -> memoryview:
        assert (self._kind(descriptor), size, offset) == ("device", 0x4000, 0)
        return memoryview(bytearray(size)).cast("I")

    def eventfd(self) -> int:
        return self._new("eventfd")

    def _kind(self, descriptor: int) -> str:
        path = self.opened[descriptor]
        return "device" if path == "device" or "/devices/" in path else path

    def _new(self, path: str) -> int:
        number = next(self._numbers)
        self.opened[number] = path
        return number

    # /dev/vfio/vfio and the group.

    def _vfio(self, request: int, argument: Any) -> int:
        if request == uapi.GET_API_VERSION:
            return uapi.API_VERSION
        if request == uapi.SET_IOMMU:
            self._need("container", errno.EINVAL)
            self._ready.add("iommu")
            return 0
        self._need("iommu", errno.EINVAL)
        if request == uapi.IOMMU_GET_INFO:
            self._info(argument)
        elif request == uapi.IOMMU_MAP_DMA:
            size, flags, address, iova, length = uapi.DMA_MAP.unpack(argument)
            assert (size, flags) == (uapi.DMA_MAP.size, uapi.DMA_READ_WRITE)
            self._map(address, iova, length)
        elif request == uapi.IOMMU_UNMAP_DMA:
            size, _flags, iova, length = uapi.DMA_UNMAP.unpack(argument)
            assert (size, self.mapped.pop(iova)[1]) == (uapi.DMA_UNMAP.size, length)
            self.order.append("unmap")
        else:
            raise refused(errno.ENOTTY)
        return 0

    def _info(self, argument: bytearray) -> None:
        (room,) = struct.unpack_from("<I", argument)
        head = uapi.CAPABILITY.pack(uapi.IOVA_RANGES_CAPABILITY, 1, 0) + struct.pack("<II", len(RANGES), 0)
        ranges = b"".join(uapi.IOVA_RANGE.pack(*each) for each in RANGES)
        # Another capability comes first; the offsets are from the beginning of the structure.
        other = uapi.CAPABILITY.pack(3, 1, 40) + bytes(8)
        whole = uapi.TYPE1_INFO.size + 4 + len(other) + len(head) + len(ranges)
        uapi.TYPE1_INFO.pack_into(argument, 0, whole, 3, 0x40201000, 24 if room >= whole else 0)
        if room >= whole:
            argument[24:] = (other + head + ranges).ljust(len(argument) - 24, b"\0")

    def _group(self, request: int, argument: Any) -> int:
        if request == uapi.GROUP_GET_STATUS:
            uapi.GROUP_STATUS.pack_into(argument, 0, uapi.GROUP_STATUS.size, int(self.viable))
            return 0
        if request == uapi.GROUP_SET_CONTAINER:
            assert self.opened[struct.unpack("=i", argument)[0]] == "/dev/vfio/vfio"
            self._ready.add("container")
            return 0
        if request == uapi.GROUP_GET_DEVICE_FD:
            self._need("iommu", errno.EINVAL)
            if bytes(argument) != b"0000:02:10.0\0":
                raise refused(errno.ENODEV)
            return self._new("device")
        raise refused(errno.ENOTTY)

    # The device's own node, and /dev/iommu.

    def _iommu(self, request: int, argument: Any) -> int:
        if request == uapi.IOAS_ALLOC:
            uapi.ALLOC_IOAS.pack_into(argument, 0, uapi.ALLOC_IOAS.size, 0, 77)
        elif request == uapi.IOAS_IOVA_RANGES:
            _size, ioas, room, _reserved, where, _alignment = uapi.RANGES_OF_IOAS.unpack(argument)
            assert (ioas, room >= len(RANGES)) == (77, True)
            self._write(where, b"".join(uapi.IOVA_RANGE.pack(*each) for each in RANGES))
            struct.pack_into("<I", argument, 8, len(RANGES))
        elif request == uapi.IOAS_MAP:
            size, flags, ioas, _reserved, address, length, iova = uapi.MAP_IOAS.unpack(argument)
            assert (size, flags, ioas) == (uapi.MAP_IOAS.size, uapi.MAP_FIXED_READ_WRITE, 77)
            self._map(address, iova, length)
        elif request == uapi.IOAS_UNMAP:
            _size, ioas, iova, length = uapi.UNMAP_IOAS.unpack(argument)
            assert (ioas, self.mapped.pop(iova)[1]) == (77, length)
            self.order.append("unmap")
        else:
            raise refused(errno.ENOTTY)
        return 0

    def _device(self, request: int, argument: Any) -> int:
        if request == uapi.DEVICE_BIND_IOMMUFD:
            assert self.opened[uapi.BIND_IOMMUFD.unpack(argument)[2]] == "/dev/iommu"
            self._ready.add("bound")
        elif request == uapi.DEVICE_ATTACH_IOMMUFD_PT:
            self._need("bound", errno.EINVAL)
            assert uapi.ATTACH_IOMMUFD.unpack(argument)[2] == 77
            self._ready.add("iommu")
        else:
            # Before it has an IOMMU a device answers nothing.
            self._need("iommu", errno.EINVAL)
            self._of_device(request, argument)
        return 0

    def _of_device(self, request: int, argument: Any) -> None:
        if request == uapi.DEVICE_GET_INFO:
            uapi.DEVICE_INFO.pack_into(argument, 0, 16, 2 | int(self.can_reset), 9, 5)
        elif request == uapi.DEVICE_GET_REGION_INFO:
            index = uapi.REGION_INFO.unpack(argument)[2]
            sizes = {0: (7, 0x4000, 0), 3: (7, 0x4000, 3 << 40), uapi.CONFIG_REGION: (3, 256, CONFIG_OFFSET)}
            flags, size, offset = sizes.get(index, (0, 0, index << 40))
            uapi.REGION_INFO.pack_into(argument, 0, 32, flags, index, 0, size, offset)
        elif request == uapi.DEVICE_GET_IRQ_INFO:
            index = uapi.IRQ_INFO.unpack(argument)[2]
            if index not in IRQS:
                raise refused(errno.EINVAL)
            uapi.IRQ_INFO.pack_into(argument, 0, 16, uapi.IRQ_EVENTFD, index, IRQS[index])
        elif request == uapi.DEVICE_SET_IRQS:
            size, flags, index, start, count = uapi.IRQ_SET.unpack_from(argument)
            given = list(struct.unpack_from(f"={count}i", argument, uapi.IRQ_SET.size))
            assert (size, flags, start) == (len(argument), 36, 0)
            if any(self.opened.get(each) != "eventfd" for each in given):
                raise refused(errno.EBADF)
            self.triggers[index] = given
        elif request == uapi.DEVICE_RESET:
            if not self.can_reset:
                raise refused(errno.EINVAL)
            self.resets += 1
            self.order.append("reset")
        else:
            raise refused(errno.ENOTTY)

    def _map(self, address: int, iova: int, length: int) -> None:
        if sum(size for _address, size in self.mapped.values()) + length > self.limit:
            raise refused(errno.ENOMEM)
        if not any(first <= iova and iova + length - 1 <= last for first, last in RANGES):
            raise refused(errno.EINVAL)
        if any(iova < start + size and start < iova + length for start, (_at, size) in self.mapped.items()):
            raise refused(errno.EEXIST)
        self.mapped[iova] = (address, length)

    def _need(self, what: str, number: int) -> None:
        if what not in self._ready:
            raise refused(number)

    @staticmethod
    def _write(address: int, data: bytes) -> None:
        import ctypes

        ctypes.memmove(address, data, len(data))
