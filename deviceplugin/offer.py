"""Which devices a resource offers to the kubelet, and which of them are unhealthy and why. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.host.drivers import needs_iommu_group
from cni.value import Value
from deviceplugin import group
from deviceplugin.pool import UNSAFE

if TYPE_CHECKING:
    from collections.abc import Mapping, Set as AbstractSet

    from deviceplugin.assignment import Assignment
    from deviceplugin.function import Function, Inventory
    from deviceplugin.pool import Pool


class Offer(Value):
    """A device of a resource. `ailments` contains the reasons why it is unhealthy.

    `numa` is -1 if the kubelet gets no NUMA node.
    """

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
    used: Mapping[str, str] = {},
    *,
    only: AbstractSet[str] | None = None,
) -> dict[str, tuple[Offer, ...]]:
    """The devices of each resource, or only those of `only`, sorted. `held` is the resource by address.

    `nodes` are device nodes that exist.

    `doubts` contains, by address, reasons why a device that no pod has may still be in use. `used` contains the uses
    of the host.
    """
    found: dict[str, list[Offer]] = {name: [] for name in assignment.pools}
    for address in sorted(assignment.pool_of if only is None else only):
        pool = assignment.pool_of.get(address)
        if pool is None or address in assignment.leads:
            continue  # not offered, or a part of another device
        function = inventory.functions[address]
        numa = function.numa if pool.topology else -1
        sick = ailments(function, pool, inventory, held, nodes, assignment.pools, used=used)
        why = [*doubts.get(address, ()), *sick]
        found[pool.name].append(Offer(device=address, numa=numa, ailments=tuple(why)))
    return {name: tuple(some) for name, some in found.items()}


def ailments(
    function: Function,
    pool: Pool,
    inventory: Inventory,
    held: Mapping[str, str],
    nodes: AbstractSet[str],
    pools: Mapping[str, Pool] = {},
    *,
    used: Mapping[str, str] = {},
) -> list[str]:
    """Why the device cannot be allocated, or does not work for its holder. `pools` contains all pools by resource."""
    is_held = function.address in held
    found = [] if is_held else group.conflicts(function, pool, inventory, held, pools)
    driver = pool.driver or function.driver
    if not driver:
        found.append("it has no driver")
    elif needs_iommu_group(driver):
        found += _of_vfio(function, pool, inventory, used, promised=is_held)
    if is_held and pool.driver and function.driver != pool.driver:
        found.append(f"its driver is {function.driver or 'none'}, not {pool.driver}")
    if needs_iommu_group(function.driver) and function.group and not vfio_node(function, nodes):
        found.append(f"/dev/vfio/{function.group} is missing")
    if pool.needs_link and function.carrier is False:
        found.append(f"its PF {function.uplink} has no link")
    return found


def vfio_node(function: Function, nodes: AbstractSet[str]) -> str:
    """The path of the device node of its IOMMU group, or empty. The second form is for VFIO without an IOMMU."""
    paths = (f"/dev/vfio/{function.group}", f"/dev/vfio/noiommu-{function.group}")
    return next((path for path in paths if path in nodes), "") if function.group else ""


def group_of_node(path: str) -> str:
    """The IOMMU group whose device node has this path. For other paths, the name of the file."""
    return path.rpartition("/")[2].removeprefix("noiommu-")


def _of_vfio(
    function: Function, pool: Pool, inventory: Inventory, used: Mapping[str, str], *, promised: bool
) -> list[str]:
    if function.group:
        return group.obstacles(function, pool, inventory, used, promised=promised)
    return ["it is in no IOMMU group: switch the IOMMU on, or say groups: unsafe"] if pool.groups != UNSAFE else []
