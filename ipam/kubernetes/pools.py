"""Allocations: entries in whereabouts' IPPool objects, one per leased address."""

from __future__ import annotations

from cni.errors import AddressesExhausted, RefusedForGood, TryAgainLater
from cni.kube.answers import is_name, words
from ipam.kubernetes import whereabouts
from ipam.kubernetes.api import TOO_LARGE
from ipam.kubernetes.pool_text import PoolText
from ipam.kubernetes.whereabouts import POOLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.jsontext import JsonObject
    from ipam.kubernetes.api import Answer, Api
    from ipam.kubernetes.whereabouts import Allocated
    from ipam.store import Claim, Owner

    Claims = tuple[Claim, ...]

_HINT = "check the API server's admission policies, and the definition of IPPool"

TRIES = 8
"""How often a patch is retried when concurrent changes make it fail."""


class Made:
    """The objects that a lease has made so far, for undoing it.

    `added` are new allocations, `taken_over` are former values of allocations that belonged to an earlier container of
    the pod, and `reserved` are new reservations.
    """

    def __init__(self) -> None:
        self.added: list[Claim] = []
        self.taken_over: list[Allocated] = []
        self.reserved: list[Claim] = []


class Pools:
    """The pools of one network name. All methods raise `TryAgainLater` and `KubeRefused`."""

    def __init__(self, api: Api, network_name: str) -> None:
        self._api = api
        self._network_name = network_name
        self.uids: dict[str, str] = {}
        """The UIDs of the pools that were read, by subnet; empty if a pool did not exist."""
        self._read: dict[str, PoolText] = {}
        """Pools by subnet, as `look` read them since the last patch of them."""

    def name(self, cidr: str) -> str:
        return whereabouts.pool_name(cidr, self._network_name)

    def find(self, cidr: str) -> PoolText:
        """A subnet's pool, read again; without content if there is none, or if its name is impossible."""
        name = self.name(cidr)
        pool = PoolText(self._api.get_text(POOLS, name) if is_name(name) else b"")
        self.uids[cidr] = pool.uid
        return pool

    def look(self, cidr: str) -> PoolText:
        """Like `find`, for a lease that follows: until the next patch of the pool it is not read again for that."""
        self._read[cidr] = self.find(cidr)
        return self._read[cidr]

    def read(self, cidr: str) -> PoolText | None:
        """The pool as `look` read it since the last patch of it; None if it did not."""
        return self._read.get(cidr)

    def add(self, claims: Claims, owner: Owner, made: Made) -> Claims:
        """Returns the claims of the first pool with conflicts that belong to others.

        Changes so far are added to `made`.

        An earlier container of the owner's pod is no conflict.
        """
        # All nodes use the same order, so of several that want the same addresses one succeeds.
        for cidr, of_subnet in sorted(_by_subnet(claims).items()):
            others = self._added(cidr, of_subnet, owner, made)
            if others:
                return others
        return ()

    def remove(self, claims: Claims, owner: Owner) -> None:
        """Removes the owner's allocations."""
        for cidr, of_subnet in self._named(claims).items():
            self._removed(cidr, of_subnet, owner)

    def hand_back(self, taken_over: list[Allocated], owner: Owner) -> None:
        """Returns allocations that the owner has taken over."""
        for claim, entry in taken_over:
            self._patch(whereabouts.subnet(claim.range), whereabouts.handing_back(claim, entry, owner))

    def give_up(self, claims: Claims, owner: Owner, pod: str) -> bool:
        """Returns whether the owner has one of them for that pod. After this no later container takes it over."""
        return any(
            self._patch(cidr, whereabouts.giving_up(claim, owner, pod)).status == 200
            for cidr, of_subnet in self._named(claims).items()
            for claim in of_subnet
        )

    def entries_of(self, claims: Claims) -> list[JsonObject]:
        """The entries of these addresses."""
        return [
            entries[whereabouts.offset(claim)]
            for cidr, of_subnet in self._named(claims).items()
            for entries in [self.find(cidr).entries_at(of_subnet)]
            for claim in of_subnet
            if not _is_free(entries, claim)
        ]

    def held(self, claims: Claims, owner: Owner) -> Claims:
        """The owner's claims."""
        held: Claims = ()
        for cidr, of_subnet in _by_subnet(claims).items():
            held += of_subnet if self._is_held(cidr, of_subnet, owner) else self._ours(cidr, of_subnet, owner)
        return held

    def _named(self, claims: Claims) -> dict[str, Claims]:
        """The claims by subnet. A pool whose name no object can have never had leases."""
        return {cidr: of_subnet for cidr, of_subnet in _by_subnet(claims).items() if is_name(self.name(cidr))}

    def _is_held(self, cidr: str, claims: Claims, owner: Owner) -> bool:
        # This sends far less than a pool with thousands of leases.
        return self._patch(cidr, whereabouts.testing(claims, owner)).status == 200

    def _ours(self, cidr: str, claims: Claims, owner: Owner) -> Claims:
        entries = self.find(cidr).entries_at(claims)
        return tuple(claim for claim in claims if _is_ours(entries, claim, owner))

    def _added(self, cidr: str, claims: Claims, owner: Owner, made: Made) -> Claims:
        name, said = self.name(cidr), ""
        # A pool that the search for the pod's leases has just read is not read again.
        read = self.read(cidr)
        missing, earlier, others = _sorted({} if read is None else read.entries_at(claims), claims, owner)
        for _ in range(TRIES):
            if others or not (missing or earlier):
                return others
            patch = whereabouts.adding(missing, owner) + whereabouts.taking_over(earlier, owner)
            answer = self._patch(cidr, patch)
            if answer.status == 200:
                self.uids[cidr] = _uid(answer.content)
                made.added.extend(missing)
                made.taken_over.extend(earlier)
                return ()
            said = words(answer.content)
            if answer.status == TOO_LARGE:
                raise _full(name, said)
            entries = self._entries_after_repair(cidr, claims) if answer.status == 422 else self._entries_of_new(cidr)
            if answer.again:
                made.added.extend(claim for claim in missing if _is_ours(entries, claim, owner))
                made.taken_over.extend(claim for claim in earlier if _is_ours(entries, claim[0], owner))
            missing, earlier, others = _sorted(entries, claims, owner)
        # The addresses were free each time the pool was read, so the patch does not fail because of its tests.
        raise RefusedForGood(f"the IPPool {name} rejects a lease: {said}", hint=_HINT)

    def _entries_of_new(self, cidr: str) -> dict[str, JsonObject]:
        # Another node may create it first: then the patch deals with its content.
        self._api.create(POOLS, whereabouts.pool(self.name(cidr), cidr))
        return {}

    def _entries_after_repair(self, cidr: str, claims: Claims) -> dict[str, JsonObject]:
        """The allocations of these addresses. If the pool has no map of allocations, it gets one."""
        pool = self.look(cidr)
        repairing = whereabouts.repairing(pool.document, cidr) if pool.exists else []
        if repairing:
            self._patch(cidr, repairing)
        return pool.entries_at(claims)

    def _patch(self, cidr: str, patch: whereabouts.Patch) -> Answer:
        self._read.pop(cidr, None)
        return self._api.patch(POOLS, self.name(cidr), patch)

    def _removed(self, cidr: str, claims: Claims, owner: Owner) -> None:
        name, left = self.name(cidr), claims
        for _ in range(TRIES):
            if not left or self._patch(cidr, whereabouts.removing(left, owner)).status != 422:
                return
            left = self._ours(cidr, claims, owner)
        raise TryAgainLater(f"the IPPool {name} keeps being changed by others")


def _by_subnet(claims: Claims) -> dict[str, Claims]:
    by_subnet: dict[str, Claims] = {}
    for claim in claims:
        cidr = whereabouts.subnet(claim.range)
        by_subnet[cidr] = (*by_subnet.get(cidr, ()), claim)
    return by_subnet


def _sorted(entries: dict[str, JsonObject], claims: Claims, owner: Owner) -> tuple[Claims, list[Allocated], Claims]:
    """The claims without an entry, those of another container of the owner's pod, and those of others.

    The rest is the owner's already.
    """
    missing = tuple(claim for claim in claims if _is_free(entries, claim))
    earlier = [
        (claim, entries[whereabouts.offset(claim)])
        for claim in claims
        if _is_of_another_container(entries, claim, owner)
    ]
    known = {*missing, *(claim for claim, _entry in earlier)}
    return missing, earlier, tuple(c for c in claims if c not in known and not _is_ours(entries, c, owner))


def _is_free(entries: dict[str, JsonObject], claim: Claim) -> bool:
    return whereabouts.offset(claim) not in entries


def _full(name: str, said: str) -> AddressesExhausted:
    hint = "free leases of deleted pods (barewire-ipam reconcile), or use several smaller ranges or backend etcd"
    return AddressesExhausted(f"the IPPool {name} has reached the size limit of the cluster: {said}", hint=hint)


def _uid(pool: JsonObject) -> str:
    metadata = pool.get("metadata")
    uid = metadata.get("uid") if isinstance(metadata, dict) else None
    return uid if isinstance(uid, str) else ""


def _is_of_another_container(entries: dict[str, JsonObject], claim: Claim, owner: Owner) -> bool:
    """Whether it belongs to the same interface of the owner's pod, in an earlier or later sandbox."""
    return whereabouts.is_of_pod(entries.get(whereabouts.offset(claim), {}), owner) and not _is_ours(
        entries, claim, owner
    )


def _is_ours(entries: dict[str, JsonObject], claim: Claim, owner: Owner) -> bool:
    return whereabouts.allocated_to(entries.get(whereabouts.offset(claim), {}), owner)
