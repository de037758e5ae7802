"""Reservations: whereabouts' OverlappingRangeIPReservation, one object per address, whatever pools hold the address."""

from __future__ import annotations

from cni.errors import KubeRefused, TryAgainLater
from cni.kube.answers import is_name
from ipam import whereabouts
from ipam.whereabouts import RESERVATIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ipam.kubernetes_api import Api
    from ipam.store import Claim, Owner

    Document = dict[str, Any]
    Claims = tuple[Claim, ...]
    PodOf = Callable[[Claim], str]
    """The pod (namespace/name) that the owner's allocation of the claim's address names; empty without one."""

TRIES = 8
"""Of a reservation that comes and goes."""


class Reservations:
    """The reservations of one network name. Raises `TryAgainLater`, `KubeRefused`."""

    def __init__(self, api: Api, network_name: str) -> None:
        self._api = api
        self._network_name = network_name

    def add(self, claims: Claims, owner: Owner, made: list[Claim]) -> Claims:
        """The first that somebody else has reserved; what was added is in `made`. The allocations must be the owner's."""
        return next(((claim,) for claim in claims if not self._added(claim, owner, made)), ())

    def remove(self, claims: Claims, owner: Owner, pod_of: PodOf) -> None:
        """Removes those that name the owner's container, and whereabouts' for what it allocated to the owner."""
        for claim in claims:
            if is_name(self._name(claim)):
                self._removed(claim, owner, pod_of)

    def rehearse(self) -> None:
        """Returns if the server would take a reservation."""
        answer = self._api.create(RESERVATIONS, whereabouts.rehearsal(), rehearsal=True)
        if answer.status == 201:
            _require_interfaces(answer.content)

    def _added(self, claim: Claim, owner: Owner, made: list[Claim]) -> bool:
        name = self._name(claim)
        for _ in range(TRIES):
            answer = self._api.create(RESERVATIONS, whereabouts.reservation(name, owner))
            if answer.status == 201:
                made.append(claim)
                _require_interfaces(answer.content)
                return True
            found = self._api.get(RESERVATIONS, name)
            if found is not None and whereabouts.is_signed(found, owner):
                made.extend([claim] * answer.again)
                return True
            if found is not None and not self._cleared(found, owner):
                return False
        return False

    def _cleared(self, found: Document, owner: Owner) -> bool:
        """Whether a reservation is out of the way: what whereabouts left of the pod's earlier container goes."""
        if not whereabouts.is_forerunners(found, owner):
            return False
        self._api.delete(RESERVATIONS, found)
        return True

    def _removed(self, claim: Claim, owner: Owner, pod_of: PodOf) -> None:
        name = self._name(claim)
        for _ in range(TRIES):
            found = self._api.get(RESERVATIONS, name)
            if found is None:
                return
            if not whereabouts.is_signed(found, owner) and not self._came_with_allocation(found, claim, owner, pod_of):
                return
            if self._api.delete(RESERVATIONS, found).status != 409:
                return
        raise TryAgainLater(f"the reservation {name} is changed by others all the time")

    def _came_with_allocation(self, found: Document, claim: Claim, owner: Owner, pod_of: PodOf) -> bool:
        """Whether whereabouts made a reservation along with the owner's allocation."""
        # Only the allocation tells the container of a pod, and a DEL may come without the pod's name.
        return whereabouts.is_unsigned(found) and whereabouts.is_forerunners(found, owner.replace(pod=pod_of(claim)))

    def _name(self, claim: Claim) -> str:
        return whereabouts.reservation_name(claim.address, self._network_name)


def _require_interfaces(found: Document) -> None:
    # An allocation without its interface could be taken for that of the container's other interface.
    if not whereabouts.keeps_interfaces(found):
        hint = "install those of whereabouts 0.7 or later"
        raise KubeRefused("the definitions of whereabouts' resources are too old: they know no ifname", hint=hint)
