"""Fixtures of the tests of the plugin `userspace` on a real Open vSwitch. They run the frozen plugin."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.cli.program import from_bundle
from tests.ovs.node import Node, changes

LOG_TAIL = 4000


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    for node in getattr(item, "funcargs", {}).values():
        if report.failed and isinstance(node, Node):
            report.sections.append(("log of ovs-vswitchd", node.daemon.log()[-LOG_TAIL:]))
    return report


class Shared:
    """A node for all tests that leave it unchanged; a test that does not is followed by another node."""

    def __init__(self) -> None:
        self._node: Node | None = None

    def node(self) -> Node:
        if self._node is None:
            self._node = Node(from_bundle("userspace")).__enter__()
        return self._node

    def end(self) -> None:
        if self._node is not None:
            self._node.__exit__(None, None, None)
            self._node = None


@pytest.fixture(scope="session")
def shared() -> Iterator[Shared]:
    shared = Shared()
    yield shared
    shared.end()


@pytest.fixture
def node(shared: Shared) -> Iterator[Node]:
    """A node that must be as before when the test ends."""
    node = shared.node()
    before = node.snapshot()
    yield node
    node.end_pods()
    left = changes(before, node.snapshot())
    if left:
        shared.end()
        pytest.fail("the node is not as it was before the test:\n" + "\n".join(left), pytrace=False)
