"""Addresses of one node, in the directory of Go's host-local, which may allocate from it at the same time.

Beyond host-local: one lock for all range sets of an ADD, which gets all of its addresses or none, and again those that it
has; GC; STATUS; and no file is read that does not matter.
"""

from __future__ import annotations

import os

from cni.errors import AddressesExhausted, AddressTaken, NotAvailable
from cni.host.files import LOCK_SECONDS
from cni.rollback import on_failure, run_all
from ipam import address
from ipam.local_directory import Directory
from ipam.local_index import Index
from ipam.ranges import range_of, walk
from ipam.store import Claim, Lease, Owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ipam.address import Address
    from ipam.local_directory import Entry
    from ipam.ranges import Range, RangeSet

_TRIES = 64
"""Addresses that are tried before a look at the whole directory tells which ones are worth it."""


class Local:
    """The `ipam.store.Store` of the network whose host-local directory is `directory` (<dataDir>/<network>).

    `run` is a directory for indexes, for all networks, which may vanish at any time; `lock_seconds` bounds every call.
    """

    def __init__(self, directory: str, run: str, *, lock_seconds: float = LOCK_SECONDS) -> None:
        self._path = directory
        self._run = run
        self._seconds = lock_seconds

    def allocate(
        self, owner: Owner, sets: tuple[RangeSet, ...], requested: tuple[Address | None, ...]
    ) -> tuple[Claim, ...]:
        with self._open() as directory:
            index = Index(self._run, directory)
            call = _Allocation(directory, index, owner)
            with on_failure(call.undo):
                claims = tuple(call.claim(i, *asked) for i, asked in enumerate(zip(sets, requested, strict=True)))
                call.finish()
        return claims

    def release(self, owner: Owner) -> None:
        if not self._open().exists():
            return
        with self._open() as directory:
            index = Index(self._run, directory)
            entries = _valid(directory, index.entries(owner.container_id))
            freed = [entry for entry in entries if entry[2] == owner.ifname]
            # As host-local: what has no interface name is the last one's, not that of the first DEL of the container.
            freed = freed or [entry for entry in entries if not entry[2]]
            _remove(directory, freed)
            if freed:
                index.replace(owner.container_id, [entry for entry in entries if entry not in freed])
            else:
                index.settle()

    def addresses(self, owner: Owner) -> tuple[Address, ...]:
        if not self._open().exists():
            return ()
        with self._open() as directory:
            index = Index(self._run, directory)
            entries = _valid(directory, index.entries(owner.container_id))
            index.settle()
        return tuple(address.parse(name, self._path) for name, _id, ifname in entries if ifname in (owner.ifname, ""))

    def gc(self, valid: set[tuple[str, str]]) -> None:
        if not self._open().exists():
            return
        containers = {container_id for container_id, _ifname in valid}
        with self._open() as directory:
            index = Index(self._run, directory)
            kept: list[Entry] = []
            freed: list[Entry] = []
            for entry in index.read():
                _name, container_id, ifname = entry
                known = (container_id, ifname) in valid if ifname else container_id in containers
                (kept if known else freed).append(entry)
            _remove(directory, freed)
            index.rewrite(kept)

    def status(self, sets: tuple[RangeSet, ...]) -> None:
        place = self._path
        while not os.path.lexists(place):
            place = os.path.dirname(place)
        if not os.path.isdir(place) or not os.access(place, os.W_OK | os.X_OK):
            raise NotAvailable(f"{self._path} cannot be written", hint=f"look at permissions and the mount of {place}")
        names = frozenset(os.listdir(self._path) if place == self._path else ())
        full = [text(one) for one in sets if next(_free(walk(one), names), None) is None]
        if full:
            raise NotAvailable(f"no address is free in {'; '.join(full)}", hint=AddressesExhausted.remedy)

    def leases(self) -> Iterator[Lease]:
        if not self._open().exists():
            return iter(())
        with self._open() as directory:
            entries = list(directory.entries())
        network = os.path.basename(self._path)
        found = [
            Lease(
                address=address.parse(name, self._path),
                owner=Owner(network=network, container_id=holder, ifname=ifname),
            )
            for name, holder, ifname in entries
        ]
        return iter(sorted(found, key=lambda lease: (lease.address.version, lease.address.number)))

    def _open(self) -> Directory:
        return Directory(self._path, self._seconds)


