"""The rings of descriptors of queue 0, and the buffers that they point to."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from driverhost.drivers.igbvf import registers as reg
from driverhost.errors import DeviceFailed

if TYPE_CHECKING:
    from driverhost.device import Device, Registers

DESCRIPTORS = 256
BUFFER_BYTES = 2048
ENABLE_SECONDS = 0.5
SHORTEST_FRAME = 60
"""Bytes without the checksum; the device does not pad every shorter frame."""
_DESCRIPTOR_BYTES = 16
_RING_BYTES = DESCRIPTORS * _DESCRIPTOR_BYTES
_TX_DESCRIPTOR = struct.Struct("<QII")  # address, command and length, payload's length
_RX_DESCRIPTOR = struct.Struct("<QQ")  # address, address of the header
_RX_WRITTEN = struct.Struct("<QIHH")  # hash and type, status, length, VLAN
_TX_COMMAND = reg.TX_DATA | reg.TX_EXTENDED | reg.TX_END | reg.TX_CHECKSUM | reg.TX_REPORT


class _Queue:
    """A ring in DMA memory, followed by a buffer for each descriptor."""

    def __init__(self, device: Device, registers: Registers) -> None:
        self._registers = registers
        self._address = device.address
        self._memory = device.memory(_RING_BYTES + DESCRIPTORS * BUFFER_BYTES)
        self._view = self._memory.view
        self._next = 0

    def _buffer(self, index: int) -> int:
        """The offset of a buffer in the memory."""
        return _RING_BYTES + index * BUFFER_BYTES

    def _begin(self, low: int, high: int, length: int, control: int) -> None:
        """Gives the ring's place to the device, and enables the queue. Raises `DeviceFailed`."""
        self._registers[low] = self._memory.iova & 0xFFFFFFFF
        self._registers[high] = self._memory.iova >> 32
        self._registers[length] = _RING_BYTES
        self._registers[control] = reg.QUEUE_ENABLED
        deadline = time.monotonic() + ENABLE_SECONDS
        while not self._registers[control] & reg.QUEUE_ENABLED:
            if time.monotonic() > deadline:
                raise DeviceFailed(f"{self._address} does not enable its queue", hint="set the PF up")
            time.sleep(0.001)


class Transmit(_Queue):
    """Sends. The device reports each descriptor that it is done with."""

    def __init__(self, device: Device, registers: Registers) -> None:
        super().__init__(device, registers)
        self._oldest = 0
        self._free = DESCRIPTORS - 1  # a full ring would look like an empty one

    def start(self) -> None:
        self._begin(reg.TDBAL, reg.TDBAH, reg.TDLEN, reg.TXDCTL)
        self._registers[reg.TDH] = self._registers[reg.TDT] = 0

    def send(self, frames: Iterable[bytes | memoryview]) -> int:
        """Queues as many frames as there is room for, and returns their number."""
        self._reclaim()
        number = 0
        for frame in frames:
            if not self._free:
                break
            self._queue(frame)
            number += 1
        if number:
            self._registers[reg.TDT] = self._next
        return number

    def _queue(self, frame: bytes | memoryview) -> None:
        start, size = self._buffer(self._next), len(frame)
        if not 0 < size <= BUFFER_BYTES:
            raise ValueError(f"a frame of {size} bytes")
        self._view[start : start + size] = frame
        padded = max(size, SHORTEST_FRAME)
        if padded > size:
            self._view[start + size : start + padded] = bytes(padded - size)
        _TX_DESCRIPTOR.pack_into(
            self._view,
            self._next * _DESCRIPTOR_BYTES,
            self._memory.iova + start,
            _TX_COMMAND | padded,
            padded << reg.TX_LENGTH_SHIFT,
        )
        self._next = (self._next + 1) % DESCRIPTORS
        self._free -= 1

    def _reclaim(self) -> None:
        while self._free < DESCRIPTORS - 1:
            # The device overwrites the third word of a descriptor with its status.
            _first, _second, status = _TX_DESCRIPTOR.unpack_from(self._view, self._oldest * _DESCRIPTOR_BYTES)
            if not status & reg.TX_DONE:
                return
            self._oldest = (self._oldest + 1) % DESCRIPTORS
            self._free += 1


class Receive(_Queue):
    """Receives. All descriptors but one are the device's."""

    def __init__(self, device: Device, registers: Registers) -> None:
        super().__init__(device, registers)
        self._continues = False
        """Whether the next buffer continues a frame."""

    def start(self) -> None:
        for index in range(DESCRIPTORS):
            self._give(index)
        self._registers[reg.SRRCTL] = reg.SRRCTL_ONE_BUFFER | reg.SRRCTL_DROP | BUFFER_BYTES // 1024
        self._begin(reg.RDBAL, reg.RDBAH, reg.RDLEN, reg.RXDCTL)
        self._registers[reg.RDH] = 0
        self._registers[reg.RDT] = DESCRIPTORS - 1

    def receive(self, limit: int) -> list[bytes]:
        """At most `limit` frames.

        Bad ones are dropped, and so is a frame over several buffers, which the PF should not let in. Its end alone
        would be a frame that its sender has made up.
        """
        frames: list[bytes] = []
        taken = 0
        while taken < limit:
            index = self._next
            _hash, status, length, _vlan = _RX_WRITTEN.unpack_from(self._view, index * _DESCRIPTOR_BYTES)
            if not status & reg.RX_DONE:
                break
            is_end, continued = bool(status & reg.RX_END), self._continues
            self._continues = not is_end
            if is_end and not continued and not status & reg.RX_ERRORS and length <= BUFFER_BYTES:
                start = self._buffer(index)
                frames.append(bytes(self._view[start : start + length]))
            self._give(index)
            self._next = (index + 1) % DESCRIPTORS
            taken += 1
        if taken:
            self._registers[reg.RDT] = (self._next - 1) % DESCRIPTORS
        return frames

    def _give(self, index: int) -> None:
        """Writes the descriptor again, which also clears the status that the device wrote over it."""
        _RX_DESCRIPTOR.pack_into(self._view, index * _DESCRIPTOR_BYTES, self._memory.iova + self._buffer(index), 0)
