"""The two interfaces by which a process gets a device and an IOMMU domain: group and container, or iommufd."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
from abc import ABC, abstractmethod
from struct import Struct
from typing import TYPE_CHECKING

from driverhost.errors import DeviceUnavailable, GroupNotViable, OutOfDmaMemory
from driverhost.vfio import uapi
from driverhost.vfio.iova import IovaSpace

if TYPE_CHECKING:
    from driverhost.vfio.kernel import Kernel
    from driverhost.vfio.place import Place

_MOST_RANGES = 64
"""Ranges of addresses that iommufd may report; a processor's IOMMU has two or three."""
_LARGEST_INFO = 64 * 1024
_SMALLEST = [(0, (1 << 39) - 1)]
"""The addresses of an IOMMU that does not report its ranges: the fewest bits are 39."""


class Iommu(ABC):
    """An opened device and its IOMMU. `device` is the device's descriptor, `space` the addresses for DMA."""

    def __init__(self, kernel: Kernel, place: Place) -> None:
        """Raises `DeviceUnavailable`, `GroupNotViable`; nothing stays open then."""
        self._kernel = kernel
        self._opened: list[int] = []
        self.device = -1
        self.space = IovaSpace([])
        try:
            self._begin(place)
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _begin(self, place: Place) -> None:
        """Opens the device, and sets `device` and `space`."""

    @abstractmethod
    def map(self, address: int, iova: int, size: int) -> None:
        """Lets the device read and write `size` bytes at the virtual `address`. Raises `OutOfDmaMemory`."""

    @abstractmethod
    def unmap(self, iova: int, size: int) -> None: ...

    @property
    def is_open(self) -> bool:
        return bool(self._opened)

    def close(self) -> None:
        """Closes the device, then the IOMMU. It can be repeated."""
        while self._opened:
            self._kernel.close(self._opened.pop())

    def _open(self, path: str) -> int:
        try:
            descriptor = self._kernel.open(path)
        except OSError as error:
            raise _not_opened(path, error) from error
        self._opened.append(descriptor)
        return descriptor

    def _ioctl(self, descriptor: int, request: int, structure: Struct, *fields: int) -> tuple[int, ...]:
        return asked(self._kernel, descriptor, request, structure, *fields)


class GroupContainer(Iommu):
    """By `/dev/vfio/<group>` and a container of type 1: every kernel with VFIO has it."""

    def _begin(self, place: Place) -> None:
        self._container = self._open(place.container_node)
        if self._kernel.ioctl(self._container, uapi.GET_API_VERSION, 0) != uapi.API_VERSION:
            raise DeviceUnavailable("this kernel has another version of VFIO")
        group = self._open(place.group_node)
        _size, flags = self._ioctl(group, uapi.GROUP_GET_STATUS, uapi.GROUP_STATUS, 0)
        if not flags & uapi.GROUP_VIABLE:
            raise GroupNotViable(
                f"IOMMU group {place.group} of {place.address} is not viable: {', '.join(place.strangers()) or 'a member'}"
                " has a driver of the host",
                hint="bind every member of the group to vfio-pci",
            )
        self._kernel.ioctl(group, uapi.GROUP_SET_CONTAINER, bytearray(Struct("=i").pack(self._container)))
        self._kernel.ioctl(self._container, uapi.SET_IOMMU, uapi.TYPE1V2_IOMMU)
        self.space = IovaSpace(self._ranges())
        self.device = self._device(group, place)
        self._opened.append(self.device)

    def _device(self, group: int, place: Place) -> int:
        try:
            return self._kernel.ioctl(group, uapi.GROUP_GET_DEVICE_FD, bytearray(place.address.encode() + b"\0"))
        except OSError as error:
            raise _not_opened(place.address, error) from error

    def _ranges(self) -> list[tuple[int, int]]:
        size, flags, *_ = self._ioctl(self._container, uapi.IOMMU_GET_INFO, uapi.TYPE1_INFO, 0, 0, 0)
        if not flags & uapi.TYPE1_INFO_CAPS or not uapi.TYPE1_INFO.size < size <= _LARGEST_INFO:
            return _SMALLEST  # before Linux 5.4
        answer = bytearray(size)
        uapi.TYPE1_INFO.pack_into(answer, 0, size, 0, 0, 0)
        self._kernel.ioctl(self._container, uapi.IOMMU_GET_INFO, answer)
        offset = uapi.TYPE1_INFO.unpack_from(answer)[3]
        return ranges_in(bytes(answer), offset)

    def map(self, address: int, iova: int, size: int) -> None:
        try:
            self._ioctl(self._container, uapi.IOMMU_MAP_DMA, uapi.DMA_MAP, uapi.DMA_READ_WRITE, address, iova, size)
        except OSError as error:
            raise _not_mapped(size, error) from error

    def unmap(self, iova: int, size: int) -> None:
        self._ioctl(self._container, uapi.IOMMU_UNMAP_DMA, uapi.DMA_UNMAP, 0, iova, size)


