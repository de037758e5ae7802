"""The frozen `barewire-ipam`: called by a runtime, and by other plugins that delegate to it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cni.attachment.record import Key, Record
from cni.host import mounts
from tests.alone import alone
from tests.cli.program import BUNDLE, from_bundle, imports
from tests.fastpath import forbidden

PLUGINS = "/usr/lib/cni"
CLONE_NEWNET = 0x40000000
LEASES = Path("/var/lib/cni/networks/net")
RANGES = {"ranges": [[{"subnet": "10.77.0.0/29"}], [{"subnet": "fd77::/64"}]]}


class Host:
    """A host with its own folders and network, and one pod."""

    def __init__(self) -> None:
        mounts.call("unshare", CLONE_NEWNET)
        for folder in ("/var/lib/cni", "/run"):
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder], check=True)
        subprocess.run(["ip", "netns", "add", "pod"], check=True)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    def call(
        self, plugin: str, command: str, conf: dict[str, Any], container: str = "c1"
    ) -> subprocess.CompletedProcess[str]:
        env = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": "/run/netns/pod", "CNI_IFNAME": "net1",
            "CNI_PATH": f"{BUNDLE}:{PLUGINS}", "PATH": os.environ["PATH"],
        }  # fmt: skip
        return subprocess.run(
            [plugin], env=env, input=json.dumps(conf), capture_output=True, text=True, timeout=60, check=False
        )

    def conf(self, **settings: Any) -> dict[str, Any]:
        return {
            "cniVersion": "1.0.0",
            "name": "net",
            "type": "any",
            "ipam": {"type": "barewire-ipam", **RANGES},
            **settings,
        }

    def leases(self) -> list[str]:
        return sorted(path.name for path in LEASES.iterdir() if path.name[0].isdigit() or path.name.startswith("fd"))


def program() -> str:
    return from_bundle("barewire-ipam").command[0]


@alone
def test_names_that_are_too_long_for_a_file_work_in_the_bundle():
    host, container = Host(), "c" * 300
    conf = host.conf(name="n" * 400)
    added = json.loads(host.call(program(), "ADD", conf, container).stdout)
    assert host.call(program(), "CHECK", {**conf, "prevResult": added}, container).stdout == ""
    assert host.call(program(), "DEL", conf, container).stdout == ""
    assert [path for path in LEASES.parent.glob("*/*") if path.name[0].isdigit()] == []


@alone
def test_a_runtime_gets_addresses_checks_and_frees_them():
    host = Host()
    added = json.loads(host.call(program(), "ADD", host.conf()).stdout)
    assert [ip["address"] for ip in added["ips"]] == ["10.77.0.2/29", "fd77::2/64"]
    assert host.call(program(), "CHECK", host.conf(prevResult=added)).stdout == ""
    assert host.leases() == ["10.77.0.2", "fd77::2"]
    new = host.conf(cniVersion="1.1.0")
    assert host.call(program(), "STATUS", new).returncode == 0
    assert host.call(program(), "DEL", host.conf()).stdout == ""
    assert host.leases() == []
    host.call(program(), "ADD", new)
    assert host.call(program(), "GC", {**new, "cni.dev/valid-attachments": []}).returncode == 0
    assert host.leases() == []


@alone
def test_it_is_a_command_for_people_too():
    host = Host()
    host.call(program(), "ADD", host.conf(), container="c1")
    environment = {"PATH": os.environ["PATH"]}
    told = subprocess.run(
        [program(), "list", "--json"], env=environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "10.77.0.2" in told
    assert json.loads(told)
    wrong = subprocess.run(
        [program(), "lsit"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


@alone
def test_a_failure_is_one_error_object_with_a_hint():
    host = Host()
    for ipam, code in (({"subnet": "10.0.0.1/24"}, 7), ({"subnet": "10.0.0.0/30", "exclude": ["10.0.0.0/24"]}, 116)):
        failed = host.call(program(), "ADD", host.conf(ipam={"type": "barewire-ipam", **ipam}))
        assert (failed.returncode, json.loads(failed.stdout)["code"]) == (1, code)


@alone
@pytest.mark.parametrize("plugin", ["host-device", "ptp"])
def test_plugins_of_the_cni_project_delegate_to_it(plugin):
    host = Host()
    subprocess.run(["ip", "link", "add", "uplink", "type", "veth", "peer", "name", "switch"], check=True)
    conf = host.conf(type=plugin, device="uplink")
    added = host.call(f"{PLUGINS}/{plugin}", "ADD", conf)
    assert added.returncode == 0, added.stdout
    shown = subprocess.run(
        ["ip", "-n", "pod", "-j", "address", "show", "net1"], capture_output=True, text=True, check=True
    ).stdout
    assert {"10.77.0.2", "fd77::2"} <= {one.get("local") for one in json.loads(shown)[0]["addr_info"]}
    assert host.call(f"{PLUGINS}/{plugin}", "DEL", conf).returncode == 0
    assert host.leases() == []


@alone
def test_barewire_gc_frees_addresses_of_a_dead_pod_without_the_program_in_cni_path():
    host = Host()
    conf = host.conf(type="sriov")
    json.loads(host.call(program(), "ADD", conf).stdout)
    call: Any = {
        "type": "barewire-ipam", "stdin": json.dumps(conf), "container_id": "c1", "netns": "/run/netns/gone",
        "ifname": "net1", "args": "", "path": ["/nowhere"],
    }  # fmt: skip
    record = Record(
        key=Key(network="net", container_id="c1", ifname="net1"),
        plugin="sriov",
        device="",
        netns="/run/netns/gone",
        netns_identity="4:1",
        boot_id="an earlier one",
        left=("ipam",),
        found={},
        wanted={},
        ipam=call,
        removing=True,
    )
    path = Path("/var/lib/cni/barewire/net/c1:net1.json")
    path.parent.mkdir(parents=True, mode=0o700)
    path.parent.parent.chmod(0o700)
    path.write_bytes(record.encoded())
    done = subprocess.run(
        [*from_bundle("barewire").command, "gc", "--apply"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 of 1 removed"), done
    assert host.leases() == []
    assert not path.exists()


@alone
def test_no_call_imports_a_heavy_module_with_the_nodes_own_backend():
    Host()
    conf = {
        "cniVersion": "1.1.0", "name": "net", "type": "any",
        "ipam": {"type": "barewire-ipam", "dataDir": "/var/lib/cni/networks", **RANGES},
    }  # fmt: skip
    found = {}
    for command in ("STATUS", "ADD", "CHECK", "DEL", "VERSION"):
        env = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/n", "CNI_IFNAME": "net1", "CNI_PATH": "/x",
        }  # fmt: skip
        done, modules = imports("barewire-ipam", env, json.dumps(conf).encode())
        assert done.code == 0, done.out
        found[command] = modules
    assert {command: forbidden(modules) for command, modules in found.items()} == {command: [] for command in found}
    assert "ipam.local.store" in found["ADD"]
    assert not found["ADD"] & {"ipam.etcd.cluster", "ipam.kubernetes.cluster", "ipam.cluster.store"}
