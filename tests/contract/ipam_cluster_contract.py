"""The behaviour of every `ipam.store.Cluster`, for a fake and the real ones.

Each function gets a `Backend` whose network has no leases yet, and need not clean up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ipam.address import parse
from ipam.ranges import Range
from ipam.store import Claim, Owner

if TYPE_CHECKING:
    from ipam.store import Cluster

NETWORK = "net"
SECONDS = 60.0


class Backend(NamedTuple):
    """`open` opens the cluster for a node of this name. `names_nodes` means that the cluster stores nodes' names."""

    open: Callable[[str], Cluster]
    names_nodes: bool = True


def range_of(subnet: str, prefix: int, first: str, last: str, **how) -> Range:
    ends = parse(first, "first").number, parse(last, "last").number
    return Range(subnet=parse(subnet, "subnet"), prefix=prefix, first=ends[0], last=ends[1], **how)


V4 = range_of("10.9.0.0", 24, "10.9.0.1", "10.9.0.254")
V6 = range_of("fd00:9::", 64, "fd00:9::1", "fd00:9::ffff:ffff:ffff:ffff")


def claim(text: str, one: Range | None = None) -> Claim:
    address = parse(text, "test")
    return Claim(range=one or (V6 if address.version == 6 else V4), address=address)


def owner(name: str, ifname: str = "net1") -> Owner:
    return Owner(network=NETWORK, container_id=name, ifname=ifname, pod=f"default/{name}", pod_uid=f"uid-{name}")


def texts(found) -> list[str]:
    return sorted(str(one.address) for one in found)


def everything(cluster: Cluster) -> dict[str, tuple[str, str]]:
    """Address -> container ID and interface name."""
    return {str(lease.address): (lease.owner.container_id, lease.owner.ifname) for lease in cluster.leases(NETWORK)}


def together(*calls: Callable[[], object]) -> list[object]:
    """The results of the calls, made at the same time, each in a thread."""
    answers: list[object] = [None] * len(calls)
    gate = threading.Barrier(len(calls))

    def run(place: int) -> None:
        gate.wait(SECONDS)
        answers[place] = calls[place]()

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive(), "a call did not end"
    return answers


def an_address_has_one_owner(backend: Backend) -> None:
    one, other = backend.open("node-a"), backend.open("node-b")
    assert one.take((claim("10.9.0.5"),), owner("a")) == ()
    assert other.take((claim("10.9.0.5"),), owner("b")) == (claim("10.9.0.5"),)
    assert everything(other) == {"10.9.0.5": ("a", "net1")}


def two_interfaces_of_a_container_are_two_owners(backend: Backend) -> None:
    cluster = backend.open("node-a")
    assert cluster.take((claim("10.9.0.5"),), owner("a", "net1")) == ()
    assert cluster.take((claim("10.9.0.5"),), owner("a", "net2")) == (claim("10.9.0.5"),)
    cluster.give_back((claim("10.9.0.5"),), owner("a", "net2"))
    assert everything(cluster) == {"10.9.0.5": ("a", "net1")}


def what_the_owner_has_is_no_hindrance(backend: Backend) -> None:
    cluster = backend.open("node-a")
    both = (claim("10.9.0.5"), claim("fd00:9::5"))
    assert cluster.take(both[:1], owner("a")) == ()
    assert cluster.take(both, owner("a")) == ()
    assert cluster.take(both, owner("a")) == ()
    assert texts(cluster.leases(NETWORK)) == ["10.9.0.5", "fd00:9::5"]


def all_are_taken_or_none(backend: Backend) -> None:
    cluster = backend.open("node-a")
    both = (claim("10.9.0.5"), claim("fd00:9::5"))
    assert cluster.take(both[1:], owner("a")) == ()
    assert cluster.take(both, owner("b")) == both[1:]
    assert everything(cluster) == {"fd00:9::5": ("a", "net1")}
    assert cluster.take(both[:1], owner("c")) == (), "the other one is free"


def what_was_given_back_can_be_taken(backend: Backend) -> None:
    one, other = backend.open("node-a"), backend.open("node-b")
    both = (claim("10.9.0.5"), claim("fd00:9::5"))
    one.take(both, owner("a"))
    one.give_back(both, owner("a"))
    assert everything(one) == {}
    assert other.take(both, owner("b")) == ()
    assert everything(one) == {"10.9.0.5": ("b", "net1"), "fd00:9::5": ("b", "net1")}


