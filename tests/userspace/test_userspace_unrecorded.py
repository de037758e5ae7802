"""DEL, GC, CHECK and STATUS if the record is missing, damaged, deferred, or cannot be written."""

from __future__ import annotations

import json

import pytest

from cni.userspace.removal import MOST_DEFERRED
from tests.cli.program import from_bundle
from tests.kube.apiserver import ApiServer, Faults
from tests.ovs.daemon import until
from tests.ovs.node import STATE, Node, changes


@pytest.fixture
def own_node():
    """A node whose daemons the test may end."""
    with Node(from_bundle("userspace")) as node:
        yield node


def gc(conf):
    return {**conf, "cni.dev/valid-attachments": []}


def record_of(pod):
    return f"{STATE}/net/{pod.container_id}:net1.json"


def write_record(node, pod, **changed):
    """Writes a record of the pod's net1 as a damaged disk, or another plugin, can leave it."""
    document = {
        "schema": 2, "key": {"network": "net", "container_id": pod.container_id, "ifname": "net1"},
        "plugin": "userspace", "device": "", "netns": pod.netns, "netns_identity": "", "boot_id": "", "left": ["device"],
        "found": {}, "wanted": {}, "ipam": None, "device_info": "", "removing": False, **changed,
    }  # fmt: skip
    node.run("mkdir", "-p", "-m", "0700", STATE, f"{STATE}/net")
    node.put(record_of(pod), json.dumps(document))


@pytest.mark.parametrize("ovsdb", ["ssl:127.0.0.1:6640", "tcp:127.0.0.1:6640", "unix:relative", "tcp:name:6640"])
def test_a_database_that_cannot_be_one_keeps_neither_del_nor_gc_from_ending(node, ovsdb):
    pod, conf = node.pod(), node.conf(ovsdb=ovsdb)
    told = node.call("DEL", conf, pod).required()
    assert "ports are not looked for" in told.err
    node.call("GC", gc(conf), pod).required()


def test_del_during_an_add_that_has_no_record_yet_removes_what_that_makes(node, tmp_path):
    with ApiServer() as api:
        pod, before = node.pod(), node.snapshot()
        api.add_pod("default", pod.name, uid=pod.uid)
        api.faults = Faults(delay=1.0)
        conf = node.conf(kubeconfig=node.kubeconfig(api.kubeconfig(tmp_path / "kubeconfig")))
        adding = node.start("ADD", conf, pod)
        until("the ADD's question", lambda: api.requests)
        node.delete(node.conf(), pod)
        node.ended(adding).required()
        assert changes(before, node.snapshot()) == []


