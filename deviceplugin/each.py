"""Runs a step for several devices at the same time: the probe of one driver takes up to several seconds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

Item = TypeVar("Item")

AT_ONCE = 4
"""The number of steps that run at the same time. Steps that hang must leave threads for scans of the host."""


async def for_each(items: Iterable[Item], step: Callable[[Item], Awaitable[None]]) -> None:
    """Runs the step for all items. Returns when all have ended, and then raises the first failure.

    The messages of other failures are added to it as notes.
    """
    free = asyncio.Semaphore(AT_ONCE)

    async def run(item: Item) -> None:
        async with free:
            await step(item)

    ends = await asyncio.gather(*map(run, items), return_exceptions=True)
    # What ends the process comes before a failure of a device.
    failures = sorted((end for end in ends if end is not None), key=lambda end: isinstance(end, Exception))
    for other in failures[1:]:
        failures[0].add_note(f"and: {other}")
    if failures:
        raise failures[0]
