"""Every `sriov` network of conf-examples/ is run unchanged: attached, checked, and deleted.

Only the VF is added, as Multus does.
"""

from __future__ import annotations

import json

import pytest

from tests.examples import network, of_plugin

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
