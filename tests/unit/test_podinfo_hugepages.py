"""The huge pages reported to a container."""

from __future__ import annotations

import pytest

from cni.podinfo import PodInfoError, hugepages


def test_numbers_are_reported_by_container_and_size(tmp_path):
    files = {
        "hugepages_1G_request_dpdk-app": "2048\n",
        "hugepages_1G_limit_dpdk-app": "4096",
        "hugepages_2M_request_side": "64",
        "hugepages_2M_limit_side": "128",
        "hugepages_request_side": "1",
        "hugepages_limit": "9",
        "annotations": "",
        "hugepages_4M_request": "not known",
        "hugepages_1G_requested": "neither",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    zero = dict.fromkeys(("Request", "Limit", "Request1G", "Limit1G", "Request2M", "Limit2M"), 0)
    assert hugepages(str(tmp_path), environment={"CONTAINER_NAME": "side"}) == {
        "MyContainerName": "side",
        "Hugepages": [
            {"ContainerName": "", **zero, "Limit": 9},
            {"ContainerName": "dpdk-app", **zero, "Request1G": 2048, "Limit1G": 4096},
            {"ContainerName": "side", **zero, "Request": 1, "Request2M": 64, "Limit2M": 128},
        ],
    }


@pytest.mark.parametrize("content", ["", "many", "-1", "1.5", "\u0661"])
def test_a_file_without_a_number_is_named(tmp_path, content):
    (tmp_path / "hugepages_2M_limit").write_text(content)
    with pytest.raises(PodInfoError, match="hugepages_2M_limit does not contain a number"):
        hugepages(str(tmp_path), environment={})


def test_a_pod_without_such_files_gets_a_reason(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(PodInfoError, match=r"there is no file hugepages_\* in"):
            hugepages(str(folder), environment={})
