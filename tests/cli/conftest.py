"""The fixture `executable` runs each test three times: on the source, on the frozen bundle, and with its helper."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.program import BUNDLE, Program, from_bundle, from_source
from tests.launched import Helper, entry

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """`sriov` as on a node with a helper, both from the bundle."""
    folder = tmp_path_factory.mktemp("helper")
    socket = folder / "helper.sock"
    with Helper(socket, [str(BUNDLE / "barewire-helper")]):
        yield Program((str(entry(BUNDLE / "launcher", folder / "sriov", BUNDLE, "sriov", socket)),))


@pytest.fixture(params=["source", "bundle", "helper"])
def executable(request: pytest.FixtureRequest) -> Program:
    if request.param == "helper":
        program: Program = request.getfixturevalue("launched")
        return program
    return from_source("sriov") if request.param == "source" else from_bundle("sriov")
