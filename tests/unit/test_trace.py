"""`logLevel` debug: each step of a call with its duration; no output, and no cost, at other levels. No root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cni.errors import DeviceBusy
from cni.log import LEVELS, Log
from cni.value import Value
from tests.node import EVERYTHING, Node

ROOT = Path(__file__).parents[2]


class Section(Value):
    name: str
    number: int = 0
    document: dict[str, Any] | None = None


class Part:
    size = 3

    def do(self, what: object, *, how: object = None) -> object:
        return what if how is None else how

    def fail(self) -> None:
        raise DeviceBusy("it is busy")


def steps(tmp_path: Path, act: Any) -> list[str]:
    path = tmp_path / "log"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        act(Log({}, level="debug", fd=fd))
    finally:
        os.close(fd)
    return path.read_text().splitlines()


def test_a_step_is_reported_with_its_subject_its_outcome_and_its_duration(tmp_path: Path) -> None:
    (line,) = steps(tmp_path, lambda log: log.traced(Part(), "part").do([1, "two"], how=Section(name="x")))
    assert "level=debug" in line
    assert 'msg="part.do([1, two], how=Section(name=x)) took ' in line
    assert line.endswith(' ms: Section(name=x)"')


def test_a_step_that_fails_is_reported_with_its_error_and_fails_all_the_same(tmp_path: Path) -> None:
    def act(log: Log) -> None:
        with pytest.raises(DeviceBusy):
            log.traced(Part(), "part").fail()

    (line,) = steps(tmp_path, act)
    assert "part.fail() failed after" in line
    assert "DeviceBusy: it is busy" in line


def test_no_content_of_a_document_or_of_bytes_gets_into_the_log(tmp_path: Path) -> None:
    secret = Section(name="x", document={"password": "s3cr3t", "inner": {"token": "s3cr3t"}})
    (line,) = steps(tmp_path, lambda log: log.traced(Part(), "part").do(secret, how=b"s3cr3t"))
    assert "document=<password, inner>" in line
    assert "<6 bytes>" in line
    assert "s3cr3t" not in line


def test_a_long_subject_is_cut(tmp_path: Path) -> None:
    (line,) = steps(tmp_path, lambda log: log.traced(Part(), "part").do(list(range(20)), how="x" * 10_000))
    assert "[0, 1, 2, 3, 4, 5, 6, 7, ...]" in line
    assert len(line) < 1000


@pytest.mark.parametrize("level", [level for level in LEVELS if level != "debug"])
def test_at_other_levels_the_subject_itself_is_used(level: str) -> None:
    part = Part()
    assert Log({}, level=level).traced(part, "part") is part


def test_what_is_no_method_is_as_it_was(tmp_path: Path) -> None:
    def act(log: Log) -> None:
        assert log.traced(Part(), "part").size == 3
        assert log.traced(Part, "made")().do(1) == 1

    (line,) = steps(tmp_path, act)
    assert "made().do(1) took" in line


def test_an_add_and_a_del_tell_what_they_read_and_what_they_changed(tmp_path: Path) -> None:
    def act(log: Log) -> None:
        node = Node(tmp_path)
        node.kernel, node.ipam = log.traced(node.kernel, "kernel"), log.traced(node.ipam, "ipam")
        node.add(**EVERYTHING)
        node.delete(**EVERYTHING)
        node.assert_as_before()

    told = "\n".join(steps(tmp_path, act))
    for step in ("kernel.device(", "kernel.set_vf(", "kernel.move(", "ipam.lease(", "ipam.release("):
        assert step in told, step


@pytest.mark.parametrize("level", ["info", "debug"])
@pytest.mark.parametrize("plugin", ["cni.sriov", "cni.userspace", "ipam"])
def test_each_plugin_reports_its_steps_at_level_debug_only(tmp_path: Path, plugin: str, level: str) -> None:
    kind = {"cni.sriov": "sriov", "cni.userspace": "userspace", "ipam": "barewire-ipam"}[plugin]
    conf = f'{{"cniVersion": "1.1.0", "name": "n", "type": "{kind}", "logLevel": "{level}"}}'
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c",
        "CNI_NETNS": "/nowhere",
        "CNI_IFNAME": "net1",
        "CNI_PATH": "/nowhere",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", plugin], input=conf, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert (f"{kind}.add(" in done.stderr) == (level == "debug"), done.stderr
