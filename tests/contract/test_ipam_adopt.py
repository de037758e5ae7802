"""`barewire-ipam adopt`: a network in use gets another location for its leases; no address is lost or leased twice."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cni.errors import AddressesExhausted, InvalidConfig, TryAgainLater
from ipam.command.adopt import Adoption
from ipam.command.networks import configured
from ipam.config.location import LeaseLocation
from ipam.kubernetes import whereabouts
from ipam.kubernetes.cluster import open_kubernetes
from ipam.kubernetes.whereabouts import PoolLocation
from ipam.stores import Stores
from tests.contract.ipam_cluster_contract import claim, range_of
from tests.contract.ipam_command import NETWORK, SECONDS, Node, owner
from tests.etcd.server import EtcdServer
from tests.kube.apiserver import ApiServer
from tests.kube.resources import POOLS, RESERVATIONS
from tests.kube.routes import RIGHTS
from tests.recording_log import RecordingLog
from tests.trusting import ACCESS, POLICY

if TYPE_CHECKING:
    from ipam.store import ClusterConf

CALLS = 10_000 if os.environ.get("BAREWIRE_MATRIX") else 300
FEW = ((range_of("10.77.0.0", 24, "10.77.0.1", "10.77.0.30"),),)
_NUMBER = itertools.count()


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.rights = RIGHTS
        yield api


@pytest.fixture
def prefix() -> str:
    return f"/adopt/{next(_NUMBER)}"


@pytest.fixture
def node(tmp_path) -> Node:
    return Node(tmp_path / "here", sets=FEW)


def move(node: Node, cluster_conf: ClusterConf | None) -> str:
    """Changes the network's configuration, and returns its file."""
    node.cluster_conf = cluster_conf
    section: dict[str, Any] = {"type": "barewire-ipam", "ranges": [[{"subnet": "10.77.0.0/24"}]]}
    section["ranges"][0][0] |= {"rangeStart": "10.77.0.1", "rangeEnd": "10.77.0.30"}
    if cluster_conf is None:
        section["dataDir"] = node.folders.data
    else:
        told = {key: cluster_conf[key] for key in ("endpoints", "prefix", "kubeconfig") if cluster_conf.get(key)}
        section |= {"backend": cluster_conf["kind"], cluster_conf["kind"]: told, "nodeName": node.name}
        section |= {"network_name": cluster_conf["network_name"]} if cluster_conf.get("network_name") else {}
    path = Path(node.folders.run, "moved.conf")
    path.write_text(json.dumps({"cniVersion": "1.0.0", "name": NETWORK, "type": "sriov", "ipam": section}))
    return str(path)


def adopt(node: Node, config: str, *options: str) -> int:
    return node.run("adopt", "--config", config, "--yes", *options)


def test_what_host_local_s_directory_has_is_taken_over_into_etcd(node, etcd, prefix, capsys):
    held = {node.add(name)[0]: name for name in ("a", "b")}
    config = move(node, etcd.cluster_conf(prefix=prefix))
    assert adopt(node, config) == 0
    assert "2 of 2 interfaces moved" in capsys.readouterr().out
    assert node.leases() == held
    assert node.entries() == {"a:net1.json": "held", "b:net1.json": "held"}
    assert [name for name in os.listdir(f"{node.folders.data}/{NETWORK}") if name.startswith("10.")] == []
    assert adopt(node, config) == 0
    assert "all leases of flat are where they are configured" in capsys.readouterr().out
    assert node.fsck() == 1, "of these owners nobody is alive, which is the only thing that is found"
    node.delete("a")
    node.delete("b")
    assert (node.leases(), node.entries()) == ({}, {})


def test_before_all_is_taken_over_what_the_node_knows_is_not_leased_again(node, etcd, prefix):
    held = {node.add(f"a{number}")[0] for number in range(15)}
    move(node, etcd.cluster_conf(prefix=prefix))
    stores = Stores(RecordingLog(), policy=POLICY, journal=node.folders.journal, run=node.folders.index)
    place = LeaseLocation(
        backend="etcd",
        network=NETWORK,
        directory=f"{node.folders.data}/{NETWORK}",
        shared=NETWORK,
        cluster_conf=node.cluster_conf,
        node=node.name,
    )
    store = stores.open(place)
    found = {str(store.allocate(owner(f"b{number}"), FEW, (None,))[0].address) for number in range(15)}
    assert len(held | found) == 30
    with pytest.raises(AddressesExhausted):
        store.allocate(owner("c"), FEW, (None,))


