"""etcd is restored from a backup, or replaced by another one: addresses that containers use remain theirs.

The walk makes some hundred calls; with BAREWIRE_MATRIX=1 it makes ten thousand.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from cni.errors import AddressesExhausted, TryAgainLater
from tests.contract.ipam_cluster_contract import range_of
from tests.contract.ipam_command import NETWORK, Node, last_of
from tests.etcd.proxy import Proxy
from tests.etcd.server import EtcdServer

CALLS = 10_000 if os.environ.get("BAREWIRE_MATRIX") else 250
BETWEEN = 250 if os.environ.get("BAREWIRE_MATRIX") else 60
"""The approximate number of calls between two restores."""

FEW = ((range_of("10.77.0.0", 24, "10.77.0.1", "10.77.0.30"),),)
TOKENS = {"the same ID": "etcd-cluster", "another ID": "another"}
_NUMBER = itertools.count()


@pytest.fixture
def prefix() -> str:
    return f"/restored/{next(_NUMBER)}"


@pytest.fixture
def nodes(etcd, prefix, tmp_path) -> list[Node]:
    names = ["", "node-b", "node-c"]
    return [Node(tmp_path / (name or "here"), name, etcd.cluster_conf(prefix=prefix), FEW) for name in names]


def journalled(node: Node) -> dict[str, str]:
    """The content of the node's journal: address and container."""
    found: dict[str, str] = {}
    for path in Path(node.folders.journal, NETWORK).glob("*.json"):
        entry = last_of(path)
        if entry["phase"] == "held":
            found |= {claim["text"]: path.name.partition(":")[0] for claim in entry["claims"]}
    return found


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
def test_after_a_restore_a_node_takes_again_what_it_has_before_it_leases(nodes, etcd, token, capsys):
    one, other, _third = nodes
    first = one.add("before")
    backup = etcd.snapshot()
    held = {name: one.add(name)[0] for name in ("a", "b", "c")}
    etcd.restore(backup, token)
    new = one.add("new")[0]
    assert one.leases() == {first[0]: "before", new: "new", **{address: name for name, address in held.items()}}
    assert len({*held.values(), new}) == 4
    assert {*held.values()}.isdisjoint({other.add(f"other-{number}")[0] for number in range(20)})


def test_a_restore_is_noticed_when_others_have_made_up_for_the_revisions(nodes, etcd):
    one, other, _third = nodes
    backup = etcd.snapshot()
    held = one.add("a")[0]
    etcd.restore(backup)
    for _ in range(5):  # So many changes that the revision is greater than ever before.
        other.add("x")
        other.delete("x")
    one.add("b")
    assert one.leases()[held] == "a"


def test_what_was_leased_before_the_backup_is_not_taken_again(nodes, etcd, prefix):
    one = nodes[0]
    held = one.add("a")[0]
    backup = etcd.snapshot()
    revision = mod_revision(etcd, prefix)
    etcd.restore(backup)
    one.add("b")
    assert (one.leases()[held], mod_revision(etcd, prefix)) == ("a", revision)


def mod_revision(etcd: EtcdServer, prefix: str) -> int:
    """The revision of the first lease."""
    found = json.loads(etcd.ctl("get", f"{prefix}/{NETWORK}/ip/", "--prefix", "--sort-by=CREATE", "-w", "json"))
    return int(found["kvs"][0]["mod_revision"])


def test_gc_takes_again_what_a_restored_etcd_does_not_know_and_frees_what_came_back(nodes, etcd):
    one = nodes[0]
    one.add("gone")
    backup = etcd.snapshot()
    one.delete("gone")
    held = one.add("a")[0]
    etcd.restore(backup)
    one.store().gc({("a", "net1")})
    assert one.leases() == {held: "a"}


def test_fsck_says_that_etcd_was_restored_and_repairs_it(nodes, etcd, capsys):
    one = nodes[0]
    backup = etcd.snapshot()
    held = one.add("a")[0]
    one.attach("a")
    assert one.fsck() == 0
    etcd.restore(backup, "one more")
    assert one.fsck() == 1
    said = capsys.readouterr().out
    assert "restored: flat (etcd" in said
    assert f"journal without lease: {held} of a/net1" in said
    assert one.fsck("--repair") == 0
    assert one.leases() == {held: "a"}
    assert one.fsck() == 0


def test_an_address_that_a_lease_of_before_keeps_is_taken_again_when_that_is_found_out(nodes, etcd, capsys):
    one, other, _third = nodes
    ghost = other.add("ghost")[0]
    backup = etcd.snapshot()
    other.delete("ghost")
    entry = {"a": ghost}
    while ghost not in journalled(one):
        entry["a"] = one.add(f"a{next(_NUMBER)}")[0]
    living = journalled(one)[ghost]
    etcd.restore(backup)
    one.add("new")
    assert one.leases()[ghost] == "ghost"
    other.store().gc(set())
    one.add("newer")
    assert one.leases()[ghost] == living


