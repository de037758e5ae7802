"""The interface of the driver host, as an application uses it: real sockets and memory, on a card that is a program."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import socket
import struct
import time
from typing import Any

import pytest

from driverhost.access import Access, Peer
from driverhost.client import Client, Disconnected, Refused, connect
from driverhost.client.aio import AsyncClient, arrived
from driverhost.client.connection import opened
from driverhost.drivers.igbvf.driver import IgbVf
from driverhost.protocol import messages
from driverhost.selftest import selftest
from tests.drivers.served import Served

SECONDS = 10.0
BODY = b"\x88\xb5" + bytes(range(100))


@pytest.fixture
def served(tmp_path):
    with Served(tmp_path) as served:
        yield served


@pytest.fixture
def clients(served):
    with connect(served.paths[0]) as one, connect(served.paths[1]) as other:
        yield one, other


def answer(connection):
    message = messages.receive(connection)
    assert message
    return message.fields


def frames_at(port, number):
    frames: list[bytes] = []
    deadline = time.monotonic() + SECONDS
    while len(frames) < number and port.wait(max(0.0, deadline - time.monotonic())):
        frames += port.receive()
    return frames


def closed(port):
    """Whether the port's other side ends within the time."""
    deadline = time.monotonic() + SECONDS
    try:
        while port.wait(max(0.0, deadline - time.monotonic())):
            port.receive()
    except Disconnected:
        return True
    return False


def test_devices_are_listed_with_driver_mac_and_link(served, clients):
    [device] = clients[0].devices()
    assert device == clients[0].info() == clients[0].info(served.vfs[0].address)
    expected = {"state": "up", "driver": "IgbVf", "mac": served.macs[0].hex(":"), "link": {"up": True, "speed": 1000}}
    assert {key: device[key] for key in expected} == expected


def test_two_applications_exchange_frames(served, clients):
    one, other = served.macs
    with clients[0].open() as first, clients[1].open() as second:
        assert first.send([other + one + BODY] * 3) == 3
        assert frames_at(second, 3) == [other + one + BODY] * 3
        assert second.send([one + other + BODY]) == 1
        assert frames_at(first, 1) == [one + other + BODY]
    assert clients[0].statistics()["tx_packets"] == 3


def test_a_stream_longer_than_ring_and_device_arrives_in_order(served, clients):
    one, other = served.macs
    frames = [other + one + b"\x88\xb5" + number.to_bytes(4, "big") + bytes(60) for number in range(3000)]
    with clients[0].open(slots=64) as first, clients[1].open(slots=4096) as second:
        sent = 0
        seen: list[bytes] = []
        deadline = time.monotonic() + SECONDS
        while len(seen) < len(frames) and time.monotonic() < deadline:
            # The receiving device drops what its ring has no room for.
            sent += first.send(frames[sent : len(seen) + 128])
            if not first.wait(0.01):
                second.wait(0.01)
            first.receive()
            seen += second.receive(4096)
    assert seen == frames


def test_a_device_has_one_port_at_a_time_and_is_free_again_when_its_application_ends(served, clients):
    with clients[0].open() as port, connect(served.paths[0]) as another:
        with pytest.raises(Refused, match="has an open port") as refusal:
            another.open()
        assert refusal.value.code == "Unsupported"
        clients[0].close()
        assert closed(port)
        another.open().close()


def test_a_port_that_is_closed_by_its_application_is_free_again(served, clients):
    clients[0].open().close()
    deadline = time.monotonic() + SECONDS
    while clients[0].info()["port"]:
        assert time.monotonic() < deadline
    clients[0].open().close()


def test_frames_that_were_sent_before_a_port_is_closed_are_sent(served, clients):
    one, other = served.macs
    with clients[1].open() as second:
        for _ in range(20):
            with clients[0].open() as first:
                first.send([other + one + BODY] * 100)
            assert len(frames_at(second, 100)) == 100
            while clients[0].info()["port"]:
                pass


def test_frames_that_one_call_leaves_are_announced_again(served, clients):
    one, other = served.macs
    with clients[0].open() as first, clients[1].open() as second, clients[1].capture() as capture:
        first.send([other + one + BODY] * 100)
        assert len(frames_at(capture, 100)) == 100
        assert len(second.receive(10)) == 10
        assert second.wait(0)
        assert len(second.receive(200)) == 90
        assert not second.wait(0)


