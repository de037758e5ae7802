"""Obstacles between a pod and its port: a vswitch that refuses, hangs or is gone, a wrong bridge, invalid input."""

from __future__ import annotations

import time

import pytest

from tests.cli.program import from_bundle
from tests.ovs.daemon import until
from tests.ovs.node import KUBELET, Node, changes

BOUND_SECONDS = 40.0
"""An ADD may take the vswitch's 20 s, and those of its rollback; a runtime waits for minutes."""


@pytest.fixture
def own_node():
    """A node whose daemons the test may end."""
    with Node(from_bundle("userspace")) as node:
        yield node


def bounded(call):
    started = time.monotonic()
    outcome = call()
    assert time.monotonic() - started < BOUND_SECONDS
    return outcome


def test_a_vswitch_that_cannot_make_the_port_is_quoted_and_nothing_stays():
    with Node(from_bundle("userspace"), dpdk=False) as node:
        pod, before = node.pod("shared-dir"), node.snapshot()
        outcome = node.call("ADD", node.conf(), pod)
        assert outcome.document["code"] == 110
        assert "Address family not supported by protocol" in outcome.document["msg"]
        assert changes(before, node.snapshot()) == []
        assert "knows no ports of type" in node.call("STATUS", node.conf(), pod).required().err
        with node.administered(strictStatus=True):
            assert node.call("STATUS", node.conf(), pod).document["code"] == 50


def test_with_vswitchd_gone_add_ends_in_time_and_nothing_stays_when_it_is_back(own_node):
    pod, before = own_node.pod("shared-dir"), own_node.snapshot()
    own_node.daemon.kill("ovs-vswitchd")
    outcome = bounded(lambda: own_node.call("ADD", own_node.conf(), pod))
    assert outcome.document["code"] == 11
    own_node.call("STATUS", own_node.conf(), pod).required()
    with own_node.administered(strictStatus=True):
        assert own_node.call("STATUS", own_node.conf(), pod).document["code"] == 51
    bounded(lambda: own_node.delete(own_node.conf(), pod))
    own_node.daemon.start_vswitchd()
    assert changes(before, own_node.snapshot()) == []
    assert own_node.pending() == []


def test_with_vswitchd_stopped_add_ends_in_time_and_it_makes_nothing_when_it_goes_on(own_node):
    pod, before = own_node.pod(), own_node.snapshot()
    own_node.daemon.pause("ovs-vswitchd")
    try:
        assert bounded(lambda: own_node.call("ADD", own_node.conf(), pod)).document["code"] == 11
    finally:
        own_node.daemon.resume("ovs-vswitchd")
    own_node.daemon.await_vswitchd()
    assert changes(before, own_node.snapshot()) == []
    assert not {name for name in own_node.daemon.datapath_ports() if "net1" in name}


def test_with_the_database_gone_del_succeeds_and_the_next_call_of_another_pod_finishes_it(own_node):
    pod, other, before = own_node.pod(), own_node.pod(), own_node.daemon.dump()
    own_node.add(own_node.conf(), pod)
    own_node.daemon.kill("ovsdb-server")
    bounded(lambda: own_node.delete(own_node.conf(), pod))
    assert len(own_node.pending()) == 1
    refused = bounded(lambda: own_node.call("ADD", own_node.conf(), other))
    assert refused.document["code"] == 11
    own_node.daemon.start_database()
    own_node.daemon.await_vswitchd()
    own_node.add(own_node.conf(), other)
    assert own_node.pending() == []
    assert list(own_node.ports()) == [f"{other.container_id[:12]}-net1"]
    own_node.delete(own_node.conf(), other)
    assert own_node.daemon.dump() == before


def test_without_record_and_database_del_leaves_a_promise_that_the_next_call_keeps(own_node):
    pod, other, before = own_node.pod(), own_node.pod(), own_node.daemon.dump()
    own_node.add(own_node.conf(), pod)
    own_node.run("rm", "-rf", "/var/lib/cni/barewire")
    own_node.daemon.kill("ovsdb-server")
    bounded(lambda: own_node.delete(own_node.conf(), pod))
    assert len(own_node.pending()) == 1
    own_node.daemon.start_database()
    own_node.daemon.await_vswitchd()
    own_node.delete(own_node.conf(), other)
    assert own_node.daemon.dump() == before
    assert own_node.pending() == []


