"""Frames in the format pcap, which Wireshark and tcpdump read.

Source: draft-ietf-opsawg-pcap, version 2.4, with microseconds and link type 1 (Ethernet).
"""

from __future__ import annotations

import struct
from typing import BinaryIO

_HEAD = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")
_LONGEST = 65535


class PcapWriter:
    """Writes the head of the file at once."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        target.write(_HEAD.pack(0xA1B2C3D4, 2, 4, 0, 0, _LONGEST, 1))

    def write(self, frame: bytes, seconds: float) -> None:
        """`seconds` since the epoch."""
        whole = int(seconds)
        self._target.write(_RECORD.pack(whole, int((seconds - whole) * 1e6), len(frame), len(frame)) + frame)
