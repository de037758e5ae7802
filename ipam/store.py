"""What the plugin needs of the places where leases are kept. `ipam.local.store`, `ipam.etcd.cluster` and others implement it."""

from __future__ import annotations

from cni.names import attachment_fault, is_identifier, shown
from cni.value import Value
from ipam.address import BITS, Address
from ipam.ranges import Range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    from ipam.cluster.identity import Identity
    from ipam.ranges import RangeSet

    Tell = Callable[[str], None]


class Owner(Value):
    """The attachment that an address belongs to. `pod` is namespace/name; it and `pod_uid` may be unknown, empty."""

    network: str
    container_id: str
    ifname: str
    pod: str = ""
    pod_uid: str = ""


def owner_fault(owner: Owner) -> str:
    """Why nobody can be the owner, whoever says so; empty when its names are such that a runtime can have given them."""
    return attachment_fault(owner.network, owner.container_id, owner.ifname)


def holder_fault(container_id: object, ifname: object) -> str:
    """The same where the interface may be unknown, as in what older programs wrote."""
    if ifname == "":
        return "" if is_identifier(container_id) else f"{shown(container_id)} is no container ID"
    return attachment_fault("any", container_id, ifname)


class Claim(Value):
    """An address, and the range that it is of."""

    range: Range
    address: Address


def claim_on(address: Address) -> Claim:
    """A claim on an address whose range is not known: the address alone stands for it."""
    bits = BITS[address.version]
    return Claim(range=Range(subnet=address, prefix=bits, first=address.number, last=address.number), address=address)


class Lease(Value):
    """An address in use. `node` is the node whose it is, and `machine` its identity; empty where the store does not tell."""

    address: Address
    owner: Owner
    node: str = ""
    machine: str = ""


def ignore(_text: str) -> None:
    """For who does not want to be told."""


if TYPE_CHECKING:

    class Store(Protocol):
        """The addresses of one network, for the plugin. Every call is bounded; `TryAgainLater` when it cannot be served."""

        def allocate(
            self, owner: Owner, sets: tuple[RangeSet, ...], requested: tuple[Address | None, ...]
        ) -> tuple[Claim, ...]:
            """One address of each set, all or none; `requested` (as long as `sets`) says which, where it is not None.

            What the owner has of a set already is given again. Raises `AddressesExhausted`, `AddressTaken`.
            """

        def release(self, owner: Owner) -> None:
            """Frees all that the owner has. What is not there is no error."""

        def addresses(self, owner: Owner) -> tuple[Address, ...]:
            """What the owner has, in no particular order."""

        def gc(self, valid: set[tuple[str, str]]) -> None:
            """Frees what this node has in this network for no (container ID, ifname) of `valid`."""

        def require_writable(self) -> None:
            """Returns if this node's own files can be written. Raises `NotAvailable`; contacts nothing."""

        def status(self, sets: tuple[RangeSet, ...]) -> None:
            """Returns if `allocate` can work. Raises `NotAvailable`, also when a set has no free address."""

        def leases(self, damaged: Tell = ignore) -> Iterator[Lease]:
            """All addresses of the network that are in use, in the order of their numbers; `damaged` as in `Cluster`."""

    class Cluster(Protocol):
        """A store that all nodes share, as `ipam.cluster.store` uses it: what changes is journalled before it is asked for.

        An owner is its container ID and interface name, on one node; what else is known about it may change. Every call
        is bounded; `TryAgainLater` when it cannot be served.
        """

        def expect(self, known: Identity) -> None:
            """What is noted about the cluster: `take` raises `Replaced` where it does not agree with that.

            Nothing was taken then, but by a cluster of another name that knows this node. `UNKNOWN` expects nothing.
            """

        def identity(self) -> Identity:
            """What the last answer tells about the cluster."""

        def parts(self) -> dict[str, str]:
            """The parts of the cluster that the calls until now have met, each with a name of its own.

            A later part in its place has another name; it is empty where there is none. A cluster may have no parts.
            """

        def is_replaced(self, known: Identity, network: str) -> bool:
            """Whether it is another cluster than was noted, or has lost what this node took for the network last."""

        def used_numbers(self, range_: Range) -> set[int] | None:
            """The numbers in use in the range, as far as one question tells; None where asking costs more than trying."""

        def take(self, claims: tuple[Claim, ...], owner: Owner) -> tuple[Claim, ...]:
            """Makes all of them the owner's, or none: then those that somebody else has are returned.

            What the owner has already is no hindrance. Raises `TryAgainLater` when it is not known what happened, and
            `RefusedForGood` or `AddressesExhausted` when nothing has.
            """

        def retake(self, claims: tuple[Claim, ...], owner: Owner) -> tuple[Claim, ...]:
            """As `take`, of what the owner had before the store lost it: what its pod's earlier sandbox left there serves."""

        def give_back(self, claims: tuple[Claim, ...], owner: Owner) -> None:
            """Frees those that are the owner's; those of somebody else and those in nobody's hands are left alone."""

        def find_free(self, range_: Range, start: int) -> int | None:
            """A number of the range that may be leased and nobody has, near `start` or anywhere; None when there is none.

            Asked after a conflict, where `taken` is None: a few questions must do, however large and full the range.
            """

        def held(self, claims: tuple[Claim, ...], owner: Owner) -> tuple[Claim, ...]:
            """Those of the claims that are the owner's now."""

        def leases_of_pod(self, owner: Owner) -> tuple[Lease, ...]:
            """What the interface of the owner's pod has, the container ID that it was leased for in the lease's owner.

            Nothing where the store does not go by pods. `take` makes it the owner's: a pod has one sandbox at a time.
            """

        def give_back_all(self, owner: Owner) -> None:
            """Frees whatever the owner has: for a node that lost its journal, and knows no addresses any more."""

        def leases_of_node(self) -> Iterator[Lease]:
            """What bears this node's name, of every network name of an owner; nothing where the store keeps no names."""

        def reach(self) -> None:
            """Returns if the store answers and lets us write. Raises `NotAvailable`."""

        def leases(self, network: str, damaged: Tell = ignore) -> Iterator[Lease]:
            """All addresses of the network that are in use, of every node.

            `damaged` is told what is no lease, as text: a value that nobody can have written, or a name that no owner has.
            """
