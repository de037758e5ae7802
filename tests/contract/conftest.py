"""Servers and helpers, one per file of tests, and the launcher, which is compiled once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.etcd.server import EtcdServer
from tests.launched import Helper, World, compiled


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer(durable=False) as server:
        yield server


@pytest.fixture(scope="module")
def second() -> Iterator[EtcdServer]:
    with EtcdServer(durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("launcher"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, launcher: Path) -> Iterator[World]:
    """An entry with a helper that all tests of a file share."""
    world = World(tmp_path_factory.mktemp("served"), launcher)
    with Helper(world.socket):
        yield world
