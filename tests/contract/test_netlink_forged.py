"""A process in a pod's namespace with only CAP_NET_ADMIN sends us forged responses of the kernel."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cni.errors import KernelRefused, TryAgainLater
from cni.host import links, netlink as nl
from cni.host.kernel import HostKernel
from cni.host.netns import CLONE_NEWNET, Entered, open_netns, setns
from cni.host.rtnetlink import REPLY_SECONDS, RTNLGRP_LINK, NetlinkError, RouteSocket, Unsettled
from cni.log import Log

DEVICE = "0000:ff:1f.7"
FORGED = nl.link_body(
    4711,
    nl.text(nl.IFLA_IFNAME, "evil"),
    nl.text(nl.IFLA_PARENT_DEV_NAME, DEVICE),
    nl.text(nl.IFLA_PARENT_DEV_BUS_NAME, "pci"),
)

FORGER = """
import _socket, errno, struct, sys

port, group, body = int(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3])
header = struct.Struct("=IHHII")
datagrams = [
    header.pack(16 + len(body), 16, 2, number, port) + body + header.pack(20, 3, 2, number, port) + bytes(4)
    for number in range(1, 200)
]
socket = _socket.socket(16, _socket.SOCK_RAW, 0)
socket.setblocking(False)
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("CapEff")), end="", flush=True)
while True:
    for datagram in datagrams:
        try:
            socket.sendto(datagram, (port, group))
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.EAGAIN, errno.ENOBUFS):
                raise
"""
ONLY_NET_ADMIN = "CapEff:\t0000000000001000\n"
MULTICAST = 0


@pytest.fixture
def netns():
    name = f"bw-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    with open_netns(f"/run/netns/{name}") as opened:
        yield opened
    subprocess.run(["ip", "netns", "del", name], check=True)


@contextmanager
def forging(netns, port: int, group: int = 0) -> Iterator[None]:
    """A forger floods that port, or that multicast group, until the end of the block."""
    enter = ["ip", "netns", "exec", netns.path.rpartition("/")[2]]
    confine = ["setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all,+net_admin"]
    argv = [*enter, *confine, sys.executable, "-c", FORGER, str(port), str(group), FORGED.hex()]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as forger:
        try:
            assert forger.stdout is not None
            assert forger.stdout.readline() == ONLY_NET_ADMIN
            yield
            assert forger.poll() is None, "it did not forge all the time"
        finally:
            forger.kill()


def port_of(socket: RouteSocket) -> int:
    return int(socket._socket.getsockname()[0])


def test_a_forged_answer_is_not_believed_and_a_flood_of_them_holds_up_nothing(netns):
    with netns.entered():
        socket = RouteSocket()
    with socket, forging(netns, port_of(socket)):
        started = time.monotonic()
        for _ in range(150):
            assert links.by_parent(socket, DEVICE) is None
            assert links.by_name(socket, "evil") is None
            links.change(socket, 1, up=True)
        assert time.monotonic() - started < 10


def test_what_a_pod_multicasts_is_no_event_and_the_wait_for_one_still_ends(netns):
    with netns.entered():
        events = RouteSocket(RTNLGRP_LINK)
    with events, forging(netns, MULTICAST, 1 << RTNLGRP_LINK - 1):
        seen: list[nl.Message] = []

        def sees(message):
            seen.append(message)
            return False

        deadline = time.monotonic() + 0.5
        # A flood can make the kernel drop messages, which is reported as a reason to scan; none of its content is read.
        while events.await_event(sees, deadline):
            assert time.monotonic() < deadline + 1
        assert time.monotonic() < deadline + 1
        assert seen == []


def assert_nothing_comes(socket, seconds):
    while True:
        assert socket._receive(time.monotonic() + seconds) == []


def test_a_pods_answers_are_not_believed_in_the_moment_before_the_socket_is_connected(netns):
    """A process can fill the queue between bind and connect: then only the sender's address shows the forgery."""
    with netns.entered():
        socket, forger = RouteSocket(), RouteSocket()
    with socket, forger:
        socket._socket.connect((port_of(forger), 0))
        forger._socket.connect((port_of(socket), 0))
        forger._socket.send(nl.message(nl.RTM_NEWLINK, 0, socket._sequence + 1 & 0xFFFFFFFF, FORGED))
        with pytest.raises(TimeoutError):
            assert_nothing_comes(socket, 0.1)