def test_a_lease_that_another_owner_has_in_the_new_location_is_reported_and_stays_where_it_was(
    node, etcd, prefix, tmp_path, capsys
):
    (address,) = node.add("a")
    other = Node(tmp_path / "there", "node-b", etcd.cluster_conf(prefix=prefix), FEW)
    while address not in other.leases():
        other.add(f"b{next(_NUMBER)}")
    config = move(node, etcd.cluster_conf(prefix=prefix))
    assert adopt(node, config) == 1
    assert f"{address} belongs to another owner in flat (etcd" in capsys.readouterr().err
    assert (node.entries(), os.path.exists(f"{node.folders.data}/{NETWORK}/{address}")) == ({}, True)


def test_what_etcd_has_is_taken_over_into_host_local_s_directory(node, etcd, prefix):
    node.cluster_conf = etcd.cluster_conf(prefix=prefix)
    held = {node.add(name)[0]: name for name in ("a", "b")}
    assert adopt(node, move(node, None)) == 0
    assert (node.leases(), node.entries()) == (held, {})
    node.cluster_conf = etcd.cluster_conf(prefix=prefix)
    assert node.leases() == {}


@pytest.mark.parametrize("elsewhere", ["another etcd", "another prefix"])
def test_what_one_etcd_has_is_taken_over_into_another(node, etcd, second, prefix, elsewhere):
    node.cluster_conf = etcd.cluster_conf(prefix=prefix)
    held = {node.add(name)[0]: name for name in ("a", "b")}
    before = node.cluster_conf
    new = (
        second.cluster_conf(prefix=prefix) if elsewhere == "another etcd" else etcd.cluster_conf(prefix=f"{prefix}/new")
    )
    assert adopt(node, move(node, new)) == 0
    assert node.leases() == held
    node.cluster_conf = before
    assert node.leases() == {}
    node.cluster_conf = new
    node.delete("a")
    node.delete("b")
    assert (node.leases(), node.entries()) == ({}, {})


def test_an_etcd_that_is_gone_for_good_is_left_on_request(node, second, prefix, capsys):
    with EtcdServer(durable=False) as lost:
        node.cluster_conf = lost.cluster_conf(prefix=prefix)
        held = node.add("a")[0]
    config = move(node, second.cluster_conf(prefix=prefix))
    assert adopt(node, config, "--seconds", "1") == 1
    assert "use --abandon" in capsys.readouterr().err
    assert node.leases() == {held: "a"}, "it is protected in the new place already"
    assert adopt(node, config, "--seconds", "1", "--abandon") == 0
    node.delete("a")
    assert (node.leases(), node.entries()) == ({}, {})


def test_a_restored_etcd_on_new_hosts_keeps_what_is_taken_over(node, second, prefix):
    with EtcdServer(durable=False) as lost:
        node.cluster_conf = lost.cluster_conf(prefix=prefix)
        held = {node.add(name)[0]: name for name in ("a", "b")}
        second.restore(lost.snapshot(), f"token {next(_NUMBER)}")
    config = move(node, second.cluster_conf(prefix=prefix))
    assert adopt(node, config, "--seconds", "1", "--abandon") == 0
    assert node.leases() == held


def test_a_pod_is_named_in_kubernetes_by_what_the_runtime_keeps(node, api, tmp_path):
    (address,) = node.add("a")
    arguments = [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "web"], ["K8S_POD_UID", "u"]]
    node.keep_result("a", cniArgs=arguments)
    place = PoolLocation(kubeconfig=str(api.kubeconfig(tmp_path / "kubeconfig")), subnets=whereabouts.subnets_of(FEW))
    assert adopt(node, move(node, {**whereabouts.cluster_conf(place), "node": node.name})) == 0
    pool = api.resources.get(POOLS, "kube-system", "10.77.0.0-24")
    offset = address.rpartition(".")[2]
    assert pool["spec"]["allocations"][offset]["podref"] == "shop/web"
    assert api.resources.names(RESERVATIONS, "kube-system") == [address]


def of_whereabouts(api: ApiServer, node: Node, folder: Path, *names: str) -> tuple[str, dict[str, str]]:
    """Returns the former configuration, and the leases that whereabouts made for pods: address and container."""
    api.rights = RIGHTS | {("get", "pods")}
    place = PoolLocation(kubeconfig=str(api.kubeconfig(folder / "kubeconfig")), subnets=whereabouts.subnets_of(FEW))
    cluster_conf: ClusterConf = {**whereabouts.cluster_conf(place), "node": node.name}
    before = Path(move(node, cluster_conf)).rename(folder / "before.conf")
    cluster = open_kubernetes(cluster_conf, NETWORK, SECONDS, ACCESS)
    found = {}
    for number, name in enumerate(names, start=5):
        one = claim(f"10.77.0.{number}", FEW[0][0])
        assert cluster.take((one,), owner(name)) == ()
        found[str(one.address)] = name
    return str(before), found


