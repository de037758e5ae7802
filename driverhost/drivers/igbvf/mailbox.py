"""The mailbox between a VF and the driver of its PF: 16 words that one side writes and the other acknowledges."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from driverhost.drivers.igbvf import registers as reg
from driverhost.errors import DeviceFailed, Unsupported

if TYPE_CHECKING:
    from driverhost.device import Registers

ANSWER_SECONDS = 2.0
"""The PF's driver answers in its interrupt handler, in less than a millisecond unless the host is stopped."""
_PAUSE = 0.0005
_MESSAGES = 8
"""Messages of the PF that may come before the answer, such as pings about its link."""


class Mailbox:
    """One request at a time. `pf_was_reset` says whether the PF has been reset since `clear`."""

    def __init__(self, registers: Registers, address: str) -> None:
        self._registers = registers
        self._address = address
        self._seen = 0

    @property
    def pf_was_reset(self) -> bool:
        self._look()
        return bool(self._seen & (reg.MAILBOX_RESET_BEGUN | reg.MAILBOX_RESET_DONE))

    def clear(self) -> None:
        """Forgets all events so far."""
        self._look()
        self._seen = 0

    def exchange(self, *words: int) -> list[int]:
        """Sends a message, and returns the words of the answer, whatever it is. Raises `DeviceFailed`."""
        return self._exchange(words)

    def request(self, *words: int) -> list[int]:
        """As `exchange`; raises also `Unsupported`, when the PF refuses."""
        answer = self._exchange(words)
        if answer[0] & reg.MESSAGE_NACK or answer[0] & reg.MESSAGE_KIND != words[0] & reg.MESSAGE_KIND:
            raise Unsupported(
                f"the PF of {self._address} refuses request {words[0] & reg.MESSAGE_KIND:#x}",
                hint="the administrator of the PF decides about it: see the PF's driver in dmesg",
            )
        return answer

    def _exchange(self, words: tuple[int, ...]) -> list[int]:
        self._own()
        # An answer to an earlier request, or a message of the PF, may have come: its flag would be taken for ours.
        self._look()
        self._seen &= ~(reg.MAILBOX_PF_SENT | reg.MAILBOX_PF_ACKED)
        for index, word in enumerate(words):
            self._registers[reg.MAILBOX_MEMORY + index] = word
        self._registers[reg.MAILBOX] = reg.MAILBOX_REQUEST
        for _ in range(_MESSAGES):
            self._await(lambda: self._take(reg.MAILBOX_PF_SENT), "does not answer")
            answer = self._read()
            if answer[0] & (reg.MESSAGE_ACK | reg.MESSAGE_NACK):
                return answer
        raise DeviceFailed(f"the PF of {self._address} sends messages, and no answer", hint="see its driver in dmesg")

    def _read(self) -> list[int]:
        self._own()
        memory = reg.MAILBOX_MEMORY
        words = [self._registers[memory + index] for index in range(reg.MAILBOX_WORDS)]
        self._registers[reg.MAILBOX] = reg.MAILBOX_ACK
        return words

    def _own(self) -> None:
        def owned() -> bool:
            self._registers[reg.MAILBOX] = reg.MAILBOX_VF_OWNS
            return bool(self._look() & reg.MAILBOX_VF_OWNS)

        self._await(owned, "keeps the mailbox")

    def _take(self, bit: int) -> bool:
        there = bool((self._look() | self._seen) & bit)
        self._seen &= ~bit
        return there

    def _look(self) -> int:
        """The register. Reading clears some of its bits, which are kept until they are used."""
        value = self._registers[reg.MAILBOX]
        self._seen |= value & reg.MAILBOX_CLEARED_BY_READING
        return value

    def _await(self, condition: Callable[[], bool], complaint: str) -> None:
        deadline = time.monotonic() + ANSWER_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise DeviceFailed(
                    f"the PF of {self._address} {complaint} within {ANSWER_SECONDS:.0f} s",
                    hint="set the PF up, and see its driver's messages in dmesg",
                )
            time.sleep(_PAUSE)
