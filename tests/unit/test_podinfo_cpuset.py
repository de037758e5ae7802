"""The CPUs reported to a container, from control groups of both versions."""

from __future__ import annotations

import os

import pytest

from cni.podinfo import PodInfoError, cpus

POD = "/kubepods.slice/pod7.slice"


def answer(tmp_path, membership: str, files: dict[str, str]) -> str:
    process, cgroups = tmp_path / "process", tmp_path / "cgroup"
    process.mkdir()
    (process / "cgroup").write_text(membership)
    for name, content in files.items():
        path = cgroups / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return cpus(str(process), cgroups=str(cgroups))["cpuset"]


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        pytest.param("0::/\n", {"cpuset.cpus.effective": "2-3,8\n"}, id="version 2, own namespace"),
        pytest.param(
            "0::/a/b\n", {"a/b/cpuset.cpus.effective": "2-3,8\n", "cpuset.cpus.effective": "0-9"}, id="v2 group"
        ),
        pytest.param(
            "0::/a/b\n", {"a/cpuset.cpus.effective": "2-3,8\n", "cpuset.cpus.effective": "0-9"}, id="v2 above"
        ),
        pytest.param(f"0::{POD}\n", {"cpuset.cpus.effective": "2-3,8\n"}, id="version 2, the host's path"),
        pytest.param("0::/../x\n", {"x/cpuset.cpus.effective": "2-3,8\n"}, id="version 2, outside of the namespace"),
        pytest.param(f"3:cpuset:{POD}\n0::/\n", {"cpuset/cpuset.cpus": "2-3,8\n"}, id="version 1, the host's path"),
        pytest.param(
            "3:cpu,cpuset:/a\n", {"cpuset/a/cpuset.cpus": "2-3,8", "cpuset/cpuset.cpus": "0-9"}, id="v1 group"
        ),
        pytest.param("3:cpuset:/\n0::/\n", {"cpuset.cpus.effective": "2-3,8"}, id="version 1 not mounted"),
        pytest.param("1:name=a:b:/\n0::/a:b\n", {"a:b/cpuset.cpus.effective": "2-3,8"}, id="colons in a name"),
    ],
)
def test_the_cpus_are_those_of_the_nearest_group_that_is_seen(tmp_path, membership, files):
    assert answer(tmp_path, membership, files) == "2-3,8"


def test_a_pod_whose_cpus_cannot_be_seen_gets_a_reason(tmp_path):
    with pytest.raises(PodInfoError, match="there is no cpuset of"):
        answer(tmp_path, "0::/a\nnonsense\n", {"a/cpuset.cpus.effective": "\n"})
    with pytest.raises(PodInfoError, match=r"there is no .*/nobody/cgroup"):
        cpus(str(tmp_path / "nobody"))


def test_the_kernel_s_own_list_is_understood():
    listed = cpus()["cpuset"]
    ranges = [part.partition("-") for part in listed.split(",")]
    assert os.sched_getaffinity(0) <= {n for low, _, up in ranges for n in range(int(low), int(up or low) + 1)}