@pytest.mark.parametrize("way", ["to etcd", "to local"])
def test_what_whereabouts_leased_to_pods_of_this_node_is_taken_over(node, api, etcd, prefix, tmp_path, way):
    before, held = of_whereabouts(api, node, tmp_path, "a", "b", "elsewhere", "gone")
    for name, where in (("a", node.name), ("b", node.name), ("elsewhere", "node-b")):
        api.add_pod("default", name, spec={"nodeName": where, "containers": [{"name": "app", "image": "app"}]})
    config = move(node, etcd.cluster_conf(prefix=prefix) if way == "to etcd" else None)
    assert adopt(node, config, "--from", before) == 0
    assert sorted(node.leases().values()) == ["a", "b"]
    assert node.leases().items() <= held.items()
    left = [address for address, name in held.items() if name in ("elsewhere", "gone")]
    assert api.resources.names(RESERVATIONS, "kube-system") == left
    assert sorted(api.resources.get(POOLS, "kube-system", "10.77.0.0-24")["spec"]["allocations"]) == ["7", "8"]


def test_only_of_whereabouts_a_configuration_of_before_is_needed(node, etcd, prefix, tmp_path, capsys):
    before = Path(move(node, None)).rename(tmp_path / "before.conf")
    assert adopt(node, move(node, etcd.cluster_conf(prefix=prefix)), "--from", str(before)) == 2
    assert "backend kubernetes" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["to etcd", "to local"])
