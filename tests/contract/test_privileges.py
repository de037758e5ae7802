"""The plugin's capabilities, as the kernel reports them for a real process."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from cni.host.kernel import HostKernel
from cni.log import Log

ASK = """
import os, sys
from cni.host.kernel import HostKernel
from cni.log import Log
os.setgroups(range(100_000, 100_000 + int(sys.argv[1])))
print(HostKernel(Log({})).has_admin_capabilities())
"""
CONFINED = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]


def answer(groups: int, before: list[str]) -> str:
    argv = [*before, sys.executable, "-c", ASK, str(groups)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("groups", [0, 2000])
def test_the_capabilities_are_found_behind_any_number_of_groups(groups):
    assert answer(groups, []) == "True"
    assert answer(groups, CONFINED) == "False"


@pytest.mark.parametrize(
    ("release", "parents", "known"),
    [
        ("5.14.0-1.el9", [], True),
        ("6.1.0", [], True),
        ("4.18.0-1.el8", [], False),
        ("4.18.0", ["0000:01:10.0"], True),
        ("5.4", [], False),
        ("odd", [], False),
    ],
)
def test_a_kernel_that_does_not_tell_the_devices_of_links_is_known_by_its_release_or_its_links(
    monkeypatch, release, parents, known
):
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(release=release))
    kernel = HostKernel(Log({}))
    monkeypatch.setattr(kernel, "links", lambda _netns: [SimpleNamespace(parent=one) for one in parents])
    assert kernel.tells_devices() == known
