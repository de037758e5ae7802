"""What the plugin may do, as the kernel says of a real process."""

from __future__ import annotations

import subprocess
import sys

import pytest

ASK = """
import os, sys
from cni.host.kernel import HostKernel
from cni.log import Log
os.setgroups(range(100_000, 100_000 + int(sys.argv[1])))
print(HostKernel(Log({})).may_administrate())
"""
CONFINED = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]


def answer(groups: int, before: list[str]) -> str:
    argv = [*before, sys.executable, "-c", ASK, str(groups)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("groups", [0, 2000])
def test_the_capabilities_are_found_behind_any_number_of_groups(groups):
    assert answer(groups, []) == "True"
    assert answer(groups, CONFINED) == "False"
