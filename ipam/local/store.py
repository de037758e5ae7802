"""One node's addresses in the directory of Go's host-local, which may use it at the same time.

Beyond host-local, all range sets of an ADD are leased under one lock, all or none, and an owner's addresses are
returned again. It also provides GC and STATUS, and reads only the files that it needs.
"""

from __future__ import annotations

import os

from cni.errors import AddressesExhausted, NotAvailable
from cni.host.files import LOCK_SECONDS
from cni.rollback import on_failure
from ipam import address
from ipam.local.allocation import Allocation, free_addresses, range_set_text, remove, still_there
from ipam.local.directory import Directory
from ipam.local.index import Index
from ipam.store import Lease, Owner, ignore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ipam.address import Address
    from ipam.cluster.occupied import Occupied
    from ipam.local.directory import LeaseFile
    from ipam.ranges import RangeSet
    from ipam.store import Claim, Report

    FindOccupied = Callable[[Owner], Occupied]


class Local:
    """The `ipam.store.Store` of the network whose host-local directory is `directory` (<dataDir>/<network>).

    `run` is a directory for the indexes of all networks, which may be deleted at any time; `lock_seconds` limits every
    call. `occupied` finds the addresses in use outside the directory, if the network had another backend before.
    """

    def __init__(
        self, directory: str, run: str, *, occupied: FindOccupied | None = None, lock_seconds: float = LOCK_SECONDS
    ) -> None:
        self._path = directory
        self._run = run
        self._occupied = occupied
        self._seconds = lock_seconds

    def allocate(
        self, owner: Owner, sets: tuple[RangeSet, ...], requested: tuple[Address | None, ...]
    ) -> tuple[Claim, ...]:
        with self._open() as directory:
            index = Index(self._run, directory)
            call = Allocation(directory, index, owner, None if self._occupied is None else self._occupied(owner))
            with on_failure(call.undo):
                claims = tuple(call.claim(i, *pair) for i, pair in enumerate(zip(sets, requested, strict=True)))
                call.finish()
        return claims

    def release(self, owner: Owner) -> None:
        if not self._open().exists():
            return
        with self._open() as directory:
            index = Index(self._run, directory)
            entries = still_there(directory, index.entries(owner.container_id))
            freed = [entry for entry in entries if entry[2] == owner.ifname]
            # As in host-local, an entry without interface is removed by the container's last DEL, not by its first.
            freed = freed or [entry for entry in entries if not entry[2]]
            remove(directory, freed)
            if freed:
                index.replace(owner.container_id, [entry for entry in entries if entry not in freed])
            else:
                index.save_scan()

    def addresses(self, owner: Owner) -> tuple[Address, ...]:
        if not self._open().exists():
            return ()
        with self._open() as directory:
            index = Index(self._run, directory)
            entries = still_there(directory, index.entries(owner.container_id))
            index.save_scan()
        return tuple(address.parse(name, self._path) for name, _id, ifname in entries if ifname in (owner.ifname, ""))

    def gc(self, valid: set[tuple[str, str]]) -> None:
        if not self._open().exists():
            return
        containers = {container_id for container_id, _ifname in valid}
        with self._open() as directory:
            index = Index(self._run, directory)
            kept: list[LeaseFile] = []
            freed: list[LeaseFile] = []
            for entry in index.read():
                _name, container_id, ifname = entry
                known = (container_id, ifname) in valid if ifname else container_id in containers
                (kept if known else freed).append(entry)
            remove(directory, freed)
            index.rewrite(kept)

    def require_writable(self) -> None:
        """See `Store`."""
        existing = self._path
        while not os.path.lexists(existing):
            existing = os.path.dirname(existing)
        if not os.path.isdir(existing) or not os.access(existing, os.W_OK | os.X_OK):
            raise NotAvailable(f"{self._path} cannot be written", hint=f"check permissions and the mount of {existing}")

    def status(self, sets: tuple[RangeSet, ...]) -> None:
        """See `Store`."""
        self.require_writable()
        names = os.listdir(self._path) if os.path.isdir(self._path) else []
        full = [range_set_text(ranges) for ranges in sets if next(free_addresses(ranges, names), None) is None]
        if full:
            raise NotAvailable(f"no address is free in {'; '.join(full)}", hint=AddressesExhausted.remedy)

    def leases(self, damaged: Report = ignore) -> Iterator[Lease]:
        if not self._open().exists():
            return iter(())
        with self._open() as directory:
            entries = list(directory.checked_files(damaged))
        network = os.path.basename(self._path)
        leases = [
            Lease(
                address=address.parse(name, self._path),
                owner=Owner(network=network, container_id=holder, ifname=ifname),
            )
            for name, holder, ifname in entries
        ]
        return iter(sorted(leases, key=lambda lease: (lease.address.version, lease.address.number)))

    def _open(self) -> Directory:
        return Directory(self._path, self._seconds)
