"""Ranges of addresses, and the order in which their addresses are tried. Pure."""

from __future__ import annotations

from cni.value import Value
from ipam.address import BITS, Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Range(Value):
    """A part of one subnet from which addresses are leased: `first` to `last`, without the gateway and `excluded`.

    `subnet` is the network address and `prefix` its length. `gateway` is a number, or None; `excluded` holds pairs of
    first and last number, sorted and without overlaps.
    """

    subnet: Address
    prefix: int
    first: int
    last: int
    gateway: int | None = None
    excluded: tuple[tuple[int, int], ...] = ()

    def __contains__(self, address: Address) -> bool:
        return address.version == self.subnet.version and self.first <= address.number <= self.last

    def __str__(self) -> str:
        return f"{self.address(self.first)}-{self.address(self.last)}"

    def address(self, number: int) -> Address:
        return Address(version=self.subnet.version, number=number)

    def is_in_subnet(self, address: Address) -> bool:
        """Whether the address is in the subnet, even if it is outside the range."""
        bits = BITS[self.subnet.version] - self.prefix
        return address.version == self.subnet.version and address.number >> bits == self.subnet.number >> bits

    def leases(self, address: Address) -> bool:
        """Whether the address may be leased: it is in the range, is not the gateway, and is not excluded."""
        return address in self and next(self.walk(address.number, address.number), None) is not None

    def walk(self, first: int, last: int) -> Iterator[int]:
        """The numbers from `first` to `last` that may be leased. Excluded stretches are skipped in constant time."""
        for start, end in self.stretches(first, last):
            yield from _numbers(start, end)

    def stretches(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The leasable numbers from `first` to `last` as pairs of first and last number, without holes in between."""
        number, last = max(first, self.first), min(last, self.last)
        for start, end in self._holes():
            if number <= min(start - 1, last):
                yield number, min(start - 1, last)
            number = max(number, end + 1)
        if number <= last:
            yield number, last

    def _holes(self) -> list[tuple[int, int]]:
        holes = list(self.excluded)
        if self.gateway is not None:
            holes.append((self.gateway, self.gateway))
        return sorted(holes)


RangeSet = tuple[Range, ...]
"""The ranges from which an interface gets one address, in the order of use. All have the same IP version."""


def range_of(ranges: RangeSet, address: Address) -> Range | None:
    """The range that contains the address, or None."""
    return next((range_ for range_ in ranges if address in range_), None)


def unleased(sets: tuple[RangeSet, ...], held: set[Address]) -> list[RangeSet]:
    """The range sets from which no address of `held` is leased.

    An address outside all ranges counts for one set of its subnet: an older version or configuration leased it to a pod
    that still runs.
    """
    strays = [address for address in held if not any(range_of(ranges, address) for ranges in sets)]
    missing = []
    for ranges in sets:
        if any(range_of(ranges, address) for address in held):
            continue
        stray = next((address for address in strays if any(range_.is_in_subnet(address) for range_ in ranges)), None)
        if stray is None:
            missing.append(ranges)
        else:
            strays.remove(stray)
    return missing


def walk(ranges: RangeSet, start: Address | None = None) -> Iterator[tuple[Range, Address]]:
    """Every address that may be leased, once: from `start` on if a range contains it, then from the beginning."""
    home = next((i for i, range_ in enumerate(ranges) if start is not None and start in range_), None)
    if home is None or start is None:
        yield from _all(ranges)
        return
    yield from _between(ranges[home], start.number, ranges[home].last)
    yield from _all(ranges[home + 1 :] + ranges[:home])
    yield from _between(ranges[home], ranges[home].first, start.number - 1)


def _all(ranges: RangeSet) -> Iterator[tuple[Range, Address]]:
    for range_ in ranges:
        yield from _between(range_, range_.first, range_.last)


def _between(range_: Range, first: int, last: int) -> Iterator[tuple[Range, Address]]:
    for number in range_.walk(first, last):
        yield range_, range_.address(number)


def _numbers(first: int, last: int) -> Iterator[int]:
    # `range` does not work here: the size of an IPv6 subnet exceeds the largest possible length.
    while first <= last:
        yield first
        first += 1
