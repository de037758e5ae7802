"""`barewire status`: problems of this node's networks. No root."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from cni.attachment.records import Attachments
from cni.errors import InvalidConfig, IoFailure, NotAvailable
from cni.log import Log
from cni.node.node import NodeConf
from cni.sriov.model import PLUGIN
from cni.tool import __main__ as tool, status_command, wiring
from cni.tool.networks import configured
from cni.tool.status import NODE, Look, found_by, of_addresses, of_devices, of_ports
from cni.userspace.attachment import PLUGIN as USERSPACE
from tests.fake_vswitch import FakeVswitch
from tests.node import Node

if TYPE_CHECKING:
    from cni.protocol.request import Request


def requests(tmp_path: Path, *confs: dict[str, Any]) -> list[Request]:
    folder = tmp_path / "net.d"
    folder.mkdir(exist_ok=True)
    for number, conf in enumerate(confs):
        (folder / f"{number}.conf").write_text(json.dumps({"cniVersion": "1.0.0", **conf}))
    return configured([str(folder)], [])


def of_sriov(node: Node, found: list[Request]) -> list[str]:
    attachments = Attachments(node.state, node.run, plugin=PLUGIN)
    return [str(lack) for lack in found_by(of_devices(node.kernel, attachments, found))]


def test_a_node_that_can_serve_all_its_networks_lacks_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert of_sriov(node, requests(tmp_path, {"name": "a", "type": "sriov", "master": "eth0"})) == []


def test_a_pf_that_two_networks_name_and_the_node_has_not_is_reported_once(tmp_path: Path) -> None:
    confs = [{"name": name, "type": "sriov", "master": "eth7"} for name in ("a", "b")]
    (told,) = of_sriov(Node(tmp_path), requests(tmp_path, *confs))
    assert told.startswith("a, b: the host has no network device eth7")


def test_a_pf_that_is_down_is_reported_with_the_network_whose_pods_have_its_vfs(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.add()
    (told,) = of_sriov(node, [])
    assert told == "net: PF eth0 is down, and pods have VFs of it\n  what to do: ip link set eth0 up"


def test_a_lack_of_the_node_is_its_own(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.kernel.privileged = False
    (told,) = of_sriov(node, [])
    assert told.startswith(f"{NODE}: the plugin may not administrate the network")


def test_a_bridge_that_is_missing_is_reported_and_one_that_is_made_on_request_is_not(tmp_path: Path) -> None:
    vswitch, host = FakeVswitch(), {"engine": "ovs-dpdk", "bridge": {"bridgeName": "br7"}}
    database = tmp_path / "db.sock"
    node = NodeConf().replace(sockets=NodeConf().sockets.replace(ovsdb=(f"unix:{database}",)))
    common = {"type": "userspace", "host": host, "ovsdb": f"unix:{database}"}
    found = requests(tmp_path, {"name": "a", **common}, {"name": "b", **common, "createBridge": True})
    attachments = Attachments(str(tmp_path / "state"), str(tmp_path / "run"), plugin=USERSPACE)

    def of(_remote: str, *, seconds: float = 0.0) -> Any:
        return vswitch

    looks = of_ports(cast("Any", of), attachments, found, node, 1.0)
    assert [str(lack) for lack in found_by(looks)] == ["a: there is no bridge br7"]
    nowhere = [request for request in found if request.config.update(ovsdb="unix:/nowhere/db.sock") is None]
    looks = of_ports(cast("Any", of), attachments, nowhere, node, 1.0)
    (told,) = found_by(looks)
    assert told.subject == "a, b"
    assert "is not the usual database" in told.text


def test_full_ranges_and_stores_that_are_away_are_reported() -> None:
    whole: dict[str, Any] = {"failure": "", "ranges": [{"range": "r", "used": 4, "size": 5, "configured": True}]}
    full = {**whole, "ranges": [{"range": "10.0.0.0/29", "used": 5, "size": 5, "configured": True}]}
    locations: Any = (
        {"names": ["a"], **whole},
        {"names": ["b", "c"], **full},
        {"names": ["d"], **full, "failure": "no answer"},
    )
    told = of_addresses(locations)
    assert [(lack.subject, lack.text) for lack in told] == [
        ("b, c", "no address is free in 10.0.0.0/29"),
        ("d", "its addresses are not reached: no answer"),
    ]


def test_files_that_are_no_configurations_are_passed_over_in_folders_and_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.conflist").write_text('{"name": "n", "plugins": [{"type": "sriov"}, {"type": "tuning"}, 5]}')
    (tmp_path / "b.conf").write_text("{")
    (tmp_path / "c.json").write_text("[]")
    (tmp_path / "d.txt").write_text('{"name": "m", "type": "sriov"}')
    assert [(one.network, one.config["type"]) for one in configured([str(tmp_path), "/nowhere"], [])] == [
        ("n", "sriov"),
        ("n", "tuning"),
    ]
    for name, failure in (("b.conf", InvalidConfig), ("c.json", InvalidConfig), ("e.conf", IoFailure)):
        with pytest.raises(failure):
            configured([], [str(tmp_path / name)])


def test_a_look_that_fails_hides_no_other() -> None:
    def away() -> None:
        raise NotAvailable("away", hint="come back")

    looks = [Look(subject=str(number), what=(str(number),), look=away) for number in range(2)]
    assert [lack.subject for lack in found_by(looks)] == ["0", "1"]


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_reports_lacks_by_its_exit_code_and_changes_nothing(monkeypatch, capsys, tmp_path, as_json) -> None:
    def down() -> None:
        raise NotAvailable("PF eth0 is down", hint="ip link set eth0 up")

    monkeypatch.setattr(status_command, "load_node", lambda: NodeConf(cni_conf_dirs=(str(tmp_path),)))
    monkeypatch.setattr(wiring, "address_places", lambda *_how: [])
    looks: list[Look] = []
    monkeypatch.setattr(wiring, "looks", lambda *_how: looks)
    options = ["status", *(["--json"] if as_json else [])]
    assert tool.main(options) == 0
    looks.append(Look(subject="storage", what=("PF",), look=down))
    capsys.readouterr()
    assert tool.main(options) == 1
    told = capsys.readouterr().out
    if as_json:
        lack = {"subject": "storage", "text": "PF eth0 is down", "remedy": "ip link set eth0 up"}
        assert json.loads(told) == {"lacks": [lack]}
    else:
        assert told == "storage: PF eth0 is down\n  what to do: ip link set eth0 up\n"


def test_the_composition_root_has_something_to_look_at(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(wiring, "Attachments", lambda **how: Attachments(str(tmp_path), str(tmp_path), **how))
    assert [look.subject for look in wiring.looks(NodeConf(), Log({}), [], 1.0)] == [NODE, NODE]
