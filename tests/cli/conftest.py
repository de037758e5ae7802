"""`executable`: each test that takes it runs twice, on the source and on the frozen bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.program import from_bundle, from_source

if TYPE_CHECKING:
    from tests.cli.program import Program


@pytest.fixture(params=[from_source, from_bundle], ids=["source", "bundle"])
def executable(request: pytest.FixtureRequest) -> Program:
    program: Program = request.param("sriov")
    return program
