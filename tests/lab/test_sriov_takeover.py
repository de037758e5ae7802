"""Pods that sriov-cni attached before this plugin replaced it.

The Go plugin is not available here: its steps and its files are made by hand, following its source (2.x).
"""

from __future__ import annotations

import json

import pytest

from tests.lab.attaching import changes, conf, seen_from_pf
from tests.lab.topology import pfs

FOLDER = "/var/lib/cni/sriov"
MAC = "02:00:00:00:70:01"
SETTINGS = {"vlan": 100, "vlanQoS": 3, "mac": MAC, "spoofchk": "off", "trust": "on", "max_tx_rate": 500}

# Its steps for a VF with a network driver; trust is set before the MAC here, as igb requires.
ATTACH = """
set -e
pf=$0 index=$1 netdev=$2 pod=$3
ip link set $pf vf $index vlan 100 qos 3
ip link set $pf vf $index max_tx_rate 500 spoofchk off trust on
ip link set $pf vf $index mac $4
ip link set $netdev netns $pod name net1
ip -n $pod link set net1 address $4
ip -n $pod link set net1 up
"""


def former_state(lab, vf):
    """`OrigVfState` and the fields that it fills in, for a VF that has not been changed yet."""
    seen = seen_from_pf(lab, vf)
    return {
        "OrigVfState": {
            "HostIFName": vf.netdev or "",
            "SpoofChk": seen["spoofchk"],
            "Trust": seen["trust"],
            "AdminMAC": seen["address"],
            "EffectiveMAC": seen["address"] if vf.netdev else "",
            "Vlan": 0,
            "VlanQoS": 0,
            "VlanProto": 33024,
            "MinTxRate": 0,
            "MaxTxRate": 0,
            "LinkState": 0,
            "MTU": 1500 if vf.netdev else 0,
        },
        "Master": lab.pf.netdev,
        "VFID": vf.index,
    }


def attached_by_sriov_cni(lab, vf, pod):
    document = conf(vf, **SETTINGS)
    state = json.dumps({**document, "MAC": "", **former_state(lab, vf)})
    lab.vm.run("bash", "-c", ATTACH, lab.pf.netdev, str(vf.index), vf.netdev, pod.name, MAC)
    lab.vm.put(f"{FOLDER}/{pod.container_id}-net1", state, mode=0o600)
    lab.vm.put(f"{FOLDER}/pci/{vf.address}", pod.netns, mode=0o600)
    return document


def test_del_takes_the_vf_home_by_sriov_cnis_own_record(lab):
    vf, pod = lab.vfs[0], lab.pod()
    document = attached_by_sriov_cni(lab, vf, pod)
    lab.runtime.delete(document, pod).required()
    assert changes(lab) == []
    lab.runtime.delete(document, pod).required()


@pytest.mark.parametrize("netns", ["", None])
def test_del_works_with_the_namespace_gone(lab, netns):
    vf, pod = lab.vfs[0], lab.pod()
    document = attached_by_sriov_cni(lab, vf, pod)
    pod.delete()
    assert lab.wait_until_home() == ""
    lab.runtime.delete(document, pod, netns=netns).required()
    assert changes(lab) == []


def test_a_vf_that_sriov_cni_gave_to_a_living_pod_is_refused_to_others(lab):
    vf, pod, other = lab.vfs[0], lab.pod(), lab.pod()
    document = attached_by_sriov_cni(lab, vf, pod)
    before = pod.link("net1")
    error = lab.runtime.add(conf(vf), other).error
    assert (error["code"], error["msg"]) == (100, f"sriov-cni attached {vf.address} to {pod.netns}")
    lab.runtime.delete(conf(vf), other).required()
    assert pod.link("net1") == before
    lab.runtime.delete(document, pod).required()


def test_a_vf_that_sriov_cni_left_behind_is_put_right_for_the_next_pod(lab):
    vf, gone, pod = lab.vfs[0], lab.pod(), lab.pod()
    attached_by_sriov_cni(lab, vf, gone)
    gone.delete()
    assert lab.wait_until_home() == ""
    lab.runtime.add(conf(vf), pod).required()
    seen = seen_from_pf(lab, vf)
    assert (seen["vlan_list"][0].get("vlan", 0), seen["trust"], seen["spoofchk"]) == (0, False, True)
    lab.runtime.delete(conf(vf), pod).required()
    assert changes(lab) == []


def test_a_late_del_by_sriov_cnis_record_touches_no_vf_that_is_another_pods_now(lab):
    vf, gone, pod = lab.vfs[0], lab.pod(), lab.pod()
    document = attached_by_sriov_cni(lab, vf, gone)
    record = lab.vm.get(f"{FOLDER}/{gone.container_id}-net1")
    gone.delete()
    assert lab.wait_until_home() == ""
    lab.runtime.add(conf(vf, vlan=7), pod).required()
    before = pod.link("net1")
    lab.vm.put(f"{FOLDER}/{gone.container_id}-net1", record)
    lab.runtime.delete(document, gone).required()
    assert pod.link("net1") == before
    assert seen_from_pf(lab, vf)["vlan_list"][0]["vlan"] == 7
    lab.runtime.delete(conf(vf, vlan=7), pod).required()
    assert changes(lab) == []


@pytest.mark.leaves_traces("a VF without an admin MAC has another MAC when its driver comes back")
def test_del_restores_a_vf_of_vfio_which_sriov_cni_itself_cannot(lab):
    vf, pod = lab.vfs[3], lab.pod()
    lab.vm.sh(f"""
    cd /sys/bus/pci/devices/{vf.address}
    echo vfio-pci >driver_override
    echo {vf.address} >driver/unbind
    echo {vf.address} >/sys/bus/pci/drivers_probe
    """)
    bound = pfs(lab.vm)[0].vfs[3]
    admin = seen_from_pf(lab, vf)["address"]
    document = conf(vf, vlan=100, mac=MAC)
    lab.vm.put(f"{FOLDER}/{pod.container_id}-net1", json.dumps({**document, **former_state(lab, bound)}), mode=0o600)
    lab.vm.put(f"{FOLDER}/pci/{vf.address}", pod.netns, mode=0o600)
    lab.vm.sh(f"ip link set {lab.pf.netdev} vf 3 vlan 100; ip link set {lab.pf.netdev} vf 3 mac {MAC}")
    lab.runtime.delete(document, pod).required()
    seen = seen_from_pf(lab, vf)
    assert (seen["vlan_list"][0].get("vlan", 0), seen["address"]) == (0, admin)
    assert lab.vm.sh(f"find {FOLDER} -type f").out == ""


def test_a_record_of_sriov_cni_that_is_cut_is_left_alone(lab):
    vf, pod = lab.vfs[0], lab.pod()
    path = f"{FOLDER}/{pod.container_id}-net1"
    lab.vm.put(path, '{"deviceID": "0000:01:1')
    lab.runtime.delete(conf(vf), pod).required()
    assert lab.vm.get(path) == b'{"deviceID": "0000:01:1'
    lab.vm.run("rm", "-r", FOLDER)
