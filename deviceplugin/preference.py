"""The choice among several free devices for a container. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deviceplugin.function import Inventory


def preferred(
    inventory: Inventory, available: Iterable[str], included: Iterable[str], size: int, *, spread: bool = False
) -> list[str]:
    """As many devices as the container needs, including `included`.

    Whole IOMMU groups come first, so that no member is left that no other container can use; then devices of few PFs,
    or of many with `spread`; then devices of few NUMA nodes.
    """
    chosen = list(dict.fromkeys(included))
    free = sorted(set(available) - set(chosen))
    while len(chosen) < size and free:
        best = min(free, key=lambda device: _rank(inventory, device, chosen, free, size - len(chosen), spread=spread))
        free.remove(best)
        chosen.append(best)
    return chosen[: max(size, 0)]


def _rank(
    inventory: Inventory, device: str, chosen: list[str], free: list[str], missing: int, *, spread: bool
) -> tuple[object, ...]:
    """The smallest key is the best choice."""
    function = inventory.get(device)
    if function is None:
        return (True,)
    functions = [found for name in chosen if (found := inventory.get(name))]
    mates = [member.address for member in inventory.group_of(function)]
    begun = any(mate in chosen for mate in mates)
    fits = len([mate for mate in mates if mate in free]) <= missing
    same_pf = sum(bool(other.pf) and other.pf == function.pf for other in functions)
    same_numa = sum(other.numa == function.numa for other in functions)
    # To pack, a PF with fewer free VFs is used up first. To spread, all PFs are used equally.
    left = Counter(found.pf for name in free if (found := inventory.get(name)))[function.pf]
    on_pf, rest = (same_pf, -left) if spread else (-same_pf, left)
    return (False, not begun, not fits, on_pf, -same_numa, rest, device)
