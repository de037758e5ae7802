"""A card of 82576 VFs whose registers are a program: a PF that answers the mailbox, and a switch between the VFs.

It refuses what the card refuses: DMA without bus mastering or outside of mapped memory, frames for another VLAN or MAC,
a MAC that the administrator of the PF has fixed. It works at once when a register is written, and not in parallel.
"""

from __future__ import annotations

import os

from driverhost.drivers.igbvf import registers as reg
from driverhost.errors import Unsupported

PAGE = 4096
_PING = 0x100
"""E1000_PF_CONTROL_MSG: igb sends it when the link of the PF changes."""


class DmaFault(Exception):
    """The card was led to an address that is not mapped."""


class Memory:
    def __init__(self, iova: int, size: int) -> None:
        self.iova = iova
        self.size = -(-size // PAGE) * PAGE
        self.view = memoryview(bytearray(self.size))


class Card:
    """The physical card: the VFs that are connected."""

    def __init__(self) -> None:
        self.vfs: list[Vf] = []

    def vf(self, mac: bytes = b"", vlan: int = 0) -> Vf:
        """A VF with the MAC and the VLAN that the administrator has given to it."""
        self.vfs.append(Vf(self, f"0000:02:10.{len(self.vfs)}", mac, vlan))
        return self.vfs[-1]

    def carry(self, sender: Vf, frame: bytes) -> None:
        for vf in self.vfs:
            if vf is not sender and vf.vlan == sender.vlan and (frame[0] & 1 or frame[:6] == vf.filter):
                vf.arrive(frame)


class Vf:
    """A `driverhost.device.Device`."""

    ids = (reg.INTEL, reg.VF_82576)

    def __init__(self, card: Card, address: str, admin_mac: bytes, vlan: int) -> None:
        self.card = card
        self.address = address
        self.admin_mac = admin_mac
        self.vlan = vlan
        self.pf_answers = True
        self.pings = 0
        self._messages: list[list[int]] = []
        self._memory: list[Memory] = []
        self._eventfds: list[int] = []
        self.reset()

    # What the driver uses.

    def registers(self, bar: int, bits: int = 32) -> Vf:
        assert bits == 32
        if bar != reg.BAR:
            raise Unsupported(f"BAR {bar}")
        return self

    def config(self, offset: int, size: int) -> bytes:
        return bytes(size)

    def set_config(self, offset: int, data: bytes) -> None:
        raise NotImplementedError("igbvf does not write the configuration space")

    def memory(self, size: int) -> Memory:
        start = self._memory[-1].iova + self._memory[-1].size if self._memory else 1 << 33
        self._memory.append(Memory(start, size))
        return self._memory[-1]

    def interrupts(self, number: int) -> list[int]:
        if number > 3:
            raise Unsupported("three vectors")
        self._eventfds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(number)]
        return self._eventfds

    def faults(self) -> dict[int, str]:
        self.fault = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._eventfds.append(self.fault)
        return {self.fault: "the bus reports an error"}

    def set_bus_master(self, *, enabled: bool) -> None:
        self.bus_master = enabled

    def reset(self) -> None:
        self.bus_master = False
        self._reset_function()

    def close(self) -> None:
        for descriptor in self._eventfds:
            os.close(descriptor)
        self._eventfds = []
        self._memory = []
        self.reset()

    # The registers.

    def __getitem__(self, index: int) -> int:
        value = self._registers.get(index, 0)
        if index == reg.STATUS:
            return reg.STATUS_LINK_UP | reg.STATUS_SPEED_1000
        if index == reg.MAILBOX:
            self._registers[index] = value & ~reg.MAILBOX_CLEARED_BY_READING
        return value

    def __setitem__(self, index: int, value: int) -> None:
        if not 0 <= value < 1 << 32:
            raise ValueError(f"{value} is no word of 32 bits")
        if index == reg.CTRL and value & reg.CTRL_RESET:
            self._reset_function()
        elif index == reg.MAILBOX:
            self._mailbox(value)
        elif index == reg.EIMC:
            self._registers[reg.EIMS] = self[reg.EIMS] & ~value
        else:
            self._registers[index] = value
            if index == reg.TDT:
                self._transmit()

    def _reset_function(self) -> None:
        self._registers: dict[int, int] = {reg.MAILBOX: reg.MAILBOX_RESET_DONE}
        self.filter = b""

    # The PF.

    def reset_pf(self) -> None:
        """The PF's driver resets its card, and says so."""
        self._registers[reg.MAILBOX] = self._registers.get(reg.MAILBOX, 0) | reg.MAILBOX_RESET_DONE
        self._interrupt(1)

    def _mailbox(self, value: int) -> None:
        if value & reg.MAILBOX_VF_OWNS:
            self._registers[reg.MAILBOX] = self._registers.get(reg.MAILBOX, 0) | reg.MAILBOX_VF_OWNS
        if value & (reg.MAILBOX_REQUEST | reg.MAILBOX_ACK):
            self._registers[reg.MAILBOX] &= ~reg.MAILBOX_VF_OWNS
        if value & reg.MAILBOX_REQUEST and self.pf_answers:
            words = [self._registers.get(reg.MAILBOX_MEMORY + index, 0) for index in range(3)]
            self._messages = [[_PING | reg.MESSAGE_CLEAR_TO_SEND]] * self.pings + [self._answer(words)]
        if value & (reg.MAILBOX_REQUEST | reg.MAILBOX_ACK) and self._messages:
            for index, word in enumerate(self._messages.pop(0)):
                self._registers[reg.MAILBOX_MEMORY + index] = word
            self._registers[reg.MAILBOX] |= reg.MAILBOX_PF_SENT | reg.MAILBOX_PF_ACKED

    def _answer(self, words: list[int]) -> list[int]:
        kind = words[0] & reg.MESSAGE_KIND
        ack, nack = ([bit | reg.MESSAGE_CLEAR_TO_SEND | words[0]] for bit in (reg.MESSAGE_ACK, reg.MESSAGE_NACK))
        if kind == reg.MESSAGE_RESET:
            self.filter = self.admin_mac
            padded = self.admin_mac + bytes(8 - len(self.admin_mac))
            address = [int.from_bytes(padded[:4], "little"), int.from_bytes(padded[4:], "little")]
            return [(reg.MESSAGE_ACK if self.admin_mac else reg.MESSAGE_NACK) | reg.MESSAGE_RESET, *address]
        if kind == reg.MESSAGE_SET_MAC:
            mac = b"".join(word.to_bytes(4, "little") for word in words[1:3])[:6]
            # igb refuses even the address that it has fixed.
            if self.admin_mac:
                return nack
            self.filter = mac
            return ack
        return ack if kind == reg.MESSAGE_SET_PROMISCUOUS else nack

    # The queues.

    def _transmit(self) -> None:
        if not self.bus_master or not self[reg.TXDCTL] & reg.QUEUE_ENABLED:
            return
        ring, size = self._address(reg.TDBAL, reg.TDBAH), self[reg.TDLEN] // 16
        while (head := self[reg.TDH]) != self[reg.TDT]:
            descriptor = self._at(ring + 16 * head, 16)
            address = int.from_bytes(descriptor[:8], "little")
            frame = bytes(self._at(address, int.from_bytes(descriptor[8:10], "little")))
            descriptor[12:16] = reg.TX_DONE.to_bytes(4, "little")
            self._registers[reg.TDH] = (head + 1) % size
            self._count(reg.GOOD_PACKETS_SENT, reg.GOOD_BYTES_SENT, frame)
            self.card.carry(self, frame)
        self._interrupt(0)

    def arrive(self, frame: bytes, *, end: bool = True, errors: int = 0) -> None:
        """Without `end` the frame goes on in the next buffer."""
        if not self.bus_master or not self[reg.RXDCTL] & reg.QUEUE_ENABLED or self[reg.RDH] == self[reg.RDT]:
            return
        head = self[reg.RDH]
        descriptor = self._at(self._address(reg.RDBAL, reg.RDBAH) + 16 * head, 16)
        address = int.from_bytes(descriptor[:8], "little")
        self._at(address, len(frame))[:] = frame
        descriptor[8:12] = (reg.RX_DONE | errors | (reg.RX_END if end else 0)).to_bytes(4, "little")
        descriptor[12:14] = len(frame).to_bytes(2, "little")
        self._registers[reg.RDH] = (head + 1) % (self[reg.RDLEN] // 16)
        self._count(reg.GOOD_PACKETS_RECEIVED, reg.GOOD_BYTES_RECEIVED, frame)
        self._interrupt(0)

    def _count(self, packets: int, size: int, frame: bytes) -> None:
        self._registers[packets] = (self[packets] + 1) % (1 << 32)
        self._registers[size] = (self[size] + len(frame) + 4) % (1 << 32)

    def _interrupt(self, vector: int) -> None:
        if self[reg.EIMS] & 1 << vector and vector < len(self._eventfds):
            os.eventfd_write(self._eventfds[vector], 1)

    def _address(self, low: int, high: int) -> int:
        return self[low] | self[high] << 32

    def _at(self, iova: int, size: int) -> memoryview:
        for memory in self._memory:
            if memory.iova <= iova and iova + size <= memory.iova + memory.size:
                return memory.view[iova - memory.iova : iova - memory.iova + size]
        raise DmaFault(f"{size} bytes at {iova:#x}")
