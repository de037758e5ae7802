"""What every driver does: functions over the drivers of two devices in one network, with which a new driver is tested.

They work on devices that are programs and on real ones. `SECONDS` bounds each wait.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from driverhost.device import Device
from driverhost.driver import Driver

SECONDS = 10.0
ETHERTYPE = b"\x88\xb5"
Pair = tuple[Driver, Driver]


class ContractBroken(Exception):
    """The driver does not do what every driver does."""


def require(condition: bool, otherwise: str) -> None:
    """Raises `ContractBroken`."""
    if not condition:
        raise ContractBroken(otherwise)


def frame_to(receiver: Driver, sender: Driver, body: bytes) -> bytes:
    return receiver.mac + sender.mac + ETHERTYPE + body


def ours(driver: Driver) -> list[bytes]:
    """The frames of the test that have arrived; a network has others."""
    return [frame for frame in driver.receive(64) if frame[12:14] == ETHERTYPE]


def arriving(driver: Driver, number: int, but: bytes | None = None) -> list[bytes]:
    """The next `number` frames, or fewer after `SECONDS`, by interrupts only; without those that begin as `but`."""
    frames: list[bytes] = []
    deadline = time.monotonic() + SECONDS
    while len(frames) < number and time.monotonic() < deadline:
        frames += [frame for frame in ours(driver) if but is None or not frame.startswith(but)]
        if len(frames) < number and select.select(driver.interrupts, [], [], deadline - time.monotonic())[0]:
            driver.on_interrupt()
    return frames


def a_link_comes_up(pair: Pair) -> None:
    deadline = time.monotonic() + SECONDS
    while not all(driver.link.up for driver in pair):
        require(time.monotonic() < deadline, "no link")
        time.sleep(0.02)
    require(all(driver.link.speed >= 0 for driver in pair), "a speed is less than 0")


def a_frame_arrives_as_it_was_sent(pair: Pair) -> None:
    sender, receiver = pair
    for size in (46, 47, 1000, 1500):
        frame = frame_to(receiver, sender, bytes(index % 251 for index in range(size)))
        require(sender.send([frame]) == 1, "a frame is not taken")
        require(arriving(receiver, 1) == [frame], f"a frame of {size} bytes does not arrive")


def a_short_frame_is_padded(pair: Pair) -> None:
    sender, receiver = pair
    frame = frame_to(receiver, sender, b"\xff" * 1500)
    sender.send([frame, frame_to(receiver, sender, b"short")])
    require(
        arriving(receiver, 2)[1:] == [frame_to(receiver, sender, b"short" + bytes(41))], "a short frame is not padded"
    )


def both_directions_work_and_broadcasts_arrive(pair: Pair) -> None:
    for sender, receiver in (pair, pair[::-1]):
        frame = b"\xff" * 6 + sender.mac + ETHERTYPE + bytes(50)
        require(sender.send([frame]) == 1, "a frame is not taken")
        # Some switches give a sender its own broadcast back.
        require(arriving(receiver, 1, but=b"\xff" * 6 + receiver.mac) == [frame], "a broadcast does not arrive")


def a_stream_longer_than_the_rings_arrives_in_order(pair: Pair) -> None:
    sender, receiver = pair
    frames = [frame_to(receiver, sender, number.to_bytes(4, "big") + bytes(60)) for number in range(1500)]
    seen: list[bytes] = []
    sent = 0
    deadline = time.monotonic() + SECONDS
    while len(seen) < len(frames) and time.monotonic() < deadline:
        # No more on the way than fit into the receiver's ring.
        sent += sender.send(frames[sent : min(sent + 32, len(seen) + 128)])
        seen += ours(receiver)
    require(seen == frames, f"{len(seen)} of {len(frames)} frames have arrived, or in another order")


def what_does_not_fit_is_not_taken(pair: Pair) -> None:
    sender, receiver = pair
    frame = frame_to(receiver, sender, bytes(1400))
    accepted = sender.send([frame] * 5000)
    require(0 < accepted < 5000, f"{accepted} of 5,000 frames are taken")
    deadline = time.monotonic() + SECONDS
    while not sender.send([frame]):
        require(time.monotonic() < deadline, "no room again")
        ours(receiver)
    while receiver.receive(64):
        pass


def counters_count(pair: Pair) -> None:
    sender, receiver = pair
    before = sender.statistics, receiver.statistics
    sender.send([frame_to(receiver, sender, bytes(50))] * 5)
    require(len(arriving(receiver, 5)) == 5, "frames do not arrive")
    after = sender.statistics, receiver.statistics
    require(after[0]["tx_packets"] - before[0]["tx_packets"] >= 5, "tx_packets does not count")
    require(after[1]["rx_packets"] - before[1]["rx_packets"] >= 5, "rx_packets does not count")
    require(after[1]["rx_bytes"] > before[1]["rx_bytes"], "rx_bytes does not count")


def frames_for_a_new_mac_arrive_and_for_the_old_one_do_not(pair: Pair) -> None:
    sender, receiver = pair
    old, new = receiver.mac, bytes.fromhex("020000005e01")
    receiver.set_mac(new)
    require(receiver.mac == new, "the new MAC address is not shown")
    stale, fresh = (mac + sender.mac + ETHERTYPE + bytes(50) for mac in (old, new))
    sender.send([stale, fresh])
    require(arriving(receiver, 1) == [fresh], "a frame for the new MAC address does not arrive")
    require(ours(receiver) == [], "a frame for the old MAC address arrives")


Promise = Callable[[Pair], None]
CONTRACT: tuple[Promise, ...] = (
    a_link_comes_up,
    a_frame_arrives_as_it_was_sent,
    a_short_frame_is_padded,
    both_directions_work_and_broadcasts_arrive,
    a_stream_longer_than_the_rings_arrives_in_order,
    what_does_not_fit_is_not_taken,
    counters_count,
    frames_for_a_new_mac_arrive_and_for_the_old_one_do_not,
)


def started(driver: type[Driver], devices: tuple[Device, Device]) -> Pair:
    one, other = (driver(device) for device in devices)
    one.start()
    other.start()
    return one, other