def test_promises_have_a_bound(own_node):
    pods = [own_node.pod() for _ in range(2)]
    own_node.daemon.kill("ovsdb-server")
    for number in range(MOST_DEFERRED + 2):
        own_node.delete(own_node.conf(), pods[0], f"eth{number}")
    assert len(own_node.pending()) == MOST_DEFERRED
    own_node.daemon.start_database()
    own_node.daemon.await_vswitchd()
    # As if it had been unavailable for a moment: the calls above took so long that a pause has begun.
    own_node.run("find", f"{STATE}/net", "-name", "*.json", "-exec", "touch", "{}", "+")
    for _ in range(MOST_DEFERRED // 4 + 1):
        own_node.delete(own_node.conf(), pods[1])
    assert own_node.pending() == []


def test_what_waits_for_something_else_is_not_counted_as_a_promise(own_node):
    pod, others = own_node.pod(), [own_node.pod() for _ in range(2)]
    own_node.add(own_node.conf(), pod)
    own_node.run("rm", "-rf", STATE)
    own_node.run("mkdir", "-p", "-m", "0700", STATE, f"{STATE}/net", f"{STATE}/.pending")
    for number in range(MOST_DEFERRED):
        write_record(own_node, others[0]._replace(container_id=f"{number:064x}"), plugin="sriov", left=["ipam"])
        own_node.run("ln", "-s", f"../net/{number:064x}:net1.json", f"{STATE}/.pending/net:{number:064x}:net1")
    own_node.daemon.kill("ovsdb-server")
    own_node.delete(own_node.conf(), pod)
    own_node.daemon.start_database()
    own_node.daemon.await_vswitchd()
    own_node.delete(own_node.conf(), others[1])
    assert own_node.ports() == {}


def test_a_promise_does_not_make_del_forget_the_addresses(own_node, tmp_path):
    pod, plugin = own_node.pod(), tmp_path / "ipam"
    plugin.write_text(
        '#!/bin/sh\n[ -e "$0.well" ] || { echo \'{"code": 11, "msg": "later"}\'; exit 1; }\ntouch "$0.asked"\n'
    )
    plugin.chmod(0o755)
    conf, variables = own_node.conf(ipam={"type": "ipam"}), {"CNI_PATH": str(tmp_path)}
    own_node.daemon.kill("ovsdb-server")
    assert own_node.call("DEL", conf, pod, **variables).err.count("IPAM DEL without a record: later")
    assert len(own_node.pending()) == 1
    (tmp_path / "ipam.well").touch()
    own_node.call("DEL", conf, pod, **variables).required()
    assert (tmp_path / "ipam.asked").exists()


def test_check_of_an_attachment_that_is_being_removed_says_so(own_node):
    pod = own_node.pod()
    own_node.add(own_node.conf(), pod)
    own_node.daemon.kill("ovsdb-server")
    own_node.delete(own_node.conf(), pod)
    told = own_node.call("CHECK", own_node.conf(), pod).document
    own_node.delete(own_node.conf(), own_node.pod(), "net7")
    promised = own_node.call("CHECK", own_node.conf(), pod).document
    assert (told["code"], promised["code"]) == (107, 107)
    assert "being removed" in told["msg"]


def test_the_record_of_another_plugin_is_nothing_to_promise_beside(own_node):
    pod = own_node.pod()
    write_record(own_node, pod, plugin="sriov", device="0000:01:00.0")
    before = own_node.text(record_of(pod))
    own_node.daemon.kill("ovsdb-server")
    own_node.delete(own_node.conf(), pod)
    assert own_node.text(record_of(pod)) == before
    assert own_node.pending() == []


def test_a_record_that_says_nothing_is_no_defect_of_ours(node):
    pod = node.pod()
    write_record(node, pod)
    told = node.call("DEL", node.conf(), pod).required()
    assert "is damaged" in told.err
    node.run("rm", record_of(pod))
    node.run("rm", "-f", f"{STATE}/.pending/net:{pod.container_id}:net1")


def test_del_is_no_success_when_what_is_left_cannot_be_noted(own_node):
    pod, before = own_node.pod(), own_node.snapshot()
    own_node.add(own_node.conf(), pod)
    own_node.daemon.kill("ovsdb-server")
    own_node.run("mount", "-o", "remount,ro", "/var/lib/cni")
    refused = own_node.call("DEL", own_node.conf(), pod)
    own_node.run("mount", "-o", "remount,rw", "/var/lib/cni")
    assert refused.document["code"] == 11
    assert "Read-only" in refused.document["details"]
    own_node.daemon.start_database()
    own_node.daemon.await_vswitchd()
    own_node.delete(own_node.conf(), pod)
    assert changes(before, own_node.snapshot()) == []


def test_gc_leaves_folders_beside_the_short_ones_that_no_port_can_have(node):
    pod = node.pod()
    for name in ("theirs", "0123456789ab", "sockets-of-net1"):
        node.run("mkdir", "-p", "-m", "0700", f"/run/vhost/{name}")
    node.run("mkdir", "-m", "0700", "/run/vhost/0123456789ab-net1")
    with node.administered(sockets={"vhostDir": "/run/vhost"}):
        node.call("GC", gc(node.conf()), pod).required()
    assert node.run("ls", "/run/vhost").stdout.split() == ["0123456789ab", "sockets-of-net1", "theirs"]
    node.run("rm", "-r", "/run/vhost")


def test_a_file_in_the_place_of_the_short_folders_parent_ends_in_one_error(node):
    pod = node.pod()
    node.put("/run/vhost", "a file")
    before = node.snapshot()
    with node.administered(sockets={"vhostDir": "/run/vhost"}):
        node.call("GC", gc(node.conf()), pod).required()
        refused = node.call("ADD", node.conf(), pod)
    assert refused.document["code"] in (5, 115)
    assert changes(before, node.snapshot()) == []
    node.run("rm", "/run/vhost")


def test_status_reports_a_bridge_that_is_missing_unless_it_may_be_made(node):
    pod, conf = node.pod(), node.conf()
    conf["host"] = {**conf["host"], "bridge": {"bridgeName": "none0"}}
    assert "none0" in node.call("STATUS", conf, pod).required().err
    assert "none0" not in node.call("STATUS", {**conf, "createBridge": True}, pod).required().err
