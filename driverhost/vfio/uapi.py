"""Numbers and structures of the kernel's VFIO and iommufd interfaces.

Source: include/uapi/linux/vfio.h and include/uapi/linux/iommufd.h of Linux 6.1 to 6.12. Each `Struct` has the fields of
the structure of the same name; where the kernel's begins with its own size, so does the packed value.
"""

from __future__ import annotations

from struct import Struct

_TYPE = ord(";") << 8


def _vfio(number: int) -> int:
    """The number of an ioctl. Neither interface encodes the direction or the size."""
    return _TYPE | 100 + number


def _iommufd(number: int) -> int:
    return _TYPE | 0x80 + number


GET_API_VERSION = _vfio(0)
CHECK_EXTENSION = _vfio(1)
SET_IOMMU = _vfio(2)
GROUP_GET_STATUS = _vfio(3)
GROUP_SET_CONTAINER = _vfio(4)
GROUP_GET_DEVICE_FD = _vfio(6)
DEVICE_GET_INFO = _vfio(7)
DEVICE_GET_REGION_INFO = _vfio(8)
DEVICE_GET_IRQ_INFO = _vfio(9)
DEVICE_SET_IRQS = _vfio(10)
DEVICE_RESET = _vfio(11)
IOMMU_GET_INFO = _vfio(12)
IOMMU_MAP_DMA = _vfio(13)
IOMMU_UNMAP_DMA = _vfio(14)
DEVICE_BIND_IOMMUFD = _vfio(18)
DEVICE_ATTACH_IOMMUFD_PT = _vfio(19)

IOAS_ALLOC = _iommufd(1)
IOAS_IOVA_RANGES = _iommufd(4)
IOAS_MAP = _iommufd(5)
IOAS_UNMAP = _iommufd(6)

API_VERSION = 0
TYPE1V2_IOMMU = 3

GROUP_STATUS = Struct("=II")  # argsz, flags
GROUP_VIABLE = 1

DEVICE_INFO = Struct("=IIII")  # argsz, flags, num_regions, num_irqs
DEVICE_CAN_RESET = 1

REGION_INFO = Struct("=IIIIQQ")  # argsz, flags, index, cap_offset, size, offset
REGION_MMAP = 4
CONFIG_REGION = 7

IRQ_INFO = Struct("=IIII")  # argsz, flags, index, count
IRQ_EVENTFD = 1
IRQ_SET = Struct("=IIIII")  # argsz, flags, index, start, count; then the data
IRQ_SET_EVENTFD = 4
IRQ_SET_TRIGGER = 32
MSIX_IRQ, ERROR_IRQ, REQUEST_IRQ = 2, 3, 4

DMA_MAP = Struct("=IIQQQ")  # argsz, flags, vaddr, iova, size
DMA_READ_WRITE = 3
DMA_UNMAP = Struct("=IIQQ")  # argsz, flags, iova, size

TYPE1_INFO = Struct("=IIQI")  # argsz, flags, iova_pgsizes, cap_offset
TYPE1_INFO_CAPS = 2
CAPABILITY = Struct("=HHI")  # id, version, offset of the next one
IOVA_RANGES_CAPABILITY = 1
IOVA_RANGE = Struct("=QQ")  # first, last

BIND_IOMMUFD = Struct("=IIiI")  # argsz, flags, iommufd, devid
ATTACH_IOMMUFD = Struct("=III")  # argsz, flags, pt_id

ALLOC_IOAS = Struct("=III")  # size, flags, ioas_id
RANGES_OF_IOAS = Struct("=IIIIQQ")  # size, ioas_id, num_iovas, reserved, allowed_iovas, iova_alignment
MAP_IOAS = Struct("=IIIIQQQ")  # size, flags, ioas_id, reserved, user_va, length, iova
MAP_FIXED_READ_WRITE = 7
UNMAP_IOAS = Struct("=IIQQ")  # size, ioas_id, iova, length
