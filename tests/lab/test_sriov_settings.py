"""Each setting of the `sriov` plugin on a real VF: visible to the PF and on the wire, and gone after DEL.

The fixture `lab` compares a snapshot of the host before and after each test, attribute by attribute.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.attaching import changes, conf, seen_from_pf
from tests.lab.snapshot import host_snapshot

STATIC = {"type": "static", "addresses": [{"address": "10.56.1.2/24"}]}
MAC = "02:00:00:00:0a:01"
NO_MAC = "00:00:00:00:00:00"

ALONE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "vlan": ({"vlan": 100}, {"vlan_list": [{"vlan": 100}]}),
    "vlan and qos": ({"vlan": 100, "vlanQoS": 5}, {"vlan_list": [{"vlan": 100, "qos": 5}]}),
    "vlan 802.1Q": ({"vlan": 7, "vlanProto": "802.1Q"}, {"vlan_list": [{"vlan": 7}]}),
    "spoofchk": ({"spoofchk": "off"}, {"spoofchk": False}),
    "trust": ({"trust": "on"}, {"trust": True}),
    "max_tx_rate": ({"max_tx_rate": 500}, {"rate": {"max_tx": 500, "min_tx": 0}}),
    "mac": ({"mac": MAC}, {"address": MAC}),
}
ALL = {
    "vlan": 100,
    "vlanQoS": 3,
    "vlanProto": "802.1q",
    "spoofchk": "off",
    "trust": "on",
    "max_tx_rate": 500,
    "mac": MAC,
    "mtu": 1400,
    "ipam": STATIC,
}


@pytest.mark.parametrize("name", ALONE)
def test_a_setting_alone_is_applied_and_restored(lab, name):
    settings, expected = ALONE[name]
    vf, pod = lab.vfs[0], lab.pod()
    lab.runtime.add(conf(vf, **settings), pod).required()
    seen = seen_from_pf(lab, vf)
    assert {key: seen[key] for key in expected} == expected
    link = pod.link("net1")
    assert "UP" in link["flags"]
    assert link["address"] == settings.get("mac", link["address"])
    lab.runtime.delete(conf(vf, **settings), pod).required()


def test_mtu_is_applied_and_restored(lab):
    vf, pod = lab.vfs[0], lab.pod()
    outcome = lab.runtime.add(conf(vf, mtu=1400), pod).required()
    assert pod.link("net1")["mtu"] == 1400
    assert outcome.result["interfaces"][0]["mtu"] == 1400
    lab.runtime.delete(conf(vf), pod).required()


def test_all_settings_together_are_applied_and_restored(lab):
    vf, pod = lab.vfs[1], lab.pod()
    outcome = lab.runtime.add(conf(vf, **ALL), pod).required()
    seen = seen_from_pf(lab, vf)
    assert seen["vlan_list"] == [{"vlan": 100, "qos": 3}]
    assert (seen["spoofchk"], seen["trust"], seen["rate"]["max_tx"], seen["address"]) == (False, True, 500, MAC)
    link = pod.link("net1")
    assert (link["address"], link["mtu"]) == (MAC, 1400)
    assert pod.addresses("net1") == ["10.56.1.2/24"]
    (interface,) = outcome.result["interfaces"]
    assert interface == {"name": "net1", "mac": MAC, "mtu": 1400, "sandbox": pod.netns, "pciID": vf.address}
    assert outcome.result["ips"][0]["interface"] == 0
    lab.runtime.check({**conf(vf, **ALL), "prevResult": outcome.result}, pod).required()
    lab.runtime.delete(conf(vf, **ALL), pod).required()


def test_without_ipam_the_link_is_up_and_has_no_address(lab):
    vf, pod = lab.vfs[0], lab.pod()
    outcome = lab.runtime.add(conf(vf), pod).required()
    assert "ips" not in outcome.result
    assert "UP" in pod.link("net1")["flags"]
    assert pod.addresses("net1") == []
    lab.runtime.delete(conf(vf), pod).required()


@pytest.mark.parametrize("source", ["runtimeConfig", "args.cni", "CNI_ARGS"])
def test_the_mac_comes_from_each_of_its_sources(lab, source):
    vf, pod = lab.vfs[0], lab.pod()
    settings: dict[str, Any] = {"mac": "02:00:00:00:0b:ff"}
    if source == "runtimeConfig":
        settings |= {"runtimeConfig": {"mac": MAC}, "args": {"cni": {"mac": "02:00:00:00:0c:ff"}}}
    if source == "args.cni":
        settings |= {"args": {"cni": {"mac": MAC}}}
    args = "IgnoreUnknown=1;FOO=bar;MAC=" + (MAC if source == "CNI_ARGS" else "02:00:00:00:0d:ff")
    lab.runtime.add(conf(vf, **settings), pod, args=args).required()
    assert pod.link("net1")["address"] == MAC
    lab.runtime.delete(conf(vf, **settings), pod, args=args).required()


@pytest.mark.parametrize("trust", ["on", "off"])
def test_a_vf_that_had_no_mac_from_its_pf_may_change_its_own_after_del(lab, trust):
    """igb keeps a hidden flag for a VF whose MAC the PF has set; it must be cleared. ADR 24: other VFs stay pinned."""
    vf, pod = lab.vfs[2], lab.pod()
    own = lab.vm.get(f"/sys/class/net/{vf.netdev}/address").decode().strip()
    lab.vm.run("ip", "link", "set", lab.pf.netdev, "vf", str(vf.index), "mac", NO_MAC)
    lab.runtime.add(conf(vf, mac=MAC, trust=trust), pod).required()
    lab.runtime.delete(conf(vf, mac=MAC, trust=trust), pod).required()
    assert seen_from_pf(lab, vf)["address"] == NO_MAC
    for mac in ("02:00:00:00:0e:01", own):
        lab.vm.run("ip", "link", "set", vf.netdev, "address", mac)


def test_altnames_are_taken_off_for_the_pod_and_given_back(lab):
    vf, pod = lab.vfs[0], lab.pod()
    names = ["net1", "enp1s0f0v0-with-a-long-name"]
    for name in names:
        lab.vm.run("ip", "link", "property", "add", "dev", vf.netdev, "altname", name)
    before = host_snapshot(lab.vm)
    lab.runtime.add(conf(vf), pod).required()
    assert pod.link("net1").get("altnames", []) == []
    lab.runtime.delete(conf(vf), pod).required()
    assert changes(lab, before) == []
    for name in names:
        lab.vm.run("ip", "link", "property", "del", "dev", vf.netdev, "altname", name)


def test_a_vf_that_was_up_and_had_an_alias_is_so_again(lab):
    vf, pod = lab.vfs[0], lab.pod()
    lab.vm.run("ip", "link", "set", vf.netdev, "alias", "rack 7 port 3")
    lab.vm.run("ip", "link", "set", vf.netdev, "mtu", "1450")
    before = host_snapshot(lab.vm)
    lab.runtime.add(conf(vf, mtu=1300), pod).required()
    lab.runtime.delete(conf(vf), pod).required()
    assert changes(lab, before) == []
    lab.vm.run("ip", "link", "set", vf.netdev, "alias", "", "mtu", "1500")


def test_what_the_pod_changed_is_restored(lab):
    vf, pod = lab.vfs[3], lab.pod()
    lab.runtime.add(conf(vf, trust="on", mac=MAC), pod).required()
    pod.ip("link", "add", "link", "net1", "name", "vlan7", "type", "vlan", "id", "7")
    pod.ip("link", "set", "net1", "down")
    pod.ip("link", "set", "net1", "address", "02:00:00:00:0f:01", "mtu", "1280", "alias", "mine")
    pod.ip("link", "set", "net1", "name", "other0")
    lab.runtime.delete(conf(vf), pod).required()
    assert pod.interfaces() == []


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "802.1ad": ({"vlan": 5, "vlanProto": "802.1ad"}, "vlanProto 802.1ad", "EPROTONOSUPPORT"),
    "link_state": ({"vlan": 5, "link_state": "enable"}, "link_state enable", "EOPNOTSUPP"),
    "query_rss": ({"vlan": 5, "query_rss": "on"}, "query_rss on", "EOPNOTSUPP"),
    "min_tx_rate": ({"vlan": 5, "min_tx_rate": 10}, "min_tx_rate 10", "EINVAL"),
    "max_tx_rate over the link's": ({"vlan": 5, "max_tx_rate": 100_000}, "max_tx_rate 100000", "EINVAL"),
    "mtu over the device's": ({"vlan": 5, "mtu": 60_000}, "mtu 60000", "EINVAL"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_of_the_driver_names_field_driver_and_reason_and_leaves_the_vf_as_before(lab, name):
    settings, field, reason = REFUSED[name]
    vf, pod = lab.vfs[0], lab.pod()
    before = host_snapshot(lab.vm)
    outcome = lab.runtime.add(conf(vf, mac=MAC, **settings, ipam=STATIC), pod)
    assert outcome.rc == 1
    assert outcome.error["code"] == 105
    assert field in outcome.error["msg"]
    assert reason in outcome.error["msg"]
    assert "igb" in outcome.error["msg"] or "mtu" in field
    assert changes(lab, before) == []
    lab.runtime.delete(conf(vf, **settings), pod).required()
