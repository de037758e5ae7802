"""Runs in the lab's machine: allocates devices and takes them back, and prints its observations as JSON.

Arguments: the address and the name of a PF, a VF of it with a network driver, and two cards that share an IOMMU group.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cni.host.sysfs import Sysfs
from cni.log import Log
from cni.pci import PciAddress
from deviceplugin.conf import parse
from deviceplugin.following import Follower
from deviceplugin.holding import Journal
from deviceplugin.host import Host
from deviceplugin.hostuse import HostUse
from deviceplugin.reclaim import Reclaimer
from deviceplugin.stock import Stock
from tests.lab.vfio_user import VfioUser

STATE = "/run/device-plugin"
DEVICES = Path("/sys/bus/pci/devices")
VF, PAIR, REST = "intel.com/vf", "intel.com/pair", "intel.com/rest"
SECONDS = 60.0


class Pods:
    """The kubelet's list of pods."""

    def __init__(self) -> None:
        self.devices: dict[str, frozenset[str]] = {}

    async def listed(self) -> Mapping[str, frozenset[str]]:
        return self.devices


class Node:
    """The device plugin without a kubelet. The test compares `seen`."""

    def __init__(self, pf: str, one: str, other: str) -> None:
        self.sysfs, log = Sysfs(), Log({})
        selected = {"vf": {"pfNames": [f"{pf}#0"]}, "pair": {"pciAddresses": [one, other]}}
        resources = [{"resourceName": name, "driver": "vfio-pci", "selectors": some} for name, some in selected.items()]
        resources.append({"resourceName": "rest", "selectors": {"pfNames": [pf]}})
        self.host = Host(self.sysfs, device_info=f"{STATE}/devinfo", uses=HostUse(self.sysfs, log))
        configuration = parse(json.dumps({"resourceList": resources}).encode())
        self.stock = Stock(self.host, Journal(f"{STATE}/journal"), configuration, log)
        self.pods = Pods()
        self.follower = Follower(self.stock, log)
        self.reclaimer = Reclaimer(self.stock, self.pods, log, settle=0.0)
        self.seen: dict[str, Any] = {}

    def healthy(self, resource: str) -> list[bool]:
        return [offer.healthy for offer in self.stock.offers(resource)]

    def offered(self, resource: str) -> set[str]:
        return {offer.device for offer in self.stock.offers(resource)}

    async def until(self, what: str, happened: Callable[[], bool]) -> float:
        """Returns the seconds until it has happened, and adds to `seen` whether it has."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(SECONDS):
                while not happened():
                    await self.stock.changes()
        except TimeoutError:
            self.seen[what] = False
        else:
            self.seen[what] = True
        return time.monotonic() - began

    async def give(self, resource: str, device: str) -> str:
        """Allocates it to a pod, and returns the path of its group's node."""
        # It is listed first, because without a grace period the reclaimer could take it back before the pod is listed.
        self.pods.devices = {resource: frozenset([device])}
        contents = await self.stock.allocate(resource, [device])
        await self.stock.prepare(resource, [device])
        return contents.nodes[1].host


async def vf_goes_to_a_user_of_vfio_and_comes_back(node: Node, vf: PciAddress) -> None:
    found = node.sysfs.driver(vf)
    group = await node.give(VF, vf)
    node.seen["VF while held"] = (node.sysfs.driver(vf), node.healthy(VF))
    with VfioUser(vf, group) as user:
        node.seen["VFIO reads the VF"] = user.reads_its_vendor()
        node.pods.devices = {}
        await node.until("a VF that is open and of no pod is unhealthy", lambda: node.healthy(VF) == [False])
        node.seen["VF while open"] = (node.sysfs.driver(vf), vf in node.stock.held)
    await node.until("a VF that is closed is taken back", lambda: vf not in node.stock.held)
    node.seen["VF when it is back"] = (node.sysfs.driver(vf) == found, node.healthy(VF), bool(node.sysfs.netdevs(vf)))


async def group_goes_to_one_holder(node: Node, one: PciAddress, other: PciAddress) -> None:
    found = node.sysfs.driver(one)
    node.seen["pair while both have network drivers"] = node.healthy(PAIR)
    _write(DEVICES / other / "driver/unbind", other)
    await node.until("an event of the unbind", lambda: node.healthy(PAIR) == [True, False])
    group = await node.give(PAIR, one)
    node.seen["pair while one is held"] = node.healthy(PAIR)
    with VfioUser(one, group) as user:
        node.seen["VFIO reads the card"] = user.reads_its_vendor()
    node.pods.devices = {}
    seconds = await node.until("the group is free again", lambda: one not in node.stock.held)
    node.seen["seconds until the group was free"] = round(seconds, 2)
    node.seen["card when it is back"] = node.sysfs.driver(one) == found
    _write(Path("/sys/bus/pci/drivers_probe"), other)


async def vfs_go_and_come(node: Node, pf: str) -> None:
    numvfs = DEVICES / pf / "sriov_numvfs"
    number = len(node.healthy(REST))
    await asyncio.to_thread(_write, numvfs, "0")
    # A PF without VFs is itself a device, so it may replace them in the list.
    await node.until("VFs that go are withdrawn", lambda: node.offered(REST) | node.offered(VF) <= {pf})
    await asyncio.to_thread(_write, numvfs, "7")
    seconds = await node.until("VFs that come are offered", lambda: node.healthy(REST) == [True] * number)
    node.seen["seconds until the VFs were offered"] = round(seconds, 2)


async def main(address: str, pf: str, vf: PciAddress, one: PciAddress, other: PciAddress) -> dict[str, Any]:
    node = Node(pf, one, other)
    with node.follower:
        await node.follower.begin()
        parts = [asyncio.ensure_future(part.run()) for part in (node.follower, node.reclaimer)]
        await vf_goes_to_a_user_of_vfio_and_comes_back(node, vf)
        await group_goes_to_one_holder(node, one, other)
        await vfs_go_and_come(node, address)
        for part in parts:
            part.cancel()
        await asyncio.wait(parts)
    return node.seen


def _write(path: Path, text: str) -> None:
    path.write_text(text)


if __name__ == "__main__":
    addresses = map(PciAddress, sys.argv[3:])
    print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2], *addresses))))
