"""Servers that several of these files take, each file its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.etcd.server import EtcdServer


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer(durable=False) as server:
        yield server


@pytest.fixture(scope="module")
def second() -> Iterator[EtcdServer]:
    with EtcdServer(durable=False) as server:
        yield server