def what_another_owner_has_is_not_given_back(backend: Backend) -> None:
    one, other = backend.open("node-a"), backend.open("node-b")
    one.take((claim("10.9.0.5"),), owner("a"))
    other.give_back((claim("10.9.0.5"), claim("10.9.0.6")), owner("b"))
    assert everything(one) == {"10.9.0.5": ("a", "net1")}


def giving_back_frees_what_is_the_owners_beside_what_is_not(backend: Backend) -> None:
    cluster = backend.open("node-a")
    cluster.take((claim("10.9.0.5"),), owner("a"))
    cluster.take((claim("10.9.0.6"),), owner("b"))
    cluster.give_back((claim("10.9.0.5"), claim("10.9.0.6"), claim("fd00:9::7")), owner("b"))
    assert everything(cluster) == {"10.9.0.5": ("a", "net1")}


def giving_back_twice_is_no_error(backend: Backend) -> None:
    cluster = backend.open("node-a")
    cluster.take((claim("10.9.0.5"),), owner("a"))
    cluster.give_back((claim("10.9.0.5"),), owner("a"))
    cluster.give_back((claim("10.9.0.5"),), owner("a"))
    assert everything(cluster) == {}


def all_of_an_owner_is_given_back(backend: Backend) -> None:
    cluster = backend.open("node-a")
    cluster.take((claim("10.9.0.5"), claim("fd00:9::5")), owner("a"))
    cluster.take((claim("10.9.0.6"),), owner("a", "net11"))
    cluster.take((claim("10.9.0.7"),), owner("aa"))
    cluster.give_back_all(owner("a"))
    assert texts(cluster.leases(NETWORK)) == ["10.9.0.6", "10.9.0.7"]
    cluster.give_back_all(owner("a"))
    assert texts(cluster.leases(NETWORK)) == ["10.9.0.6", "10.9.0.7"]


def it_reports_what_is_held(backend: Backend) -> None:
    cluster = backend.open("node-a")
    claims = (claim("10.9.0.5"), claim("10.9.0.6"), claim("fd00:9::5"))
    cluster.take((claims[0], claims[2]), owner("a"))
    cluster.take((claims[1],), owner("b"))
    assert cluster.held(claims, owner("a")) == (claims[0], claims[2])
    assert cluster.held(claims, owner("c")) == ()
    assert cluster.held((), owner("a")) == ()


def what_is_known_about_an_owner_may_change(backend: Backend) -> None:
    cluster = backend.open("node-a")
    cluster.take((claim("10.9.0.5"),), owner("a"))
    nameless = Owner(network=NETWORK, container_id="a", ifname="net1")
    assert texts(cluster.held((claim("10.9.0.5"),), nameless)) == ["10.9.0.5"]
    cluster.give_back((claim("10.9.0.5"),), nameless)
    assert everything(cluster) == {}


def what_is_taken_is_reported_or_none_of_it(backend: Backend) -> None:
    cluster = backend.open("node-a")
    cluster.take((claim("10.9.0.5"),), owner("a"))
    cluster.take((claim("10.9.0.250"),), owner("b"))
    number = claim("10.9.0.5").address.number
    assert cluster.used_numbers(V4) in (None, {number, number + 245})
    assert cluster.used_numbers(V6) in (None, set())


def a_gap_is_found(backend: Backend) -> None:
    cluster = backend.open("node-a")
    first = claim("10.9.0.8").address.number
    one = range_of("10.9.0.0", 24, "10.9.0.8", "10.9.0.13", gateway=first + 1, excluded=((first + 3, first + 4),))
    cluster.take((claim("10.9.0.8", one),), owner("a"))
    assert cluster.find_free(one, first) in (first + 2, first + 5)
    cluster.take((claim("10.9.0.10", one),), owner("b"))
    assert [cluster.find_free(one, first + step) for step in range(6)] == [first + 5] * 6
    cluster.take((claim("10.9.0.13", one),), owner("c"))
    assert [cluster.find_free(one, first + step) for step in range(6)] == [None] * 6


