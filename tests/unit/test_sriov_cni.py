"""sriov-cni's records of several versions, and the owner of a VF according to them."""

from __future__ import annotations

import json
import os

import pytest

from cni.errors import CheckFailed, DeviceBusy, TryAgainLater
from cni.host.netlink import IFF_UP
from cni.host.vf_settings import VfSettings
from tests.node import VF0, Node

MAC, OWN_MAC = "02:00:00:00:00:42", "aa:00:00:00:00:00"
STATE = {
    "HostIFName": "eth1",
    "SpoofChk": True,
    "Trust": False,
    "AdminMAC": OWN_MAC,
    "EffectiveMAC": OWN_MAC,
    "Vlan": 0,
    "VlanQoS": 0,
    "VlanProto": 33024,
    "MinTxRate": 0,
    "MaxTxRate": 0,
    "LinkState": 0,
    "MTU": 1500,
}


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def given_away(node, container="a", *, mac=None, owner=True, state=STATE, **document):
    """VF 0 in the pod, as sriov-cni moves it there, with its record and its note of the owner."""
    kernel = node.kernel
    kernel.set_vf(kernel.device(VF0), "vlan", VfSettings(vlan=55, qos=0, proto="802.1q"))
    pod = kernel.netns(f"/run/netns/{container}")
    kernel.move(kernel.link(VF0, None), None, pod, name="net1")
    if mac:
        kernel.change(kernel.link(VF0, pod), pod, mac=mac)
    kernel.bring_up(kernel.link(VF0, pod), pod)
    os.makedirs(f"{node.former}/pci", exist_ok=True)
    with open(f"{node.former}/{container}-net1", "w") as file:
        conf = {"type": "sriov", "deviceID": VF0, "vlan": 55, **({"mac": mac} if mac else {}), **document}
        json.dump({**conf, **({"OrigVfState": state} if state else {})}, file)
    if owner:
        with open(f"{node.former}/pci/{VF0}", "w") as file:
            file.write(f"/run/netns/{container}")


def files(node):
    return [name for _, _, names in os.walk(node.former) for name in names]


@pytest.mark.parametrize("mac", [None, MAC])
def test_del_leads_home_and_leaves_none_of_its_files(node, mac):
    given_away(node, mac=mac)
    node.delete()
    node.assert_as_before()
    assert files(node) == []


def test_a_record_of_the_time_before_orig_vf_state_is_read(node):
    old = {"HostIFNames": "eth1", "EffectiveMAC": OWN_MAC, "AdminMAC": OWN_MAC}
    given_away(node, mac=MAC, state=None, **old)
    node.delete()
    node.assert_as_before()


def test_an_address_that_was_never_changed_stays_although_the_pf_knows_none(node):
    given_away(node, state={**STATE, "EffectiveMAC": "", "AdminMAC": "00:00:00:00:00:00"})
    node.delete()
    assert node.kernel.link(VF0, None).mac == OWN_MAC


def test_a_late_del_without_a_path_touches_nothing_of_a_living_pod(node):
    given_away(node, "b")
    with open(f"{node.former}/a-net1", "w") as file:
        json.dump({"deviceID": VF0, "vlan": 7, "OrigVfState": STATE}, file)
    before = node.kernel.snapshot()
    node.delete("a", netns="")
    assert node.kernel.snapshot() == before
    assert sorted(files(node)) == [VF0, "b-net1"]


def test_a_living_pods_vf_is_refused_and_that_of_a_gone_one_put_right_by_the_newest_record(node):
    given_away(node)
    with pytest.raises(DeviceBusy, match="sriov-cni attached"):
        node.add("b")
    with open(f"{node.former}/stale-net1", "w") as file:
        json.dump({"deviceID": VF0, "vlan": 55, "OrigVfState": {**STATE, "HostIFName": "wrong0"}}, file)
    os.utime(f"{node.former}/stale-net1", (1, 1))
    node.kernel.delete_netns("/run/netns/a")
    node.add("b")
    node.delete("b")
    assert node.kernel.snapshot() == node.before
    assert files(node) == []


def test_the_address_is_released_although_the_vf_cannot_come_home(node):
    given_away(node)
    node.ipam.leases["a", "net1"] = "10.0.0.2/24"
    node.kernel.refuse_from(1)
    with pytest.raises(TryAgainLater):
        node.delete(ipam={"type": "fake"})
    assert node.ipam.leases == {}
    node.kernel.refuse_nothing()
    node.delete()
    node.assert_as_before()


def test_a_vf_that_is_home_but_not_clean_lets_the_pod_go(node):
    given_away(node)
    node.kernel.refused_settings = {"vlan"}
    node.delete()
    assert node.kernel.link(VF0, None).name == "eth1"
    assert not node.kernel.link(VF0, None).flags & IFF_UP
    assert files(node)


def test_check_passes_an_attachment_that_is_where_sriov_cni_put_it(node):
    given_away(node)
    node.plugin().check(node.request("CHECK"))


def test_check_reports_where_an_attachment_of_sriov_cni_is_missing(node):
    given_away(node)
    pod = node.kernel.netns("/run/netns/a")
    link = node.kernel.link(VF0, pod)
    node.kernel.change(link, pod, up=False)
    node.kernel.change(link, pod, name="other")
    with pytest.raises(CheckFailed, match="is called other in the pod, not net1"):
        node.plugin().check(node.request("CHECK"))
    node.kernel.move(node.kernel.link(VF0, pod), pod, None, name="eth1")
    with pytest.raises(CheckFailed, match="is not in the pod"):
        node.plugin().check(node.request("CHECK"))


def test_check_of_an_attachment_that_was_never_made_fails(node):
    with pytest.raises(CheckFailed, match="there is no record"):
        node.plugin().check(node.request("CHECK"))