class _Allocation:
    """One ADD: what it has found of its owner's, and made."""

    def __init__(self, directory: Directory, index: Index, owner: Owner) -> None:
        self._directory = directory
        self._index = index
        self._owner = owner
        self._found = _valid(directory, index.entries(owner.container_id))
        self._made: list[Entry] = []
        self._last: dict[int, Address] = {}

    def claim(self, place: int, ranges: RangeSet, requested: Address | None) -> Claim:
        """An address of the range set at `place`. Raises `AddressesExhausted`, `AddressTaken`."""
        claim = self._present(ranges, requested)
        if claim is not None:
            return claim
        found = self._take(place, ranges) if requested is None else self._take_requested(ranges, requested)
        self._last[place] = found.address
        return found

    def finish(self) -> None:
        # Only now: an ADD that gets nothing leaves the next one where it was.
        for place, last in self._last.items():
            self._directory.keep_last(place, last)
        self._tell(self._found + self._made)

    def undo(self) -> None:
        _remove(self._directory, self._made)
        self._tell(self._found)

    def _tell(self, entries: list[Entry]) -> None:
        if self._made:
            self._index.replace(self._owner.container_id, entries)
        else:
            self._index.settle()

    def _present(self, ranges: RangeSet, requested: Address | None) -> Claim | None:
        """What the owner has of the ranges already."""
        for name, _id, ifname in self._found:
            held = address.parse(name, "")
            home = range_of(ranges, held)
            if home is not None and ifname in (self._owner.ifname, "") and requested in (None, held):
                return Claim(range=home, address=held)
        return None

    def _take(self, place: int, ranges: RangeSet) -> Claim:
        tried: list[Claim] = []
        if self._make(_tried(self._candidates(place, ranges), tried)):
            return tried[-1]
        raise AddressesExhausted(f"no address is free in {text(ranges)}", hint=AddressesExhausted.remedy)

    def _candidates(self, place: int, ranges: RangeSet) -> Iterator[Claim]:
        order = _after(ranges, self._directory.last(place))
        for _ in range(_TRIES):
            claim = next(order, None)
            if claim is None:
                return
            yield claim
        yield from _free(((one.range, one.address) for one in order), frozenset(self._directory.names()))

    def _take_requested(self, ranges: RangeSet, requested: Address) -> Claim:
        home = range_of(ranges, requested)
        if home is None or not home.leases(requested):
            raise AddressTaken(f"{requested} is the gateway, excluded, or outside of {text(ranges)}")
        if not self._make([str(requested)]):
            raise AddressTaken(f"{requested} is in use by {self._holder(str(requested))}")
        return Claim(range=home, address=requested)

    def _make(self, names: Iterable[str]) -> bool:
        container_id, ifname = self._owner.container_id, self._owner.ifname
        name = self._directory.take(names, container_id, ifname)
        if name is None:
            return False
        self._made.append((name, container_id, ifname))
        return True

    def _holder(self, name: str) -> str:
        _name, container_id, ifname = self._directory.entry(name) or (name, "", "")
        return f"container {container_id} {ifname}".rstrip() if container_id else "nobody that is known"


def text(ranges: RangeSet) -> str:
    """The set in messages, as host-local writes it."""
    return ",".join(map(str, ranges))


def _valid(directory: Directory, entries: list[Entry]) -> list[Entry]:
    """Those that are still so: without the index's seal breaking, a file can be written anew."""
    return [entry for entry in entries if directory.entry(entry[0]) == entry]


def _remove(directory: Directory, entries: list[Entry]) -> None:
    run_all(*(lambda name=name: directory.remove(name) for name, _id, _ifname in entries))


def _after(ranges: RangeSet, last: Address | None) -> Iterator[Claim]:
    """Every address, the one that was given last at the end."""
    at_the_end = []
    for one, found in walk(ranges, last):
        if found == last:
            at_the_end.append(Claim(range=one, address=found))
        else:
            yield Claim(range=one, address=found)
    yield from at_the_end


def _free(order: Iterable[tuple[Range, Address]], names: frozenset[str]) -> Iterator[Claim]:
    return (Claim(range=one, address=found) for one, found in order if str(found) not in names)


def _tried(claims: Iterable[Claim], tried: list[Claim]) -> Iterator[str]:
    for claim in claims:
        tried.append(claim)
        yield str(claim.address)
