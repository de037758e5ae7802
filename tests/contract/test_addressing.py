"""Addresses and routes on the real kernel as pyroute2 reads them, and duplicate address detection over a veth."""

from __future__ import annotations

import errno
import subprocess
import time
import uuid

import pytest
from pyroute2 import NetNS

from cni.errors import AddressConflict, InvalidConfig
from cni.host import addressing, links
from cni.host.netns import open_netns
from cni.host.rtnetlink import RTNLGRP_IPV6_IFADDR, NetlinkError, RouteSocket
from cni.protocol.result import IpConfig, Route


class End:
    """One end of a veth pair in a namespace of its own."""

    def __init__(self, peer: End | None = None) -> None:
        self.name = f"bw-{uuid.uuid4().hex[:8]}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        if peer is not None:
            link = [
                "ip",
                "-n",
                peer.name,
                "link",
                "add",
                "net1",
                "type",
                "veth",
                "peer",
                "name",
                "net1",
                "netns",
                self.name,
            ]
            subprocess.run(link, check=True)
        self.netns = open_netns(f"/run/netns/{self.name}")
        self.oracle = NetNS(self.name)
        with self.netns.entered():
            self.socket = RouteSocket()
            self.events = RouteSocket(RTNLGRP_IPV6_IFADDR)

    @property
    def index(self) -> int:
        link = links.by_name(self.socket, "net1")
        assert link is not None
        return link.index

    def up(self) -> None:
        links.change(self.socket, self.index, up=True)

    def close(self) -> None:
        for part in (self.events, self.socket, self.oracle, self.netns):
            part.close()
        subprocess.run(["ip", "netns", "del", self.name], check=True)


@pytest.fixture
def ends():
    one = End()
    other = End(one)
    one.up()
    other.up()
    yield one, other
    other.close()
    one.close()


def ip(address: str, gateway: str = "") -> IpConfig:
    return IpConfig(address=address, gateway=gateway)


@pytest.mark.parametrize(
    ("address", "broadcast"), [("10.9.0.2/24", "10.9.0.255"), ("10.9.1.2/31", None), ("10.9.2.2/32", None)]
)
def test_an_ipv4_address_has_its_broadcast_where_there_is_one(ends, address, broadcast):
    one, _ = ends
    addressing.add_address(one.socket, one.index, ip(address))
    (seen,) = [a for a in one.oracle.get_addr(family=2) if a.get_attr("IFA_LOCAL") == address.partition("/")[0]]
    assert seen["prefixlen"] == int(address.partition("/")[2])
    assert seen.get_attr("IFA_BROADCAST") == broadcast


def test_an_address_may_be_there_already(ends):
    one, _ = ends
    for _ in range(2):
        addressing.add_address(one.socket, one.index, ip("10.9.0.2/24"))


def test_settle_returns_as_soon_as_the_detection_is_over(ends):
    one, _ = ends
    address = ip("fd00:9::2/64")
    addressing.add_address(one.socket, one.index, address)
    assert addressing.settle(one.events, one.socket, one.index, (address,)) == []
    (seen,) = [a for a in addressing.addresses(one.socket, one.index) if a.address.hex().startswith("fd00")]
    assert not seen.flags & 0x48


def test_settle_raises_when_another_host_has_the_address(ends):
    one, other = ends
    address = ip("fd00:9::3/64")
    addressing.add_address(other.socket, other.index, address)
    assert addressing.settle(other.events, other.socket, other.index, (address,)) == []
    addressing.add_address(one.socket, one.index, address)
    with pytest.raises(AddressConflict, match="fd00:9::3"):
        addressing.settle(one.events, one.socket, one.index, (address,))


def test_settle_gives_up_after_its_bound_and_says_what_is_tentative(ends, monkeypatch):
    one, other = ends
    monkeypatch.setattr(addressing, "SETTLE_SECONDS", 0.1)
    links.change(other.socket, other.index, up=False)
    address = ip("fd00:9::4/64")
    addressing.add_address(one.socket, one.index, address)
    start = time.monotonic()
    assert addressing.settle(one.events, one.socket, one.index, (address,)) == ["fd00:9::4"]
    assert time.monotonic() - start < 5


def test_settle_has_nothing_to_wait_for_without_ipv6(ends):
    one, _ = ends
    assert addressing.settle(one.events, one.socket, one.index, (ip("10.9.0.2/24"),)) == []


def test_a_route_takes_the_gateway_of_its_family_unless_it_has_its_own(ends):
    one, _ = ends
    ips = (ip("10.9.0.2/24", "10.9.0.1"), ip("fd00:9::2/64", "fd00:9::1"))
    for address in ips:
        addressing.add_address(one.socket, one.index, address)
    gateways = addressing.gateways(ips)
    for route in (
        Route(dst="192.0.2.7/24"),
        Route(dst="198.51.100.0/24", gw="10.9.0.9"),
        Route(dst="2001:db8::/32", table=500),
    ):
        addressing.add_route(one.socket, one.index, route, gateways)
    routes = {route.get_attr("RTA_DST"): route for route in one.oracle.get_routes() if route.get_attr("RTA_GATEWAY")}
    assert routes["192.0.2.0"].get_attr("RTA_GATEWAY") == "10.9.0.1"
    assert routes["198.51.100.0"].get_attr("RTA_GATEWAY") == "10.9.0.9"
    assert routes["2001:db8::"].get_attr("RTA_GATEWAY") == "fd00:9::1"
    assert routes["2001:db8::"].get_attr("RTA_TABLE") == 500


def test_a_route_without_any_gateway_is_on_link(ends):
    one, _ = ends
    addressing.add_route(one.socket, one.index, Route(dst="192.0.2.0/24"), {})
    (route,) = [route for route in one.oracle.get_routes(family=2) if route.get_attr("RTA_DST") == "192.0.2.0"]
    assert route["scope"] == 253


def test_an_unreachable_gateway_is_refused(ends):
    one, _ = ends
    with pytest.raises(NetlinkError) as refused:
        addressing.add_route(one.socket, one.index, Route(dst="192.0.2.0/24", gw="203.0.113.1"), {})
    assert refused.value.errno == errno.ENETUNREACH


@pytest.mark.parametrize(
    "text", ["", "10.0.0.1", "10.0.0.1/33", "10.0.0.1/x", "10.0.0/24", "fd00::/129", "fd00::1/-1", "a/24"]
)
def test_malformed_addresses_are_refused_with_their_place(text):
    with pytest.raises(InvalidConfig, match="ips"):
        addressing.network(text, "ips")
