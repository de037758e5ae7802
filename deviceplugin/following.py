"""Keeps what is offered as the host is: a look after each event of the kernel, and now and then without one."""

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
"""When a look at the host that has failed is tried again."""
RESCAN_SECONDS = 10.0
"""How often the host is looked at without an event: a file system that is mounted sends none that we hear."""
_WHOLE_SECONDS = 60.0
"""How often every function is looked at without an event. It takes 0.15 ms for each."""
_DEBOUNCE_SECONDS = 0.1
"""Between two looks: the kernel sends several messages for a VF, and many VFs come at once."""


class Follower:
    """Hears events of the kernel from `with` on, so that none is lost between the first look and the others."""

    def __init__(self, stock: Stock, log: Log) -> None:
        self.bell = DeviceBell()
        self._stock = stock
        self._log = log
        self._events = (device_events(self.bell), link_events(self.bell))
        self._blind = ""
        """Why the last look at the host failed."""

    def __enter__(self) -> Self:
        for events in self._events:
            events.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        for events in self._events:
            events.__exit__(*exc)

    async def begin(self) -> None:
        """The first look. Nothing is offered before: a list that is too short takes devices from the node."""
        while not await self._look(None):
            await self.bell.wait(RETRY_SECONDS)

    async def run(self) -> None:
        """Looks until it is cancelled."""
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
        """Whether the host could be looked at. Where it could not, what was seen last is offered on."""
        try:
            await self._stock.look(named)
        except CniError as error:
            if str(error) != self._blind:
                self._log.error(f"the host cannot be looked at, what was seen last stays: {error}")
            self._blind = str(error)
            return False
        self._blind = ""
        return True
