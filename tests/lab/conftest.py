"""Fixtures of the lab tests. Every test in this folder gets the marker `lab`."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.lab.errors import TAIL
from tests.lab.lab import Lab
from tests.lab.progress import timed
from tests.lab.session import Machines
from tests.lab.vm import Vm

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "pfs(number): the lab test needs a machine with that many PFs")
    config.addinivalue_line("markers", "leaves_traces(reason): the lab test does not have to leave the host as it was")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("lab")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Lab):
        report.sections.append(("console of the lab machine", lab.vm.console()[-TAIL:]))
    return report


@pytest.fixture(scope="session")
def machines(request: pytest.FixtureRequest) -> Iterator[Machines]:
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    with Machines(timed("lab", terminal.write_line if terminal else print)) as machines:
        yield machines


@pytest.fixture(scope="session")
def lab_vm(machines: Machines) -> Vm:
    """A healthy machine with at least one PF and seven VFs. Tests that change it use `lab`."""
    return machines.machine()


@pytest.fixture
def lab(request: pytest.FixtureRequest, machines: Machines) -> Iterator[Lab]:
    """The machine, pods, plugins and wires. After the test the host must be as before, and its kernel must not have
    crashed.
    """
    wanted = request.node.get_closest_marker("pfs")
    lab = Lab(machines.machine(wanted.args[0] if wanted else 1), machines)
    yield lab
    may_leave_traces = request.node.get_closest_marker("leaves_traces") is not None
    left = lab.clean_up(may_leave_traces=may_leave_traces)
    if lab.crashed:
        pytest.fail("the kernel crashed:\n" + "\n".join(lab.crashed), pytrace=False)
    if left and not may_leave_traces:
        pytest.fail("the host is not as it was before the test:\n" + "\n".join(left), pytrace=False)


@pytest.fixture
def bundle(lab: Lab) -> str:
    """The guest's folder in which the frozen plugins are installed."""
    return lab.runtime.bin_dir
