"""An address that a node knows to be in use is not leased again, even if the store was replaced or has lost it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cni.errors import AddressesExhausted, AddressTaken
from ipam.address import parse
from ipam.cluster.occupied import Occupied
from ipam.config.location import LeaseLocation
from ipam.local.directory import Directory
from ipam.local.store import Local
from ipam.store import Owner
from ipam.stores import Stores
from tests.contract.ipam_cluster_contract import NETWORK, owner, range_of
from tests.fake_cluster import Shared
from tests.journalled import Node
from tests.recording_log import RecordingLog
from tests.trusting import POLICY

V4 = range_of("10.9.0.0", 24, "10.9.0.1", "10.9.0.6")
LARGE = range_of("fd00:9::", 64, "fd00:9::1", "fd00:9::5")
FIRST, SECOND = {"kind": "fake", "endpoints": ["first"]}, {"kind": "fake", "endpoints": ["second"]}


@pytest.fixture(params=[True, False], ids=["a cluster that tells what is taken", "a cluster that does not"])
def clusters(request) -> dict[str, Shared]:
    found = {"first": Shared(), "second": Shared()}
    for one in found.values():
        one.tells_taken = request.param
    return found


@pytest.fixture
def node(tmp_path, clusters) -> Node:
    return Node(tmp_path, "node-a", clusters)


def local(folder: Path) -> Local:
    return Local(str(folder), f"{folder}.run", lock_seconds=5.0)


def test_what_a_node_holds_in_one_cluster_it_does_not_lease_in_another(node):
    before = [node.add(name, sets=((V4,), (LARGE,)), cluster_conf=FIRST) for name in "abc"]
    after = [node.add(name, sets=((V4,), (LARGE,)), cluster_conf=SECOND) for name in "de"]
    assert len({address for some in before + after for address in some}) == 10


def test_where_only_occupied_addresses_are_left_a_range_is_exhausted(node):
    for number in range(4):
        node.add(f"a{number}", sets=((V4,),), cluster_conf=FIRST)
    assert (
        len({*node.add("b", sets=((V4,),), cluster_conf=SECOND), *node.add("c", sets=((V4,),), cluster_conf=SECOND)})
        == 2
    )
    with pytest.raises(AddressesExhausted):
        node.add("d", sets=((V4,),), cluster_conf=SECOND)


def test_what_a_cluster_has_forgotten_is_not_leased_to_another_owner(node, clusters):
    held = {address for name in "abc" for address in node.add(name, sets=((V4,),), cluster_conf=FIRST)}
    clusters["first"].leases.clear()
    assert held.isdisjoint({address for name in "def" for address in node.add(name, sets=((V4,),), cluster_conf=FIRST)})


def test_an_owner_keeps_what_it_has_and_what_was_released_is_free_again(node):
    first = node.add("a", sets=((V4,),), cluster_conf=FIRST)
    assert node.add("a", sets=((V4,),), cluster_conf=FIRST) == first
    node.store(cluster_conf=FIRST).release(owner("a"))
    (wanted,) = (parse(one, "") for one in first)
    assert node.store(cluster_conf=SECOND).allocate(owner("b"), ((V4,),), (wanted,))[0].address == wanted


def test_a_requested_address_that_another_owner_on_the_node_uses_is_refused(node):
    (address,) = node.add("a", sets=((V4,),), cluster_conf=FIRST)
    with pytest.raises(AddressTaken, match="in use on this node"):
        node.store(cluster_conf=SECOND).allocate(owner("b"), ((V4,),), (parse(address, ""),))
    assert [name for name in node.files() if "/b:" in name] == []


def test_what_host_local_s_directory_has_is_not_leased_by_a_cluster(node, tmp_path):
    directory = tmp_path / "nets" / NETWORK
    held = {str(claim.address) for name in "abc" for claim in local(directory).allocate(owner(name), ((V4,),), (None,))}
    places = (str(directory), str(tmp_path / "nowhere"))
    found = {node.add(name, sets=((V4,),), directories=places, cluster_conf=FIRST)[0] for name in "def"}
    assert len(held | found) == 6
    store = node.store(cluster_conf=FIRST, directories=places)
    with pytest.raises(AddressTaken, match="in use on this node"):
        store.allocate(owner("g"), ((V4,),), (parse(min(held), ""),))


def test_what_the_journal_holds_is_not_leased_in_host_local_s_directory(node, tmp_path):
    held = {node.add(name, sets=((V4,),), cluster_conf=FIRST)[0] for name in "abc"}
    stores = Stores(RecordingLog(), policy=POLICY, journal=str(node.folder / "journal"), run=str(tmp_path / "index"))
    store = stores.open(place_in(tmp_path))
    found = {str(claim.address) for name in "def" for claim in store.allocate(owner(name), ((V4,),), (None,))}
    assert len(held | found) == 6
    with pytest.raises(AddressesExhausted):
        store.allocate(owner("g"), ((V4,),), (None,))
    with pytest.raises(AddressTaken, match="through another backend"):
        store.allocate(owner("g"), ((V4,),), (parse(min(held), ""),))
    node.store(cluster_conf=None).release(owner("a"))
    assert store.allocate(owner("g"), ((V4,),), (None,))


def place_in(folder: Path) -> LeaseLocation:
    return LeaseLocation(backend="local", network=NETWORK, directory=f"{folder}/data/{NETWORK}")


def test_an_entry_that_holds_nothing_occupies_nothing(node, clusters):
    (address,) = node.add("a", sets=((V4,),), cluster_conf=FIRST)
    clusters["first"].away = True
    node.store(cluster_conf=FIRST).release(owner("a"))
    assert [path.endswith("a:net1.json") for path in node.files()].count(True) == 1
    assert not Occupied(owner("b"), str(node.folder / "journal")).has(parse(address, ""))


def test_a_damaged_entry_and_strange_names_are_passed_over(node, tmp_path):
    (address,) = node.add("a", sets=((V4,),), cluster_conf=FIRST)
    network = node.folder / "journal" / NETWORK
    (network / "b:net1.json").write_text(f'{{"phase": "held", "text": "{address}"\n')
    os.mkfifo(network / "c:net1.json")
    directory = tmp_path / "nets"
    with Directory(str(directory), 5.0) as opened:
        opened.take(["10.9.0.2"], "d", "net1")
    (directory / "last_reserved_ip.0").write_text("10.9.0.3")
    one = Occupied(owner("z"), str(node.folder / "journal"), (str(directory),))
    assert set(map(str, one.addresses())) == {address, "10.9.0.2"}
    assert one.has(parse(address, ""))
    assert not one.has(parse("10.9.0.3", ""))


def test_a_network_without_a_journal_has_nothing_in_use(tmp_path):
    who = Owner(network="none", container_id="a", ifname="net1")
    assert Occupied(who, str(tmp_path)).addresses() == set()