def a_gap_is_found_in_a_large_range(backend: Backend) -> None:
    cluster = backend.open("node-a")
    start = claim("fd00:9::7").address.number
    for step in range(5):
        cluster.take((Claim(range=V6, address=V6.address(start + step)),), owner(f"a{step}"))
    found = cluster.find_free(V6, start)
    assert found is not None
    assert V6.first <= found <= V6.last
    assert not start <= found < start + 5


def leases_are_those_of_all_nodes_in_order(backend: Backend) -> None:
    one, other = backend.open("node-a"), backend.open("node-b")
    one.take((claim("10.9.0.10"),), owner("a"))
    other.take((claim("10.9.0.9"),), owner("b"))
    other.take((claim("10.9.0.100"),), owner("c", "net2"))
    found = list(one.leases(NETWORK))
    assert [str(lease.address) for lease in found] == ["10.9.0.9", "10.9.0.10", "10.9.0.100"]
    assert [(lease.owner.container_id, lease.owner.ifname) for lease in found] == [
        ("b", "net1"),
        ("a", "net1"),
        ("c", "net2"),
    ]
    assert [lease.owner.pod for lease in found] == ["default/b", "default/a", "default/c"]
    assert [lease.node for lease in found] == (["node-b", "node-a", "node-b"] if backend.names_nodes else [""] * 3)


def a_node_sees_the_leases_of_its_name(backend: Backend) -> None:
    one, other = backend.open("node-a"), backend.open("node-b")
    one.take((claim("10.9.0.5"), claim("fd00:9::5")), owner("a"))
    other.take((claim("10.9.0.6"),), owner("b"))
    assert texts(one.leases_of_node()) == (["10.9.0.5", "fd00:9::5"] if backend.names_nodes else [])
    assert all(lease.owner.network == NETWORK and lease.owner.container_id == "a" for lease in one.leases_of_node())


def it_is_reached(backend: Backend) -> None:
    backend.open("node-a").reach()
    assert everything(backend.open("node-a")) == {}


def of_many_that_take_an_address_at_once_one_gets_it(backend: Backend) -> None:
    wanted = (claim("10.9.0.5"),)
    clusters = [(backend.open(f"node-{name}"), owner(name)) for name in "abcdefgh"]
    answers = together(*(partial(cluster.take, wanted, who) for cluster, who in clusters))
    assert sorted(answers, key=str) == sorted([(), *[wanted] * 7], key=str)
    winner = clusters[answers.index(())][1]
    assert everything(clusters[0][0]) == {"10.9.0.5": (winner.container_id, "net1")}


def of_two_that_take_the_same_two_each_gets_both_or_none(backend: Backend) -> None:
    both = (claim("10.9.0.5"), claim("fd00:9::5"))
    for turn in range(5):
        who = {"node-a": owner(f"a{turn}"), "node-b": owner(f"b{turn}")}
        answers = together(
            partial(backend.open("node-a").take, both, who["node-a"]),
            partial(backend.open("node-b").take, both[::-1], who["node-b"]),
        )
        assert answers.count(()) < 2
        winners = [one for one, answer in zip(who.values(), answers, strict=True) if answer == ()]
        holders = sorted(everything(backend.open("node-a")).values())
        assert holders == [(one.container_id, "net1") for one in winners] * 2
        for node, one in who.items():
            backend.open(node).give_back(both, one)


_FUNCTIONS: list[Callable[[Backend], None]] = [
    an_address_has_one_owner,
    two_interfaces_of_a_container_are_two_owners,
    what_the_owner_has_is_no_hindrance,
    all_are_taken_or_none,
    what_was_given_back_can_be_taken,
    what_another_owner_has_is_not_given_back,
    giving_back_frees_what_is_the_owners_beside_what_is_not,
    giving_back_twice_is_no_error,
    all_of_an_owner_is_given_back,
    it_reports_what_is_held,
    what_is_known_about_an_owner_may_change,
    what_is_taken_is_reported_or_none_of_it,
    a_gap_is_found,
    a_gap_is_found_in_a_large_range,
    leases_are_those_of_all_nodes_in_order,
    a_node_sees_the_leases_of_its_name,
    it_is_reached,
    of_many_that_take_an_address_at_once_one_gets_it,
    of_two_that_take_the_same_two_each_gets_both_or_none,
]
CONTRACT = {one.__name__: one for one in _FUNCTIONS}