def test_a_capture_has_copies_of_both_directions(served, clients):
    one, other = served.macs
    with clients[0].capture() as capture, clients[0].open() as first, clients[1].open() as second:
        first.send([other + one + BODY])
        frames_at(second, 1)
        second.send([one + other + BODY])
        assert sorted(frames_at(capture, 2)) == sorted([other + one + BODY, one + other + BODY])


def test_a_slow_reader_loses_frames_that_are_counted_and_harms_nobody(served, clients):
    one, other = served.macs
    with clients[0].open() as first, clients[1].open(slots=16) as second, clients[1].capture() as capture:
        first.send([other + one + BODY] * 100)
        assert len(frames_at(capture, 100)) == 100
        assert len(second.receive(100)) == 16
        assert clients[1].statistics()["port_dropped"] == 84


def test_a_mac_is_set_and_refused_by_the_rule_of_the_pf(served, clients):
    with pytest.raises(Refused, match="refuses"):
        clients[0].set_mac("02:00:00:00:00:55")
    served.vfs[0].admin_mac = b""
    clients[0].set_mac("02:00:00:00:00:55")
    assert clients[0].info()["mac"] == "02:00:00:00:00:55"


@pytest.mark.parametrize("mac", ["", "02:00", "01:00:00:00:00:01", "00:00:00:00:00:00", "zz:00:00:00:00:01", 7])
def test_a_wrong_mac_is_refused(clients, mac):
    with pytest.raises(Refused, match=r"mac: .* is not the address of one interface"):
        clients[0].call("setMac", mac=mac)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"call": "nothing"}, "call: one of version"),
        ({"call": ["list"]}, "call: one of version"),
        ({}, "call: one of version"),
        ({"call": "info", "device": "0000:00:00.0"}, "device: one of 0000:02:10.0"),
        ({"call": "info", "device": {}}, "device: one of"),
        ({"call": "open"}, "the memory of the port, and no other descriptor"),
        ({"call": "capture", "device": "none"}, "device: one of"),
    ],
)
def test_a_wrong_request_is_answered_with_its_reason(served, fields, message):
    with opened(served.paths[0]) as connection:
        connection.settimeout(SECONDS)
        messages.send(connection, fields)
        assert answer(connection)["error"]["message"].startswith(message)
        messages.send(connection, {"call": "version"})
        assert answer(connection)["result"] == {"version": 2}


@pytest.mark.parametrize("data", [b"no json", b"[]", b"[" * 60000, b"{" + b" " * 70000, b"\xff\xfe"])
def test_what_is_no_message_ends_the_connection_and_nothing_else(served, clients, data):
    with opened(served.paths[0]) as connection:
        connection.settimeout(SECONDS)
        connection.send(data)
        assert connection.recv(16) == b""
    assert clients[0].call("version") == {"version": 2}


def test_descriptors_that_an_application_sends_are_closed(served, clients):
    before = served.do(lambda: len(os.listdir("/proc/self/fd")))
    with opened(served.paths[0]) as connection, open("/dev/null") as null:
        connection.settimeout(SECONDS)
        for _ in range(20):
            messages.send(connection, {"call": "version"}, (null.fileno(), null.fileno()))
            messages.receive(connection)
    assert clients[0].call("version") == {"version": 2}
    assert served.do(lambda: len(os.listdir("/proc/self/fd"))) <= before + 1


def test_an_application_that_does_not_read_its_answers_is_disconnected(served, clients):
    with opened(served.paths[0]) as connection:
        connection.setblocking(False)
        deadline = time.monotonic() + SECONDS
        disconnected = False
        while not disconnected and time.monotonic() < deadline:
            try:
                messages.send(connection, {"call": "list"})
            except BlockingIOError:
                clients[0].call("version")
            except (BrokenPipeError, ConnectionResetError):
                disconnected = True
        assert disconnected
    assert clients[0].call("version") == {"version": 2}


def test_a_driver_that_fails_is_started_anew_and_its_port_goes_on(served, clients):
    one, other = served.macs
    clients[0].subscribe()
    with clients[0].open() as first, clients[1].open() as second:
        served.do(served.vfs[0].reset_pf)
        states = []
        while "up" not in states:
            event = clients[0].event(SECONDS)
            states.append(event["state"])
        assert states == ["down", "up"]
        assert clients[0].info()["restarts"] == 1
        first.send([other + one + BODY])
        assert frames_at(second, 1) == [other + one + BODY]


