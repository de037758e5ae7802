"""Namespaces on the real kernel: recognizing, finding, entering and leaving them."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from cni.errors import InvalidNetns
from cni.host.netns import find_netns, open_netns

OWN = "/proc/self/ns/net"


@pytest.fixture
def sleeper():
    """A process in a network namespace of its own."""
    process = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo ready; exec sleep 60"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_a_namespace_is_entered_and_left(sleeper):
    before = os.stat(OWN).st_ino
    with open_netns(f"/proc/{sleeper.pid}/ns/net") as netns:
        with netns.entered():
            assert os.stat("/proc/thread-self/ns/net").st_ino == int(netns.identity.partition(":")[2])
        assert os.stat(OWN).st_ino == before


def test_leaving_happens_also_after_an_exception(sleeper):
    before = os.stat(OWN).st_ino
    with open_netns(f"/proc/{sleeper.pid}/ns/net") as netns, pytest.raises(RuntimeError), netns.entered():
        raise RuntimeError
    assert os.stat(OWN).st_ino == before


@pytest.mark.parametrize("path", ["/proc/self/ns/mnt", "/etc/passwd", "/", "/nowhere"])
def test_other_things_are_no_namespaces(path):
    with pytest.raises(InvalidNetns, match=path):
        open_netns(path)


def test_a_namespace_without_its_path_is_found_by_the_process_in_it(sleeper):
    with open_netns(f"/proc/{sleeper.pid}/ns/net") as netns:
        identity = netns.identity
    found = find_netns("/run/netns/deleted", identity)
    assert found is not None
    with found:
        assert found.identity == identity


def test_a_namespace_without_its_path_is_found_by_a_descriptor_of_it(sleeper):
    with open_netns(f"/proc/{sleeper.pid}/ns/net") as held:
        sleeper.send_signal(signal.SIGKILL)
        sleeper.wait()
        found = find_netns("/run/netns/deleted", held.identity)
        assert found is not None
        with found:
            assert found.identity == held.identity


def test_a_path_that_leads_to_another_namespace_now_is_not_taken(sleeper):
    assert find_netns(f"/proc/{sleeper.pid}/ns/net", "4:1") is None


def test_nothing_is_found_where_nothing_is():
    assert find_netns("", "") is None
    assert find_netns("/run/netns/deleted") is None
