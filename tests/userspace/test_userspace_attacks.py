"""A pod owns the directory of its socket, and attacks files of others. tests/contract/test_sockets.py has the races."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager

import pytest

from tests.ovs.daemon import LEASH
from tests.ovs.node import STATE, changes

SECRET = "/run/secret"
# A program that listens, and prints whether a client connected: Open vSwitch tries once a second.
LISTENER = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
listener.settimeout(4)
print("listening", flush=True)
try:
    listener.accept()
    print("connected")
except TimeoutError:
    print("alone")
"""


@pytest.fixture
def secret(node):
    """A node with a file of the host that no pod may reach."""
    node.run("mkdir", SECRET)
    node.put(f"{SECRET}/file", "secret")
    yield node
    assert node.text(f"{SECRET}/file") == "secret"
    assert node.run("ls", SECRET).stdout == "file\n"
    node.run("rm", "-r", SECRET)


@contextmanager
def listening(node, path):
    """Runs a program that listens at the path; yields a function that returns its outcome."""
    process = subprocess.Popen(
        [*LEASH, *node.within, "python3", "-c", LISTENER, path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == "listening\n"
        yield lambda: said.readline().strip()
    process.wait(10)


def name_of(pod):
    return f"{pod.container_id[:12]}-net1"


@pytest.mark.parametrize(("unsafe", "found"), [(False, "alone"), (True, "connected")])
def test_the_vswitch_does_not_follow_a_planted_link_to_another_pods_socket(node, unsafe, found):
    """Without the mount it does follow it, so the mount is what prevents it."""
    attacker, conf = node.pod(), node.conf(allowUnsafeSocketDir=unsafe)
    node.run("mkdir", "/run/victim")
    with listening(node, "/run/victim/socket") as outcome:
        node.add(conf, attacker)
        own = f"/run/barewire/sockets/{name_of(attacker)}"
        node.run("ln", "-s", "/run/victim/socket", f"{own}/{name_of(attacker)}")
        assert outcome() == found
    node.delete(conf, attacker)
    node.run("rm", "-r", "/run/victim")


@pytest.mark.parametrize("name", ["{0}", "configData-{0}.json", ".configData-{0}.json.tmp"])
@pytest.mark.parametrize("command", [("ln", "-s", f"{SECRET}/file"), ("mkdir",)], ids=["a link", "a folder"])
def test_what_the_pod_has_in_the_place_of_our_names_is_reported_and_left(secret, name, command):
    pod = secret.pod("shared-dir")
    planted = f"{pod.volume('shared-dir')}/{name.format(name_of(pod))}"
    secret.run(*command, planted)
    before = secret.snapshot()
    refused = secret.call("ADD", secret.conf(), pod)
    assert refused.document["code"] == 115
    assert f"{planted} is there already" in refused.document["msg"]
    assert changes(before, secret.snapshot()) == []


def test_links_that_the_pod_plants_later_are_neither_followed_nor_removed(secret):
    pod = secret.pod("shared-dir")
    planted = f"{pod.volume('shared-dir')}/{name_of(pod)}"
    secret.add(secret.conf(), pod)
    secret.run("ln", "-s", f"{SECRET}/file", planted)
    secret.delete(secret.conf(), pod)
    assert secret.run("ls", "-A", pod.volume("shared-dir")).stdout == f"{name_of(pod)}\n"


def test_a_kubelets_directory_in_a_pods_volume_leads_nowhere(secret):
    """The pod's link there would lead to a directory of the host, whose owner a network's author would determine."""
    pod, target = secret.pod("v"), secret.pod()
    secret.run("mkdir", "-p", f"{pod.volume('v')}/pods/{target.uid}/volumes")
    secret.run("ln", "-s", "/run", f"{pod.volume('v')}/pods/{target.uid}/volumes/kubernetes.io~empty-dir")
    rights = {"owner": 1000, "mode": "0777"}
    conf = secret.conf(kubeletRoot=pod.volume("v"), volume="secret", socketDirectory=rights)
    conf["host"] = {**conf["host"], "vhost": {"mode": "client", "socketfile": "file"}}
    before = secret.snapshot()
    for node_allows, code in (([], 7), ([pod.volume("v")], 115)):
        with secret.administered(sockets={"kubeletRoots": node_allows}):
            assert secret.call("ADD", conf, target).document["code"] == code
            secret.delete(conf, target)
    assert changes(before, secret.snapshot()) == []


def test_a_database_that_the_node_does_not_allow_hears_nothing_of_any_call(node):
    pod, path = node.pod(), "/run/database"
    conf = node.conf(ovsdb=f"unix:{path}")
    with listening(node, path) as outcome:
        for command in ("ADD", "DEL", "STATUS", "GC"):
            done = node.call(command, {**conf, "cni.dev/valid-attachments": []}, pod)
            assert (done.code == 0) == (command in ("DEL", "GC")), done
        assert outcome() == "alone"
    node.run("rm", path)
    with node.administered(sockets={"ovsdb": [node.daemon.remote]}):
        node.add(node.conf(ovsdb=node.daemon.remote), pod)
    # The record contains the port's location, even if it is no longer permitted.
    node.delete(node.conf(ovsdb=node.daemon.remote), pod)
    assert node.ports() == {}


def test_a_volume_that_is_a_link_is_refused(secret):
    pod = secret.pod()
    volume = pod.volume("shared-dir")
    secret.run("mkdir", "-p", volume.rpartition("/")[0])
    secret.run("ln", "-s", SECRET, volume)
    before = secret.snapshot()
    refused = secret.call("ADD", secret.conf(), pod)
    assert refused.document["code"] == 115
    assert "a symlink is not followed" in refused.document["msg"]
    assert changes(before, secret.snapshot()) == []


def test_a_directory_that_is_swapped_for_a_link_before_del_keeps_del_in_the_pods_own(secret):
    pod = secret.pod("shared-dir")
    volume = pod.volume("shared-dir")
    secret.add(secret.conf(), pod)
    secret.put(f"{SECRET}/{name_of(pod)}", "not the pod's")
    secret.run("mv", volume, f"{volume}-moved")
    secret.run("ln", "-s", SECRET, volume)
    secret.delete(secret.conf(), pod)
    assert secret.text(f"{SECRET}/{name_of(pod)}") == "not the pod's"
    assert secret.run("ls", f"{volume}-moved").stdout == ""
    secret.run("rm", f"{SECRET}/{name_of(pod)}")


@pytest.mark.parametrize("uid", ["../../../../run/secret", "..", "a/b", "x\ny"])
def test_a_pod_uid_is_no_path(secret, uid):
    pod = secret.pod()
    before = secret.snapshot()
    refused = secret.call("ADD", secret.conf(), pod, CNI_ARGS=f"IgnoreUnknown=1;K8S_POD_UID={uid}")
    assert refused.document["code"] == 4
    assert changes(before, secret.snapshot()) == []


def test_a_forged_mark_on_a_port_harms_only_what_has_it(node):
    """A program with write access to the database can forge anything; a recorded port is not removed by a name."""
    pod, other = node.pod(), node.pod()
    node.add(node.conf(), pod)
    node.daemon.vsctl("set", "Port", name_of(pod), f"external_ids:container-id={other.container_id}")
    node.daemon.vsctl("set", "Interface", name_of(pod), f"external_ids:container-id={other.container_id}")
    node.delete(node.conf(), other)
    assert name_of(pod) in node.ports()
    assert node.exists(f"{STATE}/net/{pod.container_id}:net1.json")
    node.daemon.vsctl("set", "Port", name_of(pod), f"external_ids:container-id={pod.container_id}")
    node.daemon.vsctl("set", "Interface", name_of(pod), f"external_ids:container-id={pod.container_id}")
    node.delete(node.conf(), pod)
