"""The driver of the 82576's VF on a card that is a program. On real VFs: tests/lab/test_driver_host.py."""

from __future__ import annotations

import select

import pytest

from driverhost.contract import CONTRACT, arriving, frame_to, started
from driverhost.drivers.igbvf import mailbox
from driverhost.drivers.igbvf.driver import IgbVf
from driverhost.errors import DeviceFailed, Unsupported
from tests.drivers.igbvf_card import Card

MAC = bytes.fromhex("020000000a01")


@pytest.fixture
def card():
    card = Card()
    yield card
    for vf in card.vfs:
        vf.close()


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_igbvf_keeps_the_contract_of_drivers(card, promise):
    promise(started(IgbVf, (card.vf(), card.vf())))


def test_a_vf_has_the_mac_of_its_administrator_and_keeps_it(card):
    driver, _other = started(IgbVf, (card.vf(MAC), card.vf()))
    assert driver.mac == MAC
    with pytest.raises(Unsupported, match="refuses"):
        driver.set_mac(bytes.fromhex("020000000a02"))
    assert driver.mac == MAC


def test_a_vf_without_a_mac_takes_a_random_one_of_its_own(card):
    macs = [driver.mac for driver in started(IgbVf, (card.vf(), card.vf()))]
    assert len(set(macs)) == 2
    assert all(mac[0] & 3 == 2 for mac in macs)


def test_frames_do_not_cross_vlans(card):
    sender, receiver = started(IgbVf, (card.vf(vlan=100), card.vf(vlan=200)))
    sender.send([frame_to(receiver, sender, bytes(50))])
    assert select.select(receiver.interrupts, [], [], 0)[0] == []
    assert receiver.receive(64) == []


def test_after_stop_the_card_does_no_dma_and_a_new_driver_works(card):
    devices = card.vf(MAC), card.vf()
    first, second = started(IgbVf, devices)
    second.send([frame_to(first, second, bytes(50))])
    first.stop()
    assert not devices[0].bus_master
    second.send([frame_to(first, second, bytes(50))])
    again = IgbVf(devices[0])
    again.start()
    second.send([frame := frame_to(again, second, bytes(60))])
    assert arriving(again, 1) == [frame]


def test_a_pf_that_does_not_answer_is_an_error_with_a_hint(card, monkeypatch):
    monkeypatch.setattr(mailbox, "ANSWER_SECONDS", 0.01)
    vf = card.vf()
    vf.pf_answers = False
    with pytest.raises(DeviceFailed, match="does not answer") as failure:
        IgbVf(vf).start()
    assert "dmesg" in failure.value.hint


def test_a_reset_of_the_pf_ends_the_driver(card):
    vf = card.vf()
    driver, _other = started(IgbVf, (vf, card.vf()))
    vf.reset_pf()
    assert select.select(driver.interrupts, [], [], 1)[0]
    with pytest.raises(DeviceFailed, match="has been reset"):
        driver.on_interrupt()


def test_counters_go_on_when_the_registers_wrap(card):
    vf = card.vf()
    driver, other = started(IgbVf, (vf, card.vf()))
    vf[0x0F14 // 4] = 0xFFFFFFFF
    before = driver.statistics["tx_packets"]
    driver.send([frame_to(other, driver, bytes(50))] * 3)
    assert driver.statistics["tx_packets"] - before == 3


@pytest.mark.parametrize("pings", [1, 3])
def test_a_ping_of_the_pf_is_not_taken_for_its_answer(card, pings):
    vf = card.vf()
    vf.pings = pings
    driver, _other = started(IgbVf, (vf, card.vf()))
    driver.set_mac(MAC)
    assert vf.filter == driver.mac == MAC


def test_a_pf_that_only_pings_is_an_error(card):
    vf = card.vf()
    vf.pings = 100
    with pytest.raises(DeviceFailed, match="sends messages, and no answer"):
        IgbVf(vf).start()


def test_frames_over_several_buffers_and_bad_frames_are_dropped_whole(card):
    """The end of a frame would be a frame whose addresses its sender has made up."""
    vf = card.vf(MAC)
    driver, other = started(IgbVf, (vf, card.vf()))
    good = frame_to(driver, other, bytes(60))
    vf.arrive(bytes(2048), end=False)
    vf.arrive(bytes(2048), end=False)
    vf.arrive(good)
    vf.arrive(good, errors=1 << 31)
    vf.arrive(good, errors=1 << 24)
    assert driver.receive(64) == []
    vf.arrive(good)
    vf.arrive(bytes(2048), end=False)
    assert driver.receive(64) == [good]
    vf.arrive(good)
    vf.arrive(good)
    assert driver.receive(64) == [good]


@pytest.mark.parametrize("size", [0, 2049])
def test_a_frame_of_an_impossible_size_is_an_error_of_the_caller(card, size):
    driver, _other = started(IgbVf, (card.vf(), card.vf()))
    with pytest.raises(ValueError, match="bytes"):
        driver.send([bytes(size)])