def test_what_was_leased_in_another_etcd_is_given_back_there(nodes, etcd, second, prefix):
    one = nodes[0]
    held = one.add("a")[0]
    one.cluster_conf = second.cluster_conf(prefix=prefix)
    new = one.add("b")[0]
    assert new != held
    one.delete("a")
    assert set(one.leases().values()) == {"b"}
    one.cluster_conf = etcd.cluster_conf(prefix=prefix)
    assert one.leases() == {}


def test_where_the_other_etcd_is_away_a_release_is_kept_as_a_tombstone(nodes, etcd, second, prefix):
    one = nodes[0]
    one.seconds = 2.0
    one.add("a")
    one.cluster_conf = second.cluster_conf(prefix=prefix)
    one.add("b")
    etcd.pause()
    try:
        one.delete("a")
        assert one.entries() == {"a:net1.json": "tombstone", "b:net1.json": "held"}
    finally:
        etcd.resume()
    one.seconds = 20.0
    one.delete("b")
    one.store().gc(set())
    assert one.entries() == {}


def test_an_etcd_that_was_replaced_keeps_no_release_waiting(nodes, etcd):
    one = nodes[0]
    backup = etcd.snapshot()
    one.add("a")
    etcd.restore(backup, "a third")
    one.delete("a")
    assert (one.entries(), one.leases()) == ({}, {})


def test_a_node_whose_addresses_were_freed_takes_them_again_when_it_comes_back(nodes, etcd, prefix):
    one, other, _third = nodes
    held = other.add("a")[0]
    one.add("mine")
    etcd.ctl("del", f"{prefix}/alive/node-b", "--prefix")
    assert one.run("free-node", "node-b", "--yes") == 0
    assert [key for key in etcd.all_keys() if key.startswith(prefix) and "node-b" in key] == []
    shutil.rmtree(other.folders.index)
    other.add("b")
    assert other.leases()[held] == "a"


def test_an_add_asks_etcd_one_question_and_a_release_two(nodes, etcd, prefix):
    one = nodes[0]
    one.add("a")  # This also writes the sign of life.
    with Proxy(etcd.port) as proxy:
        one.cluster_conf = etcd.cluster_conf(prefix=prefix, endpoints=[proxy.endpoint])
        one.sets = ((range_of("10.77.0.0", 16, "10.77.0.1", "10.77.255.254"),),)
        one.add("b")
        before = proxy.questions
        one.add("c")
        assert proxy.questions - before == 1
        one.delete("c")
        assert proxy.questions - before == 3


class Walk:
    """Calls of three nodes, and restores in between, after each of which all nodes check their leases."""

    def __init__(self, etcd: EtcdServer, nodes: list[Node]) -> None:
        self.etcd = etcd
        self.nodes = nodes
        self.chance = random.Random(7)
        self.has: dict[tuple[str, str], str] = {}
        self.backup = etcd.snapshot()

    def step(self, number: int) -> None:
        node = self.chance.choice(self.nodes)
        mine = [name for where, name in self.has if where == node.name]
        with suppress(AddressesExhausted, TryAgainLater):
            if len(mine) < self.chance.randint(0, 9):
                name = f"c{number}"
                self.has[node.name, name] = node.add(name)[0]
            elif mine:
                name = self.chance.choice(mine)
                del self.has[node.name, name]
                node.delete(name)
        if self.chance.random() < 2 / BETWEEN:
            self.backup = self.etcd.snapshot()
        if self.chance.random() < 1 / BETWEEN:
            self.restore()
        assert len(set(self.has.values())) == len(self.has), "an address has two owners"

    def restore(self) -> None:
        self.etcd.restore(self.backup, self.chance.choice(("etcd-cluster", f"token-{self.chance.random()}")))
        # Restored leases block addresses of others until the node of the restored lease notices.
        for node in self.nodes * 2:
            self.gc(node)

    def gc(self, node: Node) -> None:
        node.store().gc({(name, "net1") for where, name in self.has if where == node.name})

    def leases(self) -> dict[str, str]:
        return self.nodes[0].leases()


def test_a_walk_with_restores_gives_no_address_twice_and_loses_none(nodes, etcd):
    walk = Walk(etcd, nodes)
    for number in range(CALLS):
        walk.step(number)
    walk.restore()
    assert walk.leases() == {address: name for (_node, name), address in walk.has.items()}
    for node in nodes:
        assert journalled(node) == {address: name for (where, name), address in walk.has.items() if where == node.name}
