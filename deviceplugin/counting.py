"""The pool of each function and the devices that are offered, counted from a look at the host. Pure.

A host can have thousands of functions, and most events change one. So there are two ways to count: `counted` counts
everything, and `recounted` counts again only the functions that a change can affect. Both give the same result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.value import Value
from deviceplugin.assignment import assign
from deviceplugin.offer import group_of_node, offers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deviceplugin.assignment import Assignment, Selection
    from deviceplugin.host import Sight
    from deviceplugin.offer import Offer


class Count(Value):
    """A result with its inputs: `held` is the resource by address, `doubts` as for `deviceplugin.offer.offers`."""

    sight: Sight
    selection: Selection
    held: Mapping[str, str]
    doubts: Mapping[str, tuple[str, ...]]
    assignment: Assignment
    offers: Mapping[str, tuple[Offer, ...]]


def counted(
    sight: Sight, selection: Selection, held: Mapping[str, str], doubts: Mapping[str, tuple[str, ...]] = {}
) -> Count:
    """Counts everything."""
    assignment = assign(sight.inventory, selection, sight.used, held)
    offered = offers(sight.inventory, assignment, held, sight.nodes, doubts, sight.used)
    return Count(sight=sight, selection=selection, held=held, doubts=doubts, assignment=assignment, offers=offered)


def recounted(before: Count, sight: Sight, held: Mapping[str, str], doubts: Mapping[str, tuple[str, ...]]) -> Count:
    """The result of `counted` with the selection of an earlier count.

    A function depends on itself, on the members of its IOMMU group, and on the set of pools. If that set changes,
    everything is counted.
    """
    affected = _affected(before, sight, held, doubts)
    part = assign(sight.inventory, before.selection, sight.used, held, only=affected)
    assignment = before.assignment.with_part(part, affected)
    if assignment.pools != before.assignment.pools:
        return counted(sight, before.selection, held, doubts)
    some = offers(sight.inventory, assignment, held, sight.nodes, doubts, sight.used, only=affected)
    offered = dict(before.offers)
    for resource in _resources(before.assignment, affected) | _resources(assignment, affected):
        kept = [offer for offer in before.offers[resource] if offer.device not in affected]
        offered[resource] = tuple(sorted((*kept, *some[resource]), key=lambda offer: offer.device))
    return before.replace(sight=sight, held=held, doubts=doubts, assignment=assignment, offers=offered)


def _affected(before: Count, sight: Sight, held: Mapping[str, str], doubts: Mapping[str, tuple[str, ...]]) -> set[str]:
    """The functions whose result can change, including those that have disappeared."""
    old, new = before.sight.inventory.functions, sight.inventory.functions
    changed = _different(before.sight.used, sight.used) | _different(before.held, held)
    changed |= _different(before.doubts, doubts)
    if old is not new:
        changed |= old.keys() - new.keys()
        # By identity: an unchanged function is the same value, and comparing all fields of thousands takes long.
        changed.update(address for address, function in new.items() if old.get(address) is not function)
    groups = {group_of_node(node) for node in before.sight.nodes ^ sight.nodes}
    groups.update(one.group for address in changed for one in (old.get(address), new.get(address)) if one)
    groups.discard("")
    return changed.union(address for address, function in new.items() if function.group in groups)


def _different(old: Mapping[str, object], new: Mapping[str, object]) -> set[str]:
    if old == new:
        return set()
    return {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def _resources(assignment: Assignment, affected: set[str]) -> set[str]:
    return {assignment.pool_of[address].name for address in affected if address in assignment.pool_of}
