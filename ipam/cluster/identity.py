"""The identity of a cluster, and whether the cluster still has this node's leases.

An endpoint can lead to another cluster than before, and a cluster can be restored from a backup. Then addresses that
containers use are free there, and another node could get them.
"""

from __future__ import annotations

from cni.errors import TryAgainLater
from cni.value import Value


class Identity(Value):
    """The name of a cluster, empty if it has none, and its revision at this node's last lease.

    `left` means that the cluster was replaced, and that other owners hold addresses that are in this node's journal.
    """

    cluster: str = ""
    revision: int = 0
    left: bool = False


UNKNOWN = Identity()

CONTESTED = "?"
"""The cluster name in an entry whose addresses are held by another owner as well."""


class Replaced(TryAgainLater):
    """The cluster is not the known one, or has lost leases of this node. Nothing was taken."""


class Anonymous:
    """A `Cluster` that cannot detect its own replacement, so its leases are always taken without that check."""

    def expect(self, known: Identity) -> None:
        """See `ipam.store.Cluster`."""

    def identity(self) -> Identity:
        """See `ipam.store.Cluster`."""
        return UNKNOWN

    def parts(self) -> dict[str, str]:
        """See `ipam.store.Cluster`."""
        return {}

    def is_replaced(self, _known: Identity, _network: str) -> bool:
        """See `ipam.store.Cluster`."""
        return False
