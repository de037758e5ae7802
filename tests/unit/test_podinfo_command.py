"""The command that prints a container's network information, in an image: only the folder, with another name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "cni" / "podinfo"
SECONDS = 30
VF = "0000:af:06.0"

# Neither site-packages nor the current directory are used: the folder is complete.
PROGRAM = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module('netinfo', run_name='__main__')"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image")
    shutil.copytree(SOURCE, folder / "netinfo", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def podinfo(image):
    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(image), *map(str, arguments)]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False, cwd="/"
        )

    return run


def test_the_copied_folder_alone_prints_the_interfaces_from_folder_and_environment(podinfo, tmp_path):
    status = [{"name": "a = b", "interface": "eth0", "default": True, "dns": {}}]
    (tmp_path / "annotations").write_text(f"k8s.v1.cni.cncf.io/network-status={json.dumps(json.dumps(status))}\n")
    done = podinfo("--folder", tmp_path, PCIDEVICE_A=VF)
    assert done.returncode == 0, done.stderr
    device = {"type": "pci", "version": "1.1.0", "pci": {"pci-address": VF}}
    assert json.loads(done.stdout) == {
        "Interface": [
            {"device-type": "host", "network-status": status[0]},
            {"device-type": "pci", "network-status": {"name": "", "dns": {}, "device-info": device}},
        ]
    }
    assert done.stderr == ""


def test_the_environment_can_be_another_process_s(podinfo, tmp_path):
    told = json.dumps({VF: {"vhost": {"net-mount": "/dev/a=b"}}})
    (tmp_path / "environ").write_bytes(f"A=1\0PCIDEVICE_A={VF}\0PCIDEVICE_A_INFO={told}\0broken\0".encode())
    done = podinfo("interfaces", "--folder", tmp_path, "--environ", tmp_path / "environ", PCIDEVICE_C="0000:00:01.0")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["Interface"]
    assert found["network-status"]["device-info"]["pci"] == {"pci-address": VF, "vhost-net": "/dev/a=b"}


def test_huge_pages_and_cpus_are_printed(podinfo, tmp_path):
    (tmp_path / "hugepages_2M_limit_a").write_text("64")
    (tmp_path / "cgroup").write_text("0::/\n")
    (tmp_path / "cpuset.cpus.effective").write_text("1-2\n")
    pages = podinfo("hugepages", "--folder", tmp_path, CONTAINER_NAME="a")
    assert json.loads(pages.stdout)["Hugepages"][0]["Limit2M"] == 64
    assert json.loads(pages.stdout)["MyContainerName"] == "a"
    found = podinfo("cpus", "--process", tmp_path, "--cgroups", tmp_path)
    assert json.loads(found.stdout) == {"cpuset": "1-2"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--folder", "/nowhere", "--shared-dir", "/nowhere"], "podinfo: there is no /nowhere/annotations"),
        (["--environ", "/nowhere"], "podinfo: there is no /nowhere"),
        (["hugepages", "--folder", "/nowhere"], "podinfo: there is no file hugepages_* in /nowhere"),
        (["cpus", "--process", "/nowhere"], "podinfo: there is no /nowhere/cgroup"),
        (["cpus", "--process", "/proc/self", "--cgroups", "/nowhere"], "podinfo: there is no cpuset of"),
    ],
)
def test_an_unavailable_status_is_one_line_and_exit_code_1(podinfo, arguments, complaint):
    done = podinfo(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(complaint)
    assert done.stderr.count("\n") == 1
