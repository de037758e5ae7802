"""Virtio network devices on one network whose registers are a program.

They refuse what QEMU's refuse: features without VIRTIO_F_VERSION_1, queues before the features are accepted, and DMA
without bus mastering or outside of mapped memory. A field that is accessed with another width than its own is an error
here, which QEMU tolerates for some. They work at once when they are notified, and not in parallel.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from driverhost.drivers.virtio_net import layout
from driverhost.errors import Unsupported
from tests.drivers.igbvf_card import DmaFault, Memory

BAR = 4
_COMMON, _DEVICE, _NOTIFY = 0x0000, 0x1000, 0x2000
_MULTIPLIER = 4
_SIZE = 256
OFFERED = (
    layout.VERSION_1
    | layout.ACCESS_PLATFORM
    | layout.HAS_MAC
    | layout.HAS_STATUS
    | layout.HAS_CONTROL
    | layout.CONTROLS_FILTER
    | layout.CONTROLS_MAC
    | 1 << 15  # VIRTIO_NET_F_MRG_RXBUF, which the driver does not want
)
_WIDTHS = {
    _COMMON + offset: bits
    for offset, bits in (
        *((offset, 32) for offset in (0, 4, 8, 12, 32, 36, 40, 44, 48, 52)),
        *((offset, 16) for offset in (16, 18, 22, 24, 26, 28, 30)),
        *((offset, 8) for offset in (20, 21)),
    )
} | {_DEVICE + offset: bits for offset, bits in (*((offset, 8) for offset in range(6)), (6, 16), (12, 32))}


class Hub:
    """A network that gives each frame to all other devices."""

    def __init__(self) -> None:
        self.nics: list[Nic] = []

    def nic(self, mac: bytes = b"\2\0\0\0\0\1", features: int = OFFERED) -> Nic:
        self.nics.append(Nic(self, f"0000:00:0{len(self.nics) + 3}.0", mac, features))
        return self.nics[-1]

    def carry(self, sender: Nic, frame: bytes) -> None:
        for nic in self.nics:
            if nic is not sender:
                nic.arrive(frame)


@dataclass
class Ring:
    """A queue of the device."""

    size: int = _SIZE
    vector: int = layout.NO_VECTOR
    enabled: bool = False
    addresses: tuple[int, int, int] = (0, 0, 0)
    taken: int = 0
    used: int = 0


class View:
    """The BAR by accesses of one width."""

    def __init__(self, nic: Nic, bits: int) -> None:
        self._nic, self._bits = nic, bits

    def __getitem__(self, index: int) -> int:
        return self._nic.read(index * self._bits // 8, self._bits)

    def __setitem__(self, index: int, value: int) -> None:
        assert 0 <= value < 1 << self._bits
        self._nic.write(index * self._bits // 8, self._bits, value)


class Nic:
    """A `driverhost.device.Device`."""

    ids = (layout.REDHAT, layout.NETWORK)

    def __init__(self, hub: Hub, address: str, mac: bytes, features: int) -> None:
        self.hub, self.address, self.mac, self.features = hub, address, mac, features
        self.link_up = True
        self.bus_master = False
        self.refuses = False
        self.room_for_vectors = 2
        self._memory: list[Memory] = []
        self._eventfds: list[int] = []
        self._configuration = _capabilities()
        self.reset()

    # What the driver uses.

    def registers(self, bar: int, bits: int = 32) -> View:
        if bar != BAR:
            raise Unsupported(f"BAR {bar} cannot be mapped")
        return View(self, bits)

    def config(self, offset: int, size: int) -> bytes:
        return bytes(self._configuration[offset : offset + size])

    def set_config(self, offset: int, data: bytes) -> None:
        self._configuration[offset : offset + len(data)] = data

    def memory(self, size: int) -> Memory:
        self._memory.append(Memory(0x10000000 * (len(self._memory) + 1), size))
        return self._memory[-1]

    def interrupts(self, number: int) -> list[int]:
        self._eventfds += [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(number)]
        return self._eventfds[-number:]

    def faults(self) -> dict[int, str]:
        return {}

    def set_bus_master(self, *, enabled: bool) -> None:
        self.bus_master = enabled

    def reset(self) -> None:
        self.status = 0
        self._selected = {"features": 0, "accepted": 0, "queue": 0}
        self.accepted = 0
        self._config_vector = layout.NO_VECTOR
        self._rings = [Ring() for _ in range(3)]
        self.filter = self.mac
        self.promiscuous = True
        self.all_multicast = False

    def close(self) -> None:
        while self._eventfds:
            os.close(self._eventfds.pop())
        self._memory = []
        self.reset()

    # The registers.

    def read(self, offset: int, bits: int) -> int:
        self._check(offset, bits)
        if offset >= _DEVICE:
            device = self.mac + struct.pack("<HHHI", self.link_up, 0, 0, 0)
            return int.from_bytes(device[offset - _DEVICE :][: bits // 8], "little")
        ring = self._ring
        word = self._selected["features"]
        values = {
            layout.FEATURES: self.features >> 32 * word & 0xFFFFFFFF,
            layout.STATUS: self.status,
            layout.CONFIG_VECTOR: self._config_vector,
            layout.QUEUES: len(self._rings),
            layout.QUEUE_SIZE: ring.size if ring else 0,
            layout.QUEUE_VECTOR: ring.vector if ring else layout.NO_VECTOR,
            layout.QUEUE_NOTIFY_OFFSET: self._selected["queue"],
        }
        return values[offset, bits]

    def write(self, offset: int, bits: int, value: int) -> None:
        self._check(offset, bits)
        if offset >= _NOTIFY:
            assert (offset - _NOTIFY) // _MULTIPLIER == value
            self._notified(value)
            return
        selects = {layout.FEATURE_SELECT: "features", layout.ACCEPTED_SELECT: "accepted", layout.QUEUE_SELECT: "queue"}
        field = offset, bits
        if field in selects:
            self._selected[selects[field]] = value
        elif field == layout.ACCEPTED:
            self.accepted |= value << 32 * self._selected["accepted"]
        elif field == layout.STATUS:
            self._set_status(value)
        elif field == layout.CONFIG_VECTOR:
            self._config_vector = value if value < self.room_for_vectors else layout.NO_VECTOR
        else:
            self._set_queue(offset, value)

    def _check(self, offset: int, bits: int) -> None:
        width = 16 if offset >= _NOTIFY else _WIDTHS[offset]
        assert bits == width, f"an access of {bits} bits to a field of {width} bits at {offset:#x}"

    @property
    def _ring(self) -> Ring | None:
        index = self._selected["queue"]
        return self._rings[index] if index < len(self._rings) else None

    def _set_status(self, value: int) -> None:
        if not value:
            self.reset()
            return
        refused = self.accepted & ~self.features or not self.accepted & layout.VERSION_1
        if value & layout.FEATURES_OK and refused:
            value &= ~layout.FEATURES_OK
        self.status = value

    def _set_queue(self, offset: int, value: int) -> None:
        assert self.status & layout.FEATURES_OK, "a queue before the features are accepted"
        ring = self._ring
        assert ring
        if offset == layout.QUEUE_SIZE[0]:
            ring.size = value
        elif offset == layout.QUEUE_VECTOR[0]:
            ring.vector = value if value < self.room_for_vectors else layout.NO_VECTOR
        elif offset == layout.QUEUE_ENABLE[0]:
            ring.enabled = bool(value)
        else:
            which, high = divmod(offset - layout.QUEUE_DESCRIPTORS, 8)
            addresses = list(ring.addresses)
            mask = 0xFFFFFFFF << (0 if high else 32)
            addresses[which] = addresses[which] & mask | value << (32 if high else 0)
            ring.addresses = addresses[0], addresses[1], addresses[2]

    # DMA.

    def _notified(self, index: int) -> None:
        if index == layout.RECEIVE or not self.status & layout.DRIVER_OK:
            return
        ring = self._rings[index]
        while (chain := self._take(ring)) is not None:
            head, readable, writable = chain
            written = 0
            if index == layout.TRANSMIT:
                assert readable[: layout.HEADER_BYTES] == bytes(layout.HEADER_BYTES)
                self.hub.carry(self, readable[layout.HEADER_BYTES :])
            else:
                writable[0][0] = self._command(readable)
                written = 1
            self._use(ring, head, written)

    def _command(self, request: bytes) -> int:
        if self.refuses:
            return 1
        kind, command, data = request[0], request[1], request[2:]
        if (kind, command) == (layout.MAC, layout.SET_MAC):
            self.filter = data
        elif (kind, command) == (layout.FILTER, layout.PROMISCUOUS):
            self.promiscuous = bool(data[0])
        elif (kind, command) == (layout.FILTER, layout.ALL_MULTICAST):
            self.all_multicast = bool(data[0])
        else:
            return 1
        return 0

    def arrive(self, frame: bytes) -> None:
        wanted = frame[:6] == self.filter or frame[:6] == b"\xff" * 6 or (self.all_multicast and frame[0] & 1)
        ring = self._rings[layout.RECEIVE]
        if not self.status & layout.DRIVER_OK or not (wanted or self.promiscuous):
            return
        chain = self._take(ring)
        if chain is None:
            return
        head, _readable, writable = chain
        data = bytes(layout.HEADER_BYTES) + frame
        writable[0][: len(data)] = data
        self._use(ring, head, len(data))

    def _take(self, ring: Ring) -> tuple[int, bytes, list[memoryview]] | None:
        """The next chain of descriptors: its head, what the driver has written, and where the device writes."""
        if not ring.enabled:
            return None
        ring_bytes = 4 + 2 * ring.size
        available = self._at(ring.addresses[1], ring_bytes)
        if int.from_bytes(available[2:4], "little") == ring.taken:
            return None
        place = 4 + 2 * (ring.taken % ring.size)
        head = descriptor = int.from_bytes(available[place : place + 2], "little")
        ring.taken = (ring.taken + 1) % (1 << 16)
        readable, writable = b"", []
        while True:
            entry = self._at(ring.addresses[0] + 16 * descriptor, 16)
            address, length, flags, following = struct.unpack("<QIHH", entry)
            data = self._at(address, length)
            if flags & layout.WRITABLE:
                writable.append(data)
            else:
                readable += bytes(data)
            if not flags & layout.CONTINUES:
                return head, readable, writable
            descriptor = following

    def _use(self, ring: Ring, head: int, written: int) -> None:
        used = self._at(ring.addresses[2], 4 + 8 * ring.size)
        place = 4 + 8 * (ring.used % ring.size)
        used[place : place + 8] = struct.pack("<II", head, written)
        ring.used = (ring.used + 1) % (1 << 16)
        used[2:4] = ring.used.to_bytes(2, "little")
        self._interrupt(ring.vector)

    def fail(self) -> None:
        """The device meets an error, and says so."""
        self.status |= layout.NEEDS_RESET
        self._interrupt(self._config_vector)

    def _interrupt(self, vector: int) -> None:
        if vector < len(self._eventfds):
            os.eventfd_write(self._eventfds[vector], 1)

    def _at(self, iova: int, size: int) -> memoryview:
        if not self.bus_master:
            raise DmaFault("DMA without bus mastering")
        for memory in self._memory:
            if memory.iova <= iova and iova + size <= memory.iova + memory.size:
                return memory.view[iova - memory.iova : iova - memory.iova + size]
        raise DmaFault(f"{size} bytes at {iova:#x}")


def _capabilities() -> bytearray:
    """A configuration space with a foreign capability first, and two structures for notifications."""
    space = bytearray(256)
    entries = [
        (0x11, 0, 0, 0, b""),
        (layout.VENDOR_CAPABILITY, layout.NOTIFY, BAR, _NOTIFY, struct.pack("<I", _MULTIPLIER)),
        (layout.VENDOR_CAPABILITY, layout.NOTIFY, 2, 0x500, struct.pack("<I", 0)),
        (layout.VENDOR_CAPABILITY, layout.COMMON, BAR, _COMMON, b""),
        (layout.VENDOR_CAPABILITY, layout.DEVICE, BAR, _DEVICE, b""),
    ]
    space[layout.CAPABILITY_POINTER] = 0x40
    for number, (kind, structure, bar, offset, more) in enumerate(entries):
        position = 0x40 + 0x18 * number
        following = position + 0x18 if number + 1 < len(entries) else 0
        head = struct.pack("<BBBBBBHII", kind, following, 16 + len(more), structure, bar, 0, 0, offset, 0x1000)
        space[position : position + len(head) + len(more)] = head + more
    return space
