"""The mounts of sockets, made by a plugin outside the host's mount namespace, are visible to the host's processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cni.host import mounts
from tests.alone import alone
from tests.cli.program import ROOT
from tests.contract.pod_directory import MOUNT, NAMES, SOCKET, Host
from tests.layouts import ENCAPSULATED, THICK
from tests.ovs.node import child

if TYPE_CHECKING:
    from collections.abc import Sequence

PLUGIN = """
import _thread, os, sys
# A call has another thread, which loads the IPAM meanwhile. This one waits for a lock that nobody releases.
held = _thread.allocate_lock()
held.acquire()
_thread.start_new_thread(held.acquire, ())
from cni.host import hostmounts
from cni.log import Log
from cni.userspace.sockets.directory import SocketDirectory
from cni.userspace.sockets.sockets import Sockets
sockets, directory = Sockets(Log({}, level="panic")), SocketDirectory.from_document(eval(sys.argv[2]))
before = os.readlink("/proc/self/ns/mnt"), os.stat("/"), os.getcwd()
if sys.argv[1] == "add":
    sockets.prepare(directory)
    assert sockets.differences(directory) == []
    sockets.write(directory, "told", b"text")
else:
    sockets.remove(directory, *eval(sys.argv[3]))
assert (os.readlink("/proc/self/ns/mnt"), os.stat("/"), os.getcwd()) == before
print(hostmounts.is_mounted(directory.mount), sockets.folders(os.path.dirname(directory.mount)))
"""
LEFT_BY_OLD = """
import os, sys
from cni.host import mounts
os.makedirs(sys.argv[2])
mounts.bind(*[os.open(path, os.O_PATH) for path in sys.argv[1:3]])
"""
STACKED = """
print(open("/proc/self/mountinfo").read().count(directory.mount))
"""


class Node:
    """A host with a PID 1, whose mounts the test sees if they are shared."""

    def __init__(self, propagation: str) -> None:
        self.host = Host()
        subprocess.run(["mount", "--make-rshared", "/"], check=True)
        for kind, place in (("rprivate", "/proc"), (propagation, "/run")):
            subprocess.run(["mount", f"--make-{kind}", place], check=True)
        script = "mount -t proc proc /proc; echo; exec sleep infinity"
        argv = ["unshare", "--pid", "--mount", "--propagation", "unchanged", "--fork", "sh", "-ec", script]
        init = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert init.stdout is not None
        assert init.stdout.readline() == b"\n"
        self.pid = child(init.pid)
        self.mount = Path(f"/proc/{self.pid}/root{MOUNT}")

    def run(self, layout: Sequence[str], script: str, *arguments: str) -> str:
        entered = ("nsenter", "--target", self.pid, "--pid", "--mount", f"--wdns={ROOT}")
        argv = [*entered, *layout, "env", "-C", str(ROOT), sys.executable, "-c", script, *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def add(self, layout: Sequence[str]) -> str:
        return self.run(layout, PLUGIN, "add", str(self.host.directory.as_dict()))

    def remove(self, layout: Sequence[str]) -> str:
        return self.run(layout, PLUGIN, "del", str(self.host.directory.as_dict()), str(NAMES))


@pytest.mark.parametrize("propagation", ["shared", "private"])
@pytest.mark.parametrize("layout", [(), THICK, ENCAPSULATED], ids=["host", "thick", "encapsulated"])
@alone
def test_the_hosts_processes_have_the_mount_whatever_namespace_the_plugin_has(layout, propagation):
    node = Node(propagation)
    before = mount_points(node)
    for _ in range(2):
        assert node.add(layout) == f"True ['{MOUNT.name}']\n"
        assert os.path.samestat(node.mount.stat(), node.host.volume.stat())
        assert os.statvfs(node.mount).f_flag & mounts.ST_NOSYMFOLLOW
        assert len(mount_points(node)) == len(before) + 1
        (node.host.volume / SOCKET).touch()
        assert (node.mount / "told").read_bytes() == b"text"
    assert node.remove(layout) == "False []\n"
    assert mount_points(node) == before
    assert not node.mount.exists()


@alone
def test_a_memory_backed_volume_that_only_the_kubelets_namespace_has_is_the_one_that_is_mounted():
    node = Node("shared")
    hidden = ("sh", "-ec", f'mount -t tmpfs -o size=64k tmpfs {node.host.volume}; "$@"; ls {node.host.volume}', "sh")
    assert node.run((*ENCAPSULATED, *hidden), PLUGIN, "add", str(node.host.directory.as_dict())).endswith("\ntold\n")
    assert (node.mount / "told").read_bytes() == b"text"
    assert list(node.host.volume.iterdir()) == []


@alone
def test_a_mount_that_an_older_version_left_in_the_plugins_own_namespace_is_taken_off_there():
    node = Node("private")
    script = f"{LEFT_BY_OLD}\nbefore = os.readlink('/proc/self/ns/mnt')\nsys.argv[1:] = sys.argv[3:]\n{PLUGIN}{STACKED}"
    told = node.run(
        ENCAPSULATED, script, str(node.host.volume), str(MOUNT), "del", str(node.host.directory.as_dict()), str(NAMES)
    )
    assert told == "False []\n0\n"
    assert not MOUNT.exists()


def mount_points(node: Node) -> list[str]:
    lines = Path(f"/proc/{node.pid}/mountinfo").read_text().splitlines()
    return sorted(line.split()[4] for line in lines)
