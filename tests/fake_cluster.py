"""A cluster in memory that fulfils the contract of `Cluster`, can be unreachable, and can lose responses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cni.errors import NotAvailable, RefusedForGood, TryAgainLater
from ipam.cluster.identity import UNKNOWN, Identity, Replaced
from ipam.store import Lease, ignore

if TYPE_CHECKING:
    from ipam.address import Address
    from ipam.ranges import Range
    from ipam.store import Claim, Owner, Report


class Shared:
    """The state that all nodes share.

    `away` makes every call fail temporarily, `refuses` permanently; `loses` decides for each change whether its
    response is lost. With `goes_by_pods` a pod's next container gets the addresses of an earlier one.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.leases: dict[Address, Lease] = {}
        self.away = False
        self.loses: Callable[[str], bool] = lambda _name: False
        self.calls: list[str] = []
        self.tells_taken = False
        self.goes_by_pods = False
        self.refuses = False
        self.identity, self.revision = "", 0
        """With a name it detects that it was restored, as etcd does."""
        self.witnesses: dict[tuple[str, str], int] = {}

    def snapshot(self) -> tuple[int, dict[Address, Lease], dict[tuple[str, str], int]]:
        return self.revision, dict(self.leases), dict(self.witnesses)

    def restore(self, snapshot: tuple[int, dict[Address, Lease], dict[tuple[str, str], int]], identity: str) -> None:
        self.identity = identity
        self.revision, self.leases, self.witnesses = snapshot[0], dict(snapshot[1]), dict(snapshot[2])


class FakeCluster:
    """The cluster as one node sees it."""

    def __init__(self, shared: Shared, node: str, machine: str = "") -> None:
        self._shared = shared
        self._node = node
        self._machine = machine
        self._witness = f"{node}/{machine}"
        self._expected = UNKNOWN
        self._witnessed = 0

    def expect(self, known: Identity) -> None:
        self._expected = known

    def identity(self) -> Identity:
        return Identity(cluster=self._shared.identity, revision=self._witnessed)

    def parts(self) -> dict[str, str]:
        return {}

    def is_replaced(self, known: Identity, network: str) -> bool:
        if known == UNKNOWN:
            return False
        with self._call("is_replaced"):
            return self._is_other(known, self._shared.witnesses.get((self._witness, network), 0))

    def _is_other(self, known: Identity, witnessed: int) -> bool:
        return bool(known.cluster) and (known.cluster != self._shared.identity or witnessed < known.revision)

    def used_numbers(self, one: Range) -> set[int] | None:
        with self._call("taken"):
            return self._numbers(one) if self._shared.tells_taken else None

    def take(self, claims: tuple[Claim, ...], owner: Owner) -> tuple[Claim, ...]:
        with self._call("take"):
            key = (self._witness, owner.network)
            self._witnessed = self._shared.witnesses.get(key, 0)
            if self._is_other(self._expected, self._witnessed):
                raise Replaced("the fake was restored")
            found = [(claim, self._shared.leases.get(claim.address)) for claim in claims]
            refused = tuple(claim for claim, lease in found if lease is not None and not self._may_take(lease, owner))
            if not refused:
                for claim, before in found:
                    lease = Lease(address=claim.address, owner=owner, node=self._node, machine=self._machine)
                    if before is None or not self._is(before, owner):
                        self._shared.leases[claim.address] = lease
                if self._shared.identity:
                    self._shared.revision += 1
                    self._witnessed = self._shared.witnesses[key] = self._shared.revision
        self._answered("take")
        return refused

    def retake(self, claims: tuple[Claim, ...], owner: Owner) -> tuple[Claim, ...]:
        return self.take(claims, owner)

    def give_back(self, claims: tuple[Claim, ...], owner: Owner) -> None:
        with self._call("give_back"):
            for claim in claims:
                lease = self._shared.leases.get(claim.address)
                if lease is not None and self._is(lease, owner):
                    del self._shared.leases[claim.address]
        self._answered("give_back")

    def find_free(self, one: Range, start: int) -> int | None:
        with self._call("gap"):
            used = self._numbers(one)
            near = (number for number in one.walk(start, one.last) if number not in used)
            return next(near, next((number for number in one.walk(one.first, one.last) if number not in used), None))

    def held(self, claims: tuple[Claim, ...], owner: Owner) -> tuple[Claim, ...]:
        with self._call("held"):
            leases = self._shared.leases
            return tuple(one for one in claims if one.address in leases and self._is(leases[one.address], owner))

    def leases_of_pod(self, owner: Owner) -> tuple[Lease, ...]:
        with self._call("leases_of_pod"):
            return tuple(one for one in self._shared.leases.values() if self._is_of_pod(one, owner))

    def give_back_all(self, owner: Owner) -> None:
        with self._call("give_back_all"):
            for lease in [lease for lease in self._shared.leases.values() if self._is(lease, owner)]:
                del self._shared.leases[lease.address]
        self._answered("give_back_all")

    def leases_of_node(self) -> Iterator[Lease]:
        return iter([lease for lease in self.leases("") if lease.node == self._node])

    def reach(self) -> None:
        if self._shared.away:
            raise NotAvailable("the fake is away")

    def leases(self, network: str, damaged: Report = ignore) -> Iterator[Lease]:
        with self._call("leases"):
            found = sorted(
                self._shared.leases.values(), key=lambda lease: (lease.address.version, lease.address.number)
            )
        return iter(found)

    def _numbers(self, one: Range) -> set[int]:
        return {address.number for address in self._shared.leases if address in one}

    def _is(self, lease: Lease, owner: Owner) -> bool:
        ours = (self._node, owner.container_id, owner.ifname)
        return (lease.node, lease.owner.container_id, lease.owner.ifname) == ours

    def _is_of_pod(self, lease: Lease, owner: Owner) -> bool:
        told = (lease.owner.pod, lease.owner.ifname)
        return self._shared.goes_by_pods and (told == (owner.pod, owner.ifname) or self._is(lease, owner))

    def _may_take(self, lease: Lease, owner: Owner) -> bool:
        return self._is(lease, owner) or self._is_of_pod(lease, owner)

    def _call(self, name: str) -> threading.Lock:
        self._shared.calls.append(name)
        if self._shared.away:
            raise TryAgainLater("the fake is away")
        if self._shared.refuses:
            raise RefusedForGood("the fake grants no rights")
        return self._shared.lock

    def _answered(self, name: str) -> None:
        if self._shared.loses(name):
            raise TryAgainLater("the fake's answer was lost")
