"""`barewire-ipam fsck`, `release` and `free-node` with real namespaces, a real etcd, and the tests' API server."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni.log import Log
from ipam.address import parse
from ipam.config import location as ipam_location
from ipam.etcd import dead_node
from ipam.etcd.cluster import keys_of, open_etcd
from ipam.etcd.gateway import Gateway, servers
from ipam.etcd.heartbeat import LASTS, Alive
from ipam.kubernetes import whereabouts
from ipam.kubernetes.cluster import open_kubernetes
from ipam.kubernetes.whereabouts import PoolLocation
from ipam.store import Claim, claim_on
from ipam.stores import Stores
from tests.contract.ipam_command import NETWORK, SECONDS, V4, V6, Namespace, Node, last_of, owner
from tests.etcd.server import EtcdServer
from tests.kube.apiserver import ApiServer
from tests.kube.resources import POOLS, RESERVATIONS
from tests.kube.routes import RIGHTS
from tests.trusting import ACCESS, POLICY, ROOTS

ROOT = Path(__file__).parents[2]
_NUMBER = itertools.count()


@pytest.fixture
def node(tmp_path) -> Node:
    """A node with host-local's directories."""
    return Node(tmp_path / "here")


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def prefix() -> str:
    """A part of etcd that no other test uses."""
    return f"/command/{next(_NUMBER)}"


@pytest.fixture
def member(etcd, prefix, tmp_path) -> Node:
    """This node, with its addresses in etcd."""
    return Node(tmp_path / "here", cluster_conf=etcd.cluster_conf(prefix=prefix))


@pytest.fixture
def other(etcd, prefix, tmp_path) -> Node:
    return Node(tmp_path / "there", "node-b", etcd.cluster_conf(prefix=prefix))


def keys(etcd: EtcdServer, prefix: str) -> list[str]:
    found = etcd.all_keys()
    return [key.removeprefix(prefix) for key in found if key.startswith(f"{prefix}/")]


def addresses_in(etcd: EtcdServer, prefix: str) -> list[str]:
    return [key for key in keys(etcd, prefix) if not key.startswith("/alive/") and "/witness/" not in key]


# Leaks


def test_an_address_in_a_namespace_is_in_use_and_leaks_when_the_namespace_is_gone(node, capsys):
    address = node.add("a")[0]
    with Namespace(f"{address}/24"):
        assert node.fsck() == 0
    before = node.files()
    assert node.fsck() == 1
    assert f"leak: {address} of a/net1 in {NETWORK}" in capsys.readouterr().out
    assert node.files() == before
    assert node.fsck("--repair") == 0
    assert node.leases() == {}
    assert node.fsck() == 0


def test_an_address_in_a_namespace_that_only_a_process_keeps_is_in_use(node):
    address = node.add("a")[0]
    script = f"ip address add {address}/24 dev lo; echo ready; exec sleep 60"
    process = subprocess.Popen(["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert node.fsck("--repair") == 0
        assert list(node.leases()) == [address]
    finally:
        process.kill()
        process.communicate()
    assert node.fsck() == 1


def test_an_ipv6_address_in_a_namespace_is_in_use(tmp_path):
    node = Node(tmp_path / "here", sets=((V4,), (V6,)))
    addresses = node.add("a")
    with Namespace(f"{addresses[1]}/64"):
        assert node.fsck() == 0
    assert node.fsck("--repair") == 0
    assert node.leases() == {}


def test_what_has_a_record_is_in_use_without_an_address_in_any_namespace(node):
    node.add("a")
    node.attach("a")
    assert node.fsck("--repair") == 0
    assert list(node.leases().values()) == ["a"]


def test_what_a_runtime_keeps_the_result_of_is_in_use_while_its_sandbox_is_there(node):
    node.add("a")
    with Namespace() as sandbox:
        node.keep_result("a", f"/run/netns/{sandbox.name}")
        assert node.fsck("--repair") == 0
        node.keep_result("a", result={"interfaces": [{"name": "net1", "sandbox": f"/run/netns/{sandbox.name}"}]})
        assert node.fsck("--repair") == 0
        node.keep_result("a", f"/run/netns/{sandbox.name}", ifname="net2")
    assert node.fsck() == 1
    node.keep_result("a", "/run/netns/gone")
    assert node.fsck() == 1
    node.keep_result("a")
    assert node.fsck() == 0
    assert list(node.leases().values()) == ["a"]


def test_an_interface_of_a_container_does_not_keep_the_addresses_of_its_others(node):
    node.add("a", "net1")
    left = node.add("a", "net2")[0]
    node.attach("a", "net2")
    assert node.fsck("--repair") == 0
    assert list(node.leases()) == [left]


def test_a_young_lease_is_not_a_finding(node):
    address = node.add("a")[0]
    assert node.run("fsck", "--repair") == 0
    assert list(node.leases()) == [address]
    path = f"{node.folders.data}/{NETWORK}/{address}"
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago))
    assert node.run("fsck", "--repair") == 0
    assert node.leases() == {}


