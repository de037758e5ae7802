"""The announcement as a neighbour receives it: sent in one network namespace, captured in another, parsed here."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

import pytest
from pyroute2 import IPRoute, netns as namespaces

from cni.host.announce import announce
from cni.host.netns import open_netns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cni.host.netns import Netns

MAC = "02:00:00:00:0a:01"
ETH_P_ALL = 3


class Wire:
    """A veth pair: `pod` end in one namespace, `peer` end in another with a capturing socket."""

    def __init__(self, pod: Netns, peer: Netns) -> None:
        self.pod = pod
        with self.inside() as ip:
            self.index = ip.link_lookup(ifname="pod0")[0]
        with peer.entered():
            self._capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self._capture.bind(("peer0", ETH_P_ALL))

    @contextlib.contextmanager
    def inside(self) -> Iterator[Any]:
        with self.pod.entered(), IPRoute() as ip:
            yield ip

    def announce(self, *addresses: str, mac: str = MAC, index: int | None = None) -> list[str]:
        with self.pod.entered():
            return announce(self.index if index is None else index, mac, list(addresses))

    def captured(self, wanted: Callable[[bytes], bool], count: int) -> list[bytes]:
        """The next `count` frames that `wanted` accepts, without the kernel's own traffic. Waits at most 5 s."""
        deadline = time.monotonic() + 5
        frames: list[bytes] = []
        while len(frames) < count:
            self._capture.settimeout(max(deadline - time.monotonic(), 0.001))
            frame = self._capture.recv(2048)
            if wanted(frame):
                frames.append(frame)
        return frames

    def close(self) -> None:
        self._capture.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    names = [f"bw-announce-{os.getpid()}-{end}" for end in ("pod", "peer")]
    with contextlib.ExitStack() as stack:
        for name in names:
            namespaces.create(name)
            stack.callback(namespaces.remove, name)
        pod, peer = (stack.enter_context(open_netns(f"/run/netns/{name}")) for name in names)
        with pod.entered(), IPRoute() as ip:
            ip.link("add", ifname="pod0", kind="veth", address=MAC, peer={"ifname": "peer0", "net_ns_fd": peer.fd})
            ip.link("set", index=ip.link_lookup(ifname="pod0")[0], state="up")
        with peer.entered(), IPRoute() as ip:
            ip.link("set", index=ip.link_lookup(ifname="peer0")[0], state="up")
        made = Wire(pod, peer)
        stack.callback(made.close)
        yield made