def test_a_move_that_was_cut_off_is_done_by_the_next_run(node, etcd, prefix, way, monkeypatch):
    if way == "to local":
        node.cluster_conf = etcd.cluster_conf(prefix=prefix)
    held = {node.add(name)[0]: name for name in ("a", "b")}
    config = move(node, etcd.cluster_conf(prefix=prefix) if way == "to etcd" else None)
    step = "_remove_files" if way == "to etcd" else "_directory"

    def cut(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        (network,) = configured(config, POLICY)
        adoption = Adoption(node.folders, network, print, SECONDS)
        moves = adoption.found()
        patch.setattr(Adoption, step, cut)
        for one in moves:
            with pytest.raises(KeyboardInterrupt):
                adoption.take_over(one)
    assert adopt(node, config) == 0
    assert node.leases() == held


@pytest.mark.parametrize("error", [KeyboardInterrupt, TryAgainLater])
@pytest.mark.parametrize("origin", ["host-local", "whereabouts"])
def test_a_move_that_was_cut_off_before_anything_was_taken_is_done_by_the_next_run(
    node, api, etcd, prefix, tmp_path, monkeypatch, origin, error
):
    options: tuple[str, ...] = ()
    if origin == "whereabouts":
        before, held = of_whereabouts(api, node, tmp_path, "a")
        api.add_pod("default", "a", spec={"nodeName": node.name, "containers": [{"name": "app", "image": "app"}]})
        options = ("--from", before)
    else:
        held = {node.add("a")[0]: "a"}
    config = move(node, etcd.cluster_conf(prefix=prefix))

    def cut(*_arguments: object) -> None:
        raise error("cut off")

    with monkeypatch.context() as patch:
        patch.setattr("ipam.etcd.cluster.Etcd.take", cut)
        assert adopt(node, config, *options) != 0
    assert (node.leases(), node.entries()) == ({}, {"a:net1.json": "intent"})
    assert adopt(node, config, *options) == 0
    assert (node.leases(), node.entries()) == (held, {"a:net1.json": "held"})
    node.delete("a")
    assert (node.leases(), node.entries()) == ({}, {})


@pytest.mark.parametrize("way", ["to kubernetes", "to etcd", "to local"])
def test_what_a_later_sandbox_has_taken_over_is_moved_for_it_alone(node, api, etcd, prefix, tmp_path, way):
    place = PoolLocation(kubeconfig=str(api.kubeconfig(tmp_path / "kubeconfig")), subnets=whereabouts.subnets_of(FEW))
    node.cluster_conf = {**whereabouts.cluster_conf(place), "node": node.name}
    # By its name, the earlier one is the last in the journal.
    for name in ("z-earlier", "a-later"):
        node.store().allocate(owner(name).replace(pod="default/pod"), FEW, (None,))
    held = node.leases()
    assert list(held.values()) == ["a-later"]
    elsewhere = {
        "to kubernetes": {**whereabouts.cluster_conf(place.replace(network_name="other")), "node": node.name},
        "to etcd": etcd.cluster_conf(prefix=prefix),
        "to local": None,
    }
    assert adopt(node, move(node, elsewhere[way])) == 0
    assert node.leases() == held
    node.delete("z-earlier")
    assert node.leases() == held
    node.delete("a-later")
    assert (node.leases(), node.entries()) == ({}, {})


def test_a_lease_whose_pod_s_name_is_none_is_passed_over_and_said(node, api, etcd, prefix, tmp_path, capsys):
    before, _held = of_whereabouts(api, node, tmp_path, "a", "b")
    api.add_pod("default", "a", spec={"nodeName": node.name, "containers": [{"name": "app", "image": "app"}]})
    pool = api.resources.get(POOLS, "kube-system", "10.77.0.0-24")
    pool["spec"]["allocations"]["6"]["podref"] = "default/No Name"
    api.resources.put(POOLS, "kube-system", pool)
    assert adopt(node, move(node, etcd.cluster_conf(prefix=prefix)), "--from", before) == 0
    said = capsys.readouterr().err
    assert "10.77.0.6 of b/net1 is not moved: 'default/No Name' is not a valid name of a pod" in said
    assert list(node.leases().values()) == ["a"]


def test_a_file_that_names_no_interface_is_not_taken_over(node, etcd, prefix, capsys):
    (address,) = node.add("a")
    Path(node.folders.data, NETWORK, address).write_text("a")
    assert adopt(node, move(node, etcd.cluster_conf(prefix=prefix))) == 1
    assert f"{address} cannot be moved: its owner is invalid" in capsys.readouterr().err
    assert os.path.exists(f"{node.folders.data}/{NETWORK}/{address}")


def test_without_a_configuration_nothing_can_be_taken_over(node, capsys):
    assert node.run("adopt", "--yes") == 2
    assert "--config" in capsys.readouterr().err


def test_nothing_is_taken_over_without_consent(node, etcd, prefix, capsys):
    node.add("a")
    config = move(node, etcd.cluster_conf(prefix=prefix))
    assert node.run("adopt", "--config", config) == 1
    assert (node.leases(), node.entries()) == ({}, {})
    with pytest.raises(InvalidConfig):
        configured(f"{config}.none", POLICY)


class Walk:
    """Nodes whose leases are in one of two etcds, and which now and then move them to the other."""

    def __init__(self, nodes: list[Node], places: list[ClusterConf]) -> None:
        self.nodes = nodes
        self.places = places
        self.chance = random.Random(3)
        self.has: dict[tuple[str, str], str] = {}

    def step(self, number: int) -> None:
        node = self.chance.choice(self.nodes)
        mine = [name for where, name in self.has if where == node.name]
        if len(mine) < self.chance.randint(0, 7):
            self.has[node.name, f"c{number}"] = node.add(f"c{number}")[0]
        elif mine:
            name = self.chance.choice(mine)
            del self.has[node.name, name]
            node.delete(name)
        if self.chance.random() < 0.02:
            self.move()
        assert len(set(self.has.values())) == len(self.has), "an address has two owners"

    def move(self) -> None:
        """Moves all nodes together, because two locations do not exclude each other's addresses."""
        place = self.chance.choice([one for one in self.places if one != self.nodes[0].cluster_conf])
        for node in self.nodes:
            assert adopt(node, move(node, place)) == 0


def test_a_walk_with_moves_gives_no_address_twice_and_loses_none(etcd, second, prefix, tmp_path, capsys):
    places = [
        etcd.cluster_conf(prefix=prefix),
        second.cluster_conf(prefix=prefix),
        etcd.cluster_conf(prefix=f"{prefix}/new"),
    ]
    nodes = [Node(tmp_path / (name or "here"), name, places[0], FEW) for name in ("", "node-b", "node-c")]
    walk = Walk(nodes, places)
    for number in range(CALLS):
        walk.step(number)
    for node in nodes:
        node.store().gc({(name, "net1") for where, name in walk.has if where == node.name})
    now = nodes[0].cluster_conf
    found = {}
    for place in places:
        nodes[0].cluster_conf = place
        found[places.index(place)] = nodes[0].leases()
    assert found.pop(places.index(now)) == {address: name for (_node, name), address in walk.has.items()}
    assert list(found.values()) == [{}, {}], "nothing stays in the places of before"
    for node in nodes:
        names = {path.name.partition(":")[0] for path in Path(node.folders.journal, NETWORK).glob("*.json")}
        assert names == {name for where, name in walk.has if where == node.name}
