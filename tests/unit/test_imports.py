"""Each module of the fast path, imported alone by a fresh interpreter, imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fastpath import ALLOWED, forbidden

ROOT = Path(__file__).parents[2]
SECONDS = 30

FAST = [
    "cni.serve",
    "cni.protocol.request",
    "cni.protocol.result",
    "cni.config.validation",
    "cni.protocol.cni_args",
    "cni.attachment.records",
    "cni.attachment.delegate",
    "cni.log",
    "cni.sriov.plugin",
    "cni.sriov.__main__",
    "cni.host.kernel",
    "cni.kube.podspec",
    "cni.userspace.appnetutil",
    "cni.userspace.vswitch.ovs",
    "cni.userspace.plugin",
    "cni.userspace.__main__",
    "ipam.__main__",
    "ipam.embedded",
    "ipam.cluster.store",
    "ipam.local.store",
    "ipam.kubernetes.whereabouts",
]

# Modules that `-c` itself makes the interpreter import (linecache, from 3.13 on) do not count.
PROGRAM = """
import sys
before = set(sys.modules)
sys.path.insert(0, {root!r})
import {module}
print(*sorted(set(sys.modules) - before))
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a fresh interpreter without site-packages, so that an installed heavy library cannot go unnoticed."""
    return subprocess.run(
        [sys.executable, "-I", "-S", *arguments], capture_output=True, text=True, timeout=SECONDS, check=False
    )


def importing(module: str) -> str:
    return PROGRAM.format(root=str(ROOT), module=module)


def imported_by(module: str) -> set[str]:
    done = python("-c", importing(module))
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def costs(module: str, names: list[str]) -> str:
    """The interpreter's report about each named module: `self [us] | cumulative | name`, indented by importer."""
    report = python("-X", "importtime", "-c", importing(module)).stderr.splitlines()
    return "\n".join(line for line in report if line.rpartition("|")[2].strip() in names)


@pytest.mark.parametrize("module", FAST)
def test_a_module_of_the_fast_path_imports_light_modules_only(module):
    heavy = forbidden(imported_by(module))
    assert not heavy, f"{module} imports {', '.join(heavy)}\n{costs(module, heavy)}"


PRELOADING = """
import sys, time
sys.path.insert(0, {root!r})
from cni.node.node import NodeConf
from ipam.embedded import EmbeddedIpam
EmbeddedIpam({{}}, NodeConf()).preload({type!r})
deadline = time.monotonic() + 10
while {type!r} == "barewire-ipam" and "ipam.local.store" not in sys.modules and time.monotonic() < deadline:
    time.sleep(0.001)
print("ipam.local.store" in sys.modules)
"""


@pytest.mark.parametrize(("kind", "loaded"), [("barewire-ipam", "True"), ("host-local", "False")])
def test_our_own_ipam_is_preloaded_while_something_else_goes_on(kind, loaded):
    done = python("-c", PRELOADING.format(root=str(ROOT), type=kind))
    assert (done.returncode, done.stdout.strip()) == (0, loaded), done.stderr


@pytest.mark.parametrize(
    "name",
    "dataclasses typing enum re json pathlib socket subprocess logging inspect asyncio ipaddress collections functools contextlib"
    " pydantic pyroute2 ovs cni.config.schema cni.sriov.conf".split(),
)
def test_heavy_modules_are_not_allowed(name):
    assert forbidden({*ALLOWED, "cni.serve", name}) == [name]


def test_a_heavy_import_is_found_and_its_cost_is_reported():
    assert "re" in forbidden(imported_by("json"))
    assert "| " in costs("json", ["re"])


def test_an_installed_library_cannot_be_imported_here():
    done = python("-c", importing("cni.sriov.conf"))
    assert "No module named 'pydantic'" in done.stderr