class Iommufd(Iommu):
    """By `/dev/vfio/devices/<name>` and `/dev/iommu`: Linux 6.6 and later, built with CONFIG_IOMMUFD."""

    def _begin(self, place: Place) -> None:
        self._iommu = self._open(place.iommu_node)
        self.device = self._open(place.device_node)
        try:
            self._ioctl(self.device, uapi.DEVICE_BIND_IOMMUFD, uapi.BIND_IOMMUFD, 0, self._iommu, 0)
            *_, self._ioas = self._ioctl(self._iommu, uapi.IOAS_ALLOC, uapi.ALLOC_IOAS, 0, 0)
            self._ioctl(self.device, uapi.DEVICE_ATTACH_IOMMUFD_PT, uapi.ATTACH_IOMMUFD, 0, self._ioas)
        except OSError as error:
            raise _not_opened(place.address, error) from error
        self.space = IovaSpace(self._ranges())

    def _ranges(self) -> list[tuple[int, int]]:
        room = (ctypes.c_uint64 * (2 * _MOST_RANGES))()
        fields = (self._ioas, _MOST_RANGES, 0, ctypes.addressof(room), 0)
        _size, _ioas, number, *_ = self._ioctl(self._iommu, uapi.IOAS_IOVA_RANGES, uapi.RANGES_OF_IOAS, *fields)
        return [(room[2 * index], room[2 * index + 1]) for index in range(min(number, _MOST_RANGES))]

    def map(self, address: int, iova: int, size: int) -> None:
        fields = (uapi.MAP_FIXED_READ_WRITE, self._ioas, 0, address, size, iova)
        try:
            self._ioctl(self._iommu, uapi.IOAS_MAP, uapi.MAP_IOAS, *fields)
        except OSError as error:
            raise _not_mapped(size, error) from error

    def unmap(self, iova: int, size: int) -> None:
        self._ioctl(self._iommu, uapi.IOAS_UNMAP, uapi.UNMAP_IOAS, self._ioas, iova, size)


def asked(kernel: Kernel, descriptor: int, request: int, structure: Struct, *fields: int) -> tuple[int, ...]:
    """Fills in the size that the structure begins with, and returns the fields that the kernel has set."""
    argument = bytearray(structure.pack(structure.size, *fields))
    kernel.ioctl(descriptor, request, argument)
    return structure.unpack(argument)


def ranges_in(info: bytes, offset: int) -> list[tuple[int, int]]:
    """The ranges of addresses in the capabilities of the kernel's answer, the first of them at `offset`."""
    while uapi.TYPE1_INFO.size <= offset <= len(info) - uapi.CAPABILITY.size:
        kind, _version, following = uapi.CAPABILITY.unpack_from(info, offset)
        if kind == uapi.IOVA_RANGES_CAPABILITY:
            number, first = int.from_bytes(info[offset + 8 : offset + 12], "little"), offset + 16
            number = min(number, (len(info) - first) // uapi.IOVA_RANGE.size)
            return [uapi.IOVA_RANGE.unpack_from(info, first + 16 * index) for index in range(number)]
        if following <= offset:
            break
        offset = following
    return _SMALLEST


def _not_opened(name: str, error: OSError) -> DeviceUnavailable:
    hints = {
        errno.ENOENT: "bind the device to vfio-pci, and give the container its device node",
        errno.ENODEV: "bind the device to vfio-pci",
        errno.EBUSY: "another process has the device or its group open; a group has one user at a time",
        errno.EACCES: "give the process read and write permission for the device node",
        errno.EPERM: "give the container the device in its cgroup: request it from the device plugin",
    }
    return DeviceUnavailable(
        f"cannot open {name}: {os.strerror(error.errno or 0)}", hint=hints.get(error.errno or 0, "see dmesg")
    )


def _not_mapped(size: int, error: OSError) -> OutOfDmaMemory:
    limit, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if error.errno == errno.ENOMEM and limit != resource.RLIM_INFINITY:
        return OutOfDmaMemory(
            f"cannot pin {size} bytes for DMA: the limit of locked memory (RLIMIT_MEMLOCK) is {limit} bytes",
            hint="raise the limit, or give the container the capability IPC_LOCK",
        )
    return OutOfDmaMemory(f"cannot map {size} bytes for DMA: {os.strerror(error.errno or 0)}", hint="see dmesg")
