"""Fixtures of the tests of the plugin `userspace` on a real Open vSwitch. They run the frozen plugin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.program import from_bundle
from tests.ovs.node import Node, changes


@pytest.fixture(scope="session")
def shared_node() -> Iterator[Node]:
    """The node of all tests that leave it as they found it."""
    with Node(from_bundle("userspace")) as node:
        yield node


@pytest.fixture
def node(shared_node: Node) -> Iterator[Node]:
    """A node that must be as before when the test ends."""
    before = shared_node.snapshot()
    yield shared_node
    shared_node.end_pods()
    assert changes(before, shared_node.snapshot()) == []