def test_a_mac_that_was_set_stays_when_the_driver_is_started_anew(served, clients):
    served.vfs[0].admin_mac = b""
    clients[0].set_mac("02:00:00:00:00:55")
    clients[0].subscribe()
    served.do(served.vfs[0].reset_pf)
    while clients[0].event(SECONDS)["state"] != "up":
        pass
    assert clients[0].info()["mac"] == "02:00:00:00:00:55"


def test_a_device_whose_driver_does_not_start_is_down_and_says_so(served, clients, monkeypatch):
    monkeypatch.setattr("driverhost.drivers.igbvf.mailbox.ANSWER_SECONDS", 0.01)
    clients[0].subscribe()
    served.vfs[0].pf_answers = False
    served.do(served.vfs[0].reset_pf)
    assert clients[0].event(SECONDS)["state"] == "down"
    assert clients[0].info()["state"] == "down"
    with pytest.raises(Refused, match="is not running"):
        clients[0].statistics()
    served.vfs[0].pf_answers = True
    assert clients[0].event(SECONDS)["state"] == "up"


def down_and_up(client):
    states = []
    while "up" not in states:
        states.append(client.event(SECONDS)["state"])
    return states


class Trouble(Exception):
    """An exception that no part of the driver host expects."""


@pytest.mark.parametrize("method", ["on_interrupt", "receive", "send", "link", "statistics", "stop"])
def test_whatever_a_driver_raises_only_its_device_is_started_anew(served, clients, monkeypatch, method):
    monkeypatch.setattr("driverhost.host.LOOK_SECONDS", 0.01)
    found: Any = getattr(IgbVf, method)
    original: Any = found.fget if isinstance(found, property) else found

    def trouble(driver, *arguments):
        if driver.device is not served.vfs[0]:
            return original(driver, *arguments)
        monkeypatch.undo()
        raise Trouble

    clients[0].subscribe()
    one, other = served.macs
    with clients[0].open() as first, clients[1].open() as second:
        monkeypatch.setattr(IgbVf, method, property(trouble) if isinstance(found, property) else trouble)
        if method == "stop":
            served.do(served.vfs[0].reset_pf)
        first.send([other + one + BODY])
        assert down_and_up(clients[0]) == ["down", "up"]
        first.send([other + one + BODY])
        assert frames_at(second, 1)[0] == other + one + BODY
    assert any("Trouble" in message for message in served.log.messages)


def test_a_driver_that_fails_again_and_again_waits_longer_each_time(served, clients, monkeypatch):
    def trouble(_driver):
        raise Trouble

    monkeypatch.setattr("driverhost.pauses.RESTART_SECONDS", (0.001, 0.001, 0.001, 1000.0))
    monkeypatch.setattr(IgbVf, "on_interrupt", trouble)
    served.do(served.vfs[0].reset_pf)
    deadline = time.monotonic() + SECONDS
    while clients[0].info()["restarts"] < 4:
        assert time.monotonic() < deadline
    assert clients[0].info()["state"] == "down"


def test_an_event_of_vfio_closes_the_device(served, clients):
    clients[0].subscribe()
    served.do(lambda: os.eventfd_write(served.vfs[0].fault, 1))
    assert down_and_up(clients[0]) == ["down", "up"]
    assert any("the bus reports an error" in message for message in served.log.messages)


def test_a_mac_that_the_pf_refuses_later_does_not_keep_the_device_down(served, clients):
    served.vfs[0].admin_mac = b""
    clients[0].set_mac("02:00:00:00:00:55")
    served.vfs[0].admin_mac = served.macs[0]
    clients[0].subscribe()
    served.do(served.vfs[0].reset_pf)
    assert down_and_up(clients[0]) == ["down", "up"]
    assert clients[0].info()["mac"] == served.macs[0].hex(":")


def test_an_endless_stream_of_frames_does_not_keep_others_from_the_interface(served, clients, monkeypatch):
    frame = served.macs[0] + served.macs[1] + BODY
    monkeypatch.setattr(IgbVf, "receive", lambda _driver, limit: [frame] * limit)
    served.do(lambda: served.vfs[0].arrive(frame))
    for _ in range(20):
        assert clients[0].call("version") == {"version": 2}
    monkeypatch.undo()


