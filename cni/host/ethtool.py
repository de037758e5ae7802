"""The settings of a network device that `ethtool` changes, over generic netlink (Linux 5.9 and later).

Constants and structures are those of linux/genetlink.h and linux/ethtool_netlink.h.
"""

from __future__ import annotations

import errno
from struct import Struct

from cni.host import netlink as nl
from cni.host.rtnetlink import NETLINK_GENERIC, RouteSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_CONTROLLER, _GETFAMILY = 16, 3
_FAMILY_ID, _FAMILY_NAME = 1, 2
_GENERIC_HEADER = Struct("=BBH")  # command, version, reserved
_U16 = Struct("=H")
_U32 = Struct("=I")

_HEADER, _DEV_INDEX, _FLAGS = 1, 1, 3
_COMPACT_BITSETS, _OMIT_REPLY = 1, 2
_SIZE, _VALUE, _MASK = 2, 4, 5
_RECEIVE_BYTES = 1 << 16

_NUMBERS = (6, 7, 8, 9)
"""For rings and channels: the four current numbers, after the four maximum ones."""

# name: (command that reads it; the next command changes it; attribute of its bits, or 0 for `_NUMBERS`)
_SETTINGS = {"features": (11, 3), "private flags": (13, 2), "rings": (15, 0), "channels": (17, 0)}

_ANY = range(1, 4096)
"""Errors that must not fail an ADD: driver or kernel do not support the setting, or the device does not answer."""


class Ethtool:
    """One socket, in the namespace in which it was created.

    Settings are stored as hexadecimal text of netlink attributes.
    """

    def __init__(self) -> None:
        self._socket = RouteSocket(protocol=NETLINK_GENERIC, receive_bytes=_RECEIVE_BYTES)
        asked = _GENERIC_HEADER.pack(_GETFAMILY, 1, 0) + nl.text(_FAMILY_NAME, "ethtool")
        (answer,) = self._socket.get_each(_CONTROLLER, [asked], (errno.ENOENT,))
        # 0: a kernel without CONFIG_ETHTOOL_NETLINK.
        number = dict(nl.attributes(answer, _GENERIC_HEADER.size)).get(_FAMILY_ID, b"\0\0")
        self._family = int(_U16.unpack(number)[0])

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def settings(self, index: int) -> dict[str, str]:
        """The settings that the device has, by name."""
        found = self._read(index, *_SETTINGS) if self._family else {}
        return {name: value.hex() for name, value in found.items() if value}

    def change(self, index: int, name: str, wanted: str) -> None:
        """Restores a setting to `wanted`, a value from `settings`. Raises `NetlinkError`."""
        command, bits = _SETTINGS[name]
        now, then = self._read(index, name)[name], bytes.fromhex(wanted)
        changed = nl.nested(bits, _changed_bits(now, then)) if bits else _changed_numbers(now, then)
        if changed:
            self._socket.change(self._family, _request(command + 1, index, _OMIT_REPLY) + changed)

    def _read(self, index: int, *names: str) -> dict[str, bytes]:
        requests = [_request(_SETTINGS[name][0], index, _COMPACT_BITSETS) for name in names]
        answers = self._socket.get_each(self._family, requests, _ANY)
        return {name: _kept(answer, _SETTINGS[name][1]) for name, answer in zip(names, answers, strict=True)}


def _kept(answer: bytes, bits: int) -> bytes:
    """The attributes of a response that restore the setting, for the record."""
    attrs = dict(nl.attributes(answer, _GENERIC_HEADER.size))
    if not bits:
        return _packed((kind, attrs[kind]) for kind in _NUMBERS if kind in attrs)
    inside = dict(nl.attributes(attrs.get(bits, b"")))
    return _packed((kind, inside[kind]) for kind in (_SIZE, _VALUE) if kind in inside)


def _request(command: int, index: int, flags: int) -> bytes:
    header = nl.nested(_HEADER, nl.u32(_DEV_INDEX, index), nl.u32(_FLAGS, flags))
    return _GENERIC_HEADER.pack(command, 1, 0) + header


def _packed(attributes: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(nl.attribute(kind, payload) for kind, payload in attributes)


def _changed_numbers(now: bytes, then: bytes) -> bytes:
    present = dict(nl.attributes(now))
    return _packed((kind, value) for kind, value in nl.attributes(then) if present.get(kind) != value)


def _changed_bits(now: bytes, then: bytes) -> bytes:
    """A bit set with only the differing bits: the kernel refuses bits that cannot be changed."""
    present, wanted = dict(nl.attributes(now)), dict(nl.attributes(then))
    value = wanted.get(_VALUE, b"")
    mask = bytes(a ^ b for a, b in zip(present.get(_VALUE, b""), value, strict=False))
    size = present.get(_SIZE, _U32.pack(len(mask) * 8))
    return _packed([(_SIZE, size), (_VALUE, value[: len(mask)]), (_MASK, mask)])
