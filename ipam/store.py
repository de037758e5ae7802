"""Values and protocols of the stores of leases, which `ipam.local.store` and `ipam.cluster.store` implement."""

from __future__ import annotations

from cni.names import attachment_fault, is_identifier, shown
from cni.value import Value
from ipam.address import BITS, Address
from ipam.ranges import Range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator
    from typing import Protocol, TypedDict

    from ipam.cluster.identity import Identity
    from ipam.ranges import RangeSet

    Report = Callable[[str], None]

    class ClusterConf(TypedDict, total=False):
        """The description of a cluster, as the journal keeps it: where leases are, and how to reach them.

        Descriptions from journals and records have not been validated. `node` and `machine` identify this node.
        """

        kind: str
        endpoints: list[str]
        prefix: str
        caFile: str
        certFile: str
        keyFile: str
        kubeconfig: str
        namespace: str
        network_name: str
        overlapping: bool
        subnets: list[str]
        node: str
        machine: str


class Owner(Value):
    """The attachment that an address belongs to.

    `pod` is namespace/name; `pod` and `pod_uid` are empty when unknown.
    """

    network: str
    container_id: str
    ifname: str
    pod: str = ""
    pod_uid: str = ""


def owner_fault(owner: Owner) -> str:
    """The reason why no runtime can have created this owner, judging by its names; empty when the names are valid."""
    return attachment_fault(owner.network, owner.container_id, owner.ifname)


def holder_fault(container_id: object, ifname: object) -> str:
    """Like `owner_fault`, for a holder whose interface may be unknown because an older program wrote it."""
    if ifname == "":
        return "" if is_identifier(container_id) else f"{shown(container_id)} is no container ID"
    return attachment_fault("any", container_id, ifname)


class Claim(Value):
    """An address and the range from which it is taken."""

    range: Range
    address: Address


def claim_on(address: Address) -> Claim:
    """A claim on an address of an unknown range. The range of the claim is the address alone."""
    bits = BITS[address.version]
    return Claim(range=Range(subnet=address, prefix=bits, first=address.number, last=address.number), address=address)


class Lease(Value):
    """An address in use.

    `node` and `machine` name the node that leased it; they are empty if the store does not keep them.
    """

    address: Address
    owner: Owner
    node: str = ""
    machine: str = ""


def ignore(_text: str) -> None:
    """Discards a message."""


if TYPE_CHECKING:

    class Store(Protocol):
        """The addresses of one network, as the plugin uses them.

        Every call is bounded, and raises `TryAgainLater` when it cannot be served.
        """

        def allocate(
            self, owner: Owner, sets: tuple[RangeSet, ...], requested: tuple[Address | None, ...]
        ) -> tuple[Claim, ...]:
            """Leases one address from each set, or none at all.

            `requested` has the same length as `sets`; each entry is the requested address, or None. Addresses that the
            owner already has in a set are returned again. Raises `AddressesExhausted`, `AddressTaken`.
            """

        def release(self, owner: Owner) -> None:
            """Frees all addresses of the owner. It is not an error if there are none."""

        def addresses(self, owner: Owner) -> tuple[Address, ...]:
            """The addresses of the owner, in no particular order."""

        def gc(self, valid: set[tuple[str, str]]) -> None:
            """Frees the addresses of this node in this network whose (container ID, ifname) is not in `valid`."""

        def require_writable(self) -> None:
            """Raises `NotAvailable` unless this node's own files can be written. Contacts no cluster."""

        def status(self, sets: tuple[RangeSet, ...]) -> None:
            """Raises `NotAvailable` unless `allocate` can succeed: also when a set has no free address."""

        def leases(self, damaged: Report = ignore) -> Iterator[Lease]:
            """All leases of the network, in numerical order of their addresses.

            `damaged` is called as in `Cluster.leases`.
            """

    class Cluster(Protocol):
        """A store that all nodes share. `ipam.cluster.store` records every change in the journal before it requests it.

        An owner is identified by container ID and interface name on one node; the rest of what is known about it may
        change. Every call is bounded, and raises `TryAgainLater` when it cannot be served.
        """

        def expect(self, known: Identity) -> None:
            """Sets the identity that the cluster must have.

            `take` raises `Replaced` when the cluster does not match it.

            In that case nothing was taken, unless a cluster of another name already knows this node. `UNKNOWN` accepts
            any cluster.
            """

        def identity(self) -> Identity:
            """The identity of the cluster according to its last response."""

        def parts(self) -> dict[str, str]:
            """The parts of the cluster that the calls so far have used, as a map from name to unique ID.

            A part that was deleted and created again has another ID. The ID is empty where the part does not exist. A
            cluster may have no parts.
            """

        def is_replaced(self, known: Identity, network: str) -> bool:
            """Whether the cluster is another one than `known`, or has lost this node's last lease in the network."""

        def used_numbers(self, range_: Range) -> Container[int] | None:
            """The numbers in use in the range, if at most one request returns them; None where a try is cheaper."""

        def take(self, claims: tuple[Claim, ...], owner: Owner) -> tuple[Claim, ...]:
            """Gives all addresses to the owner, or none: then it returns those that belong to another owner.

            Addresses that the owner already has do not count as taken. Raises `TryAgainLater` when the outcome is
            unknown, and `RefusedForGood` or `AddressesExhausted` when nothing was taken.
            """

        def retake(self, claims: tuple[Claim, ...], owner: Owner) -> tuple[Claim, ...]:
            """Like `take`, for addresses that the store lost.

            A reservation of an earlier sandbox of the pod remains valid.
            """

        def give_back(self, claims: tuple[Claim, ...], owner: Owner) -> None:
            """Frees the addresses of the claims that belong to the owner. All others are left alone."""

        def find_free(self, range_: Range, start: int) -> int | None:
            """A free number of the range that may be leased, preferably near `start`; None if the range is full.

            It is called after a conflict where `used_numbers` returns None, so it must get by with a few requests,
            however large and full the range is.
            """

        def held(self, claims: tuple[Claim, ...], owner: Owner) -> tuple[Claim, ...]:
            """The claims whose addresses currently belong to the owner."""

        def leases_of_pod(self, owner: Owner) -> tuple[Lease, ...]:
            """The leases of this interface of the owner's pod, each with the container ID that it was leased for.

            Empty where the store does not identify owners by their pods. `take` passes these addresses on to the owner,
            because a pod has one sandbox at a time.
            """

        def give_back_all(self, owner: Owner) -> None:
            """Frees every address of the owner.

            It is for a node that has lost its journal and does not know the addresses.
            """

        def leases_of_node(self) -> Iterator[Lease]:
            """The leases that carry this node's name, in all networks; empty where the store keeps no node names."""

        def reach(self) -> None:
            """Raises `NotAvailable` unless the store responds and allows us to write."""

        def leases(self, network: str, damaged: Report = ignore) -> Iterator[Lease]:
            """The leases of the network on all nodes.

            `damaged` is called with a message for each entry that is not a valid lease: its value has the wrong form,
            or no runtime can have created its owner.
            """
