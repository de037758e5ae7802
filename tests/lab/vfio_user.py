"""Opens a device in the lab's machine as a user of VFIO does: container, group, IOMMU, device, a register read."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Self

_API_VERSION, _SET_IOMMU, _GROUP_STATUS, _SET_CONTAINER, _DEVICE_FD, _REGION = (
    0x3B64 + number for number in (0, 2, 3, 4, 6, 8)
)
_TYPE1, _VIABLE, _CONFIG_REGION = 1, 1, 7


class VfioUser:
    """Keeps the device open inside the `with` block. `group_node` is the path of its group's device node."""

    def __init__(self, device: str, group_node: str) -> None:
        self._device = device
        self._group_node = group_node
        self._open: list[int] = []

    def __enter__(self) -> Self:
        container = self._opened("/dev/vfio/vfio")
        assert fcntl.ioctl(container, _API_VERSION) == 0
        group = self._opened(self._group_node)
        status = fcntl.ioctl(group, _GROUP_STATUS, struct.pack("II", 8, 0))
        assert struct.unpack("II", status)[1] & _VIABLE, "the group is not viable"
        fcntl.ioctl(group, _SET_CONTAINER, struct.pack("i", container))
        fcntl.ioctl(container, _SET_IOMMU, _TYPE1)
        # Python returns the kernel's response only if the buffer is mutable.
        self._open.append(fcntl.ioctl(group, _DEVICE_FD, bytearray(self._device.encode() + b"\0")))
        return self

    def __exit__(self, *_exc: object) -> None:
        for descriptor in reversed(self._open):
            os.close(descriptor)

    def reads_its_vendor(self) -> bool:
        """Whether its configuration space, read through VFIO, begins with the vendor that sysfs reports."""
        region = fcntl.ioctl(self._open[-1], _REGION, struct.pack("IIIIQQ", 32, 0, _CONFIG_REGION, 0, 0, 0))
        offset = struct.unpack("IIIIQQ", region)[5]
        vendor = Path(f"/sys/bus/pci/devices/{self._device}/vendor").read_text()
        return int.from_bytes(os.pread(self._open[-1], 2, offset), "little") == int(vendor, 16)

    def _opened(self, path: str) -> int:
        self._open.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        return self._open[-1]
