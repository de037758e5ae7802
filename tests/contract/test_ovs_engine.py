"""The engine `ovs-dpdk`, on Open vSwitch's real daemons, and its fake fulfil the same contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.vswitch_contract import CONTRACT
from tests.ovs.backends import FakeBackend, RealBackend
from tests.ovs.daemon import Daemon


@pytest.fixture(scope="module")
def real() -> Iterator[RealBackend]:
    with Daemon() as daemon, Daemon(dpdk=False) as incapable:
        yield RealBackend(daemon, incapable)


@pytest.mark.parametrize("name", CONTRACT)
def test_the_fake_keeps_the_contract(name, tmp_path):
    CONTRACT[name](FakeBackend(tmp_path))


@pytest.mark.parametrize("name", CONTRACT)
def test_ovs_dpdk_keeps_the_contract(name, real):
    CONTRACT[name](real)