def test_a_damaged_record_is_reported_and_its_name_says_who_is_alive(node, capsys):
    node.add("a")
    node.add("b")
    path = Path(f"{node.folders.state}/{NETWORK}/b:net1.json")
    path.parent.mkdir(mode=0o700, parents=True)
    path.write_text("{")
    assert node.fsck("--repair") == 1
    assert f"damaged: {path} cannot be read" in capsys.readouterr().out
    assert list(node.leases().values()) == ["b"]
    assert path.exists()


# Duplicates


def test_an_address_in_two_namespaces_is_a_duplicate(node, capsys):
    address = node.add("a")[0]
    with Namespace(f"{address}/24") as one, Namespace(f"{address}/24") as two:
        assert node.fsck("--repair") == 1
        said = capsys.readouterr().out
    assert f"duplicate: {address} of {NETWORK} is in 2 namespaces" in said
    assert f"/run/netns/{one.name}" in said
    assert f"/run/netns/{two.name}" in said
    assert list(node.leases()) == [address]


def test_networks_with_the_same_ranges_may_each_have_a_namespace_with_an_address(node):
    address = node.add("a")[0]
    assert node.add("b", network="other") == [address]
    with Namespace(f"{address}/24"), Namespace(f"{address}/24"):
        assert node.fsck() == 0


def test_an_address_with_an_owner_in_the_directory_and_another_in_etcd_is_a_duplicate(member, tmp_path, capsys):
    address = member.add("a")[0]
    member.attach("a")
    member.attach("b")
    folder = Path(member.folders.data, NETWORK)
    folder.mkdir()
    (folder / address).write_bytes(b"b\r\nnet1")
    assert member.fsck("--config", configuration(member)) == 1
    said = capsys.readouterr().out
    assert f"duplicate: {address} of {NETWORK} has 2 owners" in said
    assert "a/net1 in etcd, the journal" in said
    assert f"b/net1 in {folder}" in said


def test_two_entries_of_the_journal_about_one_address_are_a_duplicate(member, capsys):
    address = member.add("a")[0]
    member.attach("a")
    member.attach("b")
    entry = Path(member.folders.journal, NETWORK, "a:net1.json")
    told = last_of(entry)
    told["owner"]["container_id"] = "b"
    entry.with_name("b:net1.json").write_text(json.dumps(told) + "\n")
    assert member.fsck() == 1
    assert f"duplicate: {address} of {NETWORK} has 2 owners" in capsys.readouterr().out


# The journal


def test_a_leak_in_etcd_goes_with_its_entry_and_what_other_nodes_have_stays(member, other, etcd, prefix):
    member.add("a")
    theirs = other.add("b")
    assert member.fsck() == 1
    assert member.fsck("--repair") == 0
    assert list(member.leases()) == theirs
    assert member.entries() == {}
    assert member.fsck() == 0
    assert len(addresses_in(etcd, prefix)) == 2


def test_a_dead_owners_lease_is_freed_when_the_journal_is_lost(member, other):
    theirs = other.add("b")
    member.add("a")
    shutil.rmtree(f"{member.folders.journal}/{NETWORK}")
    config = configuration(member)
    assert member.fsck("--config", config) == 1
    assert member.fsck("--config", config, "--repair") == 0
    assert list(member.leases()) == theirs


def test_a_living_owners_lease_gets_its_entry_again(member, capsys):
    address = member.add("a")[0]
    shutil.rmtree(f"{member.folders.journal}/{NETWORK}")
    config = configuration(member)
    with Namespace(f"{address}/24"):
        assert member.fsck("--config", config) == 1
        assert f"lease without journal: {address} of a/net1" in capsys.readouterr().out
        assert member.entries() == {}
        assert member.fsck("--config", config, "--repair") == 0
        assert member.fsck("--config", config) == 0
    assert member.entries() == {"a:net1.json": "held"}
    member.delete("a", configured=False)
    assert member.leases() == {}


