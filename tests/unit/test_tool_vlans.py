"""`barewire gc` finds VFs that sriov-cni left with a VLAN. No root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cni.attachment.records import Attachments
from cni.host.vf_settings import VfSettings
from cni.pci import PciAddress
from cni.sriov.model import PLUGIN
from cni.sriov.sriov_cni import SriovCniState
from cni.tool.vlans import with_vlans
from tests.node import VF0, Node


@pytest.fixture
def node(tmp_path: Path) -> Node:
    found = Node(tmp_path)
    found.kernel.set_vf(found.kernel.device(PciAddress(VF0)), "vlan", VfSettings(vlan=77, qos=0, proto="802.1q"))
    return found


def told(node: Node) -> list[str]:
    attachments = Attachments(node.state, node.run, plugin=PLUGIN)
    return list(with_vlans(node.kernel, attachments, SriovCniState(node.kernel, attachments, node.log, node.former)))


def allocated(node: Node, path: str) -> None:
    os.makedirs(f"{node.former}/pci")
    Path(node.former, "pci", VF0).write_text(path)


def test_a_free_vf_with_a_vlan_is_reported_with_the_command_that_removes_it(node: Node) -> None:
    (line,) = told(node)
    assert line.startswith(f"VF {VF0} is free and has VLAN 77")
    assert line.endswith("ip link set eth0 vf 0 vlan 0")


def test_a_vf_of_a_pod_that_sriov_cni_attached_is_reported_only_when_the_pod_is_gone(node: Node) -> None:
    allocated(node, "/run/netns/a")
    assert told(node) == []
    node.kernel.delete_netns("/run/netns/a")
    assert len(told(node)) == 1


def test_a_vf_with_a_record_and_one_without_a_vlan_are_not_reported(node: Node) -> None:
    node.add(vlan=77)
    assert told(node) == []
