"""A node's journal in front of a cluster: no lease is lost, and no address has two owners."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from typing import TYPE_CHECKING

import pytest

from cni.errors import (
    AddressesExhausted,
    AddressTaken,
    InvalidConfig,
    IoFailure,
    NotAvailable,
    RefusedForGood,
    TryAgainLater,
)
from ipam.address import parse
from ipam.cluster.identity import UNKNOWN, Identity
from ipam.cluster.journal import known_machine
from ipam.cluster.journal_entry import TOMBSTONE, Entry, Present
from ipam.cluster.known_identity import load_identity, save_identity
from ipam.cluster.store import Journal
from ipam.store import Owner
from tests.contract.ipam_cluster_contract import NETWORK, V4, V6, claim, owner, range_of, texts
from tests.fake_cluster import FakeCluster, Shared
from tests.journalled import FAKE, SETS, Node

if TYPE_CHECKING:
    from ipam.store import ClusterConf

TINY = ((range_of("10.9.0.0", 24, "10.9.0.1", "10.9.0.3"),),)
V6_TINY = range_of("fd00:8::", 126, "fd00:8::1", "fd00:8::2")
ENTRY, MARK = "journal/net/a:net1.json", "journal/.tombstones/net:a:net1"


@pytest.fixture
def shared() -> Shared:
    return Shared()


@pytest.fixture
def node(tmp_path, shared) -> Node:
    return Node(tmp_path, "node-a", {"fake": shared})


@pytest.fixture
def other(tmp_path, shared, node) -> Node:
    return Node(tmp_path, "node-b", {"fake": shared})


def in_use(shared: Shared) -> dict[str, str]:
    return {str(address): lease.owner.container_id for address, lease in shared.leases.items()}


def asked(text: str, name: str = "a"):
    """Allocates this address from V4."""
    return owner(name), ((V4,),), (parse(text, "test"),)


def fill(shared: Shared, ranges, name: str = "full") -> None:
    for one in ranges:
        for number in one.walk(one.first, one.last):
            FakeCluster(shared, "node-z").take((claim(str(one.address(number)), one),), owner(f"{name}{number}"))


# Allocating


def test_an_owner_gets_an_address_of_each_set_and_the_same_ones_again(node, shared):
    first = node.add("a")
    assert sorted(in_use(shared)) == sorted(first)
    assert parse(first[0], "") in V4
    assert parse(first[1], "") in V6
    assert node.add("a") == first
    assert len(shared.leases) == 2


def test_owners_on_different_nodes_get_different_addresses(node, other, shared):
    found = [address for name in "abcdefgh" for one in (node, other) for address in one.add(f"{one.name}-{name}")]
    assert len(set(found)) == len(found) == len(shared.leases) == 32


def test_the_search_goes_on_where_others_were_faster(node, shared):
    shared.tells_taken = False
    fill(shared, (V4,))
    free = parse("10.9.0.77", "")
    del shared.leases[free]
    assert node.add("a", sets=((V4,),)) == ["10.9.0.77"]


def test_an_address_that_the_cluster_reports_in_use_is_not_tried(node, shared):
    shared.tells_taken = True
    fill(shared, (V4,))
    del shared.leases[parse("10.9.0.77", "")]
    shared.calls.clear()
    assert node.add("a", sets=((V4,),)) == ["10.9.0.77"]
    assert shared.calls.count("take") == 1


@pytest.mark.parametrize("tells_taken", [False, True])
def test_addresses_are_exhausted_only_when_all_are_in_use(node, shared, tells_taken):
    shared.tells_taken = tells_taken
    assert sorted(node.add(name, sets=TINY)[0] for name in "abc") == ["10.9.0.1", "10.9.0.2", "10.9.0.3"]
    with pytest.raises(AddressesExhausted, match=r"10\.9\.0\.1-10\.9\.0\.3"):
        node.add("d", sets=TINY)
    assert "journal/net/d:net1.json" not in node.files()
    node.store().release(owner("b"))
    assert len(node.add("d", sets=TINY)) == 1


def test_a_set_without_a_free_address_leaves_nothing_taken_of_the_others(node, shared):
    fill(shared, TINY[0])
    before = in_use(shared)
    with pytest.raises(AddressesExhausted):
        node.add("a", sets=((V6,), *TINY))
    assert in_use(shared) == before
    assert node.files() == []


def test_the_second_range_of_a_set_serves_when_the_first_is_full(node, shared):
    fill(shared, TINY[0])
    more = range_of("10.10.0.0", 24, "10.10.0.9", "10.10.0.9")
    assert node.add("a", sets=((*TINY[0], more),)) == ["10.10.0.9"]


def test_a_requested_address_is_given(node):
    (found,) = node.store().allocate(*asked("10.9.0.200"))
    assert str(found.address) == "10.9.0.200"


def test_a_requested_address_of_another_owner_is_refused_and_nothing_stays(node, shared):
    FakeCluster(shared, "node-z").take((claim("10.9.0.200"),), owner("z"))
    with pytest.raises(AddressTaken, match=r"10\.9\.0\.200 is in use"):
        node.store().allocate(*asked("10.9.0.200"))
    assert in_use(shared) == {"10.9.0.200": "z"}
    assert node.files() == []


@pytest.mark.parametrize("wanted", ["10.9.1.1", "10.9.0.0", "fd00:9::1"])
def test_a_requested_address_outside_of_the_set_is_refused(node, shared, wanted):
    with pytest.raises(AddressTaken, match="outside"):
        node.store().allocate(*asked(wanted))
    assert in_use(shared) == {}


def test_an_owner_that_requests_another_address_gives_back_the_one_it_has(node, shared):
    node.store().allocate(*asked("10.9.0.200"))
    node.store().allocate(*asked("10.9.0.201"))
    assert in_use(shared) == {"10.9.0.201": "a"}


def test_what_does_not_fit_the_ranges_any_more_is_given_back(node, shared):
    node.store().allocate(*asked("10.9.0.200"))
    assert node.add("a", sets=TINY)[0] in {"10.9.0.1", "10.9.0.2", "10.9.0.3"}
    assert len(shared.leases) == 1


def test_an_owner_keeps_its_address_when_the_access_and_the_nodes_name_change(moving, shared):
    first = moving.add("a", cluster_conf=FIRST)
    moving.name = "renamed"
    assert moving.add("a", cluster_conf=SECOND) == first
    assert sorted(in_use(shared)) == sorted(first)
    moving.clusters["first"].away = True
    moving.store("elsewhere", None).release(owner("x"))
    moving.store(cluster_conf=None).release(owner("a"))
    assert (in_use(shared), moving.files()) == ({}, [])


def test_an_owner_keeps_what_fits_when_sets_come_and_go(node, shared):
    (four,) = node.add("a", sets=((V4,),))
    assert node.add("a")[0] == four
    both = node.add("a", sets=((V6,), (V4,)))
    assert both[1] == four
    assert node.add("a", sets=((V6,),)) == both[:1]
    assert list(in_use(shared)) == both[:1]


def test_an_owner_that_cannot_have_more_keeps_what_it_has(node, shared):
    first = node.add("a", sets=((V4,),))
    fill(shared, (V6_TINY,))
    with pytest.raises(AddressesExhausted):
        node.add("a", sets=((V4,), (V6_TINY,)))
    assert [str(one) for one in node.store().addresses(owner("a"))] == first
    node.store().release(owner("a"))
    assert set(first).isdisjoint(in_use(shared))


def test_what_another_owner_has_by_now_is_not_given_again(node, shared):
    node.store().allocate(*asked("10.9.0.200"))
    shared.leases.clear()
    FakeCluster(shared, "node-z").take((claim("10.9.0.200"),), owner("z"))
    (found,) = node.add("a", sets=((V4,),))
    assert in_use(shared) == {"10.9.0.200": "z", found: "a"}


def test_what_the_cluster_lost_is_taken_again(node, shared):
    first = node.add("a")
    shared.leases.clear()
    assert node.add("a") == first
    assert sorted(in_use(shared)) == sorted(first)


def test_a_request_is_on_disk_before_it_is_sent_to_the_cluster(node, shared, monkeypatch):
    noted = []

    def take(self, claims, who, take=FakeCluster.take):
        noted.append((texts(node.journal().find(who).claims), texts(claims)))
        return take(self, claims, who)

    fill(shared, (V4,))
    monkeypatch.setattr(FakeCluster, "take", take)
    del shared.leases[parse("10.9.0.77", "")]
    node.add("a")
    assert len(noted) == 2, "a try, and another one"
    assert all(before == claims for before, claims in noted)


def test_parallel_calls_for_one_owner_give_the_same_address(node, shared):
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(node.add("a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [found[0]] * 8
    assert len(shared.leases) == 2


def test_a_call_that_is_outrun_all_the_time_ends_within_its_bound(node, shared, monkeypatch):
    monkeypatch.setattr(FakeCluster, "take", lambda _self, claims, _owner: claims)
    with pytest.raises(TryAgainLater, match="before the deadline"):
        node.add("a", seconds=0.2)


def test_without_a_configuration_nothing_is_allocated(node):
    with pytest.raises(InvalidConfig, match="no cluster"):
        node.add("a", cluster_conf=None)


# Unknown outcomes


def lose(shared: Shared, call: str):
    """The response to the next such call is lost."""
    left = [call]

    def loses(name: str) -> bool:
        return name in left and left.pop() == name

    shared.loses = loses


def test_a_lost_answer_is_try_again_later_and_the_entry_stays(node, shared):
    lose(shared, "take")
    with pytest.raises(TryAgainLater):
        node.add("a")
    assert len(shared.leases) == 2
    assert node.files() == [ENTRY]


def test_after_a_lost_answer_the_next_add_takes_nothing_twice(node, shared):
    lose(shared, "take")
    with pytest.raises(TryAgainLater):
        node.add("a")
    assert sorted(node.add("a")) == sorted(in_use(shared))


def test_after_a_lost_answer_del_frees_what_was_taken(node, shared):
    lose(shared, "take")
    with pytest.raises(TryAgainLater):
        node.add("a")
    node.store().release(owner("a"))
    assert in_use(shared) == {}
    assert node.files() == []


def test_after_a_lost_answer_gc_frees_what_was_taken(node, shared):
    lose(shared, "take")
    with pytest.raises(TryAgainLater):
        node.add("a")
    node.store().gc(set())
    assert in_use(shared) == {}
    assert node.files() == []


def test_a_release_whose_answer_is_lost_is_repeated(node, shared):
    node.add("a")
    lose(shared, "give_back")
    node.store().release(owner("a"))
    assert node.files() == [MARK, ENTRY]
    node.store().drain()
    assert in_use(shared) == {}
    assert node.files() == []


# Releasing


def test_a_release_needs_no_configuration(node, shared):
    node.add("a")
    node.store(cluster_conf=None).release(owner("a"))
    assert in_use(shared) == {}
    assert node.files() == []


def test_releasing_an_unknown_owner_is_no_error_and_without_configuration_no_request_is_sent(node, shared):
    node.store(cluster_conf=None).release(owner("a"))
    assert shared.calls == []
    node.store().release(owner("a"))
    assert node.files() == []


def test_a_node_that_lost_its_journal_frees_what_has_the_owners_name(node, shared):
    node.add("a")
    node.add("b")
    shutil.rmtree(node.folder / "journal")
    node.store().release(owner("a"))
    assert set(in_use(shared).values()) == {"b"}


def test_a_release_does_not_touch_what_another_owner_has_by_now(node, shared):
    node.store().allocate(*asked("10.9.0.200"))
    shared.leases.clear()
    FakeCluster(shared, "node-z").take((claim("10.9.0.200"),), owner("z"))
    node.store().release(owner("a"))
    assert in_use(shared) == {"10.9.0.200": "z"}


def test_a_release_out_of_reach_succeeds_and_a_later_call_of_another_network_flushes_it(node, shared):
    node.add("a")
    shared.away = True
    node.store().release(owner("a"))
    assert node.files() == [MARK, ENTRY]
    assert any("could not be released yet" in warning for warning in node.warnings)
    shared.away = False
    node.store("elsewhere", None).release(Owner(network="elsewhere", container_id="x", ifname="net1"))
    assert in_use(shared) == {}
    assert node.files() == []


def test_a_release_of_unknown_addresses_out_of_reach_is_flushed_later(node, shared):
    node.add("a")
    shutil.rmtree(node.folder / "journal")
    shared.away = True
    node.store().release(owner("a"))
    shared.away = False
    node.store().drain()
    assert in_use(shared) == {}
    assert node.files() == []


def test_an_owner_that_comes_back_keeps_what_it_gets_when_its_tombstone_is_flushed(node, shared):
    node.add("a")
    shared.away = True
    node.store().release(owner("a"))
    shared.away = False
    (node.folder / MARK).rename(node.folder / "kept")  # so that this call does not see it
    found = node.add("a")
    (node.folder / "kept").rename(node.folder / MARK)
    node.store().drain()
    assert sorted(in_use(shared)) == sorted(found)
    assert node.files() == [ENTRY]


def test_a_tombstone_without_a_mark_is_flushed_by_gc(node, shared):
    node.add("a")
    shared.away = True
    node.store().release(owner("a"))
    shared.away = False
    (node.folder / MARK).unlink()
    node.store().gc({("a", "net1")})
    assert in_use(shared) == {}
    assert node.files() == []


def test_a_mark_without_an_entry_is_removed(node):
    (node.folder / MARK).parent.mkdir(parents=True)
    (node.folder / MARK).touch()
    node.store().drain()
    assert node.files() == []


def test_of_the_tombstones_those_of_the_longest_ago_come_first(node, shared):
    shared.away = True
    for age, name in enumerate("abc"):
        node.store().release(owner(name))
        os.utime(node.folder / f"journal/.tombstones/net:{name}:net1", (1000 - age, 1000 - age))
    assert [one.container_id for one in node.journal().tombstones()] == ["c", "b", "a"]
    node.journal().touch(owner("c"))
    assert [one.container_id for one in node.journal().tombstones()] == ["b", "a", "c"]


def test_a_cluster_out_of_reach_gets_one_request_for_all_its_tombstones(node, shared):
    for name in "abcde":
        node.add(name)
    shared.away = True
    for name in "abcde":
        node.store().release(owner(name))
    shared.calls.clear()
    node.store().drain()
    assert len(shared.calls) == 1


def waiting(node: Node, *names: str, first: float, last: float) -> None:
    """Sets the times of the first and of the last attempt to release the tombstones, in seconds ago."""
    now = time.time()
    for name in names:
        os.utime(node.folder / f"journal/net/{name}:net1.json", (now - first, now - first))
        os.utime(node.folder / f"journal/.tombstones/net:{name}:net1", (now - last, now - last))


@pytest.mark.parametrize(
    ("first", "last", "calls"),
    [(5, 1, 1), (120, 61, 1), (120, 59, 0), (100_000, 601, 1), (100_000, 590, 0), (120, -5, 1)],
)
def test_a_tombstone_that_cannot_be_settled_is_tried_after_pauses_that_grow(node, shared, first, last, calls):
    node.add("a")
    shared.away = True
    node.store().release(owner("a"))
    waiting(node, "a", first=first, last=last)
    shared.calls.clear()
    node.store().drain()
    assert len(shared.calls) == calls


def test_a_try_that_fails_is_that_of_all_tombstones_of_its_cluster(node, shared):
    names = [f"c{number}" for number in range(40)]
    shared.away = True
    for name in names:
        node.store().release(owner(name))
    waiting(node, *names, first=1000, last=700)
    shared.calls.clear()
    for _ in range(5):
        node.store().drain()
    assert len(shared.calls) == 1


def test_a_call_waits_for_one_silent_cluster_at_most(moving):
    cluster_confs = {"a": FIRST, "b": {**FIRST, "prefix": "/b"}, "c": {**FIRST, "prefix": "/c"}}
    moving.clusters["first"].away = True
    for name, cluster_conf in cluster_confs.items():
        moving.store(cluster_conf=cluster_conf).release(owner(name))
    moving.clusters["first"].calls.clear()
    moving.store("elsewhere", SECOND).drain()
    assert len(moving.clusters["first"].calls) == 1


def test_gc_of_a_network_succeeds_while_its_former_cluster_is_away(moving, shared):
    for name in "abc":
        moving.add(name, cluster_conf={**FIRST, "prefix": "/old"})
    moving.clusters["first"].away = True
    moving.store(cluster_conf={**FIRST, "prefix": "/old"}).release(owner("a"))
    moving.add("d", cluster_conf={**SECOND, "prefix": "/new"})
    moving.clusters["first"].calls.clear()
    moving.store(cluster_conf={**SECOND, "prefix": "/new"}).gc({("d", "net1")})
    assert len(moving.clusters["first"].calls) <= 2
    phases = {one.owner.container_id: one.phase for one in moving.journal().of_network(NETWORK)}
    assert phases == {"a": "tombstone", "b": "tombstone", "c": "tombstone", "d": "held"}


def test_what_a_cluster_finds_impossible_leaves_no_entry(node, monkeypatch):
    def impossible(*_arguments):
        raise InvalidConfig("there can be no such object")

    monkeypatch.setattr(FakeCluster, "take", impossible)
    with pytest.raises(InvalidConfig):
        node.add("a")
    assert node.files() == []


def test_draining_begins_nothing_in_the_second_half_of_its_time(node, shared, monkeypatch):
    for name in "abc":
        node.add(name)
    shared.away = True
    for name in "abc":
        node.store().release(owner(name))
    shared.away = False
    monkeypatch.setattr("ipam.cluster.release.DRAIN_SECONDS", 0.4)
    monkeypatch.setattr(FakeCluster, "give_back", lambda *_arguments: time.sleep(0.25))
    node.store().drain()
    assert len(node.journal().tombstones()) == 2


def test_draining_takes_nothing_of_an_adds_own_time(node, monkeypatch):
    opened = []
    monkeypatch.setattr("ipam.cluster.release.PendingReleases.drain", lambda _self: time.sleep(0.4))

    def open_cluster(self, cluster_conf, network, seconds, real=Node.open):
        opened.append(seconds)
        return real(self, cluster_conf, network, seconds)

    monkeypatch.setattr(Node, "open", open_cluster)
    node.add("a", seconds=0.4)
    node.store(seconds=0.4).gc({("a", "net1")})
    assert min(opened) > 0.1


def test_an_add_out_of_reach_is_try_again_later_and_its_del_succeeds(node, shared):
    shared.away = True
    with pytest.raises(TryAgainLater):
        node.add("a")
    node.store().release(owner("a"))
    shared.away = False
    node.add("b")
    assert set(in_use(shared).values()) == {"b"}
    assert node.files() == ["journal/net/b:net1.json"]


def test_an_entry_is_released_in_the_cluster_that_it_names(tmp_path, shared):
    second = Shared()
    node = Node(tmp_path, "node-a", {"fake": shared, "second": second})
    node.add("a")
    node.add("a", cluster_conf={"kind": "second"})
    assert (len(shared.leases), len(second.leases)) == (0, 2)
    node.store(cluster_conf=FAKE).release(owner("a"))
    assert second.leases == {}


# A cluster that cannot be opened, or has moved

BROKEN: ClusterConf = {**FAKE, "endpoints": ["/none.pem"]}
FIRST: ClusterConf = {**FAKE, "endpoints": ["first"]}
SECOND: ClusterConf = {**FAKE, "endpoints": ["second"]}


@pytest.fixture
def moving(tmp_path, shared) -> Node:
    """A node whose one cluster has two names, of which the first can disappear alone."""
    found = Node(tmp_path, "moving", {"fake": shared, "first": Shared(), "second": shared})
    found.clusters["first"].leases = shared.leases
    return found


def test_a_release_of_what_an_unusable_configuration_never_leased_leaves_no_tombstone(node, shared):
    with pytest.raises(InvalidConfig):
        node.add("a", cluster_conf=BROKEN)
    node.store(cluster_conf=BROKEN).release(owner("a"))
    assert node.files() == []
    assert any("no such file" in warning for warning in node.warnings)
    node.store().gc(set())


def test_gc_warns_of_an_unusable_configuration_and_collects_what_the_journal_has(node, shared):
    node.add("a")
    node.add("b")
    node.store(cluster_conf=BROKEN).gc({("b", "net1")})
    assert set(in_use(shared).values()) == {"b"}
    assert node.files() == ["journal/net/b:net1.json"]
    assert any("not searched" in warning and "no such file" in warning for warning in node.warnings)


def test_gc_does_not_fail_where_no_description_of_a_cluster_is_usable_any_more(node, shared):
    node.add("a")
    entry = node.journal().find(owner("a"))
    node.journal().save(entry.replace(cluster_conf={**BROKEN, "node": "node-a"}))
    node.store(cluster_conf=BROKEN).gc(set())
    assert node.files() == [MARK, ENTRY]
    assert any("could not be released yet" in warning for warning in node.warnings)
    node.journal().save(entry)
    node.store().gc(set())
    assert (in_use(shared), node.files()) == ({}, [])


@pytest.mark.parametrize("way", ["release", "drain", "gc"])
def test_what_is_leased_in_a_cluster_that_moved_is_freed_where_it_is_now(moving, shared, way):
    moving.add("a", cluster_conf=FIRST)
    moving.clusters["first"].away = True
    if way != "release":
        moving.store(cluster_conf=FIRST).release(owner("a"))
        assert moving.files() == [MARK, ENTRY]
    calls = {
        "release": lambda one: one.release(owner("a")),
        "drain": lambda one: one.drain(),
        "gc": lambda one: one.gc(set()),
    }
    calls[way](moving.store(cluster_conf=SECOND))
    assert in_use(shared) == {}
    assert moving.files() == []


def test_what_is_leased_at_another_prefix_is_not_looked_for_at_the_present_one(moving, shared):
    moving.add("a", cluster_conf={**FIRST, "prefix": "/old"})
    moving.clusters["first"].away = True
    moving.store(cluster_conf={**SECOND, "prefix": "/new"}).release(owner("a"))
    assert moving.files() == [MARK, ENTRY]


def test_another_network_releases_by_the_content_of_the_entry(moving, shared):
    moving.add("a", cluster_conf=FIRST)
    moving.clusters["first"].away = True
    moving.store(cluster_conf=FIRST).release(owner("a"))
    moving.store("elsewhere", SECOND).drain()
    assert moving.files() == [MARK, ENTRY]
    moving.clusters["first"].away = False
    moving.store("elsewhere", SECOND).drain()
    assert in_use(shared) == {}


def test_where_the_present_configuration_is_unusable_the_entry_leads_to_its_cluster(moving, shared):
    moving.add("a", cluster_conf=FIRST)
    moving.store(cluster_conf=BROKEN).release(owner("a"))
    assert in_use(shared) == {}
    assert moving.files() == []


def test_a_tombstone_of_an_unusable_configuration_is_settled_by_the_mended_one(node, shared):
    cluster_conf: ClusterConf = {**BROKEN, "prefix": "bad", "node": "node-a"}
    node.journal().save_tombstone(
        Entry(owner=owner("a"), phase=TOMBSTONE, claims=None, cluster_conf=cluster_conf, shared=NETWORK, node="node-a")
    )
    node.add("b")
    node.store().gc({("b", "net1")})
    assert set(in_use(shared).values()) == {"b"}
    assert node.files() == ["journal/net/b:net1.json"]


def test_the_pools_of_before_and_of_now_are_looked_at():
    one: ClusterConf = {
        "kind": "kubernetes",
        "kubeconfig": "/old",
        "namespace": "ns",
        "subnets": ["10.1.0.0/24"],
        "node": "n",
    }
    present: ClusterConf = {**one, "kubeconfig": "/new", "subnets": ["10.2.0.0/24"]}
    entry = Entry(owner=owner("a"), phase=TOMBSTONE, claims=None, cluster_conf=one, shared=NETWORK, node="n")
    first = Present(network=NETWORK, cluster_conf=present).cluster_confs(entry)[0]
    assert first == {**one, "kubeconfig": "/new", "subnets": ["10.1.0.0/24", "10.2.0.0/24"]}


# GC


def test_gc_frees_what_is_not_valid_and_leaves_the_rest(node, other, shared):
    for name in "abc":
        node.add(name)
    node.add("a", "net2")
    other.add("d")
    node.store().gc({("a", "net1"), ("c", "net1")})
    assert sorted(set(in_use(shared).values())) == ["a", "c", "d"]
    assert len(shared.leases) == 6


def test_gc_frees_only_its_own_network_in_a_cluster_network_of_several(node, shared):
    node.add("a", shared="flat")
    node.add("b", network="net2", shared="flat")
    node.store(shared="flat").gc(set())
    assert set(in_use(shared).values()) == {"b"}


def test_gc_frees_what_no_entry_has(node, other, shared):
    node.add("a")
    node.add("b")
    other.add("c")
    shutil.rmtree(node.folder / "journal")
    node.store().gc({("b", "net1")})
    assert sorted(set(in_use(shared).values())) == ["b", "c"]


def test_gc_leaves_what_another_machine_of_the_same_name_has(node, tmp_path, shared):
    twin = Node(tmp_path / "twin", "node-a", {"fake": shared})
    twin.machine = "0123456789abcdef" * 2
    twin.add("b")
    FakeCluster(shared, "node-a").take((claim("10.9.0.5"),), owner("old"))
    node.add("a")
    node.store().gc({("a", "net1")})
    assert sorted(in_use(shared).values()) == ["a", "a", "b", "b", "old"]
    twin.store().gc(set())
    assert sorted(in_use(shared).values()) == ["a", "a", "old"]


@pytest.mark.parametrize("content", [None, "", "uninitialized\n", "0" * 32])
def test_without_a_machine_id_the_journal_keeps_a_random_one(tmp_path, content):
    machine_id = tmp_path / "machine-id"
    if content is not None:
        machine_id.write_text(content)
    found = [
        Journal(str(tmp_path / folder), str(tmp_path / "run"), machine_id=str(machine_id)).machine
        for folder in ("one", "one", "two")
    ]
    assert found[0] == found[1] != found[2]
    assert all(len(one) > 32 for one in found)


def test_the_commands_know_the_machine_by_the_id_that_its_journal_made(tmp_path, monkeypatch):
    monkeypatch.setattr("ipam.cluster.journal.MACHINE_ID", str(tmp_path / "machine-id"))
    folder = str(tmp_path / "journal")
    assert known_machine(folder) == ""
    made = Journal(folder, str(tmp_path / "run"), machine_id=str(tmp_path / "machine-id")).machine
    assert known_machine(folder) == made
    (tmp_path / "machine-id").write_text(f"{'1d' * 16}\n")
    assert known_machine(folder) == "1d" * 16


def test_gc_frees_an_address_that_came_to_an_owner_after_all_hope(node, shared):
    found = node.add("a")
    FakeCluster(shared, "node-a", node.machine).take((claim("10.9.0.5"),), owner("a"))
    node.store().gc({("a", "net1")})
    assert sorted(in_use(shared)) == sorted(found)


def test_gc_frees_what_its_node_leased_under_another_name(node, shared):
    node.add("a")
    node.add("b")
    node.name = "renamed"
    node.store().gc({("b", "net1")})
    assert set(in_use(shared).values()) == {"b"}
    node.store().release(owner("b"))
    assert in_use(shared) == {}


def test_gc_out_of_reach_fails_and_what_it_knew_is_flushed_later(node, shared):
    node.add("a")
    shared.away = True
    with pytest.raises(TryAgainLater):
        node.store().gc(set())
    shared.away = False
    node.store().drain()
    assert in_use(shared) == {}


@pytest.mark.parametrize("ifname", ["a.tmp", "b.damaged"])
def test_a_tombstone_of_an_interface_that_is_called_like_a_temporary_file_is_found(node, shared, ifname):
    node.add("a", ifname)
    shared.away = True
    node.store().release(owner("a", ifname))
    node.journal().sweep(NETWORK)
    shared.away = False
    node.store().drain()
    assert (in_use(shared), node.files()) == ({}, [])


def test_gc_asks_a_cluster_out_of_reach_once_beside_the_tombstones(node, shared):
    for name in "abc":
        node.add(name)
    shared.away = True
    shared.calls.clear()
    with pytest.raises(TryAgainLater):
        node.store().gc(set())
    assert shared.calls == ["leases"]


def test_gc_has_one_bound_for_all_locks(node, shared):
    node.add("a")
    node.add("b")
    with node.journal().locked(owner("a")), node.journal().locked(owner("b")):
        started = time.monotonic()
        with pytest.raises(TryAgainLater):
            node.store(seconds=0.3).gc(set())
        assert time.monotonic() - started < 0.5
    assert set(in_use(shared).values()) == {"a", "b"}


def test_gc_removes_temporary_files_of_killed_calls_only(node):
    node.add("a")
    dead = f"{node.folder}/{ENTRY}.999999999.tmp"
    alive = f"{node.folder}/{ENTRY}.{os.getpid()}.tmp"
    for path in (dead, alive):
        with open(path, "w", encoding="ascii"):
            pass
    node.store().gc({("a", "net1")})
    assert not os.path.exists(dead)
    assert os.path.exists(alive)


# CHECK, STATUS, and damage


def test_addresses_are_those_that_journal_and_cluster_agree_on(node, shared):
    found = node.add("a")
    assert sorted(map(str, node.store(cluster_conf=None).addresses(owner("a")))) == sorted(found)
    del shared.leases[parse(found[0], "")]
    assert [str(one) for one in node.store().addresses(owner("a"))] == found[1:]
    assert node.store().addresses(owner("b")) == ()


def test_an_address_whose_outcome_is_unknown_is_not_the_owners(node, shared):
    lose(shared, "take")
    with pytest.raises(TryAgainLater):
        node.add("a")
    assert node.store().addresses(owner("a")) == ()


@pytest.mark.parametrize("tells_taken", [False, True])
def test_status_reports_a_full_set_and_a_cluster_out_of_reach(node, shared, tells_taken):
    shared.tells_taken = tells_taken
    node.store().status((*SETS, *TINY))
    fill(shared, TINY[0])
    with pytest.raises(NotAvailable, match="in use"):
        node.store().status((*SETS, *TINY))
    shared.away = True
    with pytest.raises(NotAvailable, match="away"):
        node.store().status(SETS)


def test_status_reports_that_the_journal_cannot_be_written(node):
    (node.folder / "journal").write_text("in the way")
    with pytest.raises(NotAvailable, match="journal"):
        node.store().require_writable()
    with pytest.raises(NotAvailable, match="journal"):
        node.store().status(SETS)


def test_a_damaged_entry_is_kept_aside_and_its_addresses_are_freed_by_name(node, shared):
    node.add("a")
    (node.folder / ENTRY).write_text('{"schema": 1, "claims":')
    node.store().release(owner("a"))
    assert in_use(shared) == {}
    assert node.files() == [f"{ENTRY}.damaged"]
    assert any("damaged" in warning for warning in node.warnings)


def test_a_line_that_was_cut_off_does_not_count(node):
    found = node.add("a")
    path = node.folder / ENTRY
    assert len(path.read_text().splitlines()) == 2
    with path.open("a", encoding="ascii") as file:
        file.write('{"schema": 1, "phase": "tombst')
    assert sorted(map(str, node.store().addresses(owner("a")))) == sorted(found)
    path.write_text(path.read_text().splitlines()[0])
    assert node.journal().find(owner("a")) is None, "not a single line is whole"


def test_an_entry_of_a_later_version_is_not_guessed_at(node):
    node.add("a")
    path = node.folder / ENTRY
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    assert node.journal().find(owner("a")) is None


def test_a_journal_that_others_may_write_to_is_refused(node):
    (node.folder / "journal").mkdir(mode=0o700)
    (node.folder / "journal").chmod(0o777)
    with pytest.raises(IoFailure, match="others may write"):
        node.journal()


def test_an_entry_is_read_back_as_it_was_written(node):
    node.add("a", sets=((V4,), (V6,)))
    entry = node.journal().find(Owner(network=NETWORK, container_id="a", ifname="net1"))
    again = node.journal()
    again.save(entry)
    assert again.find(entry.owner) == entry
    assert entry.cluster_conf == {"kind": "fake", "node": "node-a"}


# Pods, in a store that identifies owners by them


def test_the_next_sandbox_of_a_pod_gets_its_own_addresses_and_a_late_del_of_the_earlier_one_frees_nothing(
    node, other, shared
):
    shared.goes_by_pods = True
    one = {"pod": "default/p", "pod_uid": "u"}
    first = node.add("a", sets=TINY, **one)
    for place, later in ((node, "b"), (other, "c")):
        assert place.add(later, sets=TINY, **one) == first
        assert in_use(shared) == {first[0]: later}
    for earlier in "ab":
        node.store().release(owner(earlier))
    node.store().gc(set())
    assert in_use(shared) == {first[0]: "c"}
    other.store().release(owner("c"))
    assert (in_use(shared), node.files(), other.files()) == ({}, [], [])


def test_another_interface_of_the_pod_and_another_pod_get_other_addresses(node, shared):
    shared.goes_by_pods = True
    node.add("a", sets=TINY, pod="default/p")
    node.add("b", "net2", sets=TINY, pod="default/p")
    node.add("c", sets=TINY, pod="default/q")
    assert sorted(in_use(shared).values()) == ["a", "b", "c"]


def test_a_pod_that_requests_an_address_does_not_get_the_one_of_its_earlier_sandbox(node, shared):
    shared.goes_by_pods = True
    first = node.add("a", sets=TINY, pod="default/p")
    wanted = next(text for text in ("10.9.0.1", "10.9.0.2") if text not in first)
    who = owner("b").replace(pod="default/p")
    (found,) = node.store().allocate(who, TINY, (parse(wanted, ""),))
    assert str(found.address) == wanted
    assert in_use(shared) == {first[0]: "a", wanted: "b"}


def test_an_address_of_an_earlier_sandbox_that_is_taken_meanwhile_is_replaced(node, shared, monkeypatch):
    shared.goes_by_pods = True
    first = node.add("a", sets=TINY, pod="default/p")
    found = FakeCluster.leases_of_pod

    def stale(self, who):
        leases = found(self, who)
        for lease in leases:
            shared.leases[lease.address] = lease.replace(owner=owner("z").replace(pod="default/z"))
        return leases

    monkeypatch.setattr(FakeCluster, "leases_of_pod", stale)
    assert node.add("b", sets=TINY, pod="default/p") != first


def test_check_finds_what_another_plugin_leased_to_the_container(node, shared):
    shared.goes_by_pods = True
    for name in ("a", "b"):
        FakeCluster(shared, node.name).take((claim(f"10.9.0.{ord(name)}"),), owner(name))
    assert [str(one) for one in node.store().addresses(owner("a"))] == ["10.9.0.97"]
    assert node.store(cluster_conf=None).addresses(owner("a")) == ()
    assert node.store().addresses(owner("c")) == ()


# Permanent refusals


@pytest.mark.parametrize("ends", ("del", "gc"))
def test_an_add_that_is_refused_for_good_leaves_nothing_that_its_del_has_to_tell_the_cluster(node, shared, ends):
    shared.refuses = True
    for number in range(3):
        with pytest.raises(RefusedForGood):
            node.add(f"c{number}", pod="default/p" * (number % 2))
        if ends == "del":
            node.store().release(owner(f"c{number}"))
    shared.refuses = False
    shared.calls.clear()
    if ends == "gc":
        node.store().gc(set())
    assert not any(call.startswith("give_back") for call in shared.calls)
    assert node.files() == []
    assert node.warnings == []


def test_an_owner_keeps_what_it_has_when_more_is_refused_for_good(node, shared):
    first = node.add("a", sets=((V4,),))
    took = FakeCluster.take

    def refused(self, claims, who):
        if len(claims) > 1:
            raise RefusedForGood("no")
        return took(self, claims, who)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(FakeCluster, "take", refused)
        with pytest.raises(RefusedForGood):
            node.add("a")
    assert [str(one) for one in node.store().addresses(owner("a"))] == first
    node.store().release(owner("a"))
    assert in_use(shared) == {}


def test_a_lease_without_an_entry_is_not_forgotten_because_of_a_right_that_is_missing_now(node, shared):
    FakeCluster(shared, node.name).take((claim("10.9.0.5"),), owner("moved"))
    shared.refuses = True
    node.store().release(owner("moved"))
    shared.refuses = False
    node.store().gc(set())
    assert (in_use(shared), node.files()) == ({}, [])


def restore_reported(node) -> bool:
    return any("restored from a backup" in text for text in node.warnings)


@pytest.mark.parametrize("change", [{"name": "renamed"}, {"machine": "0123456789abcdef" * 2}])
@pytest.mark.parametrize("again", ["a", "b"])
def test_a_node_with_another_name_or_machine_id_does_not_take_the_cluster_for_a_restored_one(
    node, shared, change, again
):
    shared.identity = "one"
    held = node.add("a")
    vars(node).update(change)
    node.store().gc({("a", "net1")})
    node.add(again)
    node.add("c")
    node.store().gc({(name, "net1") for name in ("a", "b", "c")})
    assert not restore_reported(node)
    assert node.add("a") == held


def test_a_renamed_node_takes_again_what_it_has_once_and_under_the_name_of_then(node, shared):
    shared.identity = "one"
    backup = shared.snapshot()
    held = node.add("a")
    node.name = "renamed"
    node.add("b")
    shared.restore(backup, "one")
    node.add("c")
    assert restore_reported(node)
    assert {str(lease.address): lease.node for lease in shared.leases.values() if lease.owner.container_id == "a"} == (
        dict.fromkeys(held, "node-a")
    )
    node.warnings.clear()
    for name in ("d", "a", "e"):
        node.add(name)
    assert not restore_reported(node)


def test_a_note_of_an_older_version_that_names_no_node_is_read_as_none(tmp_path):
    cluster_conf: ClusterConf = {"kind": "etcd", "prefix": "/p", "node": "node-a", "machine": "1d" * 16}
    save_identity(str(tmp_path), "net", cluster_conf, "net", Identity(cluster="7", revision=9))
    assert load_identity(str(tmp_path), "net", cluster_conf, "net").revision == 9
    (file,) = (tmp_path / ".clusters").iterdir()
    told = json.loads(file.read_text())
    file.write_text(json.dumps({**told, "place": told["place"][:-2]}).ljust(512) + "\n")
    assert load_identity(str(tmp_path), "net", cluster_conf, "net") == UNKNOWN
    save_identity(str(tmp_path), "net", cluster_conf, "net", Identity(cluster="7", revision=3))
    assert load_identity(str(tmp_path), "net", cluster_conf, "net").revision == 3
