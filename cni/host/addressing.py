"""IP addresses and routes of one interface, and the wait for IPv6 duplicate address detection."""

from __future__ import annotations

import _socket
import errno
import time

from cni.errors import AddressConflict, InvalidConfig
from cni.host import netlink as nl
from cni.host.rtnetlink import NetlinkError
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.host.rtnetlink import RouteSocket
    from cni.protocol.result import IpConfig, Route

AF_INET, AF_INET6 = 2, 10
_LINK_LOCAL = b"\xa9\xfe"  # 169.254
SETTLE_SECONDS = 5.0
"""Time limit for duplicate address detection, which takes one to two seconds after the link has a carrier."""


def packed(address: str, where: str) -> tuple[int, bytes]:
    """(family, packed address). Raises `InvalidConfig` with `where`, the source of the text."""
    family = AF_INET6 if ":" in address else AF_INET
    try:
        return family, _socket.inet_pton(family, address)
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"{where}: {address!r} is not an IP address") from error


def network(cidr: str, where: str) -> tuple[int, bytes, int]:
    """(family, packed address, prefix length) of CIDR text. Raises `InvalidConfig`."""
    address, slash, length = cidr.partition("/")
    family, binary = packed(address, where)
    if not slash or not length.isdecimal() or int(length) > len(binary) * 8:
        raise InvalidConfig(f"{where}: {cidr!r} is not an address with a prefix length")
    return family, binary, int(length)


def masked(binary: bytes, prefix: int) -> bytes:
    """A packed address with its host bits cleared."""
    bits = len(binary) * 8
    value = int.from_bytes(binary, "big") >> (bits - prefix) << (bits - prefix)
    return value.to_bytes(len(binary), "big")


def add_address(socket: RouteSocket, index: int, ip: IpConfig) -> None:
    """Adds an address to the interface. An existing address is not an error. Raises `NetlinkError`."""
    family, binary, prefix = network(ip.address, "ips")
    broadcast = b""
    if family == AF_INET and prefix < 31:
        host_bits = (1 << (32 - prefix)) - 1
        broadcast = (int.from_bytes(binary, "big") | host_bits).to_bytes(4, "big")
    _tolerating_present(socket, nl.RTM_NEWADDR, nl.address_body(index, family, binary, prefix, broadcast))


class ResolvedRoute(Value):
    """A route in the kernel's form: packed destination without host bits, packed gateway (empty: on the link)."""

    family: int
    destination: bytes
    prefix: int
    gateway: bytes


def resolved(route: Route, gateways: dict[int, bytes]) -> ResolvedRoute:
    """The route that ADD configures for a route of the result, and CHECK compares. Raises `InvalidConfig`.

    A route without a gateway uses the gateway of its family's address, unless it is a route on the link.
    """
    family, destination, prefix = network(route.dst, "routes")
    on_link = route.scope is not None and route.scope >= nl.SCOPE_LINK
    gateway = packed(route.gw, "routes")[1] if route.gw else b"" if on_link else gateways.get(family, b"")
    return ResolvedRoute(family=family, destination=masked(destination, prefix), prefix=prefix, gateway=gateway)


def add_route(socket: RouteSocket, index: int, route: Route, gateways: dict[int, bytes]) -> None:
    """Adds a route through the interface, as returned by `resolved`."""
    wanted = resolved(route, gateways)
    body = nl.route_body(
        index=index,
        family=wanted.family,
        destination=wanted.destination,
        prefix=wanted.prefix,
        gateway=wanted.gateway,
        table=route.table,
        scope=route.scope,
        priority=route.priority or 0,
        mtu=route.mtu or 0,
        advmss=route.advmss or 0,
    )
    _tolerating_present(socket, nl.RTM_NEWROUTE, body)


def gateways(ips: tuple[IpConfig, ...]) -> dict[int, bytes]:
    """The first gateway of each family."""
    found: dict[int, bytes] = {}
    for ip in ips:
        if ip.gateway:
            family, binary = packed(ip.gateway, "ips")
            found.setdefault(family, binary)
    return found


def addresses(socket: RouteSocket, index: int) -> list[nl.InterfaceAddress]:
    """All addresses of the interface."""
    found = [nl.address(body) for body in socket.dump(nl.RTM_GETADDR, nl.address_dump_body(index=index))]
    return [address for address in found if address.index == index]


def routes(socket: RouteSocket, index: int) -> list[nl.InterfaceRoute]:
    """All routes through the interface, of all tables and both families."""
    bodies = [
        body
        for family in (AF_INET, AF_INET6)
        for body in socket.dump(nl.RTM_GETROUTE, nl.route_dump_body(family, index))
    ]
    return [route for body in bodies for route in nl.routes(body) if route.index == index]


def is_own(route: nl.InterfaceRoute) -> bool:
    """Whether the route was configured.

    The kernel adds link-local and multicast routes to each interface that is up.
    """
    return (
        route.kind == nl.RTN_UNICAST
        and route.table != nl.RT_TABLE_LOCAL
        and not (route.family == AF_INET6 and route.destination[:1] in (b"\xfe", b"\xff"))
        and not (route.family == AF_INET and route.prefix >= 16 and route.destination[:2] == _LINK_LOCAL)
    )


def settle(events: RouteSocket, socket: RouteSocket, index: int, ips: tuple[IpConfig, ...]) -> list[str]:
    """Awaits duplicate address detection of the IPv6 addresses for at most `SETTLE_SECONDS`.

    `events` was subscribed to RTNLGRP_IPV6_IFADDR before the addresses were added. Returns the addresses that are still
    tentative (usually without a carrier). Raises `AddressConflict` if another host has one.
    """
    mine = {binary for family, binary, _ in (network(ip.address, "ips") for ip in ips) if family == AF_INET6}
    deadline = time.monotonic() + SETTLE_SECONDS
    while mine:
        ours = [address for address in addresses(socket, index) if address.address in mine]
        for address in ours:
            if address.flags & nl.IFA_F_DADFAILED:
                text = _socket.inet_ntop(AF_INET6, address.address)
                raise AddressConflict(f"another host on the network already has {text}")
        waiting = [address for address in ours if address.flags & nl.IFA_F_TENTATIVE]
        if not waiting:
            return []
        if not events.await_event(lambda message: message.kind == nl.RTM_NEWADDR, deadline):
            return [_socket.inet_ntop(AF_INET6, address.address) for address in waiting]
    return []


def _tolerating_present(socket: RouteSocket, kind: int, body: bytes) -> None:
    try:
        # CREATE without EXCL: several routes to one destination are several next hops, as in the Go plugins.
        socket.change(kind, body, nl.NLM_F_CREATE)
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise
