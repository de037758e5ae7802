"""Allocations: entries in whereabouts' IPPool objects, one per leased address."""

from __future__ import annotations

from cni.errors import TryAgainLater
from cni.kube.answers import is_name, words
from ipam import whereabouts
from ipam.whereabouts import POOLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ipam.kubernetes_api import Api
    from ipam.store import Claim, Owner

    Document = dict[str, Any]
    Claims = tuple[Claim, ...]

TRIES = 8
"""Of a patch that others' changes foil each time."""


class Pools:
    """The pools of one network name. Raises `TryAgainLater`, `KubeRefused`."""

    def __init__(self, api: Api, network_name: str) -> None:
        self._api = api
        self._network_name = network_name

    def name(self, cidr: str) -> str:
        return whereabouts.pool_name(cidr, self._network_name)

    def find(self, cidr: str) -> Document | None:
        """The object of a subnet's pool; None where there is none, or can be none of that name."""
        name = self.name(cidr)
        return self._api.get(POOLS, name) if is_name(name) else None

    def add(self, claims: Claims, owner: Owner, made: list[Claim]) -> Claims:
        """Those that somebody else has, of the first pool that has such; what was added before is in `made`."""
        # In the same order everywhere: then one of those who want the same wins.
        for cidr, some in sorted(_by_subnet(claims).items()):
            others = self._added(cidr, some, owner, made)
            if others:
                return others
        return ()

    def remove(self, claims: Claims, owner: Owner) -> None:
        """Removes what is the owner's."""
        for cidr, some in _by_subnet(claims).items():
            # Nothing can ever have been leased in a pool whose name no object can have.
            if is_name(self.name(cidr)):
                self._removed(cidr, some, owner)

    def held(self, claims: Claims, owner: Owner) -> Claims:
        """Those that are the owner's."""
        found: Claims = ()
        for cidr, some in _by_subnet(claims).items():
            found += some if self._is_held(cidr, some, owner) else self._ours(cidr, some, owner)
        return found

    def pod_of(self, claims: Claims, owner: Owner) -> str:
        """The pod that is named where one of them is the owner's; empty when none is, or no pod is named."""
        for cidr, some in _by_subnet(claims).items():
            entries = whereabouts.allocations(self.find(cidr) or {})
            for claim in some:
                if _is_ours(entries, claim, owner):
                    return str(entries[whereabouts.offset(claim)].get("podref") or "")
        return ""

    def _is_held(self, cidr: str, claims: Claims, owner: Owner) -> bool:
        # Far less to send than a pool of thousands of leases.
        return self._api.patch(POOLS, self.name(cidr), whereabouts.testing(claims, owner)).status == 200

    def _ours(self, cidr: str, claims: Claims, owner: Owner) -> Claims:
        entries = whereabouts.allocations(self.find(cidr) or {})
        return tuple(one for one in claims if _is_ours(entries, one, owner))

    def _added(self, cidr: str, claims: Claims, owner: Owner, made: list[Claim]) -> Claims:
        name, missing, said = self.name(cidr), claims, ""
        for _ in range(TRIES):
            answer = self._api.patch(POOLS, name, whereabouts.adding(missing, owner))
            if answer.status == 200:
                made.extend(missing)
                return ()
            said = words(answer.content)
            entries = self._entries_of_mended(cidr) if answer.status == 422 else self._entries_of_new(cidr)
            if answer.again:
                made.extend(one for one in missing if _is_ours(entries, one, owner))
            missing = tuple(one for one in claims if _is_free(entries, one))
            others = tuple(one for one in claims if one not in missing and not _is_ours(entries, one, owner))
            if others or not missing:
                return others
        raise TryAgainLater(f"the IPPool {name} does not take a lease: {said}")

    def _entries_of_new(self, cidr: str) -> dict[str, Document]:
        # Somebody else may be faster: then the patch meets what is in it.
        self._api.create(POOLS, whereabouts.pool(self.name(cidr), cidr))
        return {}

    def _entries_of_mended(self, cidr: str) -> dict[str, Document]:
        """The allocations of a pool, which is given its map of them if it has none."""
        found = self.find(cidr)
        mending = whereabouts.mending(found, cidr) if found else []
        if mending:
            self._api.patch(POOLS, self.name(cidr), mending)
        return whereabouts.allocations(found or {})

    def _removed(self, cidr: str, claims: Claims, owner: Owner) -> None:
        name, left = self.name(cidr), claims
        for _ in range(TRIES):
            if not left or self._api.patch(POOLS, name, whereabouts.removing(left, owner)).status != 422:
                return
            left = self._ours(cidr, claims, owner)
        raise TryAgainLater(f"the IPPool {name} is changed by others all the time")


def _by_subnet(claims: Claims) -> dict[str, Claims]:
    found: dict[str, Claims] = {}
    for claim in claims:
        cidr = whereabouts.subnet(claim.range)
        found[cidr] = (*found.get(cidr, ()), claim)
    return found


def _is_free(entries: dict[str, Document], claim: Claim) -> bool:
    return whereabouts.offset(claim) not in entries


def _is_ours(entries: dict[str, Document], claim: Claim, owner: Owner) -> bool:
    return whereabouts.allocated_to(entries.get(whereabouts.offset(claim), {}), owner)
