"""Runs in the lab's machine: allocates devices and takes them back, and prints its observations as JSON.

Arguments: the address and the name of a PF, a VF of it with a network driver, two cards that share an IOMMU group, and
the command line of testpmd.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

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
from tests.lab.device_group_guest import whole_group
from tests.lab.vfio_user import VfioUser

STATE = "/run/device-plugin"
DEVICES = Path("/sys/bus/pci/devices")
VF, PAIR, REST = "intel.com/vf", "intel.com/pair", "intel.com/rest"
SECONDS = 60.0
EAL = ("--no-huge", "-m", "64", "--no-telemetry", "--no-shconf", "--lcores", "0@0,1@0")


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
        keys = {"driver": "vfio-pci", "companions": ["e1000"]}
        resources = [{"resourceName": name, "selectors": some, **keys} for name, some in selected.items()]
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


@contextlib.asynccontextmanager
async def testpmd(command: list[str], vf: PciAddress) -> AsyncIterator[bool]:
    """Whether the VF is one of testpmd's ports, while testpmd runs."""
    pipe = asyncio.subprocess.PIPE
    options = (*EAL, "-a", vf, "--", "-i", "--total-num-mbufs=2048")
    process = await asyncio.create_subprocess_exec(
        *command, *options, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdin
    assert process.stdout
    try:
        async with asyncio.timeout(SECONDS):
            # It prints the MAC address of each port, and then its prompt.
            try:
                output = await process.stdout.readuntil(b"testpmd>")
            except asyncio.IncompleteReadError as error:
                raise AssertionError(error.partial.decode()) from error
        yield re.search(rb"Port 0: ([0-9A-F]{2}:){5}", output) is not None
    finally:
        await process.communicate(b"quit\n")


async def vf_goes_to_testpmd_and_comes_back(node: Node, vf: PciAddress, command: list[str]) -> None:
    found = node.sysfs.driver(vf)
    await node.give(VF, vf)
    node.seen["VF while held"] = (node.sysfs.driver(vf), node.healthy(VF))
    async with testpmd(command, vf) as has_the_port:
        node.seen["testpmd has the VF as a port"] = has_the_port
        node.pods.devices = {}
        await node.until("a VF that is open and of no pod is unhealthy", lambda: node.healthy(VF) == [False])
        node.seen["VF while open"] = (node.sysfs.driver(vf), vf in node.stock.held)
    await node.until("a VF that is closed is taken back", lambda: vf not in node.stock.held)
    node.seen["VF when it is back"] = (node.sysfs.driver(vf) == found, node.healthy(VF), bool(node.sysfs.netdevs(vf)))


async def group_goes_to_one_holder(node: Node, one: PciAddress, other: PciAddress) -> None:
    def drivers() -> list[str]:
        return [node.sysfs.driver(card) for card in (one, other)]

    node.seen["pair at first"] = (node.healthy(PAIR), drivers())
    group = await node.give(PAIR, one)
    node.seen["pair while one is held"] = (node.healthy(PAIR), drivers())
    with VfioUser(one, group) as user:
        node.seen["VFIO reads the card"] = user.reads_its_vendor()
    release, released = node.stock.release, []

    async def timed(device: str, grant: int) -> bool:
        released.append(time.monotonic())
        return await release(device, grant)

    with patch.object(node.stock, "release", timed):
        node.pods.devices = {}
        seconds = await node.until("the other card is healthy again", lambda: node.healthy(PAIR) == [True, True])
    node.seen["seconds until the other card was healthy"] = round(seconds, 2)
    node.seen["seconds of these for reset and drivers"] = round(time.monotonic() - released[0], 2)
    node.seen["drivers of the pair at the end"] = drivers()


async def vfs_go_and_come(node: Node, pf: str) -> None:
    numvfs = DEVICES / pf / "sriov_numvfs"
    number = len(node.healthy(REST))
    await asyncio.to_thread(_write, numvfs, "0")
    # A PF without VFs is itself a device, so it may replace them in the list.
    await node.until("VFs that go are withdrawn", lambda: node.offered(REST) | node.offered(VF) <= {pf})
    await asyncio.to_thread(_write, numvfs, "7")
    seconds = await node.until("VFs that come are offered", lambda: node.healthy(REST) == [True] * number)
    node.seen["seconds until the VFs were offered"] = round(seconds, 2)


async def main(address: str, pf: str, devices: list[PciAddress], command: list[str]) -> dict[str, Any]:
    vf, one, other = devices
    node = Node(pf, one, other)
    with node.follower:
        await node.follower.begin()
        parts = [asyncio.ensure_future(part.run()) for part in (node.follower, node.reclaimer)]
        await vf_goes_to_testpmd_and_comes_back(node, vf, command)
        await group_goes_to_one_holder(node, one, other)
        await vfs_go_and_come(node, address)
        for part in parts:
            part.cancel()
        await asyncio.wait(parts)
    node.seen["whole group"] = await whole_group(one, other, f"{STATE}/group")
    return node.seen


def _write(path: Path, text: str) -> None:
    path.write_text(text)


if __name__ == "__main__":
    devices = [PciAddress(text) for text in sys.argv[3:6]]
    print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2], devices, sys.argv[6:]))))
