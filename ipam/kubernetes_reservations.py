"""Reservations: whereabouts' OverlappingRangeIPReservation, one object per address, whatever pools hold the address."""

from __future__ import annotations

from cni.errors import KubeRefused, TryAgainLater
from ipam import whereabouts
from ipam.whereabouts import RESERVATIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ipam.kubernetes_api import Api
    from ipam.store import Claim, Owner

    Document = dict[str, Any]
    Claims = tuple[Claim, ...]

TRIES = 8
"""Of a reservation that comes and goes."""


class Reservations:
    """The reservations of one network name. Raises `TryAgainLater`, `KubeRefused`."""

    def __init__(self, api: Api, network_name: str) -> None:
        self._api = api
        self._network_name = network_name

    def add(self, claims: Claims, owner: Owner, made: list[Claim]) -> Claims:
        """The first that somebody else has reserved; what was added is in `made`."""
        # In the same order everywhere, and no further than the first refusal: then one of those who want the same wins.
        for claim in sorted(claims, key=lambda one: (one.address.version, one.address.number)):
            if not self._added(claim, owner, made):
                return (claim,)
        return ()

    def remove(self, claim: Claim, owner: Owner, *, signed: bool) -> None:
        """Removes the reservation if it is the owner's; with `signed`, only if it names the owner's container."""
        name = whereabouts.reservation_name(claim.address, self._network_name)
        is_ours = whereabouts.is_signed if signed else whereabouts.reserved_for
        for _ in range(TRIES):
            found = self._api.get(RESERVATIONS, name)
            if found is None or not is_ours(found, owner) or self._api.delete(RESERVATIONS, found).status != 409:
                return
        raise TryAgainLater(f"the reservation {name} is changed by others all the time")

    def rehearse(self) -> None:
        """Returns if the server would take a reservation."""
        answer = self._api.create(RESERVATIONS, whereabouts.rehearsal(), rehearsal=True)
        if answer.status == 201:
            _require_interfaces(answer.content)

    def _added(self, claim: Claim, owner: Owner, made: list[Claim]) -> bool:
        name = whereabouts.reservation_name(claim.address, self._network_name)
        for _ in range(TRIES):
            answer = self._api.create(RESERVATIONS, whereabouts.reservation(name, owner))
            if answer.status == 201:
                made.append(claim)
                _require_interfaces(answer.content)
                return True
            found = self._api.get(RESERVATIONS, name)
            if found is not None:
                if answer.again and whereabouts.is_signed(found, owner):
                    made.append(claim)
                return whereabouts.reserved_for(found, owner)
        return False


def _require_interfaces(found: Document) -> None:
    # An allocation without its interface could be taken for that of the container's other interface.
    if not whereabouts.keeps_interfaces(found):
        hint = "install those of whereabouts 0.7 or later"
        raise KubeRefused("the definitions of whereabouts' resources are too old: they know no ifname", hint=hint)
