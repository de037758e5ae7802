"""Objects that two attachments can both want: one socket, one directory, one device-info file."""

from __future__ import annotations

import json
import time

import pytest

from cni.host import acl
from cni.host.files import LOCK_SECONDS
from tests.ovs.node import STATE, changes

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
    node.bind(f"{pod.volume(VOLUME)}/same")
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
    node.bind(socket)
    before = node.snapshot() if settings else None
    node.delete(conf, old)
    assert node.exists(socket)
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


def test_a_socket_that_outlived_its_del_in_the_pods_own_volume_does_not_keep_the_next_sandbox_from_starting(node):
    """An application for which the DEL did not wait has created it again. It belongs to the pod, and DEL leaves newer
    files.
    """
    old, new = sandboxes(node)
    conf, socket = node.conf(socketNaming="interface"), f"{old.volume(VOLUME)}/net1"
    node.add(conf, old)
    node.delete(conf, old)
    node.bind(socket)
    node.add(conf, new)
    node.run("rm", socket)
    node.bind(socket)
    node.delete(conf, new)
    assert in_volume(node, new) == []


def test_a_record_of_an_earlier_version_is_undone(node):
    pod = node.pod(VOLUME)
    before = node.snapshot()
    node.add(node.conf(), pod)
    node.bind(f"{pod.volume(VOLUME)}/{pod.container_id[:12]}-net1")
    path = f"{STATE}/net/{pod.container_id}:net1.json"
    record = json.loads(node.text(path))
    del record["wanted"]["directory"]["since"], record["wanted"]["directory"]["of_pod"]
    node.put(path, json.dumps(record))
    node.delete(node.conf(), pod)
    assert changes(before, node.snapshot()) == []


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
    assert changes(before, node.snapshot()) == []


# An attachment of which only addresses are left does not use anything any more.

STUBBORN = """#!/bin/sh
case $CNI_COMMAND in
ADD) echo '{"cniVersion": "1.1.0", "ips": [{"address": "192.0.2.9/24"}]}' ;;
DEL) [ -e "$0.well" ] || { echo '{"code": 11, "msg": "later"}'; exit 1; } ;;
esac
"""


class Stubborn:
    """An IPAM plugin that releases nothing until it is repaired."""

    def __init__(self, folder):
        self.path = folder / "stubborn"
        self.path.write_text(STUBBORN)
        self.path.chmod(0o755)
        self.conf = {"ipam": {"type": "stubborn"}}
        self.variables = {"CNI_PATH": str(folder)}

    def get_well(self):
        self.path.with_name("stubborn.well").touch()


@pytest.fixture
def stubborn(tmp_path):
    return Stubborn(tmp_path)


def test_an_earlier_sandbox_whose_addresses_wait_keeps_neither_socket_nor_device_info_nor_permissions(node, stubborn):
    old, new = sandboxes(node)
    before, other = node.snapshot(), node.pod()
    conf = node.conf(
        runtimeConfig={"CNIDeviceInfoFile": DEVICE_INFO}, socketNaming="interface", socketDirectory={"mode": "0750"}
    )
    node.call("ADD", {**conf, **stubborn.conf}, old, **stubborn.variables).required()
    node.call("DEL", conf, old).required()
    assert len(node.pending()) == 1
    socket = node.add(conf, new)["interfaces"][0]["socketPath"]
    node.bind(socket)
    node.delete(conf, new)
    assert in_volume(node, new) == []
    assert not node.exists(DEVICE_INFO)
    assert node.run("stat", "-c", "%a", new.volume(VOLUME)).stdout == "777\n"
    stubborn.get_well()
    node.delete(conf, other)
    assert changes(before, node.snapshot()) == []


def test_an_attachment_of_the_same_port_name_in_another_network_does_not_lock_itself_out(node, stubborn):
    pod, conf = node.pod(VOLUME), node.conf(socketNaming="interface")
    node.call("ADD", {**conf, **stubborn.conf}, pod, **stubborn.variables).required()
    node.delete(conf, pod)
    started = time.monotonic()
    node.add({**conf, "name": "another"}, pod)
    assert time.monotonic() - started < LOCK_SECONDS / 2
    node.delete({**conf, "name": "another"}, pod)
    stubborn.get_well()
    node.delete(conf, pod)
    node.run("rm", "-rf", f"{STATE}/another")


def test_odd_entries_of_the_state_directory_stop_no_call(node):
    pod, conf = node.pod(VOLUME), node.conf(runtimeConfig={"CNIDeviceInfoFile": DEVICE_INFO})
    node.run("mkdir", "-p", f"{STATE}/another/folder.json")
    node.put(f"{STATE}/README", "not ours")
    node.run("ln", "-s", "/etc/passwd", f"{STATE}/another/link.json")
    node.add(conf, pod)
    node.delete(conf, pod)
    node.run("rm", "-r", f"{STATE}/another", f"{STATE}/README")


def test_the_last_of_several_that_go_at_once_gives_the_directory_back(node):
    pod = node.pod(VOLUME)
    before, conf = node.snapshot(), node.conf(socketDirectory={"mode": "0750", "owner": 1000})
    interfaces = [f"net{number}" for number in range(6)]
    for ifname in interfaces:
        node.add(conf, pod, ifname)
    running = [node.start("DEL", conf, pod, ifname) for ifname in interfaces]
    for process in running:
        node.ended(process).required()
    assert changes(before, node.snapshot()) == []


def test_another_owner_for_a_directory_in_use_is_refused_and_changes_nothing(node):
    pod = node.pod(VOLUME)
    first = node.conf(socketDirectory={"mode": "0755"})
    node.add(first, pod, "net1")
    before = node.snapshot()
    refused = node.call("ADD", node.conf(socketDirectory={"mode": "0700", "owner": 4242}), pod, "net2")
    assert refused.document["code"] == 115
    assert "other permissions" in refused.document["msg"]
    assert changes(before, node.snapshot()) == []
    # A network without requirements is accepted.
    node.add(node.conf(), pod, "net2")
    node.delete(first, pod, "net1")
    node.delete(node.conf(), pod, "net2")