def test_a_lease_of_another_machine_of_our_name_is_not_ours_to_free(member, etcd, prefix, capsys):
    theirs: Any = {**etcd.cluster_conf(prefix=prefix), "node": member.name, "machine": "f" * 32}
    claim = claim_on(parse("10.0.0.77", ""))
    open_etcd(theirs, NETWORK, SECONDS, ROOTS).take((claim,), owner("theirs"))
    assert member.fsck("--config", configuration(member), "--repair") == 1
    assert f"former machine: machine {'f' * 32} has 1 leases" in capsys.readouterr().out
    assert str(claim.address) in member.leases()


def reinstall(member: Node) -> None:
    """Gives the machine another ID and an empty journal."""
    for folder in (member.folders.state, member.folders.run):
        shutil.rmtree(folder)
    for folder in (member.folders.state, member.folders.run, member.folders.journal):
        os.mkdir(folder, 0o700)


def test_what_a_node_had_before_it_was_reinstalled_is_freed_when_its_machine_leaves_no_sign(
    member, etcd, prefix, capsys, monkeypatch
):
    monkeypatch.setattr("ipam.cluster.journal._machine_id", lambda _path: "a" * 32)
    lost = member.add("a")[0]
    reinstall(member)
    monkeypatch.setattr("ipam.cluster.journal._machine_id", lambda _path: "b" * 32)
    kept, config = member.add("b")[0], configuration(member)
    arguments = ("free-node", "--former", member.name, "--config", config, "--yes")
    assert member.run(*arguments) == 1
    assert f"machine {'a' * 32} has the name {member.name} and is alive" in capsys.readouterr().err
    assert set(member.leases()) == {lost, kept}
    etcd.ctl("del", f"{prefix}/alive/{member.name}/{'a' * 32}")
    assert member.run(*arguments) == 0
    assert "1 freed" in capsys.readouterr().out
    assert member.leases() == {kept: "b"}
    assert member.run(*arguments) == 0
    assert "no former machine" in capsys.readouterr().out


def test_only_this_nodes_own_name_has_former_machines(member, other, etcd, prefix, capsys):
    other.add("b")
    assert member.run("free-node", "--former", "node-b", "--config", configuration(member), "--yes") == 1
    assert "node-b is not this node" in capsys.readouterr().err
    assert set(other.leases().values()) == {"b"}


def test_a_living_owner_gets_the_lease_again_that_only_the_journal_knows(member, etcd, prefix, capsys):
    address = member.add("a")[0]
    etcd.ctl("del", f"{prefix}/{NETWORK}/", "--prefix")
    with Namespace(f"{address}/24"):
        assert member.fsck() == 1
        assert f"journal without lease: {address} of a/net1" in capsys.readouterr().out
        assert member.leases() == {}
        assert member.fsck("--repair") == 0
        assert member.leases() == {address: "a"}
        assert member.fsck() == 0


def test_a_lease_that_another_owner_has_meanwhile_is_not_taken_again(member, other, etcd, prefix, capsys):
    address = member.add("a")[0]
    etcd.ctl("del", f"{prefix}/{NETWORK}/", "--prefix")
    other.store().allocate(owner("b"), ((V4,),), (parse(address, "test"),))
    with Namespace(f"{address}/24"):
        assert member.fsck("--repair") == 1
    assert f"another owner has {address} now" in capsys.readouterr().out
    assert member.leases() == {address: "b"}


def test_a_dead_owners_entry_without_a_lease_goes(member, etcd, prefix):
    member.add("a")
    etcd.ctl("del", f"{prefix}/{NETWORK}/", "--prefix")
    assert member.fsck("--repair") == 0
    assert member.entries() == {}


def test_tombstones_wait_until_the_cluster_is_back(tmp_path, capsys):
    with EtcdServer() as server:
        member = Node(tmp_path / "here", cluster_conf=server.cluster_conf())
        address = member.add("a")[0]
        server.kill()
        member.seconds = 1.0
        member.delete("a", configured=False)
        assert member.fsck("--repair", "--seconds", "0.5") == 1
        said = capsys.readouterr().out
        assert f"tombstone: {address} of a/net1" in said
        assert "not reached: " in said
        assert member.entries() == {"a:net1.json": "tombstone"}
        server.start()
        assert member.fsck() == 1
        assert member.fsck("--repair") == 0
        assert member.entries() == {}
        assert member.leases() == {}


