"""The frozen plugin's imports on each call of a runtime, on a real VF: only modules in the list of light ones."""

from __future__ import annotations

import json

import pytest

from tests.cli.program import TRACED, imported
from tests.fastpath import forbidden
from tests.lab.attaching import conf
from tests.lab.session import GUEST_BUNDLE

ADDRESSES = {
    "type": "static",
    "addresses": [{"address": "10.56.20.2/24", "gateway": "10.56.20.1"}, {"address": "fd56:20::2/64"}],
    "routes": [{"dst": "192.0.2.0/24"}],
}
CALLS = ("ADD", "CHECK", "DEL", "VERSION", "STATUS", "GC")


@pytest.fixture
def traced(lab):
    """The guest's folder with the program that reports its imports, beside the installed bundle's own modules."""
    lab.runtime.version({})
    folder = "/run/lab/traced"
    lab.vm.run("mkdir", "-p", folder)
    lab.vm.put(f"{folder}/sriov", (TRACED / "sriov").read_bytes(), 0o755)
    lab.vm.run("ln", "-sfn", f"{GUEST_BUNDLE}/_internal", f"{folder}/_internal")
    return folder


def test_no_call_of_a_runtime_imports_a_heavy_module(lab, traced):
    vf, pod = lab.vfs[0], lab.pod()
    full = {**conf(vf, vlan=100, mac="02:00:00:00:14:02", mtu=1400, trust="on"), "ipam": ADDRESSES}
    full["runtimeConfig"] = {"mac": "02:00:00:00:14:03"}
    env = {
        "CNI_CONTAINERID": pod.container_id,
        "CNI_NETNS": pod.netns,
        "CNI_IFNAME": "net1",
        "CNI_PATH": "/usr/lib/cni",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=a",
    }
    confs = {
        "STATUS": {**conf(vf), "cniVersion": "1.1.0"},
        "GC": {**conf(vf), "cniVersion": "1.1.0", "cni.dev/valid-attachments": []},
    }
    result = None
    for command in CALLS:
        document = confs.get(command) or {**full, **({"prevResult": result} if command in ("CHECK", "DEL") else {})}
        done = lab.vm.run(
            f"{traced}/sriov", stdin=json.dumps(document), env={**env, "CNI_COMMAND": command}, check=False
        )
        assert done.rc == 0, done.out + done.err[-2000:]
        if command == "ADD":
            result = json.loads(done.out)
        modules = imported(done.err)
        print(f"{command}: {len(modules)} modules, ours: {sum(name.startswith('cni') for name in modules)}")
        assert len(modules) > 20, "the report of the imports is missing"
        assert forbidden(modules) == [], command
        assert "_collections_abc" not in modules, f"{command} uses more of os than build/lean_os.py has"
