"""Runs in the lab's machine: gives a device away and takes it back, and prints what was seen as JSON.

Arguments: a PF's name, a VF of it with a network driver, and two cards that share an IOMMU group, with theirs.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from cni.host.sysfs import Sysfs
from cni.log import Log
from cni.pci import PciAddress
from deviceplugin.conf import parse
from deviceplugin.holding import Journal
from deviceplugin.host import Host
from deviceplugin.hostuse import HostUse
from deviceplugin.stock import Stock
from deviceplugin.watching import Bell, device_events

STATE = "/run/device-plugin"


async def main(pf: str, vf: str, one: PciAddress, other: str) -> dict[str, Any]:
    sysfs, log = Sysfs(), Log({})
    document = {
        "resourceList": [
            {"resourceName": "vf", "selectors": {"pfNames": [f"{pf}#0"]}},
            {"resourceName": "pair", "driver": "vfio-pci", "selectors": {"pciAddresses": [one, other]}},
        ]
    }
    host = Host(sysfs, device_info=f"{STATE}/devinfo", uses=HostUse(sysfs, log))
    stock = Stock(host, Journal(f"{STATE}/journal"), parse(json.dumps(document).encode()), log)
    await stock.look()
    found = sysfs.driver(one)
    seen: dict[str, Any] = {"vfs": [offer.device for offer in stock.offers("intel.com/vf") if offer.healthy] == [vf]}

    def healthy() -> list[bool]:
        return [
            offer.healthy for name in (one, other) for offer in stock.offers("intel.com/pair") if offer.device == name
        ]

    seen["healthy while both have network drivers"] = healthy()
    _write(f"/sys/bus/pci/devices/{other}/driver/unbind", other)
    await stock.look()
    seen["healthy while the other has none"] = healthy()
    bell = Bell()
    with device_events(bell):
        contents = await stock.allocate("intel.com/pair", [one])
        seen["event of the bind"] = await bell.wait(10)
    seen["driver while held"] = sysfs.driver(one)
    seen["healthy while one is held"] = healthy()
    descriptor = os.open(contents.nodes[1].host, os.O_RDWR)  # the group, as QEMU and DPDK open it
    seen["in use while open"] = host.in_use(one)
    os.close(descriptor)
    seen["in use when closed"] = host.in_use(one)
    await stock.prepare("intel.com/pair", [one])
    await stock.release(one, stock.grants[one])
    seen["healthy when it is released"] = healthy()
    seen["driver as found"] = sysfs.driver(one) == found
    _write("/sys/bus/pci/drivers_probe", other)
    return seen


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


if __name__ == "__main__":
    pf, vf, one, other = sys.argv[1:]
    print(json.dumps(asyncio.run(main(pf, vf, PciAddress(one), other))))
