"""The kernel's mounts on short folders and their fake fulfil the same contract."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cni.host import hostmounts
from tests.alone import alone
from tests.contract.mounts_contract import CONTRACT
from tests.fake_mounts import FakeMounts


@pytest.mark.parametrize("name", CONTRACT)
def test_the_fake_keeps_the_contract(name, tmp_path):
    CONTRACT[name](FakeMounts(), tmp_path)


@pytest.mark.parametrize("name", CONTRACT)
@alone
def test_the_kernel_keeps_the_contract(name):
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    folder = Path("/run/contract")
    folder.mkdir()
    CONTRACT[name](hostmounts, folder)
