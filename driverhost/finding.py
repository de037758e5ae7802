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
    names, broken = [driver.__name__ for driver in BUILT_IN], ""
    for entry in entry_points(group=ENTRY_POINTS) if installed is None else installed:
        try:
            driver: type[Driver] = entry.load()
            if ids in driver.IDS:
                return driver
            names.append(entry.name)
        except Exception as error:  # noqa: BLE001 - the import of a package may raise anything
            broken += f"; {entry.name} cannot be loaded: {type(error).__name__}: {error}"
    for driver in BUILT_IN:
        if ids in driver.IDS:
            return driver
    raise NoDriver(
        f"no driver for a device {ids[0]:04x}:{ids[1]:04x}; there are: {', '.join(sorted(names))}{broken}",
        hint=f"install a package with an entry point of the group {ENTRY_POINTS}",
    )
