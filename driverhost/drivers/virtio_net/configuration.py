"""The structures that a virtio device has in its BARs, as its PCI capabilities name them."""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from driverhost.drivers.virtio_net import layout
from driverhost.errors import DeviceFailed, Unsupported

if TYPE_CHECKING:
    from driverhost.device import Device

RESET_SECONDS = 2.0
_CAPABILITY = struct.Struct("<BBBBBBHII")
"""Number, next one, length, kind, BAR, ID, padding, offset, length of the structure."""
_MOST = 48
"""A list of capabilities has no more entries, unless it is a circle."""
Field = tuple[int, int]


class Structure(NamedTuple):
    """Where a structure is. `multiplier` is in bytes, for the one of notifications only."""

    bar: int
    offset: int
    multiplier: int = 0


def structures(device: Device) -> dict[int, Structure]:
    """The first structure of each kind, which the device prefers. Raises `Unsupported` if one is missing."""
    found: dict[int, Structure] = {}
    position = device.config(layout.CAPABILITY_POINTER, 1)[0] & ~3
    for _ in range(_MOST):
        if not position:
            break
        number, following, length, kind, bar, _id, _, offset, _ = _CAPABILITY.unpack(
            device.config(position, _CAPABILITY.size)
        )
        if number == layout.VENDOR_CAPABILITY and kind not in found:
            more = device.config(position + _CAPABILITY.size, 4) if length >= _CAPABILITY.size + 4 else bytes(4)
            found[kind] = Structure(bar, offset, int.from_bytes(more, "little"))
        position = following & ~3
    missing = {layout.COMMON, layout.NOTIFY, layout.DEVICE} - set(found)
    if missing:
        raise Unsupported(f"{device.address} has no virtio structure {min(missing)}", hint="it needs virtio version 1")
    return found


class Fields:
    """The fields of a structure. Each is read and written with its own width, as the specification requires."""

    def __init__(self, device: Device, structure: Structure) -> None:
        self._start = structure.offset
        self._views = {bits: device.registers(structure.bar, bits) for bits in (8, 16, 32)}

    def read(self, field: Field) -> int:
        offset, bits = field
        return self._views[bits][(self._start + offset) * 8 // bits]

    def write(self, field: Field, value: int) -> None:
        offset, bits = field
        self._views[bits][(self._start + offset) * 8 // bits] = value

    def write_address(self, offset: int, value: int) -> None:
        self.write((offset, 32), value & 0xFFFFFFFF)
        self.write((offset + 4, 32), value >> 32)


class Common:
    """The common configuration: the status of the device, and its features."""

    def __init__(self, fields: Fields, address: str) -> None:
        self.fields = fields
        self._address = address

    @property
    def needs_reset(self) -> bool:
        return bool(self.fields.read(layout.STATUS) & layout.NEEDS_RESET)

    def reset(self) -> None:
        """Ends all DMA. Raises `DeviceFailed`."""
        self.fields.write(layout.STATUS, 0)
        deadline = time.monotonic() + RESET_SECONDS
        while self.fields.read(layout.STATUS):
            if time.monotonic() > deadline:
                raise DeviceFailed(f"{self._address} is not reset within {RESET_SECONDS:.0f} s")
            time.sleep(0.001)

    def add_status(self, bit: int) -> None:
        self.fields.write(layout.STATUS, self.fields.read(layout.STATUS) | bit)

    def negotiate(self, required: int, wanted: int) -> int:
        """Accepts the features that are wanted and offered, and returns them. Raises `Unsupported`."""
        self.add_status(layout.ACKNOWLEDGE)
        self.add_status(layout.DRIVER)
        offered = self._words(layout.FEATURE_SELECT, layout.FEATURES)
        if required & ~offered:
            raise Unsupported(f"{self._address} lacks the features {required & ~offered:#x}")
        features = offered & (required | wanted)
        for index in (0, 1):
            self.fields.write(layout.ACCEPTED_SELECT, index)
            self.fields.write(layout.ACCEPTED, features >> 32 * index & 0xFFFFFFFF)
        self.add_status(layout.FEATURES_OK)
        if not self.fields.read(layout.STATUS) & layout.FEATURES_OK:
            raise Unsupported(f"{self._address} does not accept the features {features:#x} of {offered:#x}")
        return features

    def set_vector(self, field: Field, vector: int) -> None:
        """Raises `DeviceFailed` when the device has no room for it."""
        self.fields.write(field, vector)
        if self.fields.read(field) != vector:
            raise DeviceFailed(f"{self._address} does not accept interrupt {vector}")

    def _words(self, select: Field, field: Field) -> int:
        value = 0
        for index in (0, 1):
            self.fields.write(select, index)
            value |= self.fields.read(field) << 32 * index
        return value