def send_last(connection, other):
    """Sends a socket whose last descriptor is then the one in the message."""
    messages.send(connection, {"call": "version"}, (other.fileno(),))
    other.close()


def test_a_descriptor_that_takes_long_to_close_holds_nobody_up(served, clients):
    """The last close of a connection with data and SO_LINGER waits for the other side."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
        slow.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                slow.send(bytes(65536))
        with opened(served.paths[0]) as connection:
            connection.settimeout(SECONDS)
            # In the thread of the host, so that its close is the last one.
            served.do(functools.partial(send_last, connection, slow))
            assert answer(connection)["result"] == {"version": 2}
            assert clients[0].call("version") == {"version": 2}


def test_there_are_not_too_many_captures_of_a_device(served, clients, monkeypatch):
    monkeypatch.setattr("driverhost.host.MOST_CAPTURES", 2)
    with clients[0].capture(), clients[0].capture(), pytest.raises(Refused, match="has 2 captures"):
        clients[0].capture()


def test_the_memory_of_a_port_is_the_applications_and_closing_it_leaves_no_descriptor(served, clients):
    before = served.do(lambda: len(os.listdir("/proc/self/fd")))
    for _ in range(20):
        clients[0].capture(slots=16).close()
    deadline = time.monotonic() + SECONDS
    while served.do(lambda: len(os.listdir("/proc/self/fd"))) > before:
        assert time.monotonic() < deadline


def test_clients_learn_that_the_driver_host_has_ended(tmp_path):
    with Served(tmp_path) as served:
        client = connect(served.paths[0])
        port = client.open()
    with client, port:
        assert closed(port)
        with pytest.raises(Disconnected):
            client.call("list")
    with pytest.raises(Disconnected, match="no driver host"):
        connect(served.paths[0], seconds=0)


def test_the_asyncio_client_does_the_same(served):
    async def program():
        async with await AsyncClient.connect(served.paths[0]) as one, await AsyncClient.connect(served.paths[1]) as two:
            assert [answer["version"] for answer in await asyncio.gather(*(one.call("version") for _ in range(20)))]
            with pytest.raises(Refused):
                await one.call("nothing")
            await one.call("subscribe")
            with await one.open() as first, await two.open() as second:
                frame = served.macs[1] + served.macs[0] + BODY
                first.send([frame])
                async with asyncio.timeout(SECONDS):
                    assert await arrived(second) == [frame]
            await asyncio.to_thread(served.do, served.vfs[0].reset_pf)
            async with asyncio.timeout(SECONDS):
                assert [(await one.event())["state"] for _ in range(2)] == ["down", "up"]

    asyncio.run(program())


def test_the_self_test_counts_answers(served, clients, monkeypatch):
    monkeypatch.setattr("driverhost.selftest.ANSWER_SECONDS", SECONDS)
    answers = asyncio.new_event_loop()
    try:
        answering = answers.run_in_executor(None, selftest, clients[1], None, None, 5)
        deadline = time.monotonic() + SECONDS
        while not served.do(lambda: served.hosts[1].info()["port"]):
            assert time.monotonic() < deadline
        assert selftest(clients[0], None, served.macs[1], 5).startswith("5 frames answered")
        assert answers.run_until_complete(answering) == "5 frames answered"
    finally:
        answers.close()


# Access.


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        (Peer(1, 0, 0), True),
        (Peer(1, os.geteuid(), 99), True),
        (Peer(1, 1000, 1000), False),
        (Peer(1, 2000, 99), True),
        (Peer(1, 99, 3000), True),
        (Peer(1, 65534, 65534), False),
    ],
)
def test_users_and_groups_that_are_allowed_may_connect(peer, allowed):
    assert Access(frozenset({2000}), frozenset({3000})).allows(peer) is allowed


def test_a_process_of_another_user_is_refused_by_the_kernel_s_word(served, monkeypatch):
    monkeypatch.setattr("driverhost.server.REFUSAL_SECONDS", 0.01)
    monkeypatch.setattr("driverhost.server.peer_of", lambda _connection: Peer(1, 1000, 1000))
    with opened(served.paths[0]) as connection:
        connection.settimeout(SECONDS)
        assert answer(connection)["error"]["message"] == "uid 1000 and gid 1000 are not allowed"
        assert connection.recv(16) == b""


def test_a_client_that_is_refused_learns_why(served, monkeypatch):
    monkeypatch.setattr("driverhost.server.peer_of", lambda _connection: Peer(1, 1000, 1000))
    for _ in range(20):
        with Client(served.paths[0]) as client, pytest.raises(Refused, match="uid 1000 and gid 1000 are not allowed"):
            client.devices()


def test_an_asyncio_client_that_is_refused_learns_why(served, monkeypatch):
    monkeypatch.setattr("driverhost.server.peer_of", lambda _connection: Peer(1, 1000, 1000))

    async def program():
        async with await AsyncClient.connect(served.paths[0]) as client:
            for _ in range(2):
                with pytest.raises(Refused, match="uid 1000 and gid 1000 are not allowed"):
                    await client.devices()

    for _ in range(20):
        asyncio.run(program())


def test_counters_that_are_no_numbers_restart_the_driver(served, clients, monkeypatch):
    clients[0].subscribe()
    monkeypatch.setattr(IgbVf, "statistics", property(lambda _driver: {"rx_packets": None}))
    with pytest.raises(Refused, match=r"the driver of .* has failed"):
        clients[0].statistics()
    monkeypatch.undo()
    assert down_and_up(clients[0]) == ["down", "up"]


def test_no_more_connections_are_served_than_planned(served, monkeypatch):
    monkeypatch.setattr("driverhost.server.MOST_CONNECTIONS", 2)
    with Client(served.paths[0]) as one, Client(served.paths[0]) as two:
        assert one.call("version") == two.call("version")
        with opened(served.paths[0]) as third:
            third.settimeout(SECONDS)
            assert answer(third)["error"]["message"] == "2 connections are open"


def test_a_socket_of_a_dead_process_is_replaced_and_one_that_is_served_is_not(served, tmp_path):
    from driverhost.errors import DeviceUnavailable
    from driverhost.serve import listening

    with pytest.raises(DeviceUnavailable, match="Address already in use"):
        listening(served.paths[0])
    path = str(tmp_path / "dead.sock")
    listening(path).close()
    with listening(path), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.connect(path)


def test_answers_are_json_with_the_number_of_their_request(served):
    with opened(served.paths[0]) as connection:
        connection.settimeout(SECONDS)
        connection.send(json.dumps({"id": 7, "call": "version"}).encode())
        assert json.loads(connection.recv(1000)) == {"id": 7, "result": {"version": 2}}


def test_an_answer_that_comes_too_late_is_not_that_of_another_call(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "slow"))
        listener.listen()
        with Client(str(tmp_path / "slow")) as client:
            server, _address = listener.accept()
            with server:
                monkeypatch.setattr("driverhost.client.plain.ANSWER_SECONDS", 0.01)
                with pytest.raises(Disconnected, match="no answer to list"):
                    client.devices()
                monkeypatch.undo()
                messages.send(server, {"id": 1, "result": {"devices": []}})
                messages.send(server, {"id": 2, "result": {"tx_packets": 7}})
                assert client.statistics() == {"tx_packets": 7}


def test_a_driver_host_that_accepts_nobody_is_given_up(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "full"))
        listener.listen(0)
        with opened(str(tmp_path / "full")), pytest.raises(Disconnected, match="no driver host"):
            connect(str(tmp_path / "full"), seconds=0.05)


def test_a_thousand_calls_at_once_are_all_answered(served):
    async def program():
        async with await AsyncClient.connect(served.paths[0]) as client:
            async with asyncio.timeout(SECONDS):
                answers = await asyncio.gather(*(client.info() for _ in range(1000)))
            assert [answer["state"] for answer in answers] == ["up"] * 1000
            assert [device["device"] for device in await client.devices()] == [served.vfs[0].address]
            assert (await client.statistics())["tx_packets"] == 0
            with await client.capture(), pytest.raises(Refused, match="refuses"):
                await client.set_mac("02:00:00:00:00:55")

    asyncio.run(program())


def test_a_client_of_a_socket_that_answers_nothing_gives_up(tmp_path, monkeypatch):
    monkeypatch.setattr("driverhost.client.plain.ANSWER_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen()
        with Client(str(tmp_path / "silent")) as client, pytest.raises(Disconnected, match="no answer to list"):
            client.devices()
