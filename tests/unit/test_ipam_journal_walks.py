"""Random walks of three nodes whose calls are killed at any step, lose responses, and reach the cluster late or never.

Now and then the cluster is restored from a backup. A killed call is an exception that nothing catches;
tests/contract/test_ipam_etcd_nodes.py kills processes.
"""

from __future__ import annotations

import os
import random
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

import pytest

from cni.errors import AddressesExhausted, TryAgainLater
from ipam.cluster.store import Journal, Journaled
from ipam.store import Owner
from tests.contract.ipam_cluster_contract import NETWORK, owner, range_of
from tests.fake_cluster import FakeCluster, Shared
from tests.journalled import FAKE, Node

if TYPE_CHECKING:
    from ipam.cluster.journal_entry import Entry
    from ipam.store import Claim

WALKS = 400 if os.environ.get("BAREWIRE_MATRIX") else 25
STEPS = 60
SETS = ((range_of("10.9.0.0", 24, "10.9.0.1", "10.9.0.7"),), (range_of("fd00::", 64, "fd00::1", "fd00::9"),))
NAMES = "abcd"


class Killed(BaseException):
    """Not an Exception, because no clean-up may rely on being run."""


class Fate:
    """Kills a call at one of its steps, and decides what happens to its requests."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.left = -1
        self.late: list[tuple[MortalCluster, tuple[Claim, ...], Owner]] = []
        self.misfortune = 0.0

    def step(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1

    def unlucky(self) -> bool:
        return self.chance.random() < self.misfortune


class MortalJournal(Journal):
    fate: Fate

    def save(self, entry: Entry) -> None:
        self.fate.step()
        super().save(entry)
        self.fate.step()

    def append(self, entry: Entry, *, lasting: bool) -> None:
        self.fate.step()
        super().append(entry, lasting=lasting)
        self.fate.step()

    def forget(self, owner: Owner) -> None:
        super().forget(owner)
        self.fate.step()


class MortalCluster(FakeCluster):
    fate: Fate

    def take(self, claims, owner):
        self.fate.step()
        if self.fate.unlucky():
            self.fate.late.append((self, claims, owner))
            raise TryAgainLater("on its way")
        refused = super().take(claims, owner)
        self.fate.step()
        return refused

    def give_back(self, claims, owner):
        self.fate.step()
        super().give_back(claims, owner)
        self.fate.step()

    def arrive(self, claims, owner):
        """The request arrives after its caller has given up."""
        with suppress(TryAgainLater):
            super().take(claims, owner)


class MortalNode(Node):
    fate: Fate

    def journal(self) -> Journal:
        journal = MortalJournal(str(self.folder / "journal"), str(self.folder / "run"))
        journal.fate = self.fate
        return journal

    def open(self, cluster_conf, network, seconds) -> FakeCluster:
        cluster = MortalCluster(self.clusters["fake"], cluster_conf["node"], cluster_conf["machine"])
        cluster.fate = self.fate
        return cluster


class Walk:
    """The nodes' actions, and the addresses that each owner believes to have."""

    def __init__(self, folder, seed: int) -> None:
        self.chance = random.Random(seed)
        self.fate = Fate(self.chance)
        self.shared = Shared()
        self.shared.tells_taken = bool(seed % 2)
        self.shared.loses = lambda _name: self.fate.unlucky()
        self.shared.identity = "the first"
        self.backup = self.shared.snapshot()
        self.nodes = [MortalNode(folder, f"node-{number}", {"fake": self.shared}) for number in range(3)]
        for node in self.nodes:
            node.fate = self.fate
        self.believed: dict[tuple[str, str], list[str]] = {}

    def store(self, node: Node) -> Journaled:
        return node.store(cluster_conf=FAKE, seconds=5.0)

    def go(self) -> None:
        for _ in range(STEPS):
            self.shared.away = self.chance.random() < 0.15
            self.fate.misfortune = self.chance.choice((0.0, 0.0, 0.3))
            self.fate.left = self.chance.choice((-1, -1, self.chance.randrange(12)))
            node, name = self.chance.choice(self.nodes), self.chance.choice(NAMES)
            with suppress(Killed, TryAgainLater, AddressesExhausted):
                self.chance.choice((self.add, self.add, self.delete, self.gc))(node, f"{node.name}-{name}")
            self.check()
            self.arrive()
            self.check()
            if self.chance.random() < 0.05:
                self.backup = self.shared.snapshot()
            if self.chance.random() < 0.05:
                self.restore()
                self.check()

    def add(self, node: Node, name: str) -> None:
        found = node.add(name, sets=SETS, seconds=5.0)
        self.believed[node.name, name] = found

    def delete(self, node: Node, name: str) -> None:
        self.believed.pop((node.name, name), None)
        self.store(node).release(owner(name))

    def gc(self, node: Node, _name: str) -> None:
        self.store(node).gc(self.valid(node))

    def valid(self, node: Node) -> set[tuple[str, str]]:
        return {(name, "net1") for where, name in self.believed if where == node.name}

    def arrive(self) -> None:
        """Some lost requests reach the cluster after all."""
        for cluster, claims, who in self.fate.late:
            if self.chance.random() < 0.5 and not self.shared.away:
                cluster.arrive(claims, who)
                self.fate.late.remove((cluster, claims, who))
                return

    def check(self) -> None:
        has = {str(one.address): (one.node, one.owner.container_id) for one in self.shared.leases.values()}
        for who, addresses in self.believed.items():
            assert [has.get(address) for address in addresses] == [who, who]

    def restore(self) -> None:
        """Restores a backup of the cluster. Restored leases block addresses of others until their node notices."""
        self.shared.restore(self.backup, self.chance.choice((self.shared.identity, f"id {self.chance.random()}")))
        self.fate.late.clear()
        self.calm()
        for node in self.nodes * 2:
            self.store(node).gc(self.valid(node))

    def calm(self) -> None:
        self.fate.left, self.fate.misfortune, self.shared.away = -1, 0.0, False

    def rest(self) -> None:
        """Ends all failures, and lets each node collect its garbage once."""
        self.calm()
        for cluster, claims, who in self.fate.late:
            cluster.arrive(claims, who)
        for node in self.nodes:
            self.store(node).gc(self.valid(node))


@pytest.mark.parametrize("seed", range(WALKS))
def test_no_address_is_ever_two_owners_and_after_gc_none_is_lost(tmp_path, seed):
    walk = Walk(tmp_path, seed)
    walk.go()
    walk.rest()
    walk.check()
    assert sorted(str(address) for address in walk.shared.leases) == sorted(chain(*walk.believed.values()))
    for node in walk.nodes:
        kept = [f"journal/{NETWORK}/{name}:net1.json" for where, name in walk.believed if where == node.name]
        assert [name for name in node.files() if "/.clusters/" not in name] == sorted(kept)
