"""Reservations: whereabouts' OverlappingRangeIPReservation, one object per address, across all pools."""

from __future__ import annotations

from cni.errors import RefusedForGood, TryAgainLater
from cni.kube.answers import is_name
from ipam.kubernetes import whereabouts
from ipam.kubernetes.whereabouts import RESERVATIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Protocol

    from cni.jsontext import JsonObject
    from ipam.address import Address
    from ipam.kubernetes.api import Api
    from ipam.store import Claim, Owner

    Claims = tuple[Claim, ...]

    class Allocations(Protocol):
        """Access to the pools' entries for an address."""

        def give_up(self, claim: Claim, owner: Owner, pod: str) -> bool:
            """Returns whether the owner had the address for that pod. After this no later container takes it over."""

        def entries_of(self, claim: Claim) -> list[JsonObject]:
            """The pools' entries for the address."""


TRIES = 8
"""How often a reservation that is created and deleted concurrently is tried."""


class Reservations:
    """The reservations of one network name. All methods raise `TryAgainLater` and `KubeRefused`."""

    def __init__(self, api: Api, network_name: str) -> None:
        self._api = api
        self._network_name = network_name

    def add(self, claims: Claims, owner: Owner, made: list[Claim], fresh: Container[Claim]) -> Claims:
        """Returns the first claim that another owner has reserved; new reservations are added to `made`.

        The owner must have the allocations. `fresh` are claims whose allocations are new: if another container has
        reserved one, it has the address from another pool. It is empty where the pool was deleted.
        """
        return next(((claim,) for claim in claims if not self._added(claim, owner, made, is_fresh=claim in fresh)), ())

    def remove(self, claims: Claims, owner: Owner, allocations: Allocations) -> None:
        """Removes the reservations of the owner's allocations, and those of its container without an allocation."""
        for claim in claims:
            if is_name(self._name(claim)):
                self._removed(claim, owner, allocations)

    def find(self, address: Address) -> JsonObject | None:
        """The object of an address."""
        name = whereabouts.reservation_name(address, self._network_name)
        return self._api.get(RESERVATIONS, name) if is_name(name) else None

    def rehearse(self) -> None:
        """Raises `KubeRefused` unless the server would accept a reservation."""
        answer = self._api.create(RESERVATIONS, whereabouts.rehearsal(), rehearsal=True)
        if answer.status == 201:
            _require_interfaces(answer.content)

    def _added(self, claim: Claim, owner: Owner, made: list[Claim], *, is_fresh: bool) -> bool:
        name = self._name(claim)
        for _ in range(TRIES):
            answer = self._api.create(RESERVATIONS, whereabouts.reservation(name, owner))
            if answer.status == 201:
                made.append(claim)
                _require_interfaces(answer.content)
                return True
            reservation = self._api.get(RESERVATIONS, name)
            if reservation is not None and whereabouts.is_signed(reservation, owner):
                made.extend([claim] * answer.again)
                return True
            if reservation is not None:
                # As in whereabouts, the reservation of the pod's earlier container serves the next one.
                return whereabouts.is_for_pod(reservation, owner) and (
                    whereabouts.is_unsigned(reservation) or not is_fresh
                )
        return False

    def _removed(self, claim: Claim, owner: Owner, allocations: Allocations) -> None:
        name = self._name(claim)
        for _ in range(TRIES):
            reservation = self._api.get(RESERVATIONS, name)
            if reservation is None or not self._goes_with_owner(reservation, claim, owner, allocations):
                return
            if self._api.delete(RESERVATIONS, reservation).status != 409:
                return
        raise TryAgainLater(f"the reservation {name} keeps being changed by others")

    def _goes_with_owner(self, reservation: JsonObject, claim: Claim, owner: Owner, allocations: Allocations) -> bool:
        """Whether the reservation is not needed any more, and never will be."""
        signed, pod = whereabouts.is_signed(reservation, owner), whereabouts.pod_of(reservation)
        # whereabouts' reservations name no container, but the pod's allocation does. A DEL may lack the pod's name.
        if not signed and not whereabouts.is_for_pod(reservation, owner.replace(pod=pod)):
            return False
        if allocations.give_up(claim, owner, pod):
            return True
        entries = allocations.entries_of(claim)
        ours = [entry for entry in entries if whereabouts.allocated_to(entry, owner)]
        if any(signed or whereabouts.is_given_up(entry, pod) for entry in ours):
            return True
        # The next container of the pod may have taken the address over, and then needs the reservation.
        return signed and not entries

    def _name(self, claim: Claim) -> str:
        return whereabouts.reservation_name(claim.address, self._network_name)


def _require_interfaces(reservation: JsonObject) -> None:
    # Without an interface, an allocation could be taken for that of the container's other interface.
    if not whereabouts.keeps_interfaces(reservation):
        hint = "install those of whereabouts 0.7 or later"
        raise RefusedForGood("the definitions of whereabouts' resources are too old: they lack ifname", hint=hint)
