"""Leases in etcd, which all nodes take and release in transactions. Leases never expire.

A request whose response was lost is retried, and the original may still be applied later, by a slow member or after an
election. So each request must be safe when applied late. Taking is, because it requires that the key does not exist.
Releasing depends on the revision that was read, not on the value, which the same owner may write again.
"""

from __future__ import annotations

import time

from cni.errors import InvalidConfig, NotAvailable, TryAgainLater
from ipam.cluster.identity import UNKNOWN, Identity, Replaced
from ipam.etcd.gateway import FOREIGN, Gateway, servers, to_base64
from ipam.etcd.key_prefix import problem_of
from ipam.etcd.keys import Keys, number_of, stored_lease
from ipam.etcd.paging import ALL_SECONDS, MOST_OF_NODE, MOST_OF_OWNER, walk
from ipam.store import claim_on, ignore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from cni.host.trusted import Roots
    from cni.jsontext import JsonObject
    from ipam.address import Address
    from ipam.etcd.keys import StoredLease
    from ipam.ranges import Range
    from ipam.store import Claim, ClusterConf, Lease, Owner, Report

    Step = JsonObject

PREFIX = "/barewire/ipam"
SMALL = 256
"""The number of addresses whose use one request returns."""

NEAR, SAMPLES = 16, 12
"""How many addresses after a refused one, and how many spread over the range, the same request checks.

Usually one is free, both in a pool with scattered leases and in one with a single block. They are few because etcd
reads all keys of a stretch, whatever limit is set, and each stretch takes a twentieth of a millisecond.
"""

LONGEST_REVISION = 20
"""Digits of a 64-bit number."""

PARTS = 64
"""Stretches counted, or claims released, in one transaction; etcd accepts 128 operations."""


def open_etcd(cluster_conf: ClusterConf, network: str, seconds: float, certificates: Roots) -> Etcd:
    """Opens etcd with endpoints, node, and optionally machine, prefix, caFile, certFile and keyFile.

    `seconds` limits each call; `certificates` are the directories of the files. Raises `InvalidConfig`.
    """
    keys = keys_of(cluster_conf, network)
    return Etcd(Gateway(servers(cluster_conf, certificates), seconds), keys, seconds)


def keys_of(cluster_conf: ClusterConf, network: str) -> Keys:
    """The keys of a network in the described etcd. Raises `InvalidConfig`."""
    prefix = cluster_conf.get("prefix") or PREFIX
    node = cluster_conf.get("node") or ""
    for kind, name in (("node", node), ("network", network)):
        if not isinstance(name, str) or not name or "/" in name or not name.isprintable():
            raise InvalidConfig(f"etcd: {name!r} is not a valid name of a {kind}")
    # The rules refuse such a prefix as well, but DEL, the journal and records supply descriptions without validation.
    problem = problem_of(str(prefix))
    if problem:
        raise InvalidConfig(f"etcd: prefix {prefix!r} {problem}", hint=f"the default is {PREFIX}")
    machine = str(cluster_conf.get("machine") or "")
    return Keys(prefix=str(prefix).rstrip("/"), network=network, node=node, machine=machine)


