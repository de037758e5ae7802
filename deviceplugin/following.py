"""Updates the offers: scans the host after each event of the kernel, and from time to time without one."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Self

from cni.errors import CniError
from deviceplugin.watching import DeviceBell, device_events, link_events

if TYPE_CHECKING:
    from cni.log import Log
    from deviceplugin.stock import Stock

RETRY_SECONDS = 1.0
"""Interval after a failed scan of the host."""
RESCAN_SECONDS = 10.0
"""Interval of scans without an event: a mount of a file system, for example, causes no event that we receive."""
_WHOLE_SECONDS = 60.0
"""Interval of scans of all functions without an event. A scan takes 0.15 ms for each function."""
_DEBOUNCE_SECONDS = 0.1
"""Interval between two scans: the kernel sends several messages for a VF, and many VFs appear at once."""


class Follower:
    """Receives events of the kernel from `with` on, so that none is lost between the first scan and the others."""

    def __init__(self, stock: Stock, log: Log) -> None:
        self.bell = DeviceBell()
        self._stock = stock
        self._log = log
        self._events = (device_events(self.bell), link_events(self.bell))
        self._blind = ""
        """Why the last scan of the host failed."""

    def __enter__(self) -> Self:
        for events in self._events:
            events.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        for events in self._events:
            events.__exit__(*exc)

    async def begin(self) -> None:
        """The first scan. Nothing is offered before it: a list that is too short takes capacity from the node."""
        while not await self._look(None):
            await self.bell.wait(RETRY_SECONDS)

    async def run(self) -> None:
        """Scans until it is cancelled."""
        seconds, whole = RESCAN_SECONDS, time.monotonic()
        while True:
            rang = await self.bell.wait(seconds)
            if time.monotonic() - whole > _WHOLE_SECONDS:
                self.bell.lose()
            if (named := self.bell.named()) is None:
                whole = time.monotonic()
            if await self._look(named):
                seconds = RESCAN_SECONDS
            else:
                self.bell.lose()
                seconds = RETRY_SECONDS
            if rang:
                await asyncio.sleep(_DEBOUNCE_SECONDS)

    async def _look(self, named: frozenset[str] | None) -> bool:
        """Whether the scan succeeded. If it failed, the offers do not change."""
        try:
            await self._stock.look(named)
        except CniError as error:
            if str(error) != self._blind:
                self._log.error(f"the host cannot be looked at, what was seen last stays: {error}")
            self._blind = str(error)
            return False
        self._blind = ""
        return True
