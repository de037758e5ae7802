"""Every `sriov` network of conf-examples/ is run unchanged: attached, checked, and deleted.

Only the VF is added, as Multus does.
"""

from __future__ import annotations

import json

import pytest

from kubevirt.podnames import hashed
from tests.examples import EXAMPLES, manifest, network, of_plugin
from tests.kubevirt_hooks.network_info import host_device, network_info, network_status
from tests.lab.attaching import seen_from_pf

KUBEVIRT = EXAMPLES / "nad-sriov-kubevirt.yaml"
DEVICE_INFO = {"CNIDeviceInfoFile": "/var/run/k8s.cni.cncf.io/devinfo/cni/example-net1"}


@pytest.mark.parametrize("path", of_plugin("sriov"), ids=lambda path: path.name)
def test_an_example_is_attached_checked_and_deleted(lab, path):
    conflist, pod = network(path), lab.pod()
    first = conflist["plugins"][0]
    if "master" in first:
        first["master"] = lab.pf.netdev
    else:
        first["deviceID"] = lab.vfs[0].address
    arguments = "IgnoreUnknown=1;K8S_POD_NAME=pod;K8S_POD_NAMESPACE=default"
    attachment = lab.runtime.chain_add(conflist, pod, args=arguments, capability_args=DEVICE_INFO)
    interface = attachment.result["interfaces"][0]
    assert interface["sandbox"] == pod.netns
    if first.get("driver") == "vfio-pci":
        assert interface["pciID"] == lab.vfs[0].address
        assert json.loads(lab.vm.get(DEVICE_INFO["CNIDeviceInfoFile"]))["pci"]["pci-address"] == lab.vfs[0].address
        assert pod.interfaces() == []
    else:
        assert pod.link("net1")["address"] == interface["mac"]
        assert "UP" in pod.link("net1")["flags"]
    for ip in attachment.result.get("ips", []):
        assert ip["address"] in pod.addresses("net1")
    for outcome in lab.runtime.chain_check(attachment):
        outcome.required()
    for outcome in lab.runtime.chain_delete(attachment):
        outcome.required()


def test_kubevirt_finds_the_device_of_its_sriov_binding_and_the_pf_has_mac_and_vlan_of_the_machine(lab):
    vmi, conflist, pod, vf = manifest(EXAMPLES / "vmi-sriov.yaml"), network(KUBEVIRT), lab.pod(), lab.vfs[0]
    conflist["plugins"][0]["deviceID"] = vf.address
    _default, wanted = vmi["spec"]["domain"]["devices"]["interfaces"]
    ifname, capable = hashed(wanted["name"]), {**DEVICE_INFO, "mac": wanted["macAddress"]}
    attachment = lab.runtime.chain_add(conflist, pod, ifname, args="IgnoreUnknown=1", capability_args=capable)
    told = json.loads(lab.vm.get(DEVICE_INFO["CNIDeviceInfoFile"]))
    status = network_status("default/vm-sriov", ifname, attachment.result, told)
    assert (status["mac"], host_device(vmi, network_info(vmi, [status]), wanted["name"])) == (
        wanted["macAddress"],
        vf.address,
    )
    seen = seen_from_pf(lab, vf)
    assert (seen["address"], seen["vlan_list"][0]["vlan"]) == (wanted["macAddress"], 300)
    for outcome in lab.runtime.chain_delete(attachment):
        outcome.required()
    assert seen_from_pf(lab, vf)["vlan_list"][0].get("vlan", 0) == 0
