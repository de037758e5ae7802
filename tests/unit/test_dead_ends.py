"""The documented commands resolve each dead end of the documents: `barewire forget`, `barewire-ipam forget`.

In each case something that the attachment needs is gone for good: its database, the program or the credentials of its
addresses, or its cluster.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cni.attachment.record import DEVICE, IPAM, Key
from cni.attachment.records import Attachments
from cni.errors import CniError, DeviceBusy, TryAgainLater
from cni.node.node import NodeConf
from cni.sriov.model import PLUGIN
from cni.tool.__main__ import main
from cni.tool.gc import Devices
from tests.node import VF0, Node

KEY = Key(network="net", container_id="a", ifname="net1")
WITH_IPAM: dict[str, Any] = {"ipam": {"type": "fake"}}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def given_up(node: Node) -> str:
    attachments = Attachments(node.state, node.run, plugin=PLUGIN)
    return Devices(node.kernel, attachments, node.plugin()._removal).give_up(KEY)


def test_the_command_gives_up_what_is_named_and_reports_what_has_no_record(node, capsys, monkeypatch):
    node.add("a", **WITH_IPAM)
    node.ipam.fail = {"release"}
    node.delete("a", **WITH_IPAM)
    attachments = Attachments(node.state, node.run, plugin=PLUGIN)
    devices = Devices(node.kernel, attachments, node.plugin()._removal)
    monkeypatch.setattr("cni.tool.wiring.devices", lambda *_arguments: devices)
    monkeypatch.setattr("cni.tool.wiring.ports", lambda *_arguments: devices)
    monkeypatch.setattr("cni.tool.forget_command.load_node", NodeConf)
    assert main(["forget", str(KEY)]) == 0
    assert f"{KEY}: forgotten, without ipam" in capsys.readouterr().out
    assert main(["forget", str(KEY)]) == 1
    assert "there is no record of it" in capsys.readouterr().out
    assert main(["forget", "net/a"]) == 1
    assert "is not the name of an attachment" in capsys.readouterr().err
    node.ipam.fail = set()
    node.add("a")
    assert main(["forget", str(KEY)]) == 1
    assert "delete its pod" in capsys.readouterr().err


def test_addresses_whose_ipam_plugin_is_gone_are_given_up_when_the_vf_is_home(node):
    node.add("a", **WITH_IPAM)
    node.ipam.fail = {"release"}
    node.delete("a", **WITH_IPAM)
    with pytest.raises(TryAgainLater, match="not released yet"):
        node.add("a", **WITH_IPAM)
    assert given_up(node).startswith(f"{KEY}: forgotten, without {IPAM}: ")
    assert node.files() == []
    node.add("a")


def test_an_ipam_plugin_that_is_back_is_reported_and_nothing_is_forgotten(node):
    node.add("a", **WITH_IPAM)
    node.ipam.fail = {"release"}
    node.delete("a", **WITH_IPAM)
    node.ipam.fail = set()
    assert given_up(node) == f"{KEY}: removed"
    node.assert_as_before()


def test_a_vf_that_is_not_home_is_never_given_up_and_its_record_ends_with_the_device(node):
    node.add("a", vlan=100)
    node.kernel.hide(VF0)
    node.kernel.delete_netns("/run/netns/a")
    with pytest.raises(CniError):
        node.delete("a", vlan=100)
    with pytest.raises(TryAgainLater, match="cannot be abandoned") as refused:
        given_up(node)
    assert "sriov_numvfs" in refused.value.details
    record = Attachments(node.state, node.run, plugin=PLUGIN).find(KEY)
    assert record is not None
    assert DEVICE in record.left
    del node.kernel.devices[VF0]
    assert given_up(node) == f"{KEY}: removed"


def test_an_attachment_that_a_pod_uses_is_not_given_up(node):
    node.add("a")
    with pytest.raises(DeviceBusy):
        given_up(node)
    assert os.path.exists(f"{node.state}/net/a:net1.json")
