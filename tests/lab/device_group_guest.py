"""Runs in the lab's machine, as a part of device_plugin_guest.py: gives a whole IOMMU group away and takes it back."""

from __future__ import annotations

import json
from typing import Any

from cni.host.sysfs import Sysfs
from cni.log import Log
from cni.pci import PciAddress
from deviceplugin.conf import parse
from deviceplugin.holding import Journal
from deviceplugin.host import Host
from deviceplugin.hostuse import HostUse
from deviceplugin.stock import Stock
from tests.lab.vfio_user import VfioUser

RESOURCE = "intel.com/pair"


async def whole_group(one: PciAddress, other: PciAddress, state: str) -> dict[str, Any]:
    """What was seen: the cards share a group, and only the first one is selected."""
    sysfs, log = Sysfs(), Log({})
    host = Host(sysfs, device_info=f"{state}/devinfo", cdi_folder=f"{state}/cdi", uses=HostUse(sysfs, log))
    keys = {"driver": "vfio-pci", "groups": "group", "companions": [sysfs.driver(one)], "cdi": True}
    document = {"resourceList": [{"resourceName": "pair", "selectors": {"pciAddresses": [one]}, **keys}]}
    stock = Stock(host, Journal(f"{state}/journal"), parse(json.dumps(document).encode()), log)
    await stock.look()
    offered = {offer.device: offer.healthy for offer in stock.offers(RESOURCE)}
    contents = await stock.allocate(RESOURCE, [one])
    await stock.prepare(RESOURCE, [one])
    return {
        "offered": offered,
        "drivers": [sysfs.driver(card) for card in (one, other)],
        "listed": contents.environment["PCIDEVICE_INTEL_COM_PAIR"].split(","),
        "CDI names and files": [len(contents.cdi), len(host.cdi_files())],
        "VFIO reads": [_reads(card, f"/dev/vfio/{sysfs.iommu_group(card)}") for card in (one, other)],
        "released": await stock.release(one, stock.grants[one]),
        "drivers at the end": [sysfs.driver(card) for card in (one, other)],
        "CDI files at the end": len(host.cdi_files()),
    }


def _reads(card: PciAddress, node: str) -> bool:
    with VfioUser(card, node) as user:
        return user.reads_its_vendor()
