"""The driver of virtio network devices on devices that are a program. On QEMU's: tests/lab/test_driver_host.py."""

from __future__ import annotations

import os
import select

import pytest

from driverhost.contract import CONTRACT, ETHERTYPE, arriving, frame_to, ours, started
from driverhost.drivers.virtio_net import configuration, layout, queues
from driverhost.drivers.virtio_net.driver import VirtioNet
from driverhost.errors import DeviceFailed, Unsupported
from driverhost.finding import find
from tests.drivers.virtio_card import OFFERED, Hub

ONE, OTHER = bytes.fromhex("020000000a01"), bytes.fromhex("020000000a02")


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    for nic in hub.nics:
        nic.close()


@pytest.fixture
def pair(hub):
    return started(VirtioNet, (hub.nic(ONE), hub.nic(OTHER)))


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_virtio_net_keeps_the_contract_of_drivers(pair, promise):
    promise(pair)


def test_the_driver_is_found_by_the_ids_of_the_device(hub):
    assert find(hub.nic().ids, []) is VirtioNet


def test_a_device_has_its_own_mac_and_one_without_gets_a_random_one(hub, pair):
    assert [driver.mac for driver in pair] == [ONE, OTHER]
    (driver, _) = started(VirtioNet, (hub.nic(features=OFFERED & ~layout.HAS_MAC), hub.nic()))
    assert driver.mac[0] & 3 == 2


def test_the_iommu_is_used_where_the_device_offers_it_and_nothing_is_accepted_that_the_driver_does_not_know(hub, pair):
    accepted = hub.nics[0].accepted
    assert accepted & layout.ACCESS_PLATFORM
    assert not accepted & ~OFFERED
    assert not accepted & 1 << 15


def test_a_device_of_an_earlier_version_is_refused(hub):
    with pytest.raises(Unsupported, match="lacks the features 0x100000000"):
        VirtioNet(hub.nic(features=layout.HAS_MAC)).start()


def test_a_device_without_the_structures_of_version_1_is_refused(hub):
    nic = hub.nic()
    nic.set_config(layout.CAPABILITY_POINTER, bytes(1))
    with pytest.raises(Unsupported, match="no virtio structure 1"):
        VirtioNet(nic)


def test_a_list_of_capabilities_that_is_a_circle_ends(hub):
    nic = hub.nic()
    nic.set_config(0x41, b"\x40")
    with pytest.raises(Unsupported, match="no virtio structure"):
        VirtioNet(nic)


def test_frames_for_others_are_dropped_with_and_without_a_filter_in_the_device(hub):
    basic = OFFERED & ~(layout.HAS_CONTROL | layout.CONTROLS_FILTER | layout.CONTROLS_MAC)
    for number, features in enumerate((OFFERED, basic)):
        receiver, sender = started(VirtioNet, (hub.nic(bytes([2, 0, 0, 0, number, 1]), features), hub.nic(OTHER)))
        foreign = bytes.fromhex("02ffffffffff") + sender.mac + ETHERTYPE + bytes(50)
        group = bytes.fromhex("01005e000001") + sender.mac + ETHERTYPE + bytes(50)
        sender.send([foreign] * 100 + [group, good := frame_to(receiver, sender, bytes(50))])
        assert arriving(receiver, 2) == [group, good]
        assert receiver.statistics["rx_packets"] == 2
    assert [nic.promiscuous for nic in hub.nics] == [False, False, True, False]


def test_a_mac_is_refused_by_a_device_that_has_no_command_for_it_or_refuses_the_command(hub, pair):
    hub.nics[0].refuses = True
    with pytest.raises(Unsupported, match="refuses command 1 of class 1"):
        pair[0].set_mac(OTHER)
    assert pair[0].mac == ONE
    (driver, _) = started(VirtioNet, (hub.nic(ONE, OFFERED & ~layout.CONTROLS_MAC), hub.nic()))
    with pytest.raises(Unsupported, match="cannot be set"):
        driver.set_mac(OTHER)


def test_the_link_is_that_of_the_device(hub, pair):
    assert pair[0].link.up
    hub.nics[0].link_up = False
    assert not pair[0].link.up


def test_after_stop_the_device_does_no_dma_and_a_new_driver_works(hub, pair):
    first, second = pair
    first.stop()
    assert not hub.nics[0].bus_master
    second.send([frame_to(first, second, bytes(50))])
    again = VirtioNet(hub.nics[0])
    again.start()
    second.send([frame := frame_to(again, second, bytes(60))])
    assert arriving(again, 1) == [frame]


def test_a_device_with_an_error_ends_the_driver(hub, pair):
    hub.nics[0].fail()
    assert select.select(pair[0].interrupts, [], [], 1)[0]
    with pytest.raises(DeviceFailed, match="needs a reset"):
        pair[0].on_interrupt()


def test_a_device_that_uses_what_it_was_not_given_ends_the_driver(hub, pair):
    ring = hub.nics[0]._rings[layout.RECEIVE]
    hub.nics[0]._use(ring, 60000, 100)
    with pytest.raises(DeviceFailed, match="has used descriptor 60000"):
        pair[0].receive(64)


def test_a_device_without_room_for_an_interrupt_or_an_answer_is_an_error(hub, monkeypatch):
    nic = hub.nic()
    nic.room_for_vectors = 1
    with pytest.raises(DeviceFailed, match="does not accept interrupt 1"):
        VirtioNet(nic).start()
    nic.room_for_vectors = 2
    monkeypatch.setattr(queues, "COMMAND_SECONDS", 0.01)
    monkeypatch.setattr(nic, "_notified", lambda _index: None)
    with pytest.raises(DeviceFailed, match="does not answer a command"):
        VirtioNet(nic).start()


def test_a_device_that_is_not_reset_in_time_is_an_error(hub, monkeypatch):
    nic = hub.nic()
    monkeypatch.setattr(configuration, "RESET_SECONDS", 0.01)
    monkeypatch.setattr(nic, "reset", lambda: None)
    nic.status = layout.DRIVER_OK
    with pytest.raises(DeviceFailed, match="is not reset"):
        VirtioNet(nic).start()


@pytest.mark.parametrize("size", [0, 2037])
def test_a_frame_of_an_impossible_size_is_an_error_of_the_caller(pair, size):
    with pytest.raises(ValueError, match="bytes"):
        pair[0].send([bytes(size)])
    assert ours(pair[1]) == []


def test_descriptors_of_interrupts_are_those_of_the_device(pair):
    assert [os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in pair[0].interrupts] == [
        "anon_inode:[eventfd]"
    ] * 2
