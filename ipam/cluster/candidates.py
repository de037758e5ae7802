"""Chooses the address of a set to try next, so that independent nodes rarely try the same one."""

from __future__ import annotations

import zlib

from cni.errors import AddressesExhausted, AddressTaken
from ipam.ranges import range_of
from ipam.store import Claim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipam.address import Address
    from ipam.cluster.occupied import Occupied
    from ipam.ranges import Range, RangeSet
    from ipam.store import Cluster, Owner

_SPREAD = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio: its multiples are spread evenly over a range of any size."""


def seed_of(owner: Owner) -> int:
    """Returns a seed that is the same for each attempt of an owner, so that a retry starts with the same address."""
    return zlib.crc32(f"{owner.network}/{owner.container_id}/{owner.ifname}".encode()) * _SPREAD


class Candidates:
    """The candidates for one set, in the order in which they are tried.

    `first` is the first one, and `next` follows when another owner turns out to have the previous one. Addresses in
    `occupied` are skipped. Both methods raise `AddressTaken` if the requested address `wanted` is not available, and
    `AddressesExhausted` if all addresses are in use. `earlier` is an address of the set that the owner's pod already
    has, in this or in another container: it is the first candidate.
    """

    def __init__(
        self, cluster: Cluster, ranges: RangeSet, wanted: Address | None, seed: int, occupied: Occupied
    ) -> None:
        self._cluster = cluster
        self._occupied = occupied
        self._ranges = ranges
        self._wanted = wanted
        self._seed = seed
        self.earlier: Claim | None = None
        self._refused: dict[int, Range] = {}

    def first(self) -> Claim:
        if self.earlier is not None:
            return self.earlier
        return self._free(blindly=True) if self._wanted is None else self._requested(self._wanted)

    def next(self, refused: Claim) -> Claim:
        """Returns the candidate after `refused`."""
        if self._wanted is not None:
            raise AddressTaken(f"{self._wanted} is in use")
        self._refused[refused.address.number] = refused.range
        return self._free(blindly=False)

    def _requested(self, wanted: Address) -> Claim:
        home = range_of(self._ranges, wanted)
        if home is None or not home.leases(wanted):
            raise AddressTaken(
                f"{wanted} cannot be leased from {_text(self._ranges)}: it is outside, the gateway, or excluded"
            )
        if self._occupied.has(wanted):
            raise AddressTaken(f"{wanted} is in use on this node", hint="barewire-ipam show prints its owner")
        return Claim(range=home, address=wanted)

    def _free(self, *, blindly: bool) -> Claim:
        claim = self._found(blindly=blindly)
        if self._occupied.has(claim.address):
            # This is rare: the store was replaced, or has lost data. Then it may not know that these addresses are
            # occupied.
            self._ranges = self._occupied.narrowed(self._ranges)
            claim = self._found(blindly=blindly)
        return claim

    def _found(self, *, blindly: bool) -> Claim:
        for range_, start in self._starts():
            number = self._number(range_, start, blindly=blindly)
            if number is not None:
                return Claim(range=range_, address=range_.address(number))
        raise AddressesExhausted(f"no address of {_text(self._ranges)} is free", hint=AddressesExhausted.remedy)

    def _number(self, range_: Range, start: int, *, blindly: bool) -> int | None:
        taken = self._cluster.used_numbers(range_)
        if taken is None:
            return (
                next(_around(range_, start), None)
                if blindly
                else self._cluster.find_free(range_, self._near(range_, start))
            )
        return next(
            (number for number in _around(range_, start) if number not in taken and number not in self._refused), None
        )

    def _near(self, range_: Range, start: int) -> int:
        """Returns the number near which to continue.

        The cluster may have reported free addresses next to the one that it refused last.
        """
        return next((number for number, of in reversed(self._refused.items()) if of is range_), start)

    def _starts(self) -> Iterator[tuple[Range, int]]:
        """Yields each range with the number at which its search begins. The seed determines the first range."""
        position = self._seed % sum(_size(range_) for range_ in self._ranges)
        home = 0
        while position >= _size(self._ranges[home]):
            position -= _size(self._ranges[home])
            home += 1
        yield self._ranges[home], self._ranges[home].first + position
        for range_ in self._ranges[home + 1 :] + self._ranges[:home]:
            yield range_, range_.first + self._seed % _size(range_)


def fitting(
    claims: tuple[Claim, ...], sets: tuple[RangeSet, ...], requested: tuple[Address | None, ...]
) -> tuple[Claim | None, ...]:
    """Returns for each set a claim that fits it and the request, with the range as configured now; or None."""
    left = [claim.address for claim in claims]
    chosen: list[Claim | None] = []
    for ranges, wanted in zip(sets, requested, strict=True):
        fits = (_fit(address, ranges) for address in left if wanted in (None, address))
        first = next((claim for claim in fits if claim is not None), None)
        if first is not None:
            left.remove(first.address)
        chosen.append(first)
    return tuple(chosen)


def has_room(cluster: Cluster, range_: Range) -> bool:
    taken = cluster.used_numbers(range_)
    if taken is None:
        return cluster.find_free(range_, range_.first) is not None
    return any(number not in taken for number in range_.walk(range_.first, range_.last))


def _fit(address: Address, ranges: RangeSet) -> Claim | None:
    home = range_of(ranges, address)
    return None if home is None or not home.leases(address) else Claim(range=home, address=address)


def _around(range_: Range, start: int) -> Iterator[int]:
    yield from range_.walk(start, range_.last)
    yield from range_.walk(range_.first, start - 1)


def _size(range_: Range) -> int:
    return range_.last - range_.first + 1


def _text(ranges: RangeSet) -> str:
    return ", ".join(map(str, ranges))
