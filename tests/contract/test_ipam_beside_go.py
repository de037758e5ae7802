"""`barewire-ipam` and Debian's host-local and static treat configurations alike: equal results, or both refuse."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cni.errors import CniError
from cni.log import Log
from cni.protocol import result
from cni.protocol.request import parse, parse_environment
from ipam.plugin import IpamPlugin
from ipam.stores import Stores
from tests.trusting import POLICY

PLUGINS = Path("/usr/lib/cni")
S = "10.0.0.0/24"
DUAL = [{"address": "10.0.0.5/24", "gateway": "10.0.0.1"}, {"address": "fd00::5/64"}]
ONE, TWO = {"ips": ["10.2.0.5/24"]}, {"ips": ["10.3.0.5/24"]}

HOST_LOCAL: list[dict[str, Any]] = [
    {"subnet": S},
    {"Subnet": S, "GateWay": "10.0.0.9"},
    {"subnet": "10.0.0.0/30"},
    {"subnet": "fd00::/126"},
    {"subnet": S, "rangeStart": "10.0.0.0", "gateway": "192.0.2.1"},
    {"subnet": S, "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.9"},
    {"ranges": [[{"Subnet": S, "RANGEEND": "10.0.0.9"}], [{"subnet": "fd00::/64", "rangeStart": ""}]]},
    {"ranges": [[{"subnet": S, "gateway": None, "comment": "x"}, {"subnet": "10.0.1.0/24"}]], "subnet": "10.2.0.0/24"},
    {"ranges": [[{"subnet": S}]], "gateway": "10.0.0.5"},
    {"ranges": None, "subnet": S},
    {"subnet": S, "routes": [{"dst": "10.1.2.3/8"}, {"Dst": "0.0.0.0/0", "gw": ""}, {"dst": "fd00::/8"}]},
    {"subnet": "::ffff:10.0.0.0/99"},
    {"subnet": "10.0.0.1/24"},
    {"subnet": "10.0.0.0"},
    {"subnet": "010.0.0.0/24"},
    {"subnet": S, "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.5"},
    {"subnet": S, "rangeEnd": "10.0.1.1"},
    {"subnet": S, "gateway": "x"},
    {"ranges": [[{"subnet": S}]], "gateway": "x"},
    {"ranges": [[{"subnet": S}, {"subnet": "10.0.0.0/25"}]]},
    {"ranges": [[{"subnet": S}], [{"subnet": "10.0.0.0/25"}]]},
    {"ranges": [[{"subnet": S}, {"subnet": "fd00::/64"}]]},
    {"ranges": [[]]},
    {"ranges": []},
    {},
    {"subnet": S, "routes": [{"dst": "10.1.2.3"}]},
    {"subnet": S, "routes": [{"dst": "0.0.0.0/0", "gw": "x"}]},
    {"subnet": S, "resolvConf": "/nowhere/resolv.conf"},
]
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("IP=10.0.0.77", {}),
    ("", {"runtimeConfig": {"ips": ["10.0.0.9/24"]}}),
    ("", {"args": {"cni": {"ips": ["10.0.0.9"]}}}),
    ("IP=10.0.0.9", {"RuntimeConfig": {"ips": ["10.0.0.9/24"]}}),
    ("", {"runtimeConfig": {"ipRanges": [[{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.7"}]]}}),
    ("IP=10.0.0.1", {}),
    ("IP=10.0.1.1", {}),
    ("IP=x", {}),
    ("IP=10.0.0.8", {"args": {"cni": {"ips": ["10.0.0.9"]}}}),
    ("FOO=1", {}),
]
STATIC: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"addresses": DUAL, "routes": [{"dst": "0.0.0.0/0"}], "dns": {"nameservers": ["10.0.0.53"], "search": ["a"]}}, "", {}),
    ({"addresses": []}, "", {}),
    ({"addresses": DUAL}, "IP=10.1.0.5/24;GATEWAY=10.1.0.1", {}),
    ({}, "IP=10.1.0.5/24", {}),
    ({"addresses": DUAL}, "IP=10.1.0.5/24", {"args": {"cni": ONE}}),
    ({"addresses": DUAL}, "", {"args": {"cni": ONE}, "runtimeConfig": TWO}),
    ({"addresses": DUAL}, "IP=10.1.0.5/24", {"runtimeConfig": TWO}),
    ({"addresses": [*DUAL, {"address": "10.0.0.6/24"}]}, "", {}),
    ({"addresses": [{"address": "10.0.0.5"}]}, "", {}),
    ({"addresses": [{"address": "x/24"}]}, "", {}),
    ({}, "IP=10.1.0.5", {}),
    ({"addresses": DUAL}, "", {"runtimeConfig": {"ips": ["10.3.0.5"]}}),
]  # fmt: skip


def environment(arguments: str) -> dict[str, str]:
    return {
        "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/none", "CNI_IFNAME": "net1",
        "CNI_PATH": str(PLUGINS), "CNI_ARGS": arguments,
    }  # fmt: skip


def config(kind: str, section: dict[str, Any], folder: Path, version: str, more: dict[str, Any]) -> bytes:
    own = {} if kind == "static" else {"dataDir": str(folder / "data")}
    document = {"cniVersion": version, "name": "net", "type": "any", "ipam": {"type": kind, **own, **section}, **more}
    return json.dumps(document).encode()


def theirs(kind: str, section: dict[str, Any], folder: Path, arguments: str, version: str, more: dict[str, Any]) -> Any:
    done = subprocess.run(
        [PLUGINS / kind], env=environment(arguments), input=config(kind, section, folder, version, more),
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    return None if done.returncode else meaning(json.loads(done.stdout))


def ours(section: dict[str, Any], folder: Path, arguments: str, version: str, more: dict[str, Any]) -> Any:
    (folder / "run").mkdir(mode=0o700)
    log = Log({}, level="panic")
    stores = Stores(log, policy=POLICY, journal=str(folder / "journal"), run=str(folder / "run"))
    try:
        request = parse(
            parse_environment(environment(arguments)), config("barewire-ipam", section, folder, version, more)
        )
        return meaning(result.encode(IpamPlugin(stores, log).add(request), version))
    except CniError:
        return None


def meaning(document: dict[str, Any]) -> dict[str, Any]:
    """The document without empty parts, which some versions of Go write."""
    return {key: value for key, value in document.items() if value}


def same(
    tmp_path: Path, kind: str, section: dict[str, Any], arguments: str = "", version: str = "1.0.0", **more: Any
) -> None:
    (tmp_path / "go").mkdir()
    (tmp_path / "our").mkdir()
    expected = theirs(kind, section, tmp_path / "go", arguments, version, more)
    assert ours(section, tmp_path / "our", arguments, version, more) == expected


@pytest.mark.parametrize("section", HOST_LOCAL, ids=json.dumps)
def test_a_configuration_of_host_local_means_what_it_means_to_host_local(section, tmp_path):
    same(tmp_path, "host-local", section)


@pytest.mark.parametrize(("arguments", "more"), ASKED, ids=str)
def test_addresses_and_ranges_are_requested_as_from_host_local(arguments, more, tmp_path):
    same(tmp_path, "host-local", {"subnet": S}, arguments, **more)


@pytest.mark.parametrize(("section", "arguments", "more"), STATIC, ids=str)
def test_a_configuration_of_static_means_what_it_means_to_static(section, arguments, more, tmp_path):
    same(tmp_path, "static", section, arguments, **more)


@pytest.mark.parametrize("version", ["0.2.0", "0.3.1", "0.4.0", "1.0.0"])
@pytest.mark.parametrize("second", ["10.1.0.0/24", "fd00::/64"])
def test_each_version_has_the_result_that_host_local_gives_it(version, second, tmp_path):
    section = {"ranges": [[{"subnet": S}], [{"subnet": second}]], "routes": [{"dst": "0.0.0.0/0"}]}
    same(tmp_path, "host-local", section, version=version)


@pytest.mark.parametrize("section", [{"subnet": "10.0.0.0/31"}, {"subnet": "10.0.0.7/32"}, {"subnet": "fd00::7/128"}])
def test_subnets_of_hosts_only_are_what_host_local_refuses_and_we_do_not(section, tmp_path):
    for folder in ("go", "our"):
        (tmp_path / folder).mkdir()
    assert theirs("host-local", section, tmp_path / "go", "", "1.0.0", {}) is None
    assert ours(section, tmp_path / "our", "", "1.0.0", {})["ips"][0]["address"] == section["subnet"]
