"""The address of an OVSDB server, as in `ovs-vsctl --db`."""

from __future__ import annotations

import _socket

from cni.errors import InvalidConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REMOTE = "unix:/var/run/openvswitch/db.sock"
"""The path in distributions' packages."""

LONGEST_SOCKET_PATH = 107
"""Bytes; the kernel's sockaddr_un has 108, including the final zero."""


def parse_remote(remote: str) -> tuple[int, Any]:
    """Address family and address of `unix:PATH` or `tcp:IP:PORT` (an IPv6 address in brackets).

    Raises `InvalidConfig`. Host names are refused, as in OVS: resolving one has no time limit.
    """
    kind, _, place = remote.partition(":")
    if (
        kind == "unix"
        and place.startswith("/")
        and len(place.encode(errors="surrogateescape")) <= LONGEST_SOCKET_PATH
        and "\0" not in place
    ):
        return _socket.AF_UNIX, place
    host, _, port = place.rpartition(":")
    if kind == "tcp" and port.isdecimal() and port.isascii() and 0 < int(port) < 65536:
        for family, address in ((_socket.AF_INET, host), (_socket.AF_INET6, host[1:-1] * host.startswith("["))):
            if _is_address(family, address):
                return family, (address, int(port))
    raise InvalidConfig(
        f"OVSDB remote {remote!r} is neither unix:PATH nor tcp:IP:PORT",
        hint="a path has at most 107 bytes; SSL is not supported",
    )


def _is_address(family: int, text: str) -> bool:
    try:
        _socket.inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True
