"""The engine `ovs-dpdk`, on Open vSwitch's real daemons, and its fake fulfil the same contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.vswitch_contract import CONTRACT
from tests.ovs.daemon import Daemon
from tests.ovs.worlds import FakeWorld, RealWorld


@pytest.fixture(scope="module")
def real() -> Iterator[RealWorld]:
    with Daemon() as daemon, Daemon(dpdk=False) as incapable:
        yield RealWorld(daemon, incapable)


@pytest.mark.parametrize("name", CONTRACT)
def test_the_fake_keeps_the_contract(name, tmp_path):
    CONTRACT[name](FakeWorld(tmp_path))


@pytest.mark.parametrize("name", CONTRACT)
def test_ovs_dpdk_keeps_the_contract(name, real):
    CONTRACT[name](real)
