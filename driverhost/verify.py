"""Runs the contract of drivers on two real devices."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING

from driverhost.contract import CONTRACT, ContractBroken, started
from driverhost.errors import DriverHostError
from driverhost.finding import find
from driverhost.vfio.device import VfioDevice
from driverhost.vfio.place import Place

if TYPE_CHECKING:
    from driverhost.contract import Promise
    from driverhost.driver import Driver


def verified(one: str, other: str) -> Iterator[tuple[str, str]]:
    """Each promise of the contract in words, and how the driver of the devices breaks it; empty if it keeps it.

    The devices are opened again for each promise. Raises `DriverHostError` when they cannot be opened.
    """
    places = Place(one), Place(other)
    kind = find(places[0].ids)
    for promise in CONTRACT:
        with VfioDevice(places[0]) as first, VfioDevice(places[1]) as second:
            yield promise.__name__.replace("_", " "), _broken(promise, kind, first, second)


def _broken(promise: Promise, kind: type[Driver], first: VfioDevice, second: VfioDevice) -> str:
    try:
        pair = started(kind, (first, second))
        promise(pair)
        for driver in pair:
            driver.stop()
    except (ContractBroken, DriverHostError) as error:
        return str(error)
    except Exception:  # noqa: BLE001 - a driver may raise anything, and its author needs the place
        return traceback.format_exc(limit=-3)
    return ""
