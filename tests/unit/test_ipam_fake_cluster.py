"""FakeCluster fulfils the contract of `ipam.store.Cluster`."""

from __future__ import annotations

import pytest

from tests.contract.ipam_cluster_contract import CONTRACT, Backend
from tests.fake_cluster import FakeCluster, Shared


@pytest.mark.parametrize("tells_taken", [False, True])
@pytest.mark.parametrize("name", CONTRACT)
def test_the_fake_cluster_keeps_the_contract(name, tells_taken):
    shared = Shared()
    shared.tells_taken = tells_taken
    CONTRACT[name](Backend(lambda node: FakeCluster(shared, node)))
