"""The events by which the device plugin follows the host, from the kernel itself."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from deviceplugin import watching
from deviceplugin.watching import Bell, FolderEvents, KernelEvents, device_events, is_about_pci, link_events
from tests.kubelet.node import driven

SECONDS = 20.0
DEVICE = Path("/sys/devices/virtual/mem/null/uevent")


def cause_event():
    DEVICE.write_text("change")


@pytest.mark.skipif(not os.access(DEVICE, os.W_OK), reason="only root can make the kernel send an event")
@driven
async def test_an_event_of_the_kernel_rings_and_one_of_a_process_does_not():
    bell = Bell()
    with KernelEvents(15, bell, lambda message: b"mem/null" in message) as events:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15) as other:
            other.sendto(b"change@/devices/virtual/mem/null\0", (events._socket.getsockname()[0], 0))
        assert not await bell.wait(0.2)
        cause_event()
        assert await bell.wait(SECONDS)


@pytest.mark.skipif(not os.access(DEVICE, os.W_OK), reason="only root can make the kernel send an event")
@driven
async def test_lost_messages_ring_as_well(monkeypatch):
    monkeypatch.setattr(watching, "_BUFFER", 1)
    bell = Bell()
    with KernelEvents(15, bell, lambda _message: False):
        for _ in range(200):
            cause_event()
        assert await bell.wait(SECONDS)


@driven
async def test_events_of_devices_and_links_can_be_listened_to_at_once():
    bell = Bell()
    with device_events(bell), link_events(bell):
        assert not await bell.wait(0)


@pytest.mark.parametrize(
    ("message", "about"),
    [
        (b"add@/devices/pci0000:00/0000:00:1c.0/0000:01:10.0\0ACTION=add", True),
        (b"bind@/devices/pci0000:00/0000:01:10.0\0DRIVER=vfio-pci", True),
        (b"add@/devices/virtual/vfio/20\0SUBSYSTEM=vfio", True),
        (b"change@/devices/virtual/block/dm-0\0X=/devices/pci0000:00", False),
        (b"add@/devices/virtual/net/cali0123\0SUBSYSTEM=net", False),
    ],
)
def test_events_of_containers_and_disks_are_passed_over(message, about):
    assert is_about_pci(message) is about


@driven
async def test_a_folder_that_is_not_there_is_passed_over_and_the_others_ring(tmp_path):
    bell = Bell()
    with FolderEvents([str(tmp_path / "none"), str(tmp_path)], bell):
        assert not await bell.wait(0)
        (tmp_path / "kubelet.sock").touch()
        assert await bell.wait(SECONDS)