def test_the_first_sequence_number_cannot_be_guessed(netns):
    with netns.entered(), RouteSocket() as one, RouteSocket() as another:
        assert one._sequence != another._sequence


class Inconsistent:
    """A kernel whose list changes during each dump."""

    def __init__(self) -> None:
        self.asked = 0
        self._request = b""

    def send(self, request: bytes) -> None:
        self.asked += 1
        self._request = request

    def recvmsg(self, _size: int) -> tuple[bytes, list[object], int, tuple[int, int]]:
        (asked,) = nl.messages(self._request)
        link = nl.message(nl.RTM_NEWLINK, nl.NLM_F_DUMP_INTR, asked.sequence, FORGED)
        return link + nl.message(nl.NLMSG_DONE, 0, asked.sequence, bytes(4)), [], 0, (0, 0)

    def recv_into(self, _buffer: bytearray, _size: int, _flags: int) -> int:
        return 1

    def close(self) -> None:
        pass


def test_a_process_that_cannot_leave_a_pods_namespace_still_looks_at_the_host(netns, monkeypatch):
    kernel, lost = HostKernel(Log({})), HostKernel(Log({}))
    of_the_host = {link.name for link in kernel.links(None)}
    assert of_the_host != {link.name for link in kernel.links(netns)}

    def stay(entered, *_exc):
        os.close(entered._home)
        raise KernelRefused("return to the host's network namespace: the kernel refused: EIO")

    with open("/proc/thread-self/ns/net", "rb") as own:
        try:
            with monkeypatch.context() as patch:
                patch.setattr(Entered, "__exit__", stay)
                with pytest.raises(KernelRefused):
                    lost.links(netns)
            assert os.stat("/proc/thread-self/ns/net").st_ino != os.fstat(own.fileno()).st_ino
            assert {link.name for link in lost.links(None)} == of_the_host
        finally:
            setns(own.fileno(), CLONE_NEWNET)
            for socket in (*kernel._sockets.values(), *lost._sockets.values()):
                socket.close()


def test_a_list_that_changes_all_the_time_is_not_used(netns):
    kernel = HostKernel(Log({}))
    socket = kernel._socket(netns)
    real, socket._socket = socket._socket, Inconsistent()  # type: ignore[assignment]
    with pytest.raises(Unsettled):
        socket.dump(nl.RTM_GETLINK, nl.link_body(0))
    assert socket._socket.asked > 1  # type: ignore[attr-defined]
    with pytest.raises(TryAgainLater, match="consistent"):
        kernel.links(netns)
    real.close()
    kernel._socket(None).close()


def test_an_acknowledgement_without_an_answer_is_an_error(netns):
    with netns.entered(), RouteSocket() as socket, pytest.raises(NetlinkError) as failed:
        # The kernel sends no response to RTM_SETLINK but an acknowledgement.
        socket.get(nl.RTM_SETLINK, nl.link_body(1))
    assert failed.value.errno == errno.ENODATA


class Slow(Inconsistent):
    """A kernel that takes three quarters of the time limit for each response, on a fake clock."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def recvmsg(self, size: int) -> tuple[bytes, list[object], int, tuple[int, int]]:
        self.now += REPLY_SECONDS * 0.75
        return super().recvmsg(size)


def test_all_tries_of_a_dump_have_one_bound(netns, monkeypatch):
    with netns.entered(), RouteSocket() as socket:
        pass
    slow = Slow()
    socket._socket = slow  # type: ignore[assignment]
    monkeypatch.setattr("cni.host.rtnetlink.time", slow)
    with pytest.raises(TimeoutError):
        socket.dump(nl.RTM_GETLINK, nl.link_body(0))
    assert slow.asked == 3