def is_arp(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x06"


def is_advertisement(frame: bytes) -> bool:
    return frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 136


def sum16(content: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(content) // 2}H", content))
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return total


def packed(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def test_an_ipv4_address_is_announced_by_a_gratuitous_arp_request(wire: Wire) -> None:
    assert wire.announce("10.7.0.5") == []
    (frame,) = wire.captured(is_arp, 1)
    destination, source, ethertype = struct.unpack_from("!6s6sH", frame)
    assert (destination, source, ethertype) == (b"\xff" * 6, packed(MAC), 0x0806)
    hardware, protocol, hlen, plen, operation, sha, spa, tha, tpa = struct.unpack_from("!HHBBH6s4s6s4s", frame, 14)
    assert (hardware, protocol, hlen, plen, operation) == (1, 0x0800, 6, 4, 1)
    assert (sha, tha) == (packed(MAC), bytes(6))
    assert spa == tpa == ipaddress.ip_address("10.7.0.5").packed


@pytest.mark.parametrize("address", ("fd00:7::5", "fe80::1:2", "2001:db8:ffff:ffff:ffff:ffff:ffff:fffe"))
def test_an_ipv6_address_is_announced_by_an_unsolicited_advertisement(wire: Wire, address: str) -> None:
    assert wire.announce(address) == []
    (frame,) = wire.captured(is_advertisement, 1)
    assert frame[:12] == b"\x33\x33\x00\x00\x00\x01" + packed(MAC)
    version, length, following, hops, source, destination = struct.unpack_from("!IHBB16s16s", frame, 14)
    assert (version >> 28, length, following, hops) == (6, 32, 58, 255)
    owner = ipaddress.ip_address(address).packed
    assert (source, destination) == (owner, ipaddress.ip_address("ff02::1").packed)
    message = frame[54:]
    kind, code, _checksum, flags, target = struct.unpack_from("!BBHI16s", message)
    assert (kind, code, target) == (136, 0, owner)
    assert flags == 0x20000000, "override only: not solicited, not a router"
    assert message[24:] == b"\x02\x01" + packed(MAC)
    assert sum16(source + destination + struct.pack("!II", len(message), 58) + message) == 0xFFFF


def test_the_neighbours_kernel_takes_the_new_mac_of_an_address_that_it_knew(wire: Wire) -> None:
    """The purpose of the announcement; the kernel also verifies checksum and hop limit."""
    with neighbour() as ip:
        peer = ip.link_lookup(ifname="peer0")[0]
        ip.addr("add", index=peer, address="10.7.0.1", prefixlen=24)
        ip.addr("add", index=peer, address="fd00:7::1", prefixlen=64, IFA_FLAGS=0x02)
        for address in ("10.7.0.5", "fd00:7::5"):
            ip.neigh("add", ifindex=peer, dst=address, lladdr="02:00:00:00:ff:ff", state="stale")
    assert wire.announce("10.7.0.5", "fd00:7::5") == []
    # The capturing socket sees a frame before the protocol does, so a later frame proves that earlier ones were
    # handled.
    assert wire.announce("10.7.0.6") == []
    wire.captured(lambda frame: is_arp(frame) and frame[28:32] == b"\x0a\x07\x00\x06", 1)
    with neighbour() as ip:
        known = {n.get_attr("NDA_DST"): n.get_attr("NDA_LLADDR") for f in (2, 10) for n in ip.get_neighbours(family=f)}
    assert {known["10.7.0.5"], known["fd00:7::5"]} == {MAC}


@contextlib.contextmanager
def neighbour() -> Iterator[Any]:
    with open_netns(f"/run/netns/bw-announce-{os.getpid()}-peer") as peer, peer.entered(), IPRoute() as ip:
        yield ip


def test_each_address_gets_a_frame_in_order(wire: Wire) -> None:
    assert wire.announce("10.7.0.5", "fd00:7::5", "10.7.0.6") == []
    frames = wire.captured(lambda frame: is_arp(frame) or is_advertisement(frame), 3)
    assert [frame[28:32] if is_arp(frame) else frame[62:78] for frame in frames] == [
        ipaddress.ip_address(address).packed for address in ("10.7.0.5", "fd00:7::5", "10.7.0.6")
    ]


def test_a_bad_address_is_reported_and_the_others_are_announced(wire: Wire) -> None:
    assert wire.announce("10.7.0.300", "fd00::/64", "10.7.0.6") == [
        "'10.7.0.300' is not an IP address",
        "'fd00::/64' is not an IP address",
    ]
    (frame,) = wire.captured(is_arp, 1)
    assert frame[28:32] == ipaddress.ip_address("10.7.0.6").packed


def test_a_link_that_is_down_is_reported_for_each_address(wire: Wire) -> None:
    with wire.inside() as ip:
        ip.link("set", index=wire.index, state="down")
    assert wire.announce("10.7.0.5", "fd00:7::5") == [
        "10.7.0.5 on pod0: Network is down",
        "fd00:7::5 on pod0: Network is down",
    ]


def test_an_interface_of_another_namespace_is_reported(wire: Wire) -> None:
    assert wire.announce("10.7.0.5", index=wire.index + 1000) == [
        f"interface {wire.index + 1000}: No such device or address"
    ]


def test_a_mac_that_is_not_ethernet_is_reported(wire: Wire) -> None:
    assert wire.announce("10.7.0.5", mac="80:00:02:08:" + ":".join(["00"] * 16)) == [
        "'80:00:02:08:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00' is not an Ethernet address"
    ]


def test_no_descriptor_is_left_open(wire: Wire) -> None:
    before = os.listdir("/proc/self/fd")
    wire.announce("10.7.0.5", "nonsense")
    wire.announce("10.7.0.5", index=9999)
    assert os.listdir("/proc/self/fd") == before
