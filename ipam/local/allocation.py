"""One ADD in a locked directory of host-local.

The owner's addresses are returned again, and missing ones are leased.
"""

from __future__ import annotations

from cni.errors import AddressesExhausted, AddressTaken
from cni.rollback import run_all
from ipam import address
from ipam.ranges import range_of, walk
from ipam.store import Claim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ipam.address import Address
    from ipam.cluster.occupied import Occupied
    from ipam.local.bitmap import Used
    from ipam.local.directory import Directory, LeaseFile
    from ipam.local.index import Index
    from ipam.ranges import Range, RangeSet
    from ipam.store import Owner


class Allocation:
    """Call `claim` for each set, then `finish`; call `undo` if one of them fails."""

    def __init__(self, directory: Directory, index: Index, owner: Owner, occupied: Occupied | None = None) -> None:
        self._directory = directory
        self._index = index
        self._owner = owner
        self._elsewhere = frozenset(map(str, occupied.addresses())) if occupied else frozenset()
        self._found = still_there(directory, index.entries(owner.container_id))
        self._made: list[LeaseFile] = []
        self._given: list[str] = []
        self._ifname_added = False
        self._last: dict[int, Address] = {}

    def claim(self, i: int, ranges: RangeSet, requested: Address | None) -> Claim:
        """An address of range set `i`. Raises `AddressesExhausted`, `AddressTaken`."""
        claim = self._present(ranges, requested)
        if claim is not None:
            self._given.append(str(claim.address))
            return claim
        taken = self._take(i, ranges) if requested is None else self._take_requested(ranges, requested)
        self._last[i] = taken.address
        return taken

    def finish(self) -> None:
        # A failed ADD does not advance the round-robin position, and keeps the owner's addresses.
        for i, last in self._last.items():
            self._directory.keep_last(i, last)
        stale = [entry for entry in self._found if entry[2] == self._owner.ifname and entry[0] not in self._given]
        remove(self._directory, stale)
        kept = [entry for entry in self._found if entry not in stale]
        self._update_index(kept + self._made, changed=bool(stale))

    def undo(self) -> None:
        remove(self._directory, self._made)
        self._update_index(self._found)

    def _update_index(self, entries: list[LeaseFile], *, changed: bool = False) -> None:
        if self._made or self._ifname_added or changed:
            self._index.replace(self._owner.container_id, entries)
        else:
            self._index.save_scan()

    def _present(self, ranges: RangeSet, requested: Address | None) -> Claim | None:
        """The owner's address in the ranges, if any.

        Of entries without an interface, written by old versions, the first is used.
        """
        for wanted in (self._owner.ifname, ""):
            for entry in self._found:
                held = address.parse(entry[0], "")
                home = range_of(ranges, held)
                if home is not None and entry[2] == wanted and requested in (None, held):
                    self._claim_for_interface(entry)
                    return Claim(range=home, address=held)
        return None

    def _claim_for_interface(self, entry: LeaseFile) -> None:
        """Adds the interface's name if it is missing.

        Otherwise the container's next interface would get the address.
        """
        if not entry[2]:
            mine = (entry[0], entry[1], self._owner.ifname)
            self._directory.add_ifname(mine)
            self._found[self._found.index(entry)] = mine
            self._ifname_added = True

    def _take(self, i: int, ranges: RangeSet) -> Claim:
        tried: list[Claim] = []
        if self._make(_names_of(self._candidates(i, ranges), tried)):
            return tried[-1]
        raise AddressesExhausted(f"no address is free in {range_set_text(ranges)}", hint=AddressesExhausted.remedy)

    def _candidates(self, i: int, ranges: RangeSet) -> Iterator[Claim]:
        last = self._directory.last(i)
        for range_, start, end in _round(ranges, last):
            yield from _probably_free(self._index.used, range_, start, end)
        # The hint can be wrong, so exhaustion is reported only after the directory was read.
        yield from free_addresses(ranges, self._directory.names())

    def _take_requested(self, ranges: RangeSet, requested: Address) -> Claim:
        home = range_of(ranges, requested)
        if home is None or not home.leases(requested):
            raise AddressTaken(f"{requested} is the gateway, excluded, or outside of {range_set_text(ranges)}")
        if not self._make([str(requested)]):
            raise AddressTaken(f"{requested} is in use by {self._holder(str(requested))}")
        return Claim(range=home, address=requested)

    def _make(self, names: Iterable[str]) -> bool:
        container_id, ifname = self._owner.container_id, self._owner.ifname
        free_ones = (name for name in names if name not in self._elsewhere) if self._elsewhere else names
        name = self._directory.take(free_ones, container_id, ifname)
        if name is None:
            return False
        self._made.append((name, container_id, ifname))
        return True

    def _holder(self, name: str) -> str:
        if name in self._elsewhere:
            return "a container of this node, through another backend (barewire-ipam show prints it)"
        _name, container_id, ifname = self._directory.lease_file(name) or (name, "", "")
        return f"container {container_id} {ifname}".rstrip() if container_id else "an unknown owner"


def still_there(directory: Directory, entries: list[LeaseFile]) -> list[LeaseFile]:
    """The entries that their files confirm: rewriting a file does not change its directory."""
    return [entry for entry in entries if directory.lease_file(entry[0]) == entry]


def remove(directory: Directory, entries: list[LeaseFile]) -> None:
    """Removes the files of all entries, even if one of them cannot be removed."""
    run_all(*(lambda name=name: directory.remove(name) for name, _id, _ifname in entries))


def free_addresses(ranges: RangeSet, names: Iterable[str]) -> Iterator[Claim]:
    """The addresses without a file."""
    taken = frozenset(names)
    return (Claim(range=range_, address=address) for range_, address in walk(ranges) if str(address) not in taken)


def range_set_text(ranges: RangeSet) -> str:
    """The set in messages, in host-local's form."""
    return ",".join(map(str, ranges))


def _round(ranges: RangeSet, last: Address | None) -> list[tuple[Range, int, int]]:
    """All numbers as stretches (range, first, last) in host-local's order: from `last` on, with `last` at the end."""
    home = next((i for i, range_ in enumerate(ranges) if last is not None and last in range_), None)
    if home is None or last is None:
        return [(range_, range_.first, range_.last) for range_ in ranges]
    others = ranges[home + 1 :] + ranges[:home]
    return [
        (ranges[home], last.number + 1, ranges[home].last),
        *((range_, range_.first, range_.last) for range_ in others),
        (ranges[home], ranges[home].first, last.number),
    ]


def _probably_free(used: Used, range_: Range, start: int, end: int) -> Iterator[Claim]:
    version = range_.subnet.version
    number = used.next_free(version, start, end)
    while number <= end:
        leased = next(range_.walk(number, end), None)
        if leased is None:
            return
        if leased == number:
            yield Claim(range=range_, address=range_.address(number))
            leased += 1
        number = used.next_free(version, leased, end)


def _names_of(claims: Iterable[Claim], tried: list[Claim]) -> Iterator[str]:
    """The names of the claims. The last claim that was consumed is the last in `tried`."""
    for claim in claims:
        tried.append(claim)
        yield str(claim.address)
