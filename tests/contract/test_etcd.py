"""Leases in a real etcd."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import pytest

from ipam.etcd import Etcd, open_etcd
from tests.contract.ipam_cluster_contract import CONTRACT, NETWORK, World
from tests.etcd.server import EtcdServer

SECONDS = 20.0
_NUMBER = itertools.count()


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture(scope="module")
def secure() -> Iterator[EtcdServer]:
    with EtcdServer(secure=True) as server:
        yield server


@pytest.fixture
def prefix() -> str:
    """A part of etcd that no other test uses."""
    return f"/test/{next(_NUMBER)}"


def opened(server: EtcdServer, prefix: str, node: str, seconds: float = SECONDS, **how) -> Etcd:
    return open_etcd(server.document(prefix=prefix, node=node, **how), NETWORK, seconds)


@pytest.mark.parametrize("name", CONTRACT)
def test_etcd_keeps_the_contract(etcd, prefix, name):
    CONTRACT[name](World(partial(opened, etcd, prefix)))


@pytest.mark.parametrize("name", ["an_address_has_one_owner", "all_of_an_owner_is_given_back", "a_gap_is_found"])
def test_etcd_keeps_the_contract_over_tls(secure, prefix, name):
    CONTRACT[name](World(partial(opened, secure, prefix)))
