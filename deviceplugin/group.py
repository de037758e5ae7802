"""IOMMU groups: members that other containers hold, members that prevent VFIO, and companions of a device. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.host.drivers import needs_iommu_group
from deviceplugin.function import forbidden
from deviceplugin.pool import ALONE, GROUP

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from deviceplugin.function import Function, Inventory
    from deviceplugin.pool import Pool

_HARMLESS = ("", "pci-stub")
"""Drivers of group members that do not prevent VFIO; the empty name means no driver."""


def conflicts(
    function: Function, pool: Pool, inventory: Inventory, held: Mapping[str, str], pools: Mapping[str, Pool]
) -> list[str]:
    """The other members of its IOMMU group that are held, if one of the two pools requires a whole group."""
    return [
        f"{other.address} of its IOMMU group is held ({held[other.address]})"
        for other in others(function, inventory)
        if other.address in held and not ALONE.isdisjoint({pool.groups, _groups(pools, held[other.address])})
    ]


def obstacles(
    function: Function, pool: Pool, inventory: Inventory, used: Mapping[str, str], *, promised: bool = False
) -> list[str]:
    """Why VFIO does not accept the group. With `promised`, its companions are already bound, or should be."""
    if pool.groups not in ALONE:
        return []
    found = [_obstacle(member, pool, used, promised=promised) for member in others(function, inventory)]
    return [f"its IOMMU group is not viable: {reason}" for reason in found if reason]


def companions(
    function: Function, pool: Pool, inventory: Inventory, requested: Collection[str]
) -> tuple[Function, ...]:
    """The members that must be bound together with it and are not `requested` themselves."""
    if not needs_iommu_group(pool.driver) or pool.groups not in ALONE:
        return ()
    return tuple(
        member
        for member in others(function, inventory)
        if member.address not in requested and _may_be_bound(member, pool) and not needs_iommu_group(member.driver)
    )


def others(function: Function, inventory: Inventory) -> list[Function]:
    """The other members of its group."""
    return [member for member in inventory.group_of(function) if member.address != function.address]


def _groups(pools: Mapping[str, Pool], resource: str) -> str:
    return pools[resource].groups if resource in pools else ""


def _may_be_bound(member: Function, pool: Pool) -> bool:
    # A member without a driver does not prevent VFIO, but a container that gets the whole group cannot use it.
    return member.driver in pool.companions or (pool.groups == GROUP and member.driver in _HARMLESS)


def _obstacle(member: Function, pool: Pool, used: Mapping[str, str], *, promised: bool) -> str:
    if needs_iommu_group(member.driver):
        return ""
    if pool.driver and not promised and _may_be_bound(member, pool):
        return f"{member.address}: {reason}" if (reason := forbidden(member, used)) else ""
    if member.driver in _HARMLESS:
        return f"{member.address} has no driver for VFIO" if pool.groups == GROUP else ""
    return f"{member.address} is bound to {member.driver}"
