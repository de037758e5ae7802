"""The state of each device, and the reasons for it, for users and programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cni import pci
from cni.errors import DeviceNotFound
from cni.value import Value
from deviceplugin.assignment import Selection, assign
from deviceplugin.holding import holders
from deviceplugin.offer import offers
from deviceplugin.tables import aligned

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from deviceplugin.assignment import Assignment
    from deviceplugin.conf import Configuration
    from deviceplugin.holding import Holding
    from deviceplugin.host import Sight
    from deviceplugin.offer import Offer

_HEAD = ("DEVICE", "ID", "DRIVER", "GROUP", "RESOURCE", "STATE", "WHY")


class Row(Value):
    """A device. `state` is healthy, unhealthy, held, not offered, or part of another one; `why` has the reasons."""

    device: str
    pci_id: str
    driver: str
    group: str
    resource: str
    state: str
    why: tuple[str, ...]


def explained(
    sight: Sight, configuration: Configuration, held: Mapping[str, Holding], addresses: Iterable[str] = ()
) -> list[Row]:
    """All devices except bridges, or those with the addresses. Raises `DeviceNotFound`."""
    resources = holders(held)
    assignment = assign(sight.inventory, Selection(configuration), sight.used, resources)
    offered = offers(sight.inventory, assignment, resources, sight.nodes, used=sight.used)
    found = {offer.device: (resource, offer) for resource, some in offered.items() for offer in some}
    rows = []
    for address in _chosen(sight, addresses):
        function = sight.inventory.functions[address]
        resource, offer = found.get(address, ("", None))
        lead = assignment.leads.get(address)
        state = "part" if lead else "not offered" if offer is None else "healthy" if offer.healthy else "unhealthy"
        rows.append(
            Row(
                device=address,
                pci_id=f"{function.vendor}:{function.device}",
                driver=function.driver,
                group=function.group,
                resource=assignment.pool_of[address].name if lead else resource,
                state=f"{state}, held" if address in resources else state,
                why=_reasons(address, assignment, offer, held.get(address)),
            )
        )
    return rows


def _reasons(address: str, assignment: Assignment, offer: Offer | None, holding: Holding | None) -> tuple[str, ...]:
    lead = assignment.leads.get(address)
    if lead:
        found = [f"it comes with {lead} of its IOMMU group"]
    else:
        found = [*(offer.ailments if offer else (assignment.kept_out[address],))]
    if holding and holding.lead:
        found.append(f"it is bound together with {holding.lead} of its IOMMU group")
    found += [f"{name} selects it as well" for name in assignment.claims.get(address, ())]
    return tuple(found)


def table(rows: Iterable[Row], *, as_json: bool) -> str:
    """The rows as text."""
    if as_json:
        return json.dumps([row.as_dict() for row in rows], indent=2)
    return aligned(_HEAD, map(_cells, rows))


def _cells(row: Row) -> tuple[str, ...]:
    return row.device, row.pci_id, row.driver, row.group, row.resource, row.state, "; ".join(row.why)


def _chosen(sight: Sight, addresses: Iterable[str]) -> list[str]:
    try:
        wanted = [pci.parse(text) for text in addresses]
    except ValueError as error:
        raise DeviceNotFound(str(error), hint="lspci -D lists the addresses") from error
    for address in wanted:
        if sight.inventory.get(address) is None:
            raise DeviceNotFound(f"the host has no PCI device {address}", hint="lspci -D lists the addresses")
    return [*wanted] or [function.address for function in sight.inventory if not function.is_bridge]
