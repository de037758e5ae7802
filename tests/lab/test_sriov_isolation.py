"""Isolation of pods: the PF's settings for a VF stay until the VF is on the host, and never reach another VF."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest

from tests.lab.attaching import changes, conf, netdev, seen_from_pf, wait_for
from tests.lab.mac_pin import pins

MAC, OWN_MAC, NEW_MAC = "02:00:00:00:4d:01", "02:00:00:00:4d:02", "02:00:00:00:4d:03"
NO_MAC = "00:00:00:00:00:00"


def vlan(lab, vf):
    return seen_from_pf(lab, vf)["vlan_list"][0]["vlan"]


def set_at_pf(lab, vf, *settings):
    lab.vm.run("ip", "link", "set", lab.pf.netdev, "vf", str(vf.index), *settings)


def test_a_vf_that_its_pod_moved_to_another_namespace_keeps_its_vlan_until_it_is_back(lab):
    vf, pod, hideout = lab.vfs[0], lab.pod(), lab.pod()
    document = conf(vf, vlan=100, spoofchk="off", trust="on", mac=MAC)
    lab.runtime.add(document, pod).required()
    pod.ip("link", "set", "net1", "netns", hideout.name)
    hideout.ip("link", "set", "net1", "up")
    for _ in range(2):
        error = lab.runtime.delete(document, pod).error
        assert error["code"] == 11
        assert "not back on the host" in error["msg"]
        seen = seen_from_pf(lab, vf)
        assert (vlan(lab, vf), seen["spoofchk"], seen["trust"], seen["address"]) == (100, False, True, MAC)
    hideout.delete()
    assert lab.wait_until_home() == ""
    assert vlan(lab, vf) == 100
    # Any call completes it.
    lab.runtime.delete(conf(lab.vfs[1]), lab.pod()).required()
    assert changes(lab) == []


INSTANCE = "stat -Lc %i /sys/bus/pci/devices/$0"
REBIND = "cd /sys/bus/pci/drivers/igbvf && echo $0 >unbind && echo $0 >bind"


def instance(lab, vf):
    return lab.vm.run("bash", "-c", INSTANCE, vf.address).out.strip()


@pytest.mark.leaves_traces("the VFs are new ones")
def test_the_late_del_of_a_vf_that_was_recreated_leaves_the_new_one_as_it_is(lab):
    vf, pod = lab.vfs[2], lab.pod()
    first = instance(lab, vf)
    lab.vm.run("bash", "-c", REBIND, vf.address)
    wait_for(lambda: netdev(lab, vf), "the new network device")
    assert instance(lab, vf) == first
    lab.runtime.add(conf(vf, vlan=100, mac=MAC), pod).required()
    numvfs = f"/sys/bus/pci/devices/{lab.pf.address}/sriov_numvfs"
    lab.vm.sh(f"echo 0 >{numvfs}; echo {len(lab.vfs)} >{numvfs}")
    wait_for(lambda: netdev(lab, vf), "the new VF's network device")
    assert instance(lab, vf) != first
    set_at_pf(lab, vf, "mac", NEW_MAC, "vlan", "55")
    before = seen_from_pf(lab, vf)
    lab.runtime.delete(conf(vf, vlan=100, mac=MAC), pod).required()
    assert seen_from_pf(lab, vf) == before
    assert lab.vm.sh("find /var/lib/cni/barewire -name '*.json'").out == ""


@contextmanager
def pinned(lab, vf):
    """The VF as the SR-IOV operator leaves it: its PF has set its current address."""
    set_at_pf(lab, vf, "mac", seen_from_pf(lab, vf)["address"])
    yield
    set_at_pf(lab, vf, "mac", NO_MAC)
    (link,) = json.loads(lab.vm.run("ip", "-j", "link", "show", vf.netdev).out)
    # The kernel does not pass on an address that the link already has.
    for mac in (OWN_MAC, link["address"]):
        lab.vm.run("ip", "link", "set", vf.netdev, "address", mac)


@pytest.mark.parametrize("mac", [None, MAC, "the same"])
def test_a_vf_that_its_pf_pinned_comes_back_pinned(lab, mac):
    vf, pod = lab.vfs[0], lab.pod()
    with pinned(lab, vf):
        assert pins(lab.vm)[vf.address]
        own = seen_from_pf(lab, vf)["address"]
        settings = {"mac": own if mac == "the same" else mac} if mac else {"trust": "on"}
        lab.runtime.add(conf(vf, **settings), pod).required()
        if not mac:
            pod.ip("link", "set", "net1", "address", OWN_MAC)
        lab.runtime.delete(conf(vf, **settings), pod).required()
        assert pins(lab.vm)[vf.address]
        assert changes(lab) == []
    assert not pins(lab.vm)[vf.address]


def test_a_pod_cannot_change_the_mac_that_it_was_given_even_if_the_vf_had_it_already(lab):
    vf, pod = lab.vfs[0], lab.pod()
    document = conf(vf, mac=seen_from_pf(lab, vf)["address"])
    lab.runtime.add(document, pod).required()
    assert pod.ip("link", "set", "net1", "address", OWN_MAC, check=False).rc != 0
    lab.runtime.delete(document, pod).required()
    assert changes(lab) == []


@pytest.mark.parametrize("settings", [{}, {"mac": MAC}], ids=["own", "given"])
def test_a_vf_that_the_pod_has_in_a_bond_comes_back_clean_with_the_first_del(lab, settings):
    vf, pod = lab.vfs[0], lab.pod()
    document = conf(vf, vlan=100, trust="on", **settings)
    # Loaded without this, the module makes a bond0 on the host.
    lab.vm.run("modprobe", "bonding", "max_bonds=0")
    lab.runtime.add(document, pod).required()
    # The module, loaded by the line below, would create a bond0 on the host.
    lab.vm.run("modprobe", "bonding", "max_bonds=0")
    pod.ip("link", "add", "bond0", "type", "bond", "mode", "active-backup")
    pod.ip("link", "set", "bond0", "address", OWN_MAC)
    pod.ip("link", "set", "net1", "down")
    pod.ip("link", "set", "net1", "master", "bond0")
    pod.ip("link", "set", "bond0", "up")
    done = lab.runtime.delete(document, pod).required()
    assert "not as it was" not in done.stderr
    assert changes(lab) == []
