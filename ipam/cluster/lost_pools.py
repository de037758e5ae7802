"""Takes leases again that were lost with a deleted IPPool of Kubernetes, before anything else is leased there.

A pool that is created again has another UID. The journal keeps the UIDs of the pools of each entry.
"""

from __future__ import annotations

import time

from cni import jsontext
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
"""Limit for waiting for the lock of an owner that another call is working on."""


def shows_loss(lines: Iterable[bytes], parts: dict[str, str]) -> bool:
    """Whether a line of the journal names a part by another unique ID than `parts`, the present ones.

    Every ADD with a pod asks this, so the lines are not decoded: that takes a tenth of a millisecond for each.
    """
    pairs = [(f"{jsontext.dumps(name)}: ".encode(), jsontext.dumps(uid).encode()) for name, uid in parts.items()]
    return any(name in line and name + uid not in line for line in lines for name, uid in pairs)


def find_lost(
    entries: Iterable[Entry], cluster: Cluster, present: Present, owner: Owner, written: Callable[[Owner], float]
) -> list[Remaining]:
    """The claims in pools that were deleted or replaced, except those of the calling owner."""
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
    """Takes the claims again. Raises `TryAgainLater` if the time does not suffice; the next call continues."""
    taken = 0
    for entry, claims in lost:
        if time.monotonic() > latest:
            raise TryAgainLater("not all leases of a deleted IPPool were taken again in time; the next call continues")
        taken += _taken(journal, cluster, entry, claims)
    if taken:
        journal.warn(f"an IPPool was deleted: the leases of {taken} interfaces of this node in it were taken again")


def _taken(journal: Journal, cluster: Cluster, entry: Entry, claims: tuple[Claim, ...]) -> int:
    """Returns the number of interfaces that have all their claims again, 1 or 0.

    Addresses outside `claims` belong to a later sandbox.
    """
    owner = entry.owner
    with journal.locked(owner, BUSY_SECONDS):
        if journal.find(owner) != entry:
            return 0  # It was released, or taken again by its own call.
        # One claim at a time, so that an address of another owner does not prevent the others from being taken.
        refused = [claim for claim in claims if cluster.retake((claim,), owner)]
        # After a refusal the old UIDs are kept, so that the next call tries again.
        kept = entry.replace(claims=claims, parts=entry.parts if refused else parts_of(cluster))
        if kept != entry:
            journal.save(kept)
    for claim in refused:
        journal.warn(f"{claim.address} of {name_of(owner)} is leased to another owner as well: run barewire-ipam fsck")
    return 0 if refused else 1


def parts_of(cluster: Cluster) -> tuple[tuple[str, str], ...]:
    """The parts of the cluster, in the form that an entry keeps."""
    return tuple(sorted((name, uid) for name, uid in cluster.parts().items() if uid))
