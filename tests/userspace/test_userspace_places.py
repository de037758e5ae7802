"""Locations of sockets, owners of their directories, and the processes that can reach them."""

from __future__ import annotations

import pytest

from tests.cli.program import from_bundle
from tests.layouts import DAEMON, THICK, below
from tests.ovs.node import KUBELET, Node, changes

UNPRIVILEGED = "4242"
CONNECT = """
import os, socket, sys
os.setgroups([])
os.setresgid(*[int(sys.argv[2])] * 3)
os.setresuid(*[int(sys.argv[2])] * 3)
socket.socket(socket.AF_UNIX).connect(sys.argv[1])
"""
LISTEN = """
import os, socket, sys
os.umask(0o002)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
"""


def socket_of(result):
    return result["interfaces"][0]["socketPath"]


def test_without_a_volume_the_socket_is_in_the_shared_directory_or_in_one_of_our_own(node):
    pod, before = node.pod(), node.snapshot()
    for settings, place in (
        ({}, "/run/barewire/sockets"),
        ({"sharedDir": "/run/vhostuser/shared"}, "/run/vhostuser/shared"),
    ):
        result = node.add(node.conf(**settings), pod)
        name = f"{pod.container_id[:12]}-net1"
        node.bind(socket_of(result))
        assert node.exists(f"{place}/{name}/{name}")
        node.delete(node.conf(**settings), pod)
        assert not node.exists(f"{place}/{name}")
    assert changes(before, node.snapshot()) == []


def test_the_kubelets_directory_may_be_elsewhere(node):
    pod = node.pod()
    volume = pod.volume("shared-dir").replace(KUBELET, "/run/kubelet")
    node.run("mkdir", "-p", volume)
    conf = node.conf(kubeletRoot="/run/kubelet")
    assert node.call("ADD", conf, pod).document["code"] == 7
    for named, settings in (
        (conf, {"sockets": {"kubeletRoots": ["/run/kubelet"]}}),
        (node.conf(), {"kubeletRoot": "/run/kubelet"}),
    ):
        with node.administered(**settings):
            node.bind(socket_of(node.add(named, pod)))
        assert "net1" in node.run("ls", volume).stdout
        node.delete(named, pod)
        assert node.run("ls", volume).stdout == ""
    node.run("rm", "-r", "/run/kubelet")


def test_a_pod_that_was_recreated_under_its_name_keeps_its_socket_when_the_old_one_is_deleted(node):
    old, new = node.pod("shared-dir", name="db-0"), node.pod("shared-dir", name="db-0")
    node.add(node.conf(), old)
    socket = socket_of(node.add(node.conf(), new))
    node.bind(socket)
    # The runtime now passes the new pod's arguments, but the record has those of the old one.
    node.call("DEL", node.conf(), old, CNI_ARGS=new.args).required()
    assert node.exists(socket)
    assert list(node.ports()) == [f"{new.container_id[:12]}-net1"]
    node.delete(node.conf(), new)


@pytest.mark.parametrize("container_id", ["a", "web-frontend-1"])
def test_any_container_id_will_do(node, container_id):
    other = node.pod(container_id="web-frontend-2")
    pod = node.pod(container_id=container_id)
    node.add(node.conf(), other)
    node.add(node.conf(), pod)
    assert len(node.ports()) == 2
    node.delete(node.conf(), pod)
    node.delete(node.conf(), other)


def test_who_may_connect_is_decided_by_group_mode_and_acl(node):
    pod = node.pod()
    rights = {"mode": "0770", "acl": [f"user:{UNPRIVILEGED}:rwx"]}
    conf = node.conf(socketDirectory=rights)
    conf["host"] = {**conf["host"], "vhost": {"mode": "client", "group": "daemon"}}
    socket = socket_of(node.add(conf, pod))
    node.run("python3", "-c", LISTEN, socket)
    folder = f"/run/barewire/sockets/{pod.container_id[:12]}-net1"
    assert node.run("stat", "-c", "%a %G", folder).stdout == "770 daemon\n"
    # No process listens any more, so a user who can reach the socket gets this error; others get another one.
    assert "ConnectionRefusedError" in node.run("python3", "-c", CONNECT, socket, UNPRIVILEGED, check=False).stderr
    assert "PermissionError" in node.run("python3", "-c", CONNECT, socket, "4343", check=False).stderr
    node.delete(conf, pod)


def test_a_vswitch_that_does_not_see_the_mount_is_reported_and_nothing_stays():
    with Node(from_bundle("userspace"), sees_mounts=False) as node:
        pod, before = node.pod("shared-dir"), node.snapshot()
        refused = node.call("ADD", node.conf(), pod)
        assert refused.document["code"] == 115
        assert "ovs-vswitchd does not see /run/barewire/vhost/" in refused.document["msg"]
        assert "mountPropagation" in refused.document["details"]
        assert changes(before, node.snapshot()) == []


def test_below_multus_thick_daemon_a_pod_comes_and_goes_as_on_the_host():
    with Node(from_bundle("userspace"), init=True) as node:
        node.run("mkdir", "-p", "/run/k8s.cni.cncf.io")
        with node.running(*DAEMON) as daemon:
            pod, before = node.pod("shared-dir"), node.snapshot()
            ranges = [[{"subnet": "10.57.0.0/24"}]]
            conf = node.conf(cniVersion="1.0.0", ipam={"type": "barewire-ipam", "ranges": ranges})
            conf["prevResult"] = node.call("ADD", conf, pod, "net1", *below(daemon)).required().document
            node.bind(socket_of(conf["prevResult"]))
            # A restarted daemon, and the host's own programs, see the same.
            for prefix in (below(daemon), THICK, ()):
                node.call("CHECK", conf, pod, "net1", *prefix).required()
            node.call("DEL", conf, pod, "net1", *below(daemon)).required()
            assert changes(before, node.snapshot()) == []


def test_the_pods_own_directory_is_given_to_the_vswitch_only_when_that_is_allowed(node):
    pod = node.pod()
    conf = node.conf(allowUnsafeSocketDir=True)
    socket = socket_of(node.add(conf, pod))
    assert socket.startswith("/run/barewire/sockets/")
    assert f"{pod.container_id[:12]}-net1" not in node.run("ls", "/run/barewire/vhost", check=False).stdout
    node.delete(conf, pod)
