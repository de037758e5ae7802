"""The cost of a call in counts and in CPU time, with generous limits: a change that doubles it must not go unnoticed.

docs/performance.md has the measured numbers. No test asserts a time: CPU times are compared with each other, of calls
that take turns in one run.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cni.attachment.records import LOOKED_AT
from tests.bench import veth

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.bench.measure import Contender

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the calls are in network namespaces of their own")

OPENS_AND_STATS = {"VERSION": 125, "ADD": 170}
"""Measured: 105 and 147. DEL has no fixed number: it examines each process and network namespace of the machine."""
LOOKS = re.compile(r"^\d+ +(open|openat|openat2|stat|lstat|fstat|newfstatat|statx)\(", re.MULTILINE)
ROUNDS = 6
SHARE = 0.75
"""The helper's share of the CPU time and page faults of stand-alone calls. Measured: 0.4, and 0.6."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[veth.Served]:
    with veth.helper(tmp_path_factory.mktemp("helper")) as served:
        yield served


@pytest.fixture
def traced(tmp_path: Path) -> Any:
    """Makes a call of a contender; gives the lines of strace."""

    def call(one: Contender, command: str, pod: str) -> str:
        trace, script = tmp_path / "trace", tmp_path / "traced"
        script.write_text(f"#!/bin/sh\nexec strace -f -o {trace} {one.program}\n")
        script.chmod(0o755)
        replace(one, program=str(script)).call(command, pod, "traced")
        return trace.read_text()

    return call


def test_a_stand_alone_call_opens_and_examines_few_files(traced: Any, tmp_path: Path) -> None:
    one = veth.ours("stand-alone")
    with veth.recorded(tmp_path / "state", one.config["name"], 0) as one.prefix, veth.stage(1) as (pod,):
        for command in ("ADD", "DEL"):  # They make the directories.
            one.call(command, pod, "first")
        found = {command: len(LOOKS.findall(traced(one, command, pod))) for command in OPENS_AND_STATS}
    print(found)
    assert all(found[command] <= limit for command, limit in OPENS_AND_STATS.items()), found


def test_an_add_makes_hardly_more_system_calls_with_many_attachments_on_record(traced: Any, tmp_path: Path) -> None:
    counts = []
    for number in (0, 500):
        one = veth.ours("stand-alone")
        with veth.recorded(tmp_path / str(number), one.config["name"], number) as one.prefix, veth.stage(1) as (pod,):
            for command in ("ADD", "DEL"):  # The first call of a boot reads all records.
                one.call(command, pod, "first")
            counts.append(len(traced(one, "ADD", pod).splitlines()))
            one.call("DEL", pod, "traced")
    print(counts)
    few, many = counts
    assert many <= few + LOOKED_AT + 20


def test_a_call_by_the_helper_takes_less_of_the_processor_and_of_memory_than_a_stand_alone_one(
    served: veth.Served,
) -> None:
    alone, launched = veth.ours("stand-alone"), served.contender("with helper")
    print(veth.measured(f"{ROUNDS} rounds", [alone, launched], ROUNDS))
    assert launched.used.cpu < SHARE * alone.used.cpu
    assert launched.used.faults < SHARE * alone.used.faults
