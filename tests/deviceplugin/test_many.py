"""Many restarts, and as many devices as a large node has. `python -m tests.bench` measures the time."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from deviceplugin import server
from tests.kubelet.kubelet import CHECKPOINT
from tests.kubelet.node import Node, driven, until
from tests.kubelet.pcihost import PF, VFS, card, many, many_vf

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
RESTARTS = 100 if os.environ.get("BAREWIRE_MATRIX") else 10
CARDS, DEVICES = 64, 64 if os.environ.get("BAREWIRE_MATRIX") else 16
FEW = [{"resourceName": f"r{number}", "selectors": {"rootDevices": [f"{PF}#{number}"]}} for number in range(4)]


@pytest.fixture
def place():
    """A folder with a short path: that of a socket has at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="bw", dir=MEMORY) as folder:
        yield Path(folder)


def registered(node, number):
    return lambda: len(node.kubelet.endpoints) == number and all(one.lists for one in node.kubelet.endpoints.values())


@driven
async def test_restarts_of_kubelet_and_plugin_in_a_loop_lose_no_device_and_give_none_twice(place):
    node = Node(place, {"resourceList": FEW})
    card(node.host, driver="vfio-pci")
    async with node:
        (node.kubelet.folder / CHECKPOINT).write_text("{}")
        await until("registrations", registered(node, 4))
        for turn in range(RESTARTS):
            [device] = await node.kubelet.admit(f"pod{turn}", f"intel.com/r{turn % 4}")
            if turn % 3:
                await node.kubelet.restart()
            else:
                await node.kubelet.stop()
                await node.stop_plugin()
                await node.start_plugin()
                await node.kubelet.start()
            await until("registrations", registered(node, 4))
            shortest = min(len(one) for endpoint in node.kubelet.endpoints.values() for one in endpoint.lists)
            assert shortest == 1, "a list was short for a moment"
            assert [*node.service.stock.held] == [device] == [VFS[turn % 4]]
            node.kubelet.end(f"pod{turn}")
            await until("release", lambda: not node.service.stock.held)
        assert (node.kubelet.folder / CHECKPOINT).exists()


@driven
async def test_a_large_node_s_lists_are_whole_after_a_restart_and_a_change_of_one_device_reaches_its_stream_only(place):
    node = Node(place)
    node.configure({"resourceList": many(node.host, CARDS, DEVICES)})
    async with node:
        await until("registrations", registered(node, CARDS))
        await node.kubelet.restart()
        await until("registrations", registered(node, CARDS))
        endpoints = node.kubelet.endpoints.values()
        assert {len(endpoint.lists[0]) for endpoint in endpoints} == {DEVICES}
        device = many_vf(7, 9)
        node.host.bind(device, "")
        node.service.event.ring(f"unbind@/devices/pci0000:00/{device}\0".encode())
        await until("the change", lambda: node.kubelet.health("intel.com/r7").get(device) == "Unhealthy")
        others = [endpoint for name, endpoint in node.kubelet.endpoints.items() if name != "intel.com/r7"]
        assert [endpoint.resource for endpoint in others if len(endpoint.lists) > 1] == []


@driven
async def test_a_kubelet_that_has_lost_the_stream_of_a_resource_gets_it_again(place):
    node = Node(place, {"resourceList": FEW})
    card(node.host, driver="vfio-pci")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "LOST_SECONDS", 0.1)
        async with node:
            await until("registrations", registered(node, 4))
            lost = node.kubelet.endpoints["intel.com/r2"]
            assert lost.task
            lost.task.cancel()
            await until("another registration", lambda: node.kubelet.endpoints.get("intel.com/r2") not in (None, lost))
            await node.offered("intel.com/r2", 1)
            assert any("does not follow intel.com/r2" in text for text in node.log.messages)


@driven
async def test_a_kubelet_s_folder_that_is_recreated_is_served_and_followed_again(place):
    node = Node(place, {"resourceList": FEW})
    card(node.host, driver="vfio-pci")
    async with node:
        await until("registrations", registered(node, 4))
        await node.kubelet.stop()
        for path in node.kubelet.folder.iterdir():
            path.unlink()
        node.kubelet.folder.rmdir()
        node.kubelet.folder.mkdir()
        await node.kubelet.start()
        await until("registrations", registered(node, 4))


@driven
async def test_lists_stay_whole_while_the_host_cannot_be_looked_at(place):
    node = Node(place, {"resourceList": [{"resourceName": "vfs", "selectors": {"pfNames": ["eth0"]}}]})
    card(node.host, driver="vfio-pci")
    async with node:
        await node.offered("intel.com/vfs", 4)
        pci = node.host.sys / "bus/pci"
        hidden = pci.rename(pci.with_name("hidden"))
        node.service.event.ring()
        await until("the error", lambda: any("cannot be looked at" in text for text in node.log.messages))
        await node.kubelet.restart()
        await node.offered("intel.com/vfs", 4)
        hidden.rename(pci)
        node.host.remove(VFS[3])
        await node.offered("intel.com/vfs", 3)
        assert [len(one) for one in node.kubelet.endpoints["intel.com/vfs"].lists] == [4, 3]
