"""Which function is in which pool, or which rule keeps it out. Pure."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, TypeVar

from cni.value import Value
from deviceplugin.function import forbidden
from deviceplugin.pool import GROUP

if TYPE_CHECKING:
    from collections.abc import Mapping, Set as AbstractSet

    from deviceplugin.conf import Configuration
    from deviceplugin.function import Function, Inventory
    from deviceplugin.pool import Pool

_T = TypeVar("_T")


class Assignment(Value):
    """`pools` by resource, also those without a function: the `configured` ones and the automatic ones.

    `pool_of` and `kept_out` are by address.

    `claims` lists, by address, the other pools that select a function. `leads` maps a function that a pool allocates
    together with another member of its IOMMU group to that member.
    """

    pools: Mapping[str, Pool]
    configured: Mapping[str, Pool]
    pool_of: Mapping[str, Pool]
    kept_out: Mapping[str, str]
    claims: Mapping[str, tuple[str, ...]]
    leads: Mapping[str, str] = {}

    def members(self, name: str) -> tuple[str, ...]:
        """The devices of a pool, sorted."""
        found = (address for address, pool in self.pool_of.items() if pool.name == name)
        return tuple(sorted(address for address in found if address not in self.leads))

    def parts(self, lead: str) -> tuple[str, ...]:
        """The functions that are allocated together with a device."""
        return tuple(sorted(address for address, other in self.leads.items() if other == lead))

    def with_part(self, part: Assignment, addresses: AbstractSet[str]) -> Assignment:
        """The assignment with some functions assigned again; `part` is the result for these addresses."""
        pool_of = _replaced(self.pool_of, part.pool_of, addresses)
        return Assignment(
            pools=_with_automatic(part.configured, pool_of),
            configured=part.configured,
            pool_of=pool_of,
            kept_out=_replaced(self.kept_out, part.kept_out, addresses),
            claims=_replaced(self.claims, part.claims, addresses),
            leads=_replaced(self.leads, part.leads, addresses),
        )

    def contested(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """The devices that a second pool selects, by the resource that has them and the resource of the second pool."""
        found: dict[tuple[str, str], list[str]] = {}
        for address, others in sorted(self.claims.items()):
            for other in others:
                found.setdefault((self.pool_of[address].name, other), []).append(address)
        return {pair: tuple(addresses) for pair, addresses in found.items()}


class Selection:
    """The pools that select each function. Results are cached, because few functions change between two scans."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self._known: dict[str, tuple[tuple[Function, ...], list[Pool], str]] = {}

    def of(self, function: Function, inventory: Inventory) -> tuple[list[Pool], str]:
        """The pools that select the function, in the order of preference, and the reason if there is none."""
        known = self._known.get(function.address)
        members = inventory.group_of(function)
        seen = (function, *members)
        if known is None or len(known[0]) != len(seen) or any(map(operator.is_not, known[0], seen)):
            wanting = _wanting(function, members, self.configuration)
            reason = "" if wanting else _unselected(function, self.configuration)
            known = self._known[function.address] = (seen, wanting, reason)
        return known[1], known[2]


def assign(
    inventory: Inventory,
    selection: Selection,
    used: Mapping[str, str],
    held: Mapping[str, str],
    only: AbstractSet[str] | None = None,
) -> Assignment:
    """Assigns each function to the first pool that selects it; only those of `only`, which contains whole IOMMU groups.

    `used` contains, by address, the use that the host makes of a function; it overrides every configuration. `held`
    contains, by address, the resource from which a container has the function. A held function stays in that pool, even
    if its container removes its network device or changes its driver.
    """
    configured = {pool.name: pool for pool in selection.configuration.pools}
    pool_of: dict[str, Pool] = {}
    kept_out: dict[str, str] = {}
    claims: dict[str, tuple[str, ...]] = {}
    for function in inventory:
        if only is not None and function.address not in only:
            continue
        resource = held.get(function.address, "")
        reason = "" if resource else forbidden(function, used)
        if reason:
            kept_out[function.address] = reason
            continue
        wanting, unselected = selection.of(function, inventory)
        chosen = _chosen(resource, wanting, configured)
        if chosen is None:
            kept_out[function.address] = unselected
            continue
        pool_of[function.address] = chosen
        if more := tuple(pool.name for pool in wanting if pool.name != chosen.name):
            claims[function.address] = more
    found = Assignment(pools=configured, configured=configured, pool_of=pool_of, kept_out=kept_out, claims=claims)
    return _with_whole_groups(found, inventory, used, held)


