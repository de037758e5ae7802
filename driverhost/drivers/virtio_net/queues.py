"""Split virtqueues with a buffer for each descriptor. Source: VIRTIO 1.2, section 2.7."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from driverhost.drivers.virtio_net import layout
from driverhost.errors import DeviceFailed, Unsupported

if TYPE_CHECKING:
    from driverhost.device import Device
    from driverhost.drivers.virtio_net.configuration import Common, Fields

MOST_DESCRIPTORS = 256
BUFFER_BYTES = 2048
SHORTEST_FRAME = 60
"""Bytes without the checksum, of a frame on an Ethernet."""
COMMAND_SECONDS = 2.0
_DESCRIPTOR = struct.Struct("<QIHH")  # address, length, flags, next one
_USED = struct.Struct("<II")  # descriptor, bytes that the device has written
_WRAP = 1 << 16


class Queue:
    """A queue of the device, enabled. Its number of descriptors is a power of two, at most `MOST_DESCRIPTORS`."""

    def __init__(self, device: Device, common: Common, index: int, vector: int) -> None:
        """Raises `DeviceFailed`, `OutOfDmaMemory`."""
        self._address, self.index = device.address, index
        fields = common.fields
        fields.write(layout.QUEUE_SELECT, index)
        self.size = min(fields.read(layout.QUEUE_SIZE), MOST_DESCRIPTORS)
        if self.size < 2:
            raise DeviceFailed(f"{device.address} has no queue {index}")
        fields.write(layout.QUEUE_SIZE, self.size)
        common.set_vector(layout.QUEUE_VECTOR, vector)
        available = layout.DESCRIPTOR_BYTES * self.size
        used = -(-(available + 6 + 2 * self.size) // 4) * 4
        self._buffers = -(-(used + 6 + 8 * self.size) // 16) * 16
        self._memory = device.memory(self._buffers + self.size * BUFFER_BYTES)
        self.view = self._memory.view
        self._words = self.view.cast("H")
        self._ring, self._used_ring = available // 2 + 2, used + 4
        self._put_index, self._used_index = available // 2 + 1, used // 2 + 1
        self._put = self._seen = 0
        starts = ((layout.QUEUE_DESCRIPTORS, 0), (layout.QUEUE_AVAILABLE, available), (layout.QUEUE_USED, used))
        for offset, start in starts:
            fields.write_address(offset, self._memory.iova + start)
        self.notify_offset = fields.read(layout.QUEUE_NOTIFY_OFFSET)
        fields.write(layout.QUEUE_ENABLE, 1)

    def buffer(self, descriptor: int) -> int:
        """The offset of its buffer in the memory."""
        return self._buffers + descriptor * BUFFER_BYTES

    def describe(self, descriptor: int, length: int, flags: int = 0, following: int = 0) -> None:
        start = self._memory.iova + self.buffer(descriptor)
        position = descriptor * layout.DESCRIPTOR_BYTES
        _DESCRIPTOR.pack_into(self.view, position, start, length, flags, following)

    def offer(self, descriptor: int) -> None:
        """Puts a descriptor into the ring. The device sees it after `publish`."""
        self._words[self._ring + self._put % self.size] = descriptor
        self._put = (self._put + 1) % _WRAP

    def publish(self) -> None:
        # One store of 16 bits: the device must not read half of a new number.
        self._words[self._put_index] = self._put

    def used(self) -> tuple[int, int] | None:
        """The next descriptor that the device has used, and the bytes that it has written; or None.

        Raises `DeviceFailed` for an impossible one.
        """
        if self._words[self._used_index] == self._seen:
            return None
        position = self._used_ring + self._seen % self.size * _USED.size
        descriptor, length = _USED.unpack_from(self.view, position)
        if descriptor >= self.size or length > BUFFER_BYTES:
            raise DeviceFailed(f"{self._address} has used descriptor {descriptor} of {self.size} with {length} bytes")
        self._seen = (self._seen + 1) % _WRAP
        return descriptor, length

    def close(self) -> None:
        """Releases the view of the memory, which the device frees."""
        self._words.release()


class Bell:
    """Tells the device that a queue has new descriptors."""

    def __init__(self, fields: Fields, multiplier: int) -> None:
        self._fields, self._multiplier = fields, multiplier

    def ring(self, queue: Queue) -> None:
        self._fields.write((queue.notify_offset * self._multiplier, 16), queue.index)


class Transmit:
    """Sends frames, each with its own descriptor."""

    def __init__(self, queue: Queue, bell: Bell) -> None:
        self._queue, self._bell = queue, bell
        self._free = list(range(queue.size))

    def send(self, frames: Iterable[bytes | memoryview]) -> list[int]:
        """Queues as many frames as there is room for, and returns their sizes on the wire."""
        while used := self._queue.used():
            self._free.append(used[0])
        sizes = []
        for frame in frames:
            if not self._free:
                break
            sizes.append(self._put(frame))
        if sizes:
            self._queue.publish()
            self._bell.ring(self._queue)
        return sizes

    def _put(self, frame: bytes | memoryview) -> int:
        room = BUFFER_BYTES - layout.HEADER_BYTES
        if not 0 < len(frame) <= room:
            raise ValueError(f"a frame of {len(frame)} bytes: 1 to {room} are possible")
        descriptor = self._free.pop()
        data = bytes(layout.HEADER_BYTES) + bytes(frame) + bytes(max(0, SHORTEST_FRAME - len(frame)))
        start = self._queue.buffer(descriptor)
        self._queue.view[start : start + len(data)] = data
        self._queue.describe(descriptor, len(data))
        self._queue.offer(descriptor)
        return len(data) - layout.HEADER_BYTES


class Receive:
    """Receives. All descriptors are the device's, except while a frame is copied."""

    def __init__(self, queue: Queue, bell: Bell) -> None:
        self._queue, self._bell = queue, bell

    def start(self) -> None:
        for descriptor in range(self._queue.size):
            self._give(descriptor)
        self._queue.publish()
        self._bell.ring(self._queue)

    def receive(self, limit: int) -> list[bytes]:
        frames: list[bytes] = []
        while len(frames) < limit and (used := self._queue.used()):
            descriptor, length = used
            start = self._queue.buffer(descriptor)
            frames.append(bytes(self._queue.view[start + layout.HEADER_BYTES : start + length]))
            self._give(descriptor)
        if frames:
            self._queue.publish()
            self._bell.ring(self._queue)
        return frames

    def _give(self, descriptor: int) -> None:
        self._queue.describe(descriptor, BUFFER_BYTES, layout.WRITABLE)
        self._queue.offer(descriptor)


class Control:
    """Commands to the device, one at a time."""

    def __init__(self, queue: Queue, bell: Bell, address: str) -> None:
        self._queue, self._bell, self._address = queue, bell, address

    def command(self, kind: int, command: int, data: bytes) -> None:
        """Raises `Unsupported` when the device refuses it, `DeviceFailed` without an answer."""
        request = bytes([kind, command]) + data
        start, answer = self._queue.buffer(0), self._queue.buffer(1)
        self._queue.view[start : start + len(request)] = request
        self._queue.view[answer] = 0xFF
        self._queue.describe(0, len(request), layout.CONTINUES, 1)
        self._queue.describe(1, 1, layout.WRITABLE)
        self._queue.offer(0)
        self._queue.publish()
        self._bell.ring(self._queue)
        deadline = time.monotonic() + COMMAND_SECONDS
        while not self._queue.used():
            if time.monotonic() > deadline:
                raise DeviceFailed(f"{self._address} does not answer a command within {COMMAND_SECONDS:.0f} s")
            time.sleep(0.0005)
        if self._queue.view[answer] != layout.ACCEPTED_COMMAND:
            raise Unsupported(f"{self._address} refuses command {command} of class {kind}")
