"""Every `userspace` network of conf-examples/ is run unchanged in the example's pod: attached, checked, deleted."""

from __future__ import annotations

import json

import pytest

from tests.examples import EXAMPLES, manifest, network, of_plugin
from tests.ovs.launcher_pod import make_pod
from tests.ovs.node import Node

DEVICE_INFO = "/var/run/k8s.cni.cncf.io/devinfo/cni/example-net1"


def volumes(name):
    """The emptyDir volumes that an example's pod has."""
    found = manifest(EXAMPLES / name)["spec"]["volumes"]
    return [volume["name"] for volume in found if "emptyDir" in volume]


PODS = {
    "nad-userspace.yaml": lambda node: node.pod(*volumes("pod-userspace.yaml")),
    "nad-userspace-kubevirt.yaml": make_pod,
    "nad-userspace-ovs-net-1.yaml": make_pod,
}
"""Those with a pod beside them; `make_pod` makes that of a virtual machine."""


def asked(plugin):
    """The values that Multus adds for the capabilities that the plugin declares."""
    capable = plugin.get("capabilities", {})
    values = {"mac": "02:00:00:00:00:42", "CNIDeviceInfoFile": DEVICE_INFO, "bandwidth": plugin.get("bandwidth")}
    return {name: value for name, value in values.items() if capable.get(name) and value}


@pytest.mark.parametrize("path", of_plugin("userspace"), ids=lambda path: path.name)
def test_an_example_is_attached_checked_and_deleted(node, path):
    conflist = network(path)
    (plugin,) = conflist["plugins"]
    conf = {
        **plugin, "cniVersion": conflist["cniVersion"], "name": conflist["name"], "runtimeConfig": asked(plugin),
    }  # fmt: skip
    pod = PODS.get(path.name, Node.pod)(node)
    result = node.add(conf, pod)
    (interface,) = result["interfaces"]
    (row,) = node.ports().values()
    assert dict(row["options"][1])["vhost-server-path"] == interface["socketPath"]
    if PODS.get(path.name) is make_pod:
        assert interface["socketPath"].endswith("/net1")
    if "mac" in conf["runtimeConfig"]:
        assert interface["mac"] == "02:00:00:00:00:42"
    if "CNIDeviceInfoFile" in conf["runtimeConfig"]:
        assert json.loads(node.text(DEVICE_INFO))["type"] == "vhost-user"
    node.call("CHECK", {**conf, "prevResult": result}, pod).required()
    node.delete(conf, pod)
    node.run("rm", "-rf", f"/var/lib/cni/barewire/{conf['name']}", "/run/vhostuser")
