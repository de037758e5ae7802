"""Takes again what the journal holds in a pool of Kubernetes that was deleted, before anything else is leased there.

The pool's UID tells: one that somebody made anew has another. An entry of the journal notes those of its pools.
"""

from __future__ import annotations

import time

from cni.errors import TryAgainLater
from ipam.journal_entry import HELD
from ipam.journal_files import name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipam.journal_entry import Entry, Present
    from ipam.journal_files import Journal
    from ipam.store import Cluster, Owner

BUSY_SECONDS = 1.0
"""For the lock of an owner whose call goes on."""


def lost(entries: Iterable[Entry], cluster: Cluster, present: Present, owner: Owner) -> list[Owner]:
    """Whose addresses were in pools that are gone, or are others by now; but for the owner of the call."""
    seen = cluster.parts()
    return [
        one.owner
        for one in entries
        if one.phase == HELD
        and one.owner != owner
        and present.is_place_of(one)
        and any(seen.get(name, uid) != uid for name, uid in one.parts)
    ]


def take_again(journal: Journal, cluster: Cluster, owners: Iterable[Owner], latest: float) -> None:
    """Raises `TryAgainLater` when the time was too short; the next call goes on."""
    taken = 0
    for owner in owners:
        if time.monotonic() > latest:
            raise TryAgainLater(
                "the time was too short to take again what a deleted IPPool held; the next call goes on"
            )
        taken += _taken(journal, cluster, owner)
    journal.warn(f"an IPPool was deleted: what {taken} interfaces of this node have in it is taken again")


def _taken(journal: Journal, cluster: Cluster, owner: Owner) -> int:
    with journal.locked(owner, BUSY_SECONDS):
        entry = journal.find(owner)
        if entry is None or entry.phase != HELD:
            return 0  # Released meanwhile.
        # Each by itself: one that somebody else has must not keep the others from being taken.
        refused = [claim for claim in entry.claims or () if cluster.take((claim,), owner)]
        journal.save(entry.replace(parts=parts_of(cluster)))
    for claim in refused:
        journal.warn(f"{claim.address} of {name_of(owner)} is somebody else's, too: barewire-ipam fsck")
    return 1


def parts_of(cluster: Cluster) -> tuple[tuple[str, str], ...]:
    """What an entry notes of the cluster's parts."""
    return tuple(sorted((name, uid) for name, uid in cluster.parts().items() if uid))
