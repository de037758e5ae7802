"""Which driver drives a device: one of ours, or one of a package that the image has installed."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from driverhost.drivers import BUILT_IN
from driverhost.errors import NoDriver

if TYPE_CHECKING:
    from driverhost.driver import Driver

ENTRY_POINTS = "barewire.drivers"
"""The group of entry points by which an installed package offers drivers."""


def find(ids: tuple[int, int], installed: Iterable[EntryPoint] | None = None) -> type[Driver]:
    """The driver of a device with this vendor and device. A package's driver comes before ours. Raises `NoDriver`."""
    drivers: dict[str, type[Driver]] = {
        entry.name: entry.load() for entry in (entry_points(group=ENTRY_POINTS) if installed is None else installed)
    }
    drivers |= {driver.__name__: driver for driver in BUILT_IN}
    for driver in drivers.values():
        if ids in driver.IDS:
            return driver
    raise NoDriver(
        f"no driver for a device {ids[0]:04x}:{ids[1]:04x}; there are: {', '.join(sorted(drivers))}",
        hint=f"install a package with an entry point of the group {ENTRY_POINTS}",
    )