def _with_whole_groups(
    found: Assignment, inventory: Inventory, used: Mapping[str, str], held: Mapping[str, str]
) -> Assignment:
    """Gives whole IOMMU groups to the pools that want them.

    A held member leads, so that the device keeps its name; otherwise the first member of the first pool leads. A member
    that is held from a pool without whole groups does not lead: the device is unhealthy then, but not withdrawn.
    """
    order = {name: number for number, name in enumerate(found.configured)}
    pool_of, kept_out, claims = dict(found.pool_of), dict(found.kept_out), dict(found.claims)
    leads: dict[str, str] = {}
    for address, pool in found.pool_of.items():
        if pool.groups != GROUP or address in leads or address not in pool_of:
            continue
        members = {member.address: member for member in inventory.group_of(inventory.functions[address])}
        selected = [member for member in members if member in pool_of]
        leading = {member for member in selected if member in held and pool_of[member].groups == GROUP}
        first = min(selected, key=lambda one: (one not in leading, order.get(pool_of[one].name, len(order)), one))
        winner = pool_of[first]
        if winner.groups != GROUP:
            del pool_of[address]
            kept_out[address] = f"{first} of its IOMMU group is in {winner.name}"
            continue
        for member, function in members.items():
            if member == first or member in held or forbidden(function, used):
                continue  # a member that the host uses is left out, and makes the device unhealthy
            wanting = (pool_of[member].name, *claims.get(member, ())) if member in pool_of else ()
            if more := tuple(name for name in wanting if name != winner.name):
                claims[member] = more
            pool_of[member] = winner
            kept_out.pop(member, None)
            leads[member] = first
    pools = _with_automatic(found.configured, pool_of)
    return found.replace(pools=pools, pool_of=pool_of, kept_out=kept_out, claims=claims, leads=leads)


def _with_automatic(configured: Mapping[str, Pool], pool_of: Mapping[str, Pool]) -> dict[str, Pool]:
    automatic = {address: pool for address, pool in pool_of.items() if pool.name not in configured}
    return {**configured, **{automatic[address].name: automatic[address] for address in sorted(automatic)}}


def _replaced(before: Mapping[str, _T], part: Mapping[str, _T], addresses: AbstractSet[str]) -> dict[str, _T]:
    found = dict(before)
    for address in addresses:
        found.pop(address, None)
    found.update(part)
    return found


def estranged(function: Function, identity: str, used: Mapping[str, str]) -> str:
    """Why the function is not the one that was held with this identity; empty if it is.

    Without an identity, a forbidden function is a different one.
    """
    if not identity:
        return forbidden(function, used)
    return f"it was {identity} and is {function.identity}" if function.identity != identity else ""


def _wanting(function: Function, members: tuple[Function, ...], configuration: Configuration) -> list[Pool]:
    wanting = [pool for pool in configuration.pools if pool.selector_of(function)]
    automatic = configuration.auto.pool_of(function, members) if configuration.auto else None
    return [*wanting, automatic] if automatic else wanting


def _chosen(resource: str, wanting: list[Pool], pools: Mapping[str, Pool]) -> Pool | None:
    if resource:
        known = {pool.name: pool for pool in wanting} | dict(pools)
        if resource not in known and wanting and wanting[-1].groups == GROUP:
            prefix, _, name = resource.partition("/")
            if name.startswith("group_") and wanting[-1].name.startswith(f"{prefix}/"):
                # The composition of the group has changed, but its holder still has it.
                return wanting[-1].replace(name=resource)
        return known.get(resource)
    return next(iter(wanting), None)


def _unselected(function: Function, configuration: Configuration) -> str:
    reasons = [f"{pool.name}: {pool.hindrance(function)}" for pool in configuration.pools]
    return f"no pool selects it ({'; '.join(reasons)})" if reasons else "no pool selects it"
