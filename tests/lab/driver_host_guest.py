"""Runs in the lab's machine: the contract of drivers, on two real VFs. Prints the promises that failed, as JSON.

Arguments: the addresses of two VFs that have the driver vfio-pci.
"""

from __future__ import annotations

import json
import sys
import traceback

from driverhost.drivers.igbvf.driver import IgbVf
from driverhost.vfio.device import VfioDevice
from driverhost.vfio.place import Place
from tests.drivers.driver_contract import CONTRACT, started


def main() -> None:
    failures = {}
    for promise in CONTRACT:
        with VfioDevice(Place(sys.argv[1])) as one, VfioDevice(Place(sys.argv[2])) as other:
            try:
                pair = started(IgbVf, (one, other))
                promise(pair)
                for driver in pair:
                    driver.stop()
            except Exception:
                failures[promise.__name__] = traceback.format_exc(limit=-3)
    print(json.dumps(failures))


if __name__ == "__main__":
    main()
