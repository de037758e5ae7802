"""The examples of a DaemonSet and of an image give the device plugin the access that it needs, and no more."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cni.attachment.records import STATE_DIRECTORY
from deviceplugin import cdi, host
from deviceplugin.__main__ import _parser
from deviceplugin.conf import parse

KUBELET = "/var/lib/kubelet"
ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "conf-examples/node-daemonset.yaml"
RECIPE = ROOT / "build/node.Containerfile"
DEFAULTS = _parser().parse_args(["run"])
WRITTEN = {
    f"{DEFAULTS.kubelet_root}/device-plugins",
    f"{DEFAULTS.kubelet_root}/plugins_registry",
    DEFAULTS.dev,
    DEFAULTS.state,
    host.DEVICE_INFO,
    cdi.FOLDER,
}
READ = {f"{DEFAULTS.kubelet_root}/pod-resources", STATE_DIRECTORY}


@pytest.fixture(scope="module")
def documents():
    return list(yaml.safe_load_all(MANIFEST.read_text()))


@pytest.fixture(scope="module")
def pod(documents):
    return documents[0]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def mounts(pod):
    """By path in the container: the path on the host, and whether it is writable."""
    hosts = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    found = pod["containers"][0]["volumeMounts"]
    return {one["mountPath"]: (hosts.get(one["name"]), not one.get("readOnly")) for one in found}


def covers(mount, path):
    return f"{path}/".startswith(f"{mount}/")


def test_of_the_kubelets_directory_only_the_folders_with_its_sockets_are_mounted(mounts):
    """The whole directory contains the volumes of all pods, with their secrets, and the kubelet's own key."""
    sockets = {f"{KUBELET}/{folder}" for folder in ("device-plugins", "pod-resources", "plugins_registry")}
    assert {path for path in mounts if covers(KUBELET, path) or covers(path, KUBELET)} == sockets


def test_every_folder_that_the_program_uses_is_the_hosts_at_the_same_path(mounts):
    for path in WRITTEN | READ:
        [mount] = [mount for mount in mounts if covers(mount, path)]
        assert mounts[mount][0] == mount, path
        assert mounts[mount][1] or path in READ, f"{path} is written"


def test_no_folder_is_mounted_that_the_program_does_not_use(mounts):
    used = {*WRITTEN, *READ, DEFAULTS.config_file}
    assert [mount for mount in mounts if not any(covers(mount, path) for path in used)] == []


def test_the_command_is_one_that_the_program_knows_at_the_place_where_the_image_has_it(pod):
    program, *arguments = pod["containers"][0]["command"]
    assert _parser().parse_args(arguments).command.__name__ == "_run"
    assert re.findall("^ENTRYPOINT (.*)$", RECIPE.read_text(), re.MULTILINE) == [json.dumps([program])]


def test_there_is_no_access_to_the_api_server_because_the_program_has_no_client_for_it(documents, pod):
    assert [one["kind"] for one in documents] == ["DaemonSet"]
    assert pod["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod
    loaded = subprocess.run(
        [sys.executable, "-c", "import deviceplugin.__main__, sys; print(*sys.modules)"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    ).stdout.split()  # fmt: skip
    assert [name for name in loaded if name.startswith(("cni.kube", "kubernetes", "requests", "urllib3"))] == []


def test_the_example_of_a_configuration_is_a_good_one():
    found = parse((ROOT / "conf-examples/node-config.json").read_bytes())
    assert found.warnings == ()
    assert [pool.name for pool in found.pools] == ["intel.com/storage", "intel.com/bond", "example.com/graphics"]


def test_the_image_is_the_bundle_on_a_base_that_its_builder_names():
    lines = [line.split() for line in RECIPE.read_text().splitlines() if line and not line.startswith("#")]
    assert [line[0] for line in lines] == ["ARG", "FROM", "COPY", "ENTRYPOINT", "CMD"]
    assert lines[0] == ["ARG", "BASE"], "no registry is ours to name"
    assert lines[1] == ["FROM", "${BASE}"]
    source, target = lines[2][1:]
    assert source == "dist/barewire-node"
    assert json.loads(" ".join(lines[3][1:])) == [f"{target}/barewire-node"]
    assert _parser().parse_args(json.loads(" ".join(lines[4][1:]))).command.__name__ == "_run"
