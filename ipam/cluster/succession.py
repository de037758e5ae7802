"""Addresses that pass from a pod's sandbox to the next one.

The journal has both entries until the DEL of the earlier sandbox.
"""

from __future__ import annotations

from ipam.cluster.journal_entry import HELD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ipam.cluster.journal_entry import Entry
    from ipam.store import Claim, Owner

    Remaining = tuple[Entry, tuple[Claim, ...]]


def remaining_claims(
    chosen: Iterable[Entry], entries: Iterable[Entry], written: Callable[[Owner], float]
) -> list[Remaining]:
    """The chosen entries, oldest first, each with its claims that no later sandbox of its pod holds."""
    of_pod: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        if entry.owner.pod and entry.phase == HELD:
            of_pod.setdefault((entry.owner.pod, entry.owner.ifname), []).append(entry)
    timed = sorted(((written(entry.owner), entry) for entry in chosen), key=lambda pair: pair[0])
    remaining: list[Remaining] = []
    for time, entry in timed:
        others = of_pod.get((entry.owner.pod, entry.owner.ifname), ())
        later = [other for other in others if other.owner != entry.owner and written(other.owner) > time]
        gone = {claim.address for entry in later for claim in entry.claims or ()}
        remaining.append((entry, tuple(claim for claim in entry.claims or () if claim.address not in gone)))
    return remaining