def test_a_damaged_entry_is_reported_and_left(member, capsys):
    member.add("a")
    member.attach("a")
    path = Path(member.folders.journal, NETWORK, "b:net1.json")
    path.write_text("{")
    assert member.fsck("--repair") == 1
    assert f"damaged: {path} cannot be read" in capsys.readouterr().out
    assert path.read_text() == "{"


# Releasing


def test_what_a_living_sandbox_uses_is_released_by_force_only(node, capsys):
    address = node.add("a")[0]
    with Namespace(f"{address}/24") as sandbox:
        assert node.run("release", address, "--yes") == 1
        assert f"{address} is in use: {address} in /run/netns/{sandbox.name}" in capsys.readouterr().err
        assert node.leases() == {address: "a"}
        assert node.run("release", address, "--yes", "--force") == 0
    assert node.leases() == {}


def test_a_release_in_etcd_takes_all_of_the_interface_and_its_entry(etcd, prefix, tmp_path):
    member = Node(tmp_path / "here", cluster_conf=etcd.cluster_conf(prefix=prefix), sets=((V4,), (V6,)))
    addresses = member.add("a")
    member.add("b")
    assert member.run("release", addresses[1], "--yes") == 0
    assert set(member.leases().values()) == {"b"}
    assert member.entries() == {"b:net1.json": "held"}


def test_what_another_node_has_is_released_by_force_only(member, other, capsys):
    member.add("a")
    address = other.add("b")[0]
    assert member.run("release", address, "--yes") == 1
    assert "of node node-b" in capsys.readouterr().err
    assert member.run("release", address, "--yes", "--force") == 0
    assert list(member.leases().values()) == ["a"]


# Signs of life


def sign(etcd: EtcdServer, prefix: str, node: str) -> dict[str, Any]:
    found = json.loads(etcd.ctl("get", f"{prefix}/alive/{node}", "-w", "json")).get("kvs", [])
    return found[0] if found else {}


