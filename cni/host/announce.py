"""Announces the MAC address of the pod's addresses to the network: by ARP and by neighbour advertisement.

Switches learn the port from the frame, and neighbours replace the entry of a former owner of the address.
"""

from __future__ import annotations

import _socket
import os
from struct import pack

_BROADCAST = b"\xff" * 6
_ALL_NODES_MAC = b"\x33\x33\x00\x00\x00\x01"
_ALL_NODES = _socket.inet_pton(_socket.AF_INET6, "ff02::1")

_ETHERTYPE_IPV4, _ETHERTYPE_ARP, _ETHERTYPE_IPV6 = 0x0800, 0x0806, 0x86DD
_ARP_ETHERNET, _ARP_REQUEST = 1, 1
_ICMPV6, _NEIGHBOUR_ADVERTISEMENT, _OVERRIDE, _TARGET_LINK_LAYER = 58, 136, 0x20000000, 2
_HOP_LIMIT = 255  # receivers discard neighbour discovery with less, because it may have come from outside the link


def gratuitous_arp(mac: str, address: str) -> bytes:
    """The ARP announcement of RFC 5227: a broadcast request for the sender's own address. Raises `ValueError`.

    A request, not a reply: more receivers update their cache from it.
    """
    sender, owner = _mac(mac), _packed(_socket.AF_INET, address)
    ethernet = _BROADCAST + sender + pack("!H", _ETHERTYPE_ARP)
    arp = pack("!HHBBH", _ARP_ETHERNET, _ETHERTYPE_IPV4, 6, 4, _ARP_REQUEST)
    return ethernet + arp + sender + owner + bytes(6) + owner


def unsolicited_na(mac: str, address: str) -> bytes:
    """The neighbour advertisement of RFC 4861, 7.2.6, to all nodes, with the override flag. Raises `ValueError`."""
    sender, owner = _mac(mac), _packed(_socket.AF_INET6, address)
    option = pack("!BB", _TARGET_LINK_LAYER, 1) + sender
    unsummed = pack("!BBHI", _NEIGHBOUR_ADVERTISEMENT, 0, 0, _OVERRIDE) + owner + option
    pseudo_header = owner + _ALL_NODES + pack("!II", len(unsummed), _ICMPV6)
    message = unsummed[:2] + pack("!H", checksum(pseudo_header + unsummed)) + unsummed[4:]
    header = pack("!IHBB", 6 << 28, len(message), _ICMPV6, _HOP_LIMIT) + owner + _ALL_NODES
    return _ALL_NODES_MAC + sender + pack("!H", _ETHERTYPE_IPV6) + header + message


def announce(ifindex: int, mac: str, addresses: list[str]) -> list[str]:
    """Sends one frame per address through an interface of the current network namespace.

    Returns the problems, one text each. It raises nothing, because a pod works without an announcement.
    """
    if not addresses:
        return []
    try:
        name = _socket.if_indextoname(ifindex)
        socket = _socket.socket(_socket.AF_PACKET, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, 0)
    except OSError as error:
        return [f"interface {ifindex}: {_reason(error)}"]
    try:
        # A full queue (a link without carrier) is a problem to report, not to wait for.
        socket.setblocking(False)
        outcomes = [_send(socket, name, mac, address) for address in addresses]
    finally:
        socket.close()
    return [problem for problem in outcomes if problem]


def _send(socket: _socket.socket, name: str, mac: str, address: str) -> str:
    try:
        frame = unsolicited_na(mac, address) if ":" in address else gratuitous_arp(mac, address)
        socket.sendto(frame, (name, 0))
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"{address} on {name}: {_reason(error)}"
    return ""


def checksum(content: bytes) -> int:
    """The Internet checksum of RFC 1071 over an even number of bytes."""
    total = sum(int.from_bytes(content[at : at + 2], "big") for at in range(0, len(content), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _mac(text: str) -> bytes:
    try:
        binary = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        binary = b""
    if len(binary) != 6:
        raise ValueError(f"{text!r} is not an Ethernet address")
    return binary


def _packed(family: int, address: str) -> bytes:
    try:
        return _socket.inet_pton(family, address)
    except (OSError, ValueError) as error:
        raise ValueError(f"{address!r} is not an IP address") from error


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
