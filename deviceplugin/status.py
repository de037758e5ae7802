"""The resources, and the holders of their devices, for users and programs."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

from cni.value import Value
from deviceplugin.assignment import Selection, assign
from deviceplugin.holding import holders
from deviceplugin.offer import offers
from deviceplugin.pool import short_name
from deviceplugin.tables import aligned

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deviceplugin.assignment import Assignment
    from deviceplugin.conf import Configuration
    from deviceplugin.holding import Holding
    from deviceplugin.host import Sight

_RESOURCES = ("RESOURCE", "DEVICES", "HEALTHY", "HELD", "GROUPS", "DRIVER", "SERVED")
_HELD = ("DEVICE", "RESOURCE", "DRIVER", "GOES BACK TO", "POD")
_CONNECT_SECONDS = 1.0


class Resource(Value):
    """A resource of the configuration. `served` is None if that was not checked."""

    resource: str
    devices: tuple[str, ...]
    healthy: int
    held: int
    groups: str
    driver: str
    served: bool | None = None


class Held(Value):
    """A held device. `found_driver` is empty if no driver is restored. `pod` is None if the kubelet does not answer."""

    device: str
    resource: str
    driver: str
    found_driver: str
    lead: str
    pod: str | None


class Status(Value):
    """`remarks` contains points that an administrator should check."""

    resources: tuple[Resource, ...]
    held: tuple[Held, ...]
    remarks: tuple[str, ...]

    @property
    def is_served(self) -> bool:
        return all(one.served is not False for one in self.resources)


def status(
    sight: Sight,
    configuration: Configuration,
    held: Mapping[str, Holding],
    *,
    is_served: Callable[[str], bool] | None = None,
    owners: Mapping[tuple[str, str], str] | None = None,
) -> Status:
    """The status of host, configuration and journal. `owners` contains the pods by resource and device."""
    held_by = holders(held)
    assignment = assign(sight.inventory, Selection(configuration), sight.used, held_by)
    offered = offers(sight.inventory, assignment, held_by, sight.nodes, used=sight.used)
    resources = [
        Resource(
            resource=name,
            devices=tuple(offer.device for offer in some),
            healthy=sum(offer.healthy for offer in some),
            held=sum(offer.device in held_by for offer in some),
            groups=assignment.pools[name].groups,
            driver=assignment.pools[name].driver,
            served=is_served(name) if is_served else None,
        )
        for name, some in offered.items()
    ]
    return Status(
        resources=tuple(resources),
        held=tuple(_held(one, sight, owners) for _, one in sorted(held.items())),
        remarks=(*configuration.warnings, *_claims(assignment), *_lost(assignment, held_by)),
    )


def text(found: Status, *, as_json: bool) -> str:
    """The status as text."""
    if as_json:
        rows = {name: [row.as_dict() for row in getattr(found, name)] for name in ("resources", "held")}
        return json.dumps({**rows, "remarks": found.remarks}, indent=2)
    parts = [aligned(_RESOURCES, map(_resource_cells, found.resources))]
    if found.held:
        parts.append(aligned(_HELD, map(_held_cells, found.held)))
    if found.remarks:
        parts.append("\n".join(found.remarks))
    return "\n\n".join(parts)


def answers(folder: str, resource: str) -> bool:
    """Whether a process serves the resource's socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_CONNECT_SECONDS)
        try:
            connection.connect(f"{folder}/{short_name(resource)}.sock")
        except OSError:
            return False
    return True


def _held(holding: Holding, sight: Sight, owners: Mapping[tuple[str, str], str] | None) -> Held:
    function = sight.inventory.get(holding.device)
    device = holding.lead or holding.device
    return Held(
        device=holding.device,
        resource=holding.resource,
        driver=function.driver if function else "",
        found_driver=holding.found_driver if holding.driver else "",
        lead=holding.lead,
        pod=None if owners is None else owners.get((holding.resource, device), ""),
    )


def _claims(assignment: Assignment) -> list[str]:
    return [
        f"{other} selects as well what {resource} has: {', '.join(devices)}"
        for (resource, other), devices in assignment.contested().items()
    ]


def _lost(assignment: Assignment, held: Mapping[str, str]) -> list[str]:
    return [
        f"{device} is held for {resource}, which the configuration does not have"
        if resource
        else f"{device} counts as held: its file in the journal is damaged"
        for device, resource in sorted(held.items())
        if resource not in assignment.pools
    ]


def _resource_cells(row: Resource) -> tuple[str, ...]:
    served = {True: "yes", False: "no", None: ""}[row.served]
    return row.resource, str(len(row.devices)), str(row.healthy), str(row.held), row.groups, row.driver, served


def _held_cells(row: Held) -> tuple[str, ...]:
    pod = "unknown" if row.pod is None else row.pod or "none"
    return row.device, row.resource, row.driver, row.found_driver, f"{pod}, with {row.lead}" if row.lead else pod
