"""Which function is in which pool, or which rule keeps it out. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.value import Value
from deviceplugin.function import BRIDGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deviceplugin.conf import Configuration
    from deviceplugin.function import Function, Inventory
    from deviceplugin.pool import Pool


class Assignment(Value):
    """`pools` by resource, also those without a function; `pool_of` and `kept_out` by address.

    `claims` names the other pools that would take a function that is in one already.
    """

    pools: Mapping[str, Pool]
    pool_of: Mapping[str, Pool]
    kept_out: Mapping[str, str]
    claims: Mapping[str, tuple[str, ...]]

    def members(self, name: str) -> tuple[str, ...]:
        """The addresses in a pool, sorted."""
        return tuple(sorted(address for address, pool in self.pool_of.items() if pool.name == name))

    def contested(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """The devices that a second pool selects, by the resource that has them and that of the second pool."""
        found: dict[tuple[str, str], list[str]] = {}
        for address, others in sorted(self.claims.items()):
            for other in others:
                found.setdefault((self.pool_of[address].name, other), []).append(address)
        return {pair: tuple(addresses) for pair, addresses in found.items()}


class Selection:
    """What a configuration says of functions. It remembers that, because a host has many and few change between two looks."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self._known: dict[str, tuple[Function, list[Pool], str]] = {}

    def of(self, function: Function) -> tuple[list[Pool], str]:
        """The pools that select the function, the one that gets it first; where none does, the reason."""
        known = self._known.get(function.address)
        if known is None or known[0] is not function:
            wanting = _wanting(function, self.configuration)
            reason = "" if wanting else _unselected(function, self.configuration)
            known = self._known[function.address] = (function, wanting, reason)
        return known[1], known[2]


def assign(inventory: Inventory, selection: Selection, used: Mapping[str, str], held: Mapping[str, str]) -> Assignment:
    """Each function to the first pool that selects it.

    `used` is by address what the host itself needs a function for, which beats every configuration. `held` is by address the
    resource that a container has the function from: it stays in that pool whatever its container does to it, such as taking
    its network device away, or its driver.
    """
    pools = {pool.name: pool for pool in selection.configuration.pools}
    pool_of: dict[str, Pool] = {}
    kept_out: dict[str, str] = {}
    claims: dict[str, tuple[str, ...]] = {}
    for function in inventory:
        resource = held.get(function.address, "")
        reason = "" if resource else forbidden(function, used)
        if reason:
            kept_out[function.address] = reason
            continue
        wanting, unselected = selection.of(function)
        chosen = _chosen(resource, wanting, pools)
        if chosen is None:
            kept_out[function.address] = unselected
            continue
        pools.setdefault(chosen.name, chosen)
        pool_of[function.address] = chosen
        others = tuple(pool.name for pool in wanting if pool.name != chosen.name)
        if others:
            claims[function.address] = others
    return Assignment(pools=pools, pool_of=pool_of, kept_out=kept_out, claims=claims)


def forbidden(function: Function, used: Mapping[str, str]) -> str:
    """The rule that keeps a function out whatever the configuration says, or empty."""
    if function.base_class == BRIDGE:
        return "it is a bridge"
    if function.vfs:
        return f"it is a PF and has {len(function.vfs)} VFs"
    if function.boot_vga:
        return "it is the boot console"
    return used.get(function.address, "")


def estranged(function: Function, identity: str, used: Mapping[str, str]) -> str:
    """Why the function is not the one that was held with this identity, or empty. Without one, what is forbidden is not."""
    if not identity:
        return forbidden(function, used)
    return f"it was {identity} and is {function.identity}" if function.identity != identity else ""


def _wanting(function: Function, configuration: Configuration) -> list[Pool]:
    wanting = [pool for pool in configuration.pools if pool.selector_of(function)]
    automatic = configuration.auto.pool_of(function) if configuration.auto else None
    return [*wanting, automatic] if automatic else wanting


def _chosen(resource: str, wanting: list[Pool], pools: Mapping[str, Pool]) -> Pool | None:
    if resource:
        known = {pool.name: pool for pool in wanting} | dict(pools)
        return known.get(resource)
    return next(iter(wanting), None)


def _unselected(function: Function, configuration: Configuration) -> str:
    reasons = [f"{pool.name}: {pool.hindrance(function)}" for pool in configuration.pools]
    return f"no pool selects it ({'; '.join(reasons)})" if reasons else "no pool selects it"
