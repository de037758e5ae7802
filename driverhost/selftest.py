"""A test of a device from outside: frames that another driver host answers, like a ping of the second layer."""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING

from driverhost.errors import DeviceFailed
from driverhost.mac import parse_unicast

if TYPE_CHECKING:
    from driverhost.client import ApplicationPort, Client

ETHERTYPE = b"\x88\xb5"
"""IEEE 802 local experimental ethertype 1."""
_REQUEST, _ANSWER = b"BWTEST?\0", b"BWTEST!\0"
_NUMBER = struct.Struct(">I")
ANSWER_SECONDS = 1.0
LISTEN_SECONDS = 30.0


def selftest(
    client: Client, device: str | None, target: bytes | None, count: int, seconds: float = LISTEN_SECONDS
) -> str:
    """A line about the result. `target` is a MAC address; without one, frames are answered for so many seconds.

    Raises `DeviceFailed` when frames are lost or the driver is not running, and what the client raises.
    """
    info = client.info(device)
    if "mac" not in info:
        raise DeviceFailed(f"the driver of {info['device']} is not running", hint="see the log of the driver host")
    own = parse_unicast(info["mac"])
    with client.open(device) as port:
        if target is None:
            return f"{_answer(port, own, count, seconds)} frames answered"
        times = _ask(port, own, target, count)
    if len(times) < count:
        raise DeviceFailed(
            f"{count - len(times)} of {count} frames have no answer", hint="see link and VLAN of both devices"
        )
    return f"{count} frames answered, {min(times) * 1e3:.2f} to {max(times) * 1e3:.2f} ms"


def _ask(port: ApplicationPort, own: bytes, target: bytes, count: int) -> list[float]:
    """The seconds until each answer that has come."""
    times = []
    for number in range(count):
        begun = time.monotonic()
        port.send([target + own + ETHERTYPE + _REQUEST + _NUMBER.pack(number)])
        expected = own + target + ETHERTYPE + _ANSWER + _NUMBER.pack(number)
        while (left := begun + ANSWER_SECONDS - time.monotonic()) > 0 and port.wait(left):
            if any(frame.startswith(expected) for frame in port.receive()):
                times.append(time.monotonic() - begun)
                break
    return times


def _answer(port: ApplicationPort, own: bytes, count: int, seconds: float) -> int:
    """The number of frames that were answered."""
    deadline = time.monotonic() + seconds
    answered = 0
    while answered < count and port.wait(max(0.0, deadline - time.monotonic())):
        for frame in port.receive():
            if frame[:6] == own and frame[12:14] == ETHERTYPE and frame[14:22] == _REQUEST:
                answered += port.send([frame[6:12] + own + ETHERTYPE + _ANSWER + frame[22:26]])
    return answered
