"""The behaviour of every `ipam.store.Store`, for the fake and the real ones.

Each function gets a function that opens the store of the network NETWORK. It is always the same store, empty at first;
each call may return another object, as another process would have it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from cni.errors import AddressesExhausted, AddressTaken, NotAvailable
from ipam.address import parse
from ipam.ranges import Range, RangeSet
from ipam.store import Owner

if TYPE_CHECKING:
    from ipam.store import Claim, Store

    Open = Callable[[], Store]

NETWORK = "flat"


def one_range(subnet: str, prefix: int, first: str, last: str, **details: Any) -> Range:
    ends = parse(first, "first").number, parse(last, "last").number
    return Range(subnet=parse(subnet, "subnet"), prefix=prefix, first=ends[0], last=ends[1], **details)


V4: RangeSet = (one_range("10.7.0.0", 24, "10.7.0.2", "10.7.0.254", gateway=parse("10.7.0.1", "").number),)
V6: RangeSet = (one_range("fd07::", 64, "fd07::2", "fd07::ffff:ffff:ffff:ffff"),)
SMALL: RangeSet = (one_range("10.8.0.0", 29, "10.8.0.1", "10.8.0.1"), one_range("10.8.1.0", 29, "10.8.1.1", "10.8.1.2"))
HOLES: RangeSet = (
    one_range(
        "10.9.0.0", 28, "10.9.0.1", "10.9.0.6", gateway=parse("10.9.0.1", "").number,
        excluded=((parse("10.9.0.3", "").number, parse("10.9.0.5", "").number),),
    ),
)  # fmt: skip


def owner(container: str, ifname: str = "net1") -> Owner:
    return Owner(network=NETWORK, container_id=container, ifname=ifname, pod="default/p", pod_uid=f"uid-{container}")


def texts(claims: tuple[Claim, ...]) -> list[str]:
    return [str(claim.address) for claim in claims]


def held(store: Store, *owners: Owner) -> list[list[str]]:
    return [sorted(map(str, store.addresses(one))) for one in owners]


def in_use(store: Store) -> dict[str, tuple[str, str]]:
    return {str(lease.address): (lease.owner.container_id, lease.owner.ifname) for lease in store.leases()}


def allocate(store: Store, who: Owner, *sets: RangeSet, requested: tuple[str | None, ...] = ()) -> list[str]:
    wanted = [None if text is None else parse(text, "requested") for text in requested]
    return texts(store.allocate(who, sets, tuple(wanted or [None] * len(sets))))


def an_owner_gets_one_address_of_each_set_in_their_order(open_store: Open) -> None:
    claims = open_store().allocate(owner("c1"), (V6, V4), (None, None))
    assert [claim.range for claim in claims] == [V6[0], V4[0]]
    assert [claim.range.leases(claim.address) for claim in claims] == [True, True]
    assert held(open_store(), owner("c1")) == [sorted(texts(claims))]


def what_an_owner_has_is_given_again(open_store: Open) -> None:
    first = allocate(open_store(), owner("c1"), V4, V6)
    assert allocate(open_store(), owner("c1"), V4, V6) == first
    assert allocate(open_store(), owner("c1"), V4, V6, requested=(first[0], None)) == first
    assert len(in_use(open_store())) == 2


def owners_that_differ_in_one_word_have_different_addresses(open_store: Open) -> None:
    owners = [owner("c1"), owner("c1", "net2"), owner("c2"), owner("c1", "net11")]
    given = [allocate(open_store(), one, V4) for one in owners]
    assert len({text for texts in given for text in texts}) == 4
    assert held(open_store(), *owners) == given


def a_release_frees_all_of_its_owner_and_nothing_else(open_store: Open) -> None:
    allocate(open_store(), owner("c1"), V4, V6)
    kept = allocate(open_store(), owner("c1", "net2"), V4)
    open_store().release(owner("c1"))
    assert held(open_store(), owner("c1"), owner("c1", "net2")) == [[], kept]


def a_release_of_what_is_not_there_is_no_error(open_store: Open) -> None:
    open_store().release(owner("never"))
    allocate(open_store(), owner("c1"), V4)
    open_store().release(owner("c1"))
    open_store().release(owner("c1"))
    assert in_use(open_store()) == {}


def a_requested_address_is_given(open_store: Open) -> None:
    assert allocate(open_store(), owner("c1"), V4, V6, requested=("10.7.0.77", None))[0] == "10.7.0.77"
    assert allocate(open_store(), owner("c2"), V6, requested=("fd07::8000:0:0:1",)) == ["fd07::8000:0:0:1"]


def a_requested_address_of_another_owner_is_taken_and_nothing_is_kept(open_store: Open) -> None:
    allocate(open_store(), owner("c1"), V4, requested=("10.7.0.77",))
    with pytest.raises(AddressTaken, match=r"10\.7\.0\.77"):
        allocate(open_store(), owner("c2"), V6, V4, requested=(None, "10.7.0.77"))
    assert held(open_store(), owner("c2")) == [[]]


def every_address_of_all_ranges_of_a_set_is_given_and_then_it_is_exhausted(open_store: Open) -> None:
    given = [allocate(open_store(), owner(f"c{number}"), SMALL)[0] for number in range(3)]
    assert sorted(given) == ["10.8.0.1", "10.8.1.1", "10.8.1.2"]
    with pytest.raises(AddressesExhausted, match=r"10\.8\.0\.1-10\.8\.0\.1"):
        allocate(open_store(), owner("c4"), SMALL)
    open_store().release(owner("c1"))
    assert allocate(open_store(), owner("c4"), SMALL) == [given[1]]


def an_exhausted_set_leaves_nothing_of_the_other_sets(open_store: Open) -> None:
    for number in range(3):
        allocate(open_store(), owner(f"c{number}"), SMALL)
    with pytest.raises(AddressesExhausted):
        allocate(open_store(), owner("late"), V4, SMALL, V6)
    assert held(open_store(), owner("late")) == [[]]


def gateways_and_excluded_addresses_are_not_given(open_store: Open) -> None:
    assert sorted(allocate(open_store(), owner(f"c{n}"), HOLES)[0] for n in range(2)) == ["10.9.0.2", "10.9.0.6"]
    with pytest.raises(AddressesExhausted):
        allocate(open_store(), owner("c2"), HOLES)


def gc_frees_what_is_not_valid_and_keeps_the_rest(open_store: Open) -> None:
    kept = allocate(open_store(), owner("c1"), V4)
    allocate(open_store(), owner("c1", "net2"), V4)
    allocate(open_store(), owner("c2"), V4, V6)
    open_store().gc({("c1", "net1"), ("c9", "net1")})
    assert in_use(open_store()) == {kept[0]: ("c1", "net1")}


def gc_of_an_empty_store_is_no_error(open_store: Open) -> None:
    open_store().gc(set())
    assert in_use(open_store()) == {}


def a_store_with_free_addresses_says_that_it_works(open_store: Open) -> None:
    open_store().status(())
    open_store().status((V4, V6, SMALL))


def an_exhausted_set_is_not_available(open_store: Open) -> None:
    for number in range(3):
        allocate(open_store(), owner(f"c{number}"), SMALL)
    with pytest.raises(NotAvailable, match=r"10\.8\.0\.1-10\.8\.0\.1"):
        open_store().status((V4, SMALL))


def leases_come_in_the_order_of_their_numbers_with_their_owners(open_store: Open) -> None:
    for number, text in enumerate(("10.7.0.100", "10.7.0.20", "10.7.0.3")):
        allocate(open_store(), owner(f"c{number}"), V4, requested=(text,))
    assert list(in_use(open_store()).items()) == [
        ("10.7.0.3", ("c2", "net1")), ("10.7.0.20", ("c1", "net1")), ("10.7.0.100", ("c0", "net1")),
    ]  # fmt: skip


CONTRACT: dict[str, Callable[[Open], None]] = {
    function.__name__: function
    for function in (
        an_owner_gets_one_address_of_each_set_in_their_order,
        what_an_owner_has_is_given_again,
        owners_that_differ_in_one_word_have_different_addresses,
        a_release_frees_all_of_its_owner_and_nothing_else,
        a_release_of_what_is_not_there_is_no_error,
        a_requested_address_is_given,
        a_requested_address_of_another_owner_is_taken_and_nothing_is_kept,
        every_address_of_all_ranges_of_a_set_is_given_and_then_it_is_exhausted,
        an_exhausted_set_leaves_nothing_of_the_other_sets,
        gateways_and_excluded_addresses_are_not_given,
        gc_frees_what_is_not_valid_and_keeps_the_rest,
        gc_of_an_empty_store_is_no_error,
        a_store_with_free_addresses_says_that_it_works,
        an_exhausted_set_is_not_available,
        leases_come_in_the_order_of_their_numbers_with_their_owners,
    )
}
