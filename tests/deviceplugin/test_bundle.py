"""The frozen bundle of the resident programs. It is built here if necessary, because no other test needs it."""

from __future__ import annotations

import json
import os
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


def test_its_list_of_sums_names_every_file_and_finds_a_changed_one(program):
    listed = {line.split()[1] for line in (program.parent / "SHA256SUMS").read_text().splitlines()}
    files = {
        f"./{path.relative_to(program.parent)}"
        for path in program.parent.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    assert listed == files - {"./SHA256SUMS"}
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=program.parent, check=True, timeout=SECONDS
    )


def test_it_explains_the_devices_of_a_host(program, options):
    done = subprocess.run([program, "explain", "--json", *options], capture_output=True, timeout=SECONDS, check=True)
    states = {row["device"]: row["state"] for row in json.loads(done.stdout)}
    assert states == {"0000:01:00.0": "not offered", **dict.fromkeys(VFS, "healthy")}


def test_status_and_a_dry_run_tell_what_would_be_served_and_change_nothing(program, options, tmp_path):
    done = [
        subprocess.run([program, *command, "--json", *options], capture_output=True, timeout=SECONDS, check=False)
        for command in (["run", "--dry-run"], ["status", f"--kubelet-root={tmp_path}"])
    ]
    assert [one.returncode for one in done] == [0, 1], "nothing is served, which is what status is run for"
    tried, found = (json.loads(one.stdout)["resources"][0] for one in done)
    assert tried["devices"] == found["devices"] == VFS
    assert (tried["served"], found["served"]) == (None, False)
    assert not (tmp_path / "device-plugins").exists()
    assert not (tmp_path / "state").exists()


def test_a_bad_configuration_ends_with_all_problems_and_a_hint(program, options, tmp_path):
    (tmp_path / "config.json").write_text('{"resourceList": [{"resourceName": "a b", "pfnames": 1, "groups": "x"}]}')
    done = subprocess.run([program, "run", *options], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 1
    assert "resourceList[0].resourceName" in done.stderr
    assert "resourceList[0].groups" in done.stderr
    assert "what to do:" in done.stderr


def internet_sockets(pid):
    """The lines of the kernel's tables with sockets of the process, except UNIX and netlink sockets."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    own = {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:")}
    tables = [Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6", "udp", "udp6")]
    return [line for table in tables for line in table if line.split()[9] in own]


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
            assert internet_sockets(process.pid) == [], "it has no access to the API server, and needs none"
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
