"""The frozen bundle of the resident programs. It is built here, when it is not up to date: nothing else needs it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import elf
import pytest

from tests.kubelet.pcihost import VFS, PciHost, card

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "dist/barewire-node"
SECONDS = 60


@pytest.fixture(scope="module")
def program():
    subprocess.run([ROOT / "build/freeze_resident.sh", "node"], check=True, timeout=900)
    return BUNDLE / "barewire-node"


@pytest.fixture
def options(tmp_path):
    host = PciHost(tmp_path / "host")
    card(host, driver="vfio-pci")
    (tmp_path / "config.json").write_text(json.dumps({"resourceList": [{"resourceName": "vfs"}]}))
    return [
        f"--config-file={tmp_path}/config.json",
        f"--state={tmp_path}/state",
        f"--sysfs={host.sys}",
        f"--dev={host.dev}",
    ]


def test_no_library_looks_for_others_where_the_build_machine_had_them(program):
    libraries = [path for path in program.parent.rglob("*") if path.is_file() and elf.is_elf(path)]
    assert {path.name: paths for path in libraries if (paths := elf.run_paths(path))} == {}


def test_it_explains_the_devices_of_a_host(program, options):
    done = subprocess.run([program, "explain", "--json", *options], capture_output=True, timeout=SECONDS, check=True)
    states = {row["device"]: row["state"] for row in json.loads(done.stdout)}
    assert states == {"0000:01:00.0": "not offered", **dict.fromkeys(VFS, "healthy")}


def test_a_bad_configuration_ends_with_all_problems_and_a_hint(program, options, tmp_path):
    (tmp_path / "config.json").write_text('{"resourceList": [{"resourceName": "a b", "pfnames": 1, "groups": "x"}]}')
    done = subprocess.run([program, "run", *options], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 1
    assert "resourceList[0].resourceName" in done.stderr
    assert "resourceList[0].groups" in done.stderr
    assert "what to do:" in done.stderr


def test_it_serves_in_little_memory_and_ends_at_a_signal(program, options, tmp_path):
    (tmp_path / "device-plugins").mkdir()
    # The path of a socket has at most 107 characters, and that of the test's folder is long.
    with subprocess.Popen([program, "run", "--kubelet-root=.", *options], cwd=tmp_path) as process:
        try:
            deadline = time.monotonic() + SECONDS
            while not list((tmp_path / "device-plugins").iterdir()):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert int(status.partition("VmRSS:")[2].split()[0]) < 100_000, "KiB"
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
