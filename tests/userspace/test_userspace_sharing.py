"""What two attachments can want alike: one socket, one directory, one device-info file."""

from __future__ import annotations

import pytest

from cni.host import acl
from tests.ovs.node import changes

VOLUME = "shared-dir"
SET_LIST = "import os, sys; os.setxattr(sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3]))"
DEVICE_INFO = "/var/run/k8s.cni.cncf.io/devinfo/cni/net-pod-net1-device.json"


def named(node, socketfile, **settings):
    conf = node.conf(**settings)
    return {**conf, "host": {**conf["host"], "vhost": {"mode": "client", "socketfile": socketfile}}}


def sandboxes(node):
    """Two sandboxes of one pod: the second one has the first one's volumes."""
    old, other = node.pod(VOLUME), node.pod()
    return old, old.sandbox(other.container_id, other.netns)


def in_volume(node, pod):
    return node.run("ls", pod.volume(VOLUME)).stdout.split()


def test_two_interfaces_cannot_have_one_socket_and_the_first_one_keeps_it(node):
    pod, conf = node.pod(VOLUME), named(node, "same")
    node.add(conf, pod, "net1")
    node.put(f"{pod.volume(VOLUME)}/same", "a socket")
    before = node.snapshot()
    refused = node.call("ADD", conf, pod, "net2")
    assert refused.document["code"] == 112
    assert f"{pod.volume(VOLUME)}/same" in refused.document["msg"]
    assert changes(before, node.snapshot()) == []
    node.delete(conf, pod, "net2")
    assert changes(before, node.snapshot()) == []
    node.delete(conf, pod, "net1")
    assert in_volume(node, pod) == []
    node.add(conf, pod, "net2")
    node.delete(conf, pod, "net2")


@pytest.mark.parametrize("settings", [{"socketNaming": "interface"}, {}])
def test_a_late_del_of_an_earlier_sandbox_leaves_the_new_ones_socket_and_device_info(node, settings):
    old, new = sandboxes(node)
    conf = node.conf(runtimeConfig={"CNIDeviceInfoFile": DEVICE_INFO}, **settings)
    node.add(conf, old)
    node.end_sandbox(old)
    socket = node.add(conf, new)["interfaces"][0]["socketPath"]
    node.put(socket, "a socket")
    before = node.snapshot() if settings else None
    node.delete(conf, old)
    assert node.text(socket) == "a socket"
    assert "vhost-user" in node.text(DEVICE_INFO)
    node.call("CHECK", conf, new).required()
    assert before is None or changes(before, node.snapshot()) == []
    node.delete(conf, new)
    assert not node.exists(DEVICE_INFO)
    assert in_volume(node, new) == []


def test_an_earlier_sandbox_that_lives_keeps_its_socket(node):
    old, new = sandboxes(node)
    conf = node.conf(socketNaming="interface")
    node.add(conf, old)
    before = node.snapshot()
    assert node.call("ADD", conf, new).document["code"] == 112
    assert changes(before, node.snapshot()) == []
    node.delete(conf, old)


@pytest.mark.parametrize("bridge", ["none0", "br0"])
def test_a_pods_directory_gets_back_its_owner_mode_and_list_after_a_failed_add_and_after_del(node, bridge):
    pod = node.pod(VOLUME)
    node.run("python3", "-c", SET_LIST, pod.volume(VOLUME), acl.DEFAULT, acl.encoded(0o777, [("user", 7, 4)]).hex())
    before = node.snapshot()
    rights = {"mode": "0750", "owner": 1000, "group": 1001, "acl": ["user:107:rwx"]}
    conf = node.conf(socketDirectory=rights)
    conf["host"] = {**conf["host"], "bridge": {"bridgeName": bridge}}
    outcome = node.call("ADD", conf, pod)
    if outcome.code == 0:
        assert node.run("stat", "-c", "%u %g", pod.volume(VOLUME)).stdout == "1000 1001\n"
        node.delete(conf, pod)
    else:
        assert outcome.document["code"] == 111
    assert changes(before, node.snapshot()) == []


def test_the_directory_stays_as_wanted_while_another_interface_of_the_pod_needs_it(node):
    pod = node.pod(VOLUME)
    before = node.snapshot()
    conf = node.conf(socketDirectory={"mode": "0750"})
    node.add(conf, pod, "net1")
    node.add(conf, pod, "net2")
    node.delete(conf, pod, "net1")
    assert node.run("stat", "-c", "%a", pod.volume(VOLUME)).stdout == "750\n"
    node.call("CHECK", conf, pod, "net2").required()
    node.delete(conf, pod, "net2")
    # The second one found what the first one had made of it.
    node.run("chmod", "0777", pod.volume(VOLUME))
    assert changes(before, node.snapshot()) == []
