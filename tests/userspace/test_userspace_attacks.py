"""A pod owns the directory of its socket, and wants what is not its own. tests/contract/test_sockets.py has the races."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager

import pytest

from tests.ovs.daemon import LEASH
from tests.ovs.node import STATE, changes

SECRET = "/run/secret"
# A program that listens, and says whether somebody connected: Open vSwitch tries once a second.
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
    """A node with something of the host's that no pod may reach."""
    node.run("mkdir", SECRET)
    node.put(f"{SECRET}/file", "secret")
    yield node
    assert node.text(f"{SECRET}/file") == "secret"
    assert node.run("ls", SECRET).stdout == "file\n"
    node.run("rm", "-r", SECRET)


@contextmanager
def listening(node, path):
    """A program that listens at the path; yields how to learn what became of it."""
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
    """And without the mount it does: so the mount is what keeps it."""
    attacker, conf = node.pod(), node.conf(allowUnsafeSocketDir=unsafe)
    node.run("mkdir", "/run/victim")
    with listening(node, "/run/victim/socket") as outcome:
        node.add(conf, attacker)
        own = f"/run/barewire/sockets/{name_of(attacker)}"
        node.run("ln", "-s", "/run/victim/socket", f"{own}/{name_of(attacker)}")
        assert outcome() == found
    node.delete(conf, attacker)
    node.run("rm", "-r", "/run/victim")


def test_links_in_the_place_of_our_names_are_neither_followed_nor_in_the_way(secret):
    pod = secret.pod("shared-dir")
    volume = pod.volume("shared-dir")
    for name in (name_of(pod), f"configData-{name_of(pod)}.json", f".configData-{name_of(pod)}.json.tmp"):
        secret.run("ln", "-s", f"{SECRET}/file", f"{volume}/{name}")
    secret.add(secret.conf(), pod)
    secret.delete(secret.conf(), pod)
    assert secret.run("ls", "-A", volume).stdout == ""


def test_folders_in_the_place_of_our_names_are_told_of_and_left(secret):
    pod = secret.pod("shared-dir")
    volume = pod.volume("shared-dir")
    secret.run("mkdir", "-p", f"{volume}/configData-{name_of(pod)}.json/inside")
    before = secret.snapshot()
    refused = secret.call("ADD", secret.conf(), pod)
    assert refused.document["code"] == 115
    assert changes(before, secret.snapshot()) == []


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


def test_a_forged_mark_on_a_port_harms_only_what_bears_it(node):
    """Who can write to the database can forge anything; a port of ours with a record is not removed by a name."""
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
