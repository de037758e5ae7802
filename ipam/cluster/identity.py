"""Which cluster it is that answers, and whether it still knows what this node has taken there.

An endpoint can lead to another cluster than before, and a cluster can be restored from a backup. Then addresses that
containers use are free there, and the next node that asks would get them.
"""

from __future__ import annotations

from cni.errors import TryAgainLater
from cni.value import Value


class Identity(Value):
    """A cluster by the name that it gave itself, empty for one that has none, and its revision when this node took last.

    `left`: it was replaced, and somebody else has addresses that this node's journal holds.
    """

    cluster: str = ""
    revision: int = 0
    left: bool = False


UNKNOWN = Identity()

CONTESTED = "?"
"""The name of a cluster where an owner should have what somebody else has."""


class Replaced(TryAgainLater):
    """The cluster is another one than was noted, or has lost what this node took there. Nothing was taken."""


class Anonymous:
    """A `Cluster` that cannot tell that it was replaced: what such a one takes, it takes for good."""

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
