"""Reclaims devices. The kubelet has no call for that, so it needs evidence; without evidence a device stays held.

A device is free if the kubelet does not list it any more, no process has it open, its network device is not in a pod,
and our CNI plugins have no record of it. A kubelet that has just started lists nothing until it knows its pods.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Protocol

from cni.errors import CniError, DeviceNotFound, TryAgainLater

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cni.log import Log
    from deviceplugin.holding import Holding
    from deviceplugin.stock import Stock

PAUSE_SECONDS = 0.25
"""Shortest interval between two queries while a device is held."""
CONFIRM_SECONDS = 0.1
"""Interval between the first answer without a device and the second one."""
LONGEST_PAUSE_SECONDS = 1.0
BUSY_SHARE = 0.02
"""Share of one processor that the queries may take. A longer interval follows a longer round."""
IDLE_SECONDS = 30.0
SETTLE_SECONDS = 30.0
"""For so long the kubelet must have answered before the absence of a device in its list counts. A device that it has
never listed is held at least for so long."""
_OTHERS = frozenset(("kubelet", "CDI"))
"""Subjects of messages other than devices."""
_ABSENCES = 2
"""The number of consecutive answers that must lack a device."""


class Pods(Protocol):
    """The devices of pods, as in `deviceplugin.podresources.PodResources`."""

    async def listed(self) -> Mapping[str, frozenset[str]]: ...


class Reclaimer:
    """Compares the held devices with the kubelet's list. Defaults: SETTLE_SECONDS, PAUSE_SECONDS."""

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
        self.took = 0.0
        """Seconds of processor time that the last query and its evaluation took."""
        self._unheld = {*_OTHERS}
        """Subjects of messages that are not held devices, including listed devices that could not be adopted."""

    async def run(self) -> None:
        """Runs rounds until it is cancelled, frequently while a device is held."""
        while True:
            await self.round()
            if not self._stock.held and not self._stock.is_due:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_SECONDS):
                        await self._stock.changes()
            await asyncio.sleep(self._pause_after(self.took))

    @contextlib.contextmanager
    def _timed(self, clock: Callable[[], float] = time.thread_time) -> Iterator[None]:
        began = clock()
        try:
            yield
        finally:
            self.took += clock() - began

    def _pause_after(self, took: float) -> float:
        """Seconds until the next round, after a round that took so many seconds of processor time."""
        # The second answer without a device should follow soon: the members of its group wait for it.
        if any(0 < number < _ABSENCES for number in self._absences.values()):
            return min(self._pause, CONFIRM_SECONDS)
        return max(self._pause, min(took / BUSY_SHARE, LONGEST_PAUSE_SECONDS))

    async def round(self) -> None:
        """Makes one comparison, measures the processor time of its query, and writes the CDI files that are due."""
        self.took = 0.0
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
            # gRPC works in threads of its own, but during a change others bind drivers.
            with self._timed(time.thread_time if self._stock.is_changing else time.process_time):
                listed = await self._pods.listed()
        except TryAgainLater as error:
            self._answers_since = 0.0
            self._absences.clear()
            self._tell("kubelet", str(error) if self._stock.held else "")
            return
        self._tell("kubelet", "")
        self._answers_since = self._answers_since or now
        await self._adopt(listed)
        with self._timed():
            absent = self._absent(listed, now)
        signs = await asyncio.to_thread(self._signs, absent) if absent else {}
        for device, doubts in signs.items():
            await self._take_back(device, doubts)
        for memory in (self._known_since, self._absences, self._told):
            for device in [*memory]:
                if device not in self._stock.held and device not in self._unheld:
                    del memory[device]

    def _absent(self, listed: Mapping[str, frozenset[str]], now: float) -> list[str]:
        # A device that was bound together with another one is released with it.
        alone = [device for device, holding in self._stock.held.items() if holding.lead not in self._stock.held]
        # Under any resource: the resource of its pod may have another name now.
        anywhere = frozenset().union(*listed.values())
        return [device for device in alone if self._is_absent(device, anywhere, now)]

    def _signs(self, absent: list[str]) -> dict[str, list[str]]:
        with self._timed():
            return self._stock.signs_of_use(absent)

    def _note_grants(self) -> None:
        """Runs before the query: the answer does not count for a device that is allocated during the query."""
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
        """Whether the device has been missing from the list long enough. Then only signs of use keep it held."""
        known = self._known_since.setdefault(device, now)
        name = self._stock.held[device].lead or device
        if name in listed:
            self._absences[device] = 0
            # From now on, two answers without it are sufficient.
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
        """Logs each reason once, not in each round."""
        if text and self._told.get(subject) != text:
            self._log.warning(text)
        self._told[subject] = text


async def resume(stock: Stock, log: Log) -> None:
    """After a start: binds drivers that an allocation promised and that a killed process did not bind.

    Everything is served already. The devices are handled one after the other, so one that hangs delays no request.
    """
    for device, holding in list(stock.held.items()):
        try:
            await stock.resume(device)
        except CniError as error:
            log.warning(f"{device} ({holding.resource}) is held, and has not the driver that it was promised: {error}")
