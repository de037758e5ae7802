"""The driver: reset and MAC by the mailbox, one queue in each direction, two interrupts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from driverhost.driver import Driver, Link
from driverhost.drivers.igbvf import registers as reg
from driverhost.drivers.igbvf.mailbox import Mailbox
from driverhost.drivers.igbvf.queues import Receive, Transmit
from driverhost.errors import DeviceFailed
from driverhost.mac import random_unicast

if TYPE_CHECKING:
    from driverhost.device import Device

_QUEUES, _MAILBOX = 0, 1
"""The two vectors."""
_BOTH = 0b11
_COUNTERS = {
    "rx_packets": reg.GOOD_PACKETS_RECEIVED,
    "tx_packets": reg.GOOD_PACKETS_SENT,
    "rx_bytes": reg.GOOD_BYTES_RECEIVED,
    "tx_bytes": reg.GOOD_BYTES_SENT,
    "rx_multicast": reg.MULTICAST_RECEIVED,
}


class IgbVf(Driver):
    """Drives a VF of an 82576. Its VLAN, and whether it may change its MAC, are the PF's decision."""

    IDS: ClassVar[frozenset[tuple[int, int]]] = frozenset({(reg.INTEL, reg.VF_82576)})

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._registers = device.registers(reg.BAR)
        self._mailbox = Mailbox(self._registers, device.address)
        self._mac = b""
        self._interrupts: list[int] = []
        self._last: dict[str, int] = {}
        self._total: dict[str, int] = {}

    def start(self) -> None:
        self._reset()
        self.device.set_bus_master(enabled=True)
        self._interrupts = self.device.interrupts(2)
        self._transmit = Transmit(self.device, self._registers)
        self._receive = Receive(self.device, self._registers)
        self._transmit.start()
        self._receive.start()
        self._mailbox.request(reg.MESSAGE_SET_PROMISCUOUS | reg.MULTICAST)
        self._last = {name: self._registers[register] for name, register in _COUNTERS.items()}
        self._total = dict.fromkeys(_COUNTERS, 0)
        self._enable_interrupts()

    def stop(self) -> None:
        self._registers[reg.EIMC] = _BOTH
        self._registers[reg.CTRL] = reg.CTRL_RESET
        self.device.set_bus_master(enabled=False)

    @property
    def interrupts(self) -> list[int]:
        return self._interrupts

    def on_interrupt(self) -> None:
        self.take_interrupts()
        if self._mailbox.pf_was_reset:
            raise DeviceFailed(f"the PF of {self.device.address} has been reset", hint="the driver is restarted")

    @property
    def mac(self) -> bytes:
        return self._mac

    def set_mac(self, mac: bytes) -> None:
        padded = mac + bytes(2)
        words = [int.from_bytes(padded[index : index + 4], "little") for index in (0, 4)]
        self._mailbox.request(reg.MESSAGE_SET_MAC, *words)
        self._mac = mac

    @property
    def link(self) -> Link:
        status = self._registers[reg.STATUS]
        speed = 1000 if status & reg.STATUS_SPEED_1000 else 100 if status & reg.STATUS_SPEED_100 else 10
        up = bool(status & reg.STATUS_LINK_UP)
        return Link(up=up, speed=speed if up else 0)

    @property
    def statistics(self) -> dict[str, int]:
        for name, register in _COUNTERS.items():
            value = self._registers[register]
            self._total[name] += (value - self._last[name]) % (1 << 32)
            self._last[name] = value
        return dict(self._total)

    def send(self, frames: Iterable[bytes | memoryview]) -> int:
        return self._transmit.send(frames)

    def receive(self, limit: int) -> list[bytes]:
        return self._receive.receive(limit)

    def _reset(self) -> None:
        """Resets the VF. It takes the MAC that the PF has for it, or requests a random one.

        The PF sets its filter for a MAC that it reports. It refuses a request for an address that it has fixed, even
        for the same one.
        """
        self._registers[reg.CTRL] = reg.CTRL_RESET
        self._mailbox.clear()
        answer = self._mailbox.exchange(reg.MESSAGE_RESET)
        self._mailbox.clear()
        mac = b"".join(word.to_bytes(4, "little") for word in answer[1:3])[:6]
        if answer[0] & reg.MESSAGE_ACK and any(mac):
            self._mac = mac
        else:
            self.set_mac(random_unicast())

    def _enable_interrupts(self) -> None:
        entry = _QUEUES | reg.IVAR_VALID
        self._registers[reg.IVAR0] = entry | entry << 8
        self._registers[reg.IVAR_MISC] = _MAILBOX | reg.IVAR_VALID
        self._registers[reg.EIAM] = 0
        self._registers[reg.EIAC] = _BOTH
        self._registers[reg.EIMS] = _BOTH
