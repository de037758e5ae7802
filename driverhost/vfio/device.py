"""A PCI device that this process has for itself, by VFIO."""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING, Self

from driverhost.errors import DeviceFailed, Unsupported
from driverhost.vfio import uapi
from driverhost.vfio.dma import DmaMemory
from driverhost.vfio.iommu import GroupContainer, Iommufd, asked
from driverhost.vfio.kernel import LinuxKernel

if TYPE_CHECKING:
    from driverhost.vfio.kernel import Kernel
    from driverhost.vfio.place import Place

_COMMAND = 4
"""Offset of the command register in the configuration space."""
_MEMORY_SPACE, _BUS_MASTER = 2, 4
_FAULTS = {uapi.ERROR_IRQ: "the bus reports an error", uapi.REQUEST_IRQ: "the host requests its release"}


class VfioDevice:
    """Has the device open until `close`, which leaves it reset and without DMA.

    Raises `DeviceUnavailable`, `GroupNotViable`.
    """

    def __init__(self, place: Place, kernel: Kernel | None = None) -> None:
        self._kernel = kernel or LinuxKernel()
        self.address = place.address
        self.ids = place.ids
        self._iommu = (Iommufd if place.has_iommufd else GroupContainer)(self._kernel, place)
        self._memory: list[DmaMemory] = []
        self._registers: list[memoryview] = []
        self._eventfds: list[int] = []
        try:
            self._begin()
        except BaseException:
            self._iommu.close()
            raise

    def _begin(self) -> None:
        _size, flags, _regions, _irqs = self._ask(uapi.DEVICE_GET_INFO, uapi.DEVICE_INFO, 0, 0, 0)
        self._can_reset = bool(flags & uapi.DEVICE_CAN_RESET)
        *_, self._config = self._region(uapi.CONFIG_REGION)
        # The process before may have left it as it was.
        self.reset()
        self._set_command(_MEMORY_SPACE, enabled=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """It can be repeated. Descriptors of interrupts and views of memory must not be used any more."""
        if self._iommu.is_open:
            # The memory is freed below: whatever the device still does must not reach it.
            with contextlib.suppress(OSError):
                self.set_bus_master(enabled=False)
            with contextlib.suppress(DeviceFailed):
                self.reset()
        with contextlib.ExitStack() as rest:
            rest.callback(self._iommu.close)
            for descriptor in self._eventfds:
                rest.callback(self._kernel.close, descriptor)
            for view in self._registers:
                rest.callback(view.release)
            for memory in self._memory:
                rest.callback(memory.close)
            self._eventfds, self._registers, self._memory = [], [], []

    def registers(self, bar: int, bits: int = 32) -> memoryview:
        flags, size, offset = self._region(bar)
        if not flags & uapi.REGION_MMAP or not size:
            raise Unsupported(f"BAR {bar} of {self.address} cannot be mapped")
        words = self._kernel.map_registers(self._iommu.device, size, offset)
        self._registers.append(words)
        if bits != 32:
            self._registers.append(words.cast("B"))
        if bits == 16:
            self._registers.append(self._registers[-1].cast("H"))
        return self._registers[-1]

    def config(self, offset: int, size: int) -> bytes:
        return self._kernel.pread(self._iommu.device, size, self._config + offset)

    def set_config(self, offset: int, data: bytes) -> None:
        self._kernel.pwrite(self._iommu.device, data, self._config + offset)

    def memory(self, size: int) -> DmaMemory:
        self._memory.append(DmaMemory(self._iommu, size))
        return self._memory[-1]

    def interrupts(self, number: int) -> list[int]:
        return self._triggers(uapi.MSIX_IRQ, number)

    def faults(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for index, reason in _FAULTS.items():
            with contextlib.suppress(Unsupported):
                found |= dict.fromkeys(self._triggers(index, 1), reason)
        return found

    def set_bus_master(self, *, enabled: bool) -> None:
        self._set_command(_BUS_MASTER, enabled=enabled)

    def reset(self) -> None:
        if not self._can_reset:
            return
        try:
            self._kernel.ioctl(self._iommu.device, uapi.DEVICE_RESET, 0)
        except OSError as error:
            raise DeviceFailed(
                f"{self.address} cannot be reset: {os.strerror(error.errno or 0)}", hint="see dmesg"
            ) from error

    def _triggers(self, index: int, number: int) -> list[int]:
        try:
            _size, flags, _index, there = self._ask(uapi.DEVICE_GET_IRQ_INFO, uapi.IRQ_INFO, 0, index, 0)
        except OSError:
            flags = there = 0
        if not flags & uapi.IRQ_EVENTFD or there < number:
            raise Unsupported(f"{self.address} has {there} interrupts of kind {index}, and {number} are needed")
        for _ in range(number):
            self._eventfds.append(self._kernel.eventfd())
        descriptors = self._eventfds[-number:]
        size = uapi.IRQ_SET.size + 4 * number
        head = uapi.IRQ_SET.pack(size, uapi.IRQ_SET_EVENTFD | uapi.IRQ_SET_TRIGGER, index, 0, number)
        argument = bytearray(head + struct.pack(f"={number}i", *descriptors))
        try:
            self._kernel.ioctl(self._iommu.device, uapi.DEVICE_SET_IRQS, argument)
        except OSError as error:
            raise DeviceFailed(
                f"{self.address}: the kernel refuses its interrupts: {os.strerror(error.errno or 0)}", hint="see dmesg"
            ) from error
        return descriptors

    def _region(self, index: int) -> tuple[int, int, int]:
        """Flags, size and offset in the device's descriptor."""
        _size, flags, _index, _caps, size, offset = self._ask(
            uapi.DEVICE_GET_REGION_INFO, uapi.REGION_INFO, 0, index, 0, 0, 0
        )
        return flags, size, offset

    def _ask(self, request: int, structure: struct.Struct, *fields: int) -> tuple[int, ...]:
        return asked(self._kernel, self._iommu.device, request, structure, *fields)

    def _set_command(self, bit: int, *, enabled: bool) -> None:
        value = int.from_bytes(self.config(_COMMAND, 2), "little")
        self.set_config(_COMMAND, (value | bit if enabled else value & ~bit).to_bytes(2, "little"))