class Etcd:
    """Implements `Cluster`: the leases of one network, for one node."""

    def __init__(self, gateway: Gateway, keys: Keys, seconds: float) -> None:
        self._gateway = gateway
        self._keys = keys
        self._seconds = seconds
        self._seen: dict[Address, list[int]] = {}
        """For each refused address, the free numbers that the same request found."""
        self._expected = UNKNOWN
        self._witnessed = 0
        """The revision of the last lease."""

    def expect(self, known: Identity) -> None:
        """See `Cluster`."""
        self._expected = known

    def identity(self) -> Identity:
        """See `Cluster`."""
        return Identity(cluster=self._gateway.cluster_id, revision=self._witnessed)

    def parts(self) -> dict[str, str]:
        """See `Cluster`."""
        return {}

    def is_replaced(self, known: Identity, network: str) -> bool:
        """See `Cluster`."""
        if known == UNKNOWN:
            return False
        _done, answers = self._transaction([], [_get(self._keys.witness(network), keys_only=True)], [])
        return self._is_other(known) or _revision(answers[0]) < known.revision

    def used_numbers(self, range_: Range) -> set[int] | None:
        """The numbers in use; None for a range with more than SMALL addresses."""
        return None if range_.last - range_.first >= SMALL else self._used(range_, range_.first, range_.last)

    def take(self, claims: tuple[Claim, ...], owner: Owner) -> tuple[Claim, ...]:
        """See `Cluster`."""
        deadline = time.monotonic() + self._seconds
        with self._gateway.until(deadline):
            return self._taken(claims, owner, deadline)

    def retake(self, claims: tuple[Claim, ...], owner: Owner) -> tuple[Claim, ...]:
        return self.take(claims, owner)

    def give_back(self, claims: tuple[Claim, ...], owner: Owner) -> None:
        """See `Cluster`."""
        deadline = time.monotonic() + self._seconds
        with self._gateway.until(deadline):
            self._given_back(claims, owner, deadline)

    def find_free(self, range_: Range, start: int) -> int | None:
        """See `Cluster`."""
        deadline = time.monotonic() + self._seconds
        with self._gateway.until(deadline):
            for number in self._seen.pop(range_.address(start), None) or self._behind(range_, start):
                if range_.leases(range_.address(number)):
                    return number
            return self._searched(range_, start, deadline)

    def held(self, claims: tuple[Claim, ...], owner: Owner) -> tuple[Claim, ...]:
        """See `Cluster`."""
        ours = {stored.address for stored in self._find(claims) if self._keys.is_of(stored.lease, owner)}
        return tuple(claim for claim in claims if claim.address in ours)

    def leases_of_pod(self, _owner: Owner) -> tuple[Lease, ...]:
        """See `Cluster`: here leases belong to containers, not to pods."""
        return ()

    def give_back_all(self, owner: Owner) -> None:
        """See `Cluster`."""
        deadline = time.monotonic() + self._seconds
        walked = walk(self._gateway, self._keys.indexes(owner), deadline, MOST_OF_OWNER)
        addresses = [stored.address for stored in walked]
        with self._gateway.until(deadline):
            for i in range(0, len(addresses), PARTS):
                self._given_back(tuple(map(claim_on, addresses[i : i + PARTS])), owner, deadline)

    def leases_of_node(self) -> Iterator[Lease]:
        """See `Cluster`."""
        deadline = time.monotonic() + self._seconds
        walked = walk(self._gateway, self._keys.node_indexes(), deadline, MOST_OF_NODE)
        return (stored.lease for stored in walked if stored.lease is not None)

    def reach(self) -> None:
        """Deletes a key that is never written, which requires the same permissions as any other change."""
        try:
            self._transaction([], [{"request_delete_range": {"key": to_base64(self._keys.ips())}}], [])
        except TryAgainLater as error:
            raise NotAvailable(error.msg, hint=error.hint) from error

    def leases(self, network: str, damaged: Report = ignore) -> Iterator[Lease]:
        """See `Cluster`."""
        deadline = time.monotonic() + ALL_SECONDS
        for stored in walk(self._gateway, self._keys.replace(network=network).ips(), deadline):
            if stored.lease is not None:
                yield stored.lease
            else:
                damaged(f"the lease of {stored.address}: {stored.fault}")

    def _taken(self, claims: tuple[Claim, ...], owner: Owner, deadline: float) -> tuple[Claim, ...]:
        known: dict[Address, StoredLease] = {}
        samples = [_samples(claim, SAMPLES // len(claims)) for claim in claims]
        looks = [step for claim, numbers in zip(claims, samples, strict=True) for step in self._look(claim, numbers)]
        witness = self._keys.witness(owner.network)
        note = {"request_put": {"key": to_base64(witness), "value": to_base64(b"{}")}}
        while time.monotonic() < deadline:
            done, answers = self._transaction(
                [self._unchanged(claim.address, known) for claim in claims] + self._unforgotten(witness),
                [step for claim in claims if claim.address not in known for step in self._puts(claim, owner)] + [note],
                [_get(self._keys.ip(claim.address)) for claim in claims] + looks + [_get(witness, keys_only=True)],
            )
            self._witnessed = self._gateway.revision if done else _revision(answers[-1])
            if self._is_other(self._expected) or self._witnessed < self._expected.revision:
                raise Replaced("this etcd was replaced, or restored from a backup")
            if done:
                return ()
            known = _by_address(answers[: len(claims)])
            refused = tuple(claim for claim in claims if self._is_anothers(known.get(claim.address), owner))
            if refused:
                looked = iter(answers[len(claims) :])
                for claim, numbers in zip(claims, samples, strict=True):
                    self._remember(claim, numbers, looked)
                return refused
            if len(known) == len(claims):
                return ()
        raise TryAgainLater("other calls keep changing the addresses")

    def _given_back(self, claims: tuple[Claim, ...], owner: Owner, deadline: float) -> None:
        while time.monotonic() < deadline:
            ours = [stored for stored in self._find(claims) if self._keys.is_of(stored.lease, owner)]
            if self._removed(ours, owner):
                return
        raise TryAgainLater("other calls keep changing the addresses")

    def _unchanged(self, address: Address, known: Mapping[Address, StoredLease]) -> Step:
        key = self._keys.ip(address)
        return _compare(key, "MOD", known[address].revision) if address in known else _compare(key, "CREATE", "0")

    def _unforgotten(self, witness: bytes) -> list[Step]:
        """The condition that etcd still knows this node's last lease."""
        least = self._expected.revision
        return [_compare(witness, "MOD", str(least - 1), "GREATER")] if least else []

    def _is_other(self, known: Identity) -> bool:
        return bool(known.cluster) and self._gateway.cluster_id != known.cluster

    def _puts(self, claim: Claim, owner: Owner) -> Iterator[Step]:
        value = to_base64(self._keys.value(owner))
        for key in (self._keys.ip(claim.address), self._keys.index(owner, claim.address)):
            yield {"request_put": {"key": to_base64(key), "value": value}}

    def _look(self, claim: Claim, samples: list[int]) -> Iterator[Step]:
        """Requests for the addresses after the claim's, and for the samples."""
        range_, start = claim.range, claim.address.number
        yield self._keys_only(range_, start, min(start + NEAR, range_.last))
        yield from (self._count(range_, number, number) for number in samples)

    def _remember(self, claim: Claim, samples: list[int], answers: Iterator[Step]) -> None:
        start, last = claim.address.number, min(claim.address.number + NEAR, claim.range.last)
        used = _numbers(next(answers).get("kvs", []))
        free = [number for number in range(start, last + 1) if number not in used]
        counts = [(number, next(answers).get("count")) for number in samples]
        self._seen[claim.address] = free + [number for number, count in counts if not count]

    def _is_anothers(self, stored: StoredLease | None, owner: Owner) -> bool:
        return stored is not None and not self._keys.is_of(stored.lease, owner)

    def _find(self, claims: tuple[Claim, ...]) -> list[StoredLease]:
        if not claims:
            return []
        _done, answers = self._transaction([], [_get(self._keys.ip(claim.address)) for claim in claims], [])
        return list(_by_address(answers).values())

    def _removed(self, ours: list[StoredLease], owner: Owner) -> bool:
        """Whether the leases were deleted; False if one of them has changed since it was read."""
        if not ours:
            return True
        keys = [(self._keys.ip(stored.address), self._keys.index(owner, stored.address)) for stored in ours]
        done, _answers = self._transaction(
            [_compare(key, "MOD", stored.revision) for stored, (key, _index) in zip(ours, keys, strict=True)],
            [{"request_delete_range": {"key": to_base64(key)}} for pair in keys for key in pair],
            [],
        )
        return done

    def _behind(self, range_: Range, start: int) -> list[int]:
        """The free numbers after a number: usually nearby, and much cheaper than counting all leases."""
        last = min(start + SMALL, range_.last)
        used = self._used(range_, start, last)
        return [number for number in range(start, last + 1) if number not in used]

    def _searched(self, range_: Range, start: int, deadline: float) -> int | None:
        """Counts leases in ever smaller stretches. `start` selects a stretch, so that nodes choose different ones."""
        stretches = list(range_.stretches(range_.first, range_.last))
        while time.monotonic() < deadline:
            roomy = self._roomy(range_, stretches)
            if not roomy:
                return None
            first, last = roomy[start % len(roomy)]
            if last - first >= SMALL:
                stretches = _parts(first, last)
                continue
            used = self._used(range_, first, last)
            free = [number for number in range(first, last + 1) if number not in used]
            if free:
                return free[start % len(free)]
            stretches = list(range_.stretches(range_.first, range_.last))  # Other nodes were faster.
        raise TryAgainLater("other nodes keep taking the free addresses")

    def _roomy(self, range_: Range, stretches: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Some of the stretches with free addresses; none if all are in use."""
        for i in range(0, len(stretches), PARTS):
            part = stretches[i : i + PARTS]
            _done, answers = self._transaction([], [self._count(range_, *stretch) for stretch in part], [])
            pairs = zip(part, answers, strict=True)
            roomy = [(first, last) for (first, last), answer in pairs if int(answer.get("count", 0)) <= last - first]
            if roomy:
                return roomy
        return []

    def _count(self, range_: Range, first: int, last: int) -> Step:
        end = self._keys.ip(range_.address(last)) + b"\0"
        return _get(self._keys.ip(range_.address(first)), range_end=to_base64(end), count_only=True)

    def _keys_only(self, range_: Range, first: int, last: int) -> Step:
        end = self._keys.ip(range_.address(last)) + b"\0"
        return _get(self._keys.ip(range_.address(first)), range_end=to_base64(end), keys_only=True)

    def _used(self, range_: Range, first: int, last: int) -> set[int]:
        question = self._keys_only(range_, first, last)["request_range"]
        return _numbers(self._gateway.ask("/v3/kv/range", question).get("kvs", []))

    def _transaction(self, compare: list[Step], success: list[Step], failure: list[Step]) -> tuple[bool, list[Step]]:
        """Returns whether all comparisons succeeded, and the result of each read operation."""
        question = {"compare": compare, "success": success, "failure": failure}
        answer = self._gateway.ask("/v3/kv/txn", question)
        done, answers = bool(answer.get("succeeded")), answer.get("responses", [])
        if len(answers) != len(success if done else failure):
            raise NotAvailable("etcd's response lacks steps of a transaction", hint=FOREIGN)
        return done, [answer.get("response_range", {}) for answer in answers]


def _get(key: bytes, **how: Any) -> Step:
    return {"request_range": {"key": to_base64(key), **how}}


def _compare(key: bytes, target: str, revision: str, result: str = "EQUAL") -> Step:
    return {"key": to_base64(key), "target": target, "result": result, f"{target.lower()}_revision": revision}


def _revision(answer: Step) -> int:
    """The revision of the key in the response; 0 if there is no key."""
    text = str(next((entry.get("mod_revision", "") for entry in answer.get("kvs", [])), ""))
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= LONGEST_REVISION else 0


def _by_address(answers: list[Step]) -> dict[Address, StoredLease]:
    leases = [stored_lease(entry) for answer in answers for entry in answer.get("kvs", [])]
    return {lease.address: lease for lease in leases if lease is not None}


def _numbers(entries: list[Step]) -> set[int]:
    return {number_of(entry["key"]) for entry in entries}


def _samples(claim: Claim, count: int) -> list[int]:
    """Numbers that are spread evenly over the range."""
    range_ = claim.range
    size, position = range_.last - range_.first + 1, claim.address.number - range_.first
    return [range_.first + (position + size * step // (count + 1)) % size for step in range(1, count + 1)]


def _parts(first: int, last: int) -> list[tuple[int, int]]:
    """Divides a stretch into PARTS stretches."""
    step = -(-(last - first + 1) // PARTS)
    return [(start, min(start + step - 1, last)) for start in range(first, last + 1, step)]