CALLS = {
    "ADD": lambda node: node.add("new"),
    "DEL": lambda node: node.delete("old"),
    "GC": lambda node: node.store().gc({("old", "net1")}),
    "STATUS": lambda node: node.store().status(node.sets),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_call_leaves_a_sign_of_life_that_expires(member, etcd, prefix, name):
    member.add("old")
    etcd.ctl("del", f"{prefix}/alive/{member.name}")
    shutil.rmtree(member.folders.index)
    CALLS[name](member)
    lease = sign(etcd, prefix, member.name)["lease"]
    told = json.loads(etcd.ctl("lease", "timetolive", f"{lease:x}", "-w", "json"))
    assert told["granted-ttl"] == LASTS


def test_the_plugins_stores_leave_the_sign(member, etcd, prefix):
    stores = Stores(Log({}), policy=POLICY, journal=member.folders.journal, run=member.folders.index)
    place = ipam_location.LeaseLocation(
        backend="etcd", network=NETWORK, directory="", shared=NETWORK, cluster_conf=member.cluster_conf, node="node-s"
    )
    stores.open(place).status(member.sets)
    assert sign(etcd, prefix, "node-s")["lease"]


def test_no_address_expires(member, etcd, prefix):
    member.add("a")
    found = json.loads(etcd.ctl("get", f"{prefix}/{NETWORK}/", "--prefix", "-w", "json"))["kvs"]
    assert len(found) == 3
    assert [one for one in found if one.get("lease")] == []


def test_a_sign_of_life_is_renewed_at_most_once_a_minute(member, etcd, prefix):
    member.add("a")
    first = sign(etcd, prefix, member.name)["mod_revision"]
    member.add("b")
    assert sign(etcd, prefix, member.name)["mod_revision"] == first
    for path in Path(member.folders.index).glob("alive-*"):
        os.utime(path, (time.time() - 61, time.time() - 61))
    member.add("c")
    assert sign(etcd, prefix, member.name)["mod_revision"] > first


def test_the_command_leaves_no_sign_of_life_for_other_nodes(member, other, etcd, prefix):
    address = other.add("b")[0]
    silence(etcd, prefix, "node-b")
    member.add("a")
    assert member.run("release", address, "--yes", "--force") == 0
    assert sign(etcd, prefix, "node-b") == {}


# Dead nodes


def silence(etcd: EtcdServer, prefix: str, node: str) -> None:
    """Expires the sign of life, as if 15 minutes had passed."""
    etcd.ctl("lease", "revoke", f"{sign(etcd, prefix, node)['lease']:x}")
    assert sign(etcd, prefix, node) == {}


def configuration(node: Node, **section) -> str:
    """A file with the node's configuration."""
    told = {key: value for key, value in (node.cluster_conf or {}).items() if value and key != "kind"}
    ipam = {"type": "barewire-ipam", "backend": "etcd", "subnet": "10.77.0.0/24", "etcd": told, **section}
    path = Path(node.folders.run, "network.conf")
    path.write_text(json.dumps({"cniVersion": "1.0.0", "name": NETWORK, "type": "sriov", "ipam": ipam}))
    return str(path)


def test_a_node_whose_sign_of_life_is_there_is_refused(member, other, capsys):
    theirs = other.add("b")
    config = configuration(member)
    assert member.run("free-node", "node-b", "--yes", "--config", config) == 1
    said = capsys.readouterr()
    assert "node-b is alive: it has a sign of life" in said.err
    assert "has expired, in " in said.err
    assert said.out == ""
    assert list(member.leases()) == theirs


def test_a_node_with_a_new_name_leaves_the_sign_of_its_old_one_while_it_has_addresses_by_it(
    member, other, etcd, prefix, capsys
):
    theirs = other.add("b")
    silence(etcd, prefix, "node-b")
    shutil.rmtree(other.folders.index)
    other.name = "renamed"
    other.add("c", network="second")
    assert sign(etcd, prefix, "renamed")
    config = configuration(member)
    assert member.run("free-node", "node-b", "--yes", "--config", config) == 1
    assert "node-b is alive: it has a sign of life" in capsys.readouterr().err
    assert list(member.leases()) == theirs
    other.delete("b")
    etcd.ctl("del", f"{prefix}/alive/", "--prefix")
    shutil.rmtree(other.folders.index)
    other.add("d")
    assert (sign(etcd, prefix, "node-b"), list(member.leases().values())) == ({}, ["d"])


def test_a_dead_nodes_addresses_are_freed_in_every_network_and_those_of_others_stay(
    member, other, etcd, prefix, capsys
):
    member.add("a")
    before = addresses_in(etcd, prefix)
    freed = other.add("b") + other.add("c", network="second") + other.add("d", network="third")
    silence(etcd, prefix, "node-b")
    assert member.run("free-node", "node-b", "--yes") == 0
    assert addresses_in(etcd, prefix) == before
    said = capsys.readouterr().out
    assert all(address in said for address in freed)
    assert "3 freed" in said


def test_many_addresses_are_freed(member, other, etcd, prefix):
    member.add("a")
    before = addresses_in(etcd, prefix)
    for number in range(70):
        other.add(f"b{number}")
    silence(etcd, prefix, "node-b")
    assert member.run("free-node", "node-b", "--yes") == 0
    assert addresses_in(etcd, prefix) == before


def test_a_node_that_comes_back_keeps_what_it_has_still(member, other, etcd, prefix):
    for number in range(40):
        other.add(f"b{number}")
    silence(etcd, prefix, "node-b")
    shutil.rmtree(other.folders.index)
    cluster_conf: Any = {**(other.cluster_conf or {}), "node": "node-b"}
    freeing = dead_node.free(Gateway(servers(cluster_conf, ROOTS), SECONDS), keys_of(cluster_conf, NETWORK), SECONDS)
    gone = [next(freeing) for _ in range(dead_node.PAGE)]
    new = other.add("new")[0]
    with pytest.raises(Alive, match="node-b is alive"):
        next(freeing)
    assert len(gone) == dead_node.PAGE
    assert len(other.leases()) == 40 - dead_node.PAGE + 1
    assert other.leases()[new] == "new"


def test_an_index_that_is_left_over_does_not_free_another_nodes_address(member, other, etcd, prefix):
    address = member.add("a")[0]
    index = next(key for key in keys(etcd, prefix) if "/node/" in key)
    there = index.replace(f"/node/{member.name}/", "/node/node-b/")
    value = etcd.ctl("get", f"{prefix}{index}", "--print-value-only").strip()
    etcd.ctl("put", f"{prefix}{there}", value)
    assert member.run("free-node", "node-b", "--yes") == 0
    assert member.leases() == {address: "a"}
    assert there not in keys(etcd, prefix)


def test_this_node_is_always_alive(member, etcd, prefix, capsys):
    member.add("a")
    silence(etcd, prefix, member.name)
    assert member.run("free-node", member.name, "--yes") == 1
    assert "is this node" in capsys.readouterr().err
    assert list(member.leases().values()) == ["a"]


def test_nothing_is_freed_without_consent(member, other, etcd, prefix, capsys, monkeypatch):
    member.add("a")
    theirs = other.add("b")
    silence(etcd, prefix, "node-b")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert member.run("free-node", "node-b") == 1
    assert "--yes" in capsys.readouterr().err
    assert set(theirs) < set(member.leases())


def test_a_name_that_no_lease_and_no_node_has_is_refused(member, api, tmp_path, capsys):
    member.add("a")
    assert member.run("free-node", "node-bb", "--yes") == 1
    assert "the node node-bb is unknown" in capsys.readouterr().err
    kubeconfig = str(api.kubeconfig(tmp_path / "kubeconfig"))
    assert member.run("free-node", "node-b", "--yes", "--kubeconfig", kubeconfig) == 1
    api.add_node("node-b", "False")
    assert member.run("free-node", "node-b", "--yes", "--kubeconfig", kubeconfig) == 0
    assert "node-b has no addresses" in capsys.readouterr().out


# Kubernetes


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.rights = RIGHTS | {("get", "nodes"), ("get", "pods")}
        yield api


@pytest.fixture
def kubernetes(api, tmp_path) -> Node:
    place = PoolLocation(
        kubeconfig=str(api.kubeconfig(tmp_path / "kubeconfig")), subnets=whereabouts.subnets_of([(V4,), (V6,)])
    )
    return Node(tmp_path / "here", cluster_conf={**whereabouts.cluster_conf(place), "node": os.uname().nodename})


def pod_on(api: ApiServer, name: str, node: str) -> None:
    api.add_pod("default", name, spec={"nodeName": node, "containers": [{"name": "app", "image": "app"}]})


def lease(kubernetes: Node, *names: str) -> dict[str, str]:
    """Leases of other nodes: pods and their addresses."""
    cluster = open_kubernetes(kubernetes.cluster_conf or {}, NETWORK, SECONDS, ACCESS)
    found = {}
    for number, name in enumerate(names, start=10):
        address = V4.address(V4.subnet.number + number)
        assert cluster.take((Claim(range=V4, address=address),), owner(name)) == ()
        found[name] = str(address)
    return found


def test_leases_of_pods_that_a_dead_node_had_are_freed_in_kubernetes(api, kubernetes, capsys):
    kubernetes.add("mine")
    theirs = lease(kubernetes, "bound", "elsewhere", "gone")
    pod_on(api, "bound", "node-b")
    pod_on(api, "elsewhere", "node-c")
    assert kubernetes.run("free-node", "node-b", "--yes") == 0
    said = capsys.readouterr().out
    assert "1 freed" in said
    assert theirs["gone"] not in said
    assert "1 more are of pods that do not exist any more" in said
    left = kubernetes.leases()
    assert set(left.values()) == {"mine", "elsewhere", "gone"}
    # Leases in this node's journal belong to this node, whatever the API server reports about the pod.
    assert api.resources.names(RESERVATIONS, "kube-system") == sorted(left)
    assert theirs["elsewhere"] in left


def test_leases_of_pods_that_are_gone_are_freed_on_request_and_listed_apart(api, kubernetes, capsys):
    kubernetes.add("mine")
    theirs = lease(kubernetes, "bound", "gone")
    pod_on(api, "bound", "node-b")
    assert kubernetes.run("free-node", "node-b", "--yes", "--gone-pods") == 0
    ours, _, apart = capsys.readouterr().out.partition("of pods that do not exist any more, on any node:")
    assert (theirs["bound"] in ours, theirs["gone"] in ours, theirs["gone"] in apart) == (True, False, True)
    assert "2 freed" in apart
    assert set(kubernetes.leases().values()) == {"mine"}


def test_a_node_that_only_leases_of_gone_pods_could_be_of_is_unknown(api, kubernetes, capsys):
    kubernetes.add("mine")
    lease(kubernetes, "force-deleted")
    for options in ((), ("--gone-pods",)):
        assert kubernetes.run("free-node", "no-such-node", "--yes", *options) == 1
        assert "the node no-such-node is unknown" in capsys.readouterr().err
    assert set(kubernetes.leases().values()) == {"mine", "force-deleted"}


def test_a_ready_node_is_refused_and_one_that_is_not_is_dead(api, kubernetes, capsys):
    kubernetes.add("mine")
    lease(kubernetes, "bound")
    pod_on(api, "bound", "node-b")
    api.add_node("node-b", "True")
    assert kubernetes.run("free-node", "node-b", "--yes") == 1
    assert "node-b is alive: its Node object is Ready" in capsys.readouterr().err
    assert set(kubernetes.leases().values()) == {"mine", "bound"}
    api.add_node("node-b", "Unknown")
    assert kubernetes.run("free-node", "node-b", "--yes") == 0
    assert set(kubernetes.leases().values()) == {"mine"}


def test_what_whereabouts_leased_on_a_dead_node_goes_with_its_reservation(api, kubernetes):
    kubernetes.add("mine")
    lease(kubernetes, "bound")
    pod_on(api, "bound", "node-b")
    reservation = dict(api.resources.get(RESERVATIONS, "kube-system", "10.77.0.10"))
    reservation["spec"] = {"podref": "default/bound", "ifname": "net1"}
    api.resources.put(RESERVATIONS, "kube-system", reservation)
    assert kubernetes.run("free-node", "node-b", "--yes") == 0
    assert "10" not in api.resources.get(POOLS, "kube-system", "10.77.0.0-24")["spec"]["allocations"]
    assert "10.77.0.10" not in api.resources.names(RESERVATIONS, "kube-system")


def test_without_the_right_to_look_at_pods_nothing_is_freed(api, kubernetes, capsys):
    kubernetes.add("mine")
    lease(kubernetes, "gone")
    api.add_node("node-b", "False")
    api.rights = RIGHTS | {("get", "nodes")}
    assert kubernetes.run("free-node", "node-b", "--yes") == 1
    assert "grant the verb get on pods" in capsys.readouterr().err
    assert set(kubernetes.leases().values()) == {"mine", "gone"}


def test_the_api_server_is_queried_about_a_node_whose_addresses_are_in_etcd(api, member, other, etcd, prefix, tmp_path):
    member.add("a")
    theirs = other.add("b")[0]
    silence(etcd, prefix, "node-b")
    api.add_node("node-b", "True")
    kubeconfig = str(api.kubeconfig(tmp_path / "kubeconfig"))
    assert member.run("free-node", "node-b", "--yes", "--kubeconfig", kubeconfig) == 1
    assert theirs in member.leases()
    api.add_node("node-b", "False")
    assert member.run("free-node", "node-b", "--yes", "--kubeconfig", kubeconfig) == 0
    assert theirs not in member.leases()


def test_a_leak_in_kubernetes_is_freed_and_a_lease_in_no_journal_is_not_judged(api, kubernetes):
    kubernetes.add("mine")
    theirs = lease(kubernetes, "theirs")
    assert kubernetes.fsck() == 1
    assert kubernetes.fsck("--repair") == 0
    assert kubernetes.leases() == {address: name for name, address in theirs.items()}


# The program


def test_the_program_says_in_one_line_what_it_cannot_reach(member, etcd, prefix):
    free: Any = {**etcd.cluster_conf(prefix=prefix), "endpoints": ["http://127.0.0.1:9"]}
    member.cluster_conf = free
    arguments = ["list", "--config", configuration(member), "--seconds", "0.5"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CNI_")}
    done = subprocess.run(
        [sys.executable, "-m", "ipam", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot be reached: the etcd 127.0.0.1:9 did not answer" in done.stdout
    assert done.stderr == ""


def test_etcd_opened_for_looking_leaves_no_sign(etcd, prefix):
    cluster_conf: Any = {**etcd.cluster_conf(prefix=prefix), "node": "looker"}
    assert open_etcd(cluster_conf, NETWORK, SECONDS, ROOTS).held((claim_on(V4.address(V4.first)),), owner("a")) == ()
    assert sign(etcd, prefix, "looker") == {}
