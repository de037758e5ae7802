"""The contract of stores, for the backend `local`, and for the journal with a fake cluster and with a real etcd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ipam.cluster.store import Journal, Journaled
from ipam.local.store import Local
from tests.contract.ipam_store_contract import CONTRACT, NETWORK
from tests.fake_cluster import Shared
from tests.journalled import Node
from tests.trusting import opened_etcd

if TYPE_CHECKING:
    from ipam.store import ClusterConf


@pytest.mark.parametrize("name", CONTRACT)
def test_the_nodes_own_backend_keeps_the_contract(name, tmp_path):
    CONTRACT[name](lambda: Local(str(tmp_path / "data" / NETWORK), str(tmp_path / "run"), lock_seconds=5.0))


@pytest.mark.parametrize("tells_taken", [False, True], ids=["tries", "asks"])
@pytest.mark.parametrize("name", CONTRACT)
def test_the_journal_before_a_cluster_keeps_the_contract(name, tells_taken, tmp_path):
    shared = Shared()
    shared.tells_taken = tells_taken
    node = Node(tmp_path, "n1", {"fake": shared})
    CONTRACT[name](lambda: node.store(NETWORK))


@pytest.mark.parametrize("name", CONTRACT)
def test_the_journal_before_etcd_keeps_the_contract(name, etcd, tmp_path):
    folder, run = tmp_path / "journal", tmp_path / "run"
    for made in (folder, run):
        made.mkdir(mode=0o700)
    cluster_conf: ClusterConf = {"kind": "etcd", "endpoints": [etcd.endpoint], "prefix": f"/{name}"}
    CONTRACT[name](lambda: Journaled(Journal(str(folder), str(run)), "n1", NETWORK, cluster_conf, opened_etcd))
