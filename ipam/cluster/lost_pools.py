"""Takes again what the journal holds in a pool of Kubernetes that was deleted, before anything else is leased there.

The pool's UID tells: one that somebody made anew has another. An entry of the journal notes those of its pools.
"""

from __future__ import annotations

import time

from cni.errors import TryAgainLater
from ipam.cluster.journal import name_of
from ipam.cluster.journal_entry import HELD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ipam.cluster.journal import Journal
    from ipam.cluster.journal_entry import Entry, Present
    from ipam.cluster.succession import Remaining
    from ipam.store import Claim, Cluster, Owner

BUSY_SECONDS = 1.0
"""For the lock of an owner whose call goes on."""


def find_lost(
    entries: Iterable[Entry], cluster: Cluster, present: Present, owner: Owner, written: Callable[[Owner], float]
) -> list[Remaining]:
    """What was in pools that are gone, or are others by now; but for the owner of the call."""
    uids = cluster.parts()
    here = [entry for entry in entries if entry.phase == HELD and present.is_place_of(entry)]
    gone = [
        entry for entry in here if entry.owner != owner and any(uids.get(name, uid) != uid for name, uid in entry.parts)
    ]
    if not gone:
        return []
    from ipam.cluster.succession import remaining_claims  # noqa: PLC0415 - seldom is a pool deleted

    return [(entry, claims) for entry, claims in remaining_claims(gone, here, written) if claims]


def retake_lost(journal: Journal, cluster: Cluster, lost: Iterable[Remaining], latest: float) -> None:
    """Raises `TryAgainLater` when the time was too short; the next call goes on."""
    taken = 0
    for entry, claims in lost:
        if time.monotonic() > latest:
            raise TryAgainLater(
                "the time was too short to take again what a deleted IPPool held; the next call goes on"
            )
        taken += _taken(journal, cluster, entry, claims)
    if taken:
        journal.warn(f"an IPPool was deleted: what {taken} interfaces of this node have in it is taken again")


def _taken(journal: Journal, cluster: Cluster, entry: Entry, claims: tuple[Claim, ...]) -> int:
    """How many interfaces have all of it again: 1 or 0. What is not of the claims is a later sandbox's."""
    owner = entry.owner
    with journal.locked(owner, BUSY_SECONDS):
        if journal.find(owner) != entry:
            return 0  # Released meanwhile, or taken by a call of its own.
        # Each by itself: one that somebody else has must not keep the others from being taken.
        refused = [claim for claim in claims if cluster.retake((claim,), owner)]
        # The parts of before stay noted where something is refused: the next call tries again.
        kept = entry.replace(claims=claims, parts=entry.parts if refused else parts_of(cluster))
        if kept != entry:
            journal.save(kept)
    for claim in refused:
        journal.warn(f"{claim.address} of {name_of(owner)} is somebody else's, too: barewire-ipam fsck")
    return 0 if refused else 1


def parts_of(cluster: Cluster) -> tuple[tuple[str, str], ...]:
    """What an entry notes of the cluster's parts."""
    return tuple(sorted((name, uid) for name, uid in cluster.parts().items() if uid))