def test_with_the_database_stopped_every_call_ends_in_time(own_node):
    pod = own_node.pod()
    own_node.add(own_node.conf(), pod)
    own_node.daemon.pause("ovsdb-server")
    try:
        assert bounded(lambda: own_node.call("ADD", own_node.conf(), own_node.pod())).document["code"] == 11
        bounded(lambda: own_node.delete(own_node.conf(), pod))
    finally:
        own_node.daemon.resume("ovsdb-server")
    own_node.delete(own_node.conf(), pod)
    until("the port's end", lambda: not own_node.ports())


def test_a_restarted_vswitch_has_the_port_again_and_del_removes_it(own_node):
    pod, before = own_node.pod(), own_node.daemon.dump()
    result = own_node.add(own_node.conf(), pod)
    own_node.daemon.kill("ovs-vswitchd")
    own_node.daemon.start_vswitchd()
    own_node.call("CHECK", {**own_node.conf(), "prevResult": result}, pod).required()
    own_node.delete(own_node.conf(), pod)
    assert own_node.daemon.dump() == before


@pytest.mark.parametrize(
    ("settings", "host", "code", "words"),
    [
        ({}, {"bridge": {"bridgeName": "none0"}}, 111, "there is no bridge none0"),
        ({}, {"engine": "vpp"}, 7, "engine 'vpp' is not supported; supported: ovs-dpdk"),
        ({}, {"engine": "vpp", "iftype": "memif", "memif": {"role": "master"}}, 7, "'memif' is not supported"),
        ({}, {"vhost": {"mode": "server"}}, 7, "write 'client', and let the application listen"),
        ({}, {"vhost": {"mode": "clinet"}}, 7, "'clinet' is not 'client'"),
        ({}, {"vhost": {"mode": "client", "socketfile": "../x"}}, 7, "'../x' is not a name"),
        ({}, {"vhost": {"mode": "client", "socketfile": "a\nb"}}, 7, "is not a name"),
        ({}, {"vhost": {"mode": "client", "group": "nobody-has-it"}}, 115, "there is no group nobody-has-it"),
        ({}, {"netType": "interface"}, 7, "host.netType"),
        ({"sharedDir": "/etc"}, {}, 7, "sharedDir"),
        ({"ovsdb": "tcp:127.0.0.1:6640"}, {}, 7, "ovsdb: 'tcp:127.0.0.1:6640' is not the usual database"),
        ({"kubeletRoot": "/run/kubelet"}, {}, 7, "kubeletRoot"),
        ({"vhostDir": "/run/netns"}, {}, 7, "vhostDir"),
        ({"volume": "missing"}, {}, 7, "the pod has no volume missing"),
        ({"ovsdb": "unix:/run/openvswitch/nowhere.sock"}, {}, 11, "OVSDB at unix:/run/openvswitch/nowhere.sock"),
        ({"vlna": 5}, {}, 7, "did you mean vlan?"),
        ({}, {"brigde": {}}, 7, "did you mean host.bridge?"),
        ({"kubeconfig": "/run/multus/no/file"}, {}, 7, "does not exist (on the way to /run/multus/no/file)"),
        ({"kubeconfig": "/etc/hostname"}, {}, 7, "/etc/hostname is not below /etc/cni"),
        ({"ipam": {"type": "none-such"}}, {}, 106, "none-such was not found"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason_and_changes_nothing(node, settings, host, code, words):
    pod = node.pod("shared-dir")
    before = node.snapshot()
    conf = node.conf(**settings)
    conf["host"] = {**conf["host"], **host}
    refused = node.call("ADD", conf, pod)
    assert (refused.code, refused.document["code"]) == (1, code), refused
    assert words in refused.document["msg"], refused
    assert changes(before, node.snapshot()) == []


def test_a_bridge_of_another_datapath_is_refused_and_left_alone(node):
    pod, conf = node.pod(), node.conf(createBridge=True)
    node.daemon.vsctl("--no-wait", "add-br", "kernel0")
    before = node.snapshot()
    conf["host"] = {**conf["host"], "bridge": {"bridgeName": "kernel0"}}
    refused = node.call("ADD", conf, pod)
    left = changes(before, node.snapshot())
    node.daemon.vsctl("del-br", "kernel0")
    assert refused.document["code"] == 111
    assert "datapath_type 'system'" in refused.document["msg"]
    assert left == []


def test_a_socket_path_that_is_too_long_is_refused(node):
    pod = node.pod()
    conf = node.conf()
    conf["host"] = {**conf["host"], "vhost": {"mode": "client", "socketfile": "x" * 64}}
    refused = node.call("ADD", conf, pod, "fifteen-letters")
    assert refused.document["code"] == 115
    assert "more than 107" in refused.document["msg"]


def test_two_pods_cannot_have_one_socket(node):
    """Without the mounts, each of which belongs to one port: in one directory that two pods share, by one name."""
    pods = [node.pod(), node.pod()]
    node.run("mkdir", "-p", "/run/both")
    conf = node.conf(allowUnsafeSocketDir=True)
    conf["host"] = {**conf["host"], "vhost": {"mode": "client", "socketfile": "same"}}
    for pod in pods:
        node.run("mkdir", "-p", f"{KUBELET}/pods/{pod.uid}/volumes/kubernetes.io~empty-dir")
        node.run("ln", "-s", "/run/both", pod.volume("shared-dir"))
    # A volume that is a symlink was not created by the kubelet.
    assert node.call("ADD", conf, pods[0]).document["code"] == 115
    node.daemon.vsctl(
        "add-port", "br0", "theirs", "--", "set", "Interface", "theirs", "type=dpdkvhostuserclient",
        f"options:vhost-server-path=/run/barewire/sockets/{pods[1].container_id[:12]}-net1/same",
    )  # fmt: skip
    node.run("rm", pods[1].volume("shared-dir"))
    refused = node.call("ADD", conf, pods[1])
    assert refused.document["code"] == 112
    assert "already has a port on the socket" in refused.document["msg"]
    node.daemon.vsctl("del-port", "theirs")
    node.run("rmdir", "/run/both")


def test_a_repeated_add_is_refused_and_the_attachment_stays(node):
    pod = node.pod()
    node.add(node.conf(), pod)
    again = node.call("ADD", node.conf(), pod)
    assert again.document["code"] == 100
    assert len(node.ports()) == 1
    node.call("CHECK", node.conf(), pod).required()
    node.delete(node.conf(), pod)


def test_a_foreign_port_is_never_removed(node):
    pod = node.pod()
    name = f"{pod.container_id[:12]}-net1"
    node.daemon.vsctl(
        "add-port", "br0", name, "--", "set", "Interface", name, "type=dpdkvhostuserclient",
        "options:vhost-server-path=/run/theirs",
    )  # fmt: skip
    assert node.call("ADD", node.conf(), pod).document["code"] == 112
    node.delete(node.conf(), pod)
    assert name in node.ports()
    node.daemon.vsctl("del-port", name)


def test_fifty_pods_come_and_go_at_the_same_time_on_several_bridges(node):
    pods = [node.pod("shared-dir") for _ in range(50)]
    confs = [node.conf(createBridge=True, vlan=1 + number) for number in range(50)]
    for number, conf in enumerate(confs):
        conf["host"] = {**conf["host"], "bridge": {"bridgeName": f"many{number % 4}"}}
    running = [node.start("ADD", conf, pod) for conf, pod in zip(confs, pods, strict=True)]
    results = [node.ended(process).required().document for process in running]
    assert len({result["interfaces"][0]["socketPath"] for result in results}) == 50
    assert set(node.ports()) == {f"{pod.container_id[:12]}-net1" for pod in pods}
    # Half of them are deleted while others are added.
    late = [node.pod() for _ in range(10)]
    running = [node.start("DEL", conf, pod) for conf, pod in zip(confs[:25], pods[:25], strict=True)]
    coming = [node.start("ADD", confs[0], pod) for pod in late]
    for process in [*running, *coming]:
        node.ended(process).required()
    running = [node.start("DEL", confs[0], pod) for pod in [*pods[25:], *late]]
    for process in running:
        node.ended(process).required()
    assert node.ports() == {}
    assert node.run("ls", "/run/barewire/lock").stdout == ""
