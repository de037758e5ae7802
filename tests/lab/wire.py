"""The far end of a PF's uplink: the frames that PF and VFs send to the outside, and frames sent to them.

The frames are as on a cable, with VLAN tags and without checksum trailer. They are read all the time, because otherwise
QEMU stops sending.
"""

from __future__ import annotations

import collections
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.lab.errors import LabError

ETHERTYPE_VLAN = 0x8100
ETHERTYPE_QINQ = 0x88A8
ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD
HEADER_SIZE = 14
KEPT = 10_000


@dataclass(frozen=True)
class Frame:
    """`vlan` and `qos` are those of the outermost tag, None without one; `payload` starts after the last tag's type."""

    destination: str
    source: str
    tag: int | None
    vlan: int | None
    qos: int | None
    ethertype: int
    payload: bytes
    raw: bytes

    def __repr__(self) -> str:
        tag = f" vlan {self.vlan} qos {self.qos} ({self.tag:#06x})" if self.tag else ""
        return f"<{self.source} -> {self.destination}{tag} {self.ethertype:#06x} {self.payload[:40].hex()}>"


def parse(raw: bytes) -> Frame:
    """Parses an Ethernet II frame. Raises struct.error if it is truncated."""
    tag = vlan = qos = None
    (ethertype,) = struct.unpack_from("!H", raw, 12)
    at = 14
    if ethertype in {ETHERTYPE_VLAN, ETHERTYPE_QINQ}:
        tag = ethertype
        control, ethertype = struct.unpack_from("!HH", raw, at)
        vlan, qos, at = control & 0xFFF, control >> 13, at + 4
    return Frame(_mac(raw[:6]), _mac(raw[6:12]), tag, vlan, qos, ethertype, raw[at:], raw)


def _mac(data: bytes) -> str:
    return data.hex(":")


class Capture:
    """The frames of a wire since the creation of this object."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._from = wire.count

    def frames(self) -> list[Frame]:
        return self._wire.frames_since(self._from)

    def wait_for(self, wanted: Callable[[Frame], bool], timeout: float = 10) -> Frame:
        """Returns the first wanted frame. Raises LabError, with all frames, after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            frames, count = self._wire.look(self._from)
            for frame in frames:
                if wanted(frame):
                    return frame
            if not self._wire.wait_for_more(count, deadline - time.monotonic()):
                listing = "\n".join(map(repr, frames[-30:]))
                raise LabError(f"no such frame on {self._wire} in {timeout:g} s, of {len(frames)}:\n{listing}")


class Wire:
    """One PF's uplink. `count` is the number of frames since the boot."""

    def __init__(self, folder: Path, pf: int) -> None:
        self._name = f"uplink of PF {pf}"
        self._far_end = str(folder / f"pf{pf}.qemu")
        self._changed = threading.Condition()
        self._frames: collections.deque[Frame] = collections.deque(maxlen=KEPT)
        self.count = 0
        near_end = folder / f"pf{pf}.host"
        near_end.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(near_end))
        self._reader = threading.Thread(target=self._read, name=self._name, daemon=True)
        self._reader.start()

    def __repr__(self) -> str:
        return self._name

    def capture(self) -> Capture:
        """Captures the frames from now on."""
        return Capture(self)

    def send(self, raw: bytes) -> None:
        """Sends a frame to the PF; short ones are padded to Ethernet's minimum length."""
        self._socket.sendto(raw.ljust(60, b"\0"), self._far_end)

    def look(self, start: int) -> tuple[list[Frame], int]:
        """The frames from number `start` on, as far as they are kept, and the number of the next one."""
        with self._changed:
            first_kept = self.count - len(self._frames)
            return list(self._frames)[max(0, start - first_kept) :], self.count

    def frames_since(self, start: int) -> list[Frame]:
        return self.look(start)[0]

    def wait_for_more(self, count: int, timeout: float) -> bool:
        """Whether there are more frames than `count`; waits for them at most `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.count > count, max(0, timeout))

    def close(self) -> None:
        # An empty datagram to itself ends the reader: closing alone does not wake it.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self._socket.getsockname())
        self._reader.join(timeout=5)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _read(self) -> None:
        while raw := self._socket.recv(65536):
            if len(raw) < HEADER_SIZE:
                continue
            with self._changed:
                self._frames.append(parse(raw))
                self.count += 1
                self._changed.notify_all()
