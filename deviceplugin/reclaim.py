"""Takes devices back. The kubelet has no call for that, so it takes evidence, and without it a device stays held.

A device is free when the kubelet does not list it any more, no process has it open, its network device is not in a pod,
and our CNI plugins have no record of it. A kubelet that has just started lists nothing before it has heard of its pods.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Protocol

from cni.errors import CniError, DeviceNotFound, TryAgainLater

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.log import Log
    from deviceplugin.holding import Holding
    from deviceplugin.stock import Stock

PAUSE_SECONDS = 0.25
"""Shortest pause between two questions to the kubelet while something is held."""
LONGEST_PAUSE_SECONDS = 1.0
BUSY_SHARE = 0.02
"""How much of one processor the questions may take: a round that takes longer is followed by a longer pause."""
IDLE_SECONDS = 30.0
SETTLE_SECONDS = 30.0
"""How long a kubelet must have answered before what it does not list counts, and how long a device that it has never listed
stays with the container that it was allocated to."""
_OTHERS = frozenset(("kubelet", "CDI"))
"""What else than devices something is told of."""
_ABSENCES = 2
"""How many answers in a row must lack a device."""


class Pods(Protocol):
    """What pods have, as `deviceplugin.podresources.PodResources` knows it."""

    async def listed(self) -> Mapping[str, frozenset[str]]: ...


class Reclaimer:
    """Compares what is held with what the kubelet lists. `settle` and `pause` as in SETTLE_SECONDS and PAUSE_SECONDS."""

    def __init__(
        self,
        stock: Stock,
        pods: Pods,
        log: Log,
        *,
        settle: float = SETTLE_SECONDS,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        self._stock = stock
        self._pods = pods
        self._log = log
        self._settle = settle
        self._pause = pause
        self._answers_since = 0.0
        self._known_since: dict[str, float] = {}
        self._absences: dict[str, int] = {}
        self._grants: dict[str, int] = {}
        self._told: dict[str, str] = {}
        self._unheld = {*_OTHERS}
        """What something was told of that is not held: also devices that the kubelet lists and that cannot be held."""

    async def run(self) -> None:
        """Looks until it is cancelled, often while something is held."""
        while True:
            began = time.process_time()
            await self.round()
            took = time.process_time() - began
            if not self._stock.held and not self._stock.is_due:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_SECONDS):
                        await self._stock.changes()
            await asyncio.sleep(self._pause_after(took))

    def _pause_after(self, took: float) -> float:
        """Seconds until the next round, after one that took so many seconds of a processor."""
        # The second answer without a device is wanted soon: its group waits.
        if any(0 < number < _ABSENCES for number in self._absences.values()):
            return self._pause
        return max(self._pause, min(took / BUSY_SHARE, LONGEST_PAUSE_SECONDS))

    async def round(self) -> None:
        """One comparison, and the CDI files that are due."""
        await self._compare()
        try:
            await self._stock.publish_due()
        except CniError as error:
            self._tell("CDI", f"a CDI file does not have what containers hold, tried again: {error}")
        else:
            self._tell("CDI", "")

    async def _compare(self) -> None:
        now = time.monotonic()
        self._note_grants()
        try:
            listed = await self._pods.listed()
        except TryAgainLater as error:
            self._answers_since = 0.0
            self._absences.clear()
            self._tell("kubelet", str(error) if self._stock.held else "")
            return
        self._tell("kubelet", "")
        self._answers_since = self._answers_since or now
        await self._adopt(listed)
        # A device that was bound together with another one goes with that.
        alone = [device for device, holding in self._stock.held.items() if holding.lead not in self._stock.held]
        # Under whatever resource: that of its pod may have another name by now.
        anywhere = frozenset().union(*listed.values())
        absent = [device for device in alone if self._is_absent(device, anywhere, now)]
        signs = await asyncio.to_thread(self._stock.signs_of_use, absent) if absent else {}
        for device, doubts in signs.items():
            await self._take_back(device, doubts)
        for memory in (self._known_since, self._absences, self._told):
            for device in [*memory]:
                if device not in self._stock.held and device not in self._unheld:
                    del memory[device]

    def _note_grants(self) -> None:
        """Before the kubelet is asked: its answer does not count for a device that it gives away meanwhile."""
        grants = dict(self._stock.grants)
        for device, grant in grants.items():
            if grant != self._grants.get(device):
                self._known_since.pop(device, None)
                self._absences.pop(device, None)
        self._grants = grants

    async def _adopt(self, listed: Mapping[str, frozenset[str]]) -> None:
        self._unheld = {*_OTHERS}
        for resource in self._stock.resources():
            for device in sorted(listed.get(resource, frozenset()) - self._stock.held.keys()):
                try:
                    await self._stock.adopt(resource, device)
                except CniError as error:
                    self._unheld.add(device)
                    verb = "is gone" if isinstance(error, DeviceNotFound) else "cannot be noted"
                    self._tell(device, f"{device} ({resource}) is held by a pod, and {verb}: {error}")
                else:
                    self._log.warning(f"{device} ({resource}) is held by a pod and was not in the journal; it is now")

    def _is_absent(self, device: str, listed: frozenset[str], now: float) -> bool:
        """Whether the kubelet has not listed the device for so long that only signs of use can keep it held."""
        known = self._known_since.setdefault(device, now)
        name = self._stock.held[device].lead or device
        if name in listed:
            self._absences[device] = 0
            # From now on two answers without it are enough.
            self._known_since[device] = min(known, now - self._settle)
            self._stock.doubt(device, self._grants.get(device, 0), ())
            return False
        self._absences[device] = self._absences.get(device, 0) + 1
        return now - max(known, self._answers_since) >= self._settle and self._absences[device] >= _ABSENCES

    async def _take_back(self, device: str, doubts: list[str]) -> None:
        holding = self._stock.held.get(device)
        if holding is None:
            return
        self._tell(device, f"{device} is still held, though no pod has it: {'; '.join(doubts)}" if doubts else "")
        self._stock.doubt(device, self._grants.get(device, 0), doubts)
        if not doubts:
            await self._release(device, holding)

    async def _release(self, device: str, holding: Holding) -> None:
        try:
            released = await self._stock.release(device, self._grants.get(device, 0))
        except CniError as error:
            self._tell(device, f"{device} ({holding.resource}) could not be taken back, tried again: {error}")
        else:
            if released:
                self._log.info(f"took {device} back from {holding.resource}")

    def _tell(self, subject: str, text: str) -> None:
        """Once for each reason, not once a second."""
        if text and self._told.get(subject) != text:
            self._log.warning(text)
        self._told[subject] = text


async def resume(stock: Stock, log: Log) -> None:
    """After a start: a driver that an allocation promised and a killed process did not bind is bound now.

    One after the other, while everything is served already: one that hangs holds up nobody else.
    """
    for device, holding in list(stock.held.items()):
        try:
            await stock.resume(device)
        except CniError as error:
            log.warning(f"{device} ({holding.resource}) is held, and has not the driver that it was promised: {error}")
