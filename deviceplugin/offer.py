"""Which devices a resource offers to the kubelet, and which of them are unhealthy and why. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.host.drivers import gives_to_user_space, needs_iommu_group
from cni.value import Value
from deviceplugin.pool import EXCLUSIVE, UNSAFE

if TYPE_CHECKING:
    from collections.abc import Mapping, Set as AbstractSet

    from deviceplugin.assignment import Assignment
    from deviceplugin.function import Function, Inventory
    from deviceplugin.pool import Pool

_HARMLESS = ("", "pci-stub")
"""Drivers of group members that keep nobody from VFIO; the empty name is none."""


class Offer(Value):
    """A device of a resource. `ailments` says why it is unhealthy, `numa` is -1 where the kubelet is not told."""

    device: str
    numa: int = -1
    ailments: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        return not self.ailments


def offers(
    inventory: Inventory,
    assignment: Assignment,
    held: Mapping[str, str],
    nodes: AbstractSet[str],
    doubts: Mapping[str, tuple[str, ...]] = {},
) -> dict[str, tuple[Offer, ...]]:
    """The devices of each resource, sorted. `held` is by address the resource; `nodes` are device nodes that exist.

    `doubts` says by address why a device that no pod has any more may still be in use.
    """
    found: dict[str, list[Offer]] = {name: [] for name in assignment.pools}
    for address, pool in sorted(assignment.pool_of.items()):
        function = inventory.functions[address]
        numa = function.numa if pool.topology else -1
        why = [*doubts.get(address, ()), *ailments(function, pool, inventory, held, nodes, assignment.pools)]
        found[pool.name].append(Offer(device=address, numa=numa, ailments=tuple(why)))
    return {name: tuple(some) for name, some in found.items()}


def ailments(
    function: Function,
    pool: Pool,
    inventory: Inventory,
    held: Mapping[str, str],
    nodes: AbstractSet[str],
    pools: Mapping[str, Pool] = {},
) -> list[str]:
    """Why the device cannot be given away, or does not work for its present holder. `pools` are all, by their resources."""
    is_held = function.address in held
    found = [] if is_held else of_group(function, pool, inventory, held, pools)
    driver = pool.driver or function.driver
    if not driver:
        found.append("it has no driver")
    elif needs_iommu_group(driver):
        found += _of_vfio(function, pool, inventory)
    if is_held and pool.driver and function.driver != pool.driver:
        found.append(f"its driver is {function.driver or 'none'}, not {pool.driver}")
    if needs_iommu_group(function.driver) and function.group and not vfio_node(function, nodes):
        found.append(f"/dev/vfio/{function.group} is missing")
    if pool.needs_link and function.carrier is False:
        found.append(f"its PF {function.uplink} has no link")
    return found


def vfio_node(function: Function, nodes: AbstractSet[str]) -> str:
    """The path of the device node of its IOMMU group, or empty; the second is for a kernel that does without IOMMU."""
    paths = (f"/dev/vfio/{function.group}", f"/dev/vfio/noiommu-{function.group}")
    return next((path for path in paths if path in nodes), "") if function.group else ""


def of_group(
    function: Function, pool: Pool, inventory: Inventory, held: Mapping[str, str], pools: Mapping[str, Pool]
) -> list[str]:
    """The other members of its IOMMU group that are held, where one of the two is to be alone."""
    others = [member.address for member in inventory.group_of(function) if member.address != function.address]
    return [
        f"{other} of its IOMMU group is held ({held[other]})"
        for other in others
        if other in held and EXCLUSIVE in {pool.groups, _groups(pools, held[other])}
    ]


def _groups(pools: Mapping[str, Pool], resource: str) -> str:
    return pools[resource].groups if resource in pools else ""


def _of_vfio(function: Function, pool: Pool, inventory: Inventory) -> list[str]:
    if not function.group:
        return ["it is in no IOMMU group: switch the IOMMU on, or say groups: unsafe"] if pool.groups != UNSAFE else []
    if pool.groups != EXCLUSIVE:
        return []
    return [
        f"its IOMMU group is not viable: {member.address} is bound to {member.driver}"
        for member in inventory.group_of(function)
        if member.address != function.address
        and member.driver not in _HARMLESS
        and not gives_to_user_space(member.driver)
    ]
