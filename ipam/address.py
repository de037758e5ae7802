"""IP addresses as numbers, and their text form as Go's `net.IP` writes it. No I/O.

host-local uses this text form as the names of its files.
"""

from __future__ import annotations

import _socket

from cni.errors import InvalidConfig
from cni.value import Value

BITS = {4: 32, 6: 128}
_FAMILY = {4: _socket.AF_INET, 6: _socket.AF_INET6}
_MAPPED = 0xFFFF << 32
"""::ffff:0:0/96. Go treats such an address as the IPv4 address that it contains, and so do we."""


class Address(Value):
    """An address of IP `version` 4 or 6."""

    version: int
    number: int

    def __str__(self) -> str:
        packed = self.number.to_bytes(BITS[self.version] // 8, "big")
        return ".".join(map(str, packed)) if self.version == 4 else _sextets(packed)


def parse(text: str, where: str) -> Address:
    """Parses an address. Raises `InvalidConfig`, which names `where` the text was found."""
    version = 6 if ":" in text else 4
    try:
        number = int.from_bytes(_socket.inet_pton(_FAMILY[version], text), "big")
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"{where}: {text!r} is not an IP address") from error
    if version == 6 and number & ~0xFFFF_FFFF == _MAPPED:
        return Address(version=4, number=number & 0xFFFF_FFFF)
    return Address(version=version, number=number)


def parse_cidr(text: str, where: str) -> tuple[Address, int]:
    """Parses an address with its host bits, and the prefix length. Raises `InvalidConfig`."""
    host, slash, length = text.partition("/")
    address = parse(host, where)
    bits = int(length) if slash and length.isascii() and length.isdecimal() and len(length) < 4 else -1
    if address.version == 4 and ":" in host:
        bits -= 96
    if not 0 <= bits <= BITS[address.version]:
        raise InvalidConfig(f"{where}: {text!r} is not an address with a prefix length")
    return address, bits


def _sextets(packed: bytes) -> str:
    groups = [f"{packed[i] << 8 | packed[i + 1]:x}" for i in range(0, 16, 2)]
    start, length = _longest_zeros(groups)
    if length < 2:  # RFC 5952: a single group of zeros is written in full
        return ":".join(groups)
    return ":".join(groups[:start]) + "::" + ":".join(groups[start + length :])


def _longest_zeros(groups: list[str]) -> tuple[int, int]:
    """Start and length of the first of the longest runs of zero groups."""
    best, start = (0, 0), 0
    for i, group in enumerate([*groups, "end"]):
        if group != "0":
            if i - start > best[1]:
                best = (start, i - start)
            start = i + 1
    return best
