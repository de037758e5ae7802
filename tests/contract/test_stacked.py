"""What is stacked on a device in other namespaces, and what the host uses a device for, on the real kernel.

A veth stands for the device, and the namespace `host` for the host's.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from cni.errors import TryAgainLater
from cni.host import addressing, stacked
from cni.host.kernel import HostKernel
from cni.host.rtnetlink import RouteSocket
from cni.host.sysfs import Sysfs
from cni.log import Log
from cni.pci import PciAddress
from tests.contract.place import Place

VF = PciAddress("0000:01:10.0")


@pytest.fixture
def host() -> Iterator[Place]:
    place = Place()
    place.ip("link", "add", "nic", "type", "veth", "peer", "name", "other")
    yield place
    place.close()


@pytest.fixture
def pod() -> Iterator[Place]:
    place = Place()
    yield place
    place.close()


@pytest.fixture
def hidden() -> Iterator[int]:
    """The process of a namespace without a path."""
    process = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo ready; exec sleep 60"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process.pid
    process.kill()
    process.wait()
    process.stdout.close()


def stack(host: Place, pod: str) -> None:
    """Puts a macvlan on the device, and moves it to a namespace that has a name or a process."""
    host.ip("link", "add", "link", "nic", "name", "st0", "type", "macvlan", "mode", "bridge")
    host.ip("link", "set", "st0", "netns", pod)


def seen(host: Place) -> list[str]:
    index = host.link("nic").index
    with host.netns.entered():
        found = stacked.look(index)
    assert found.complete
    return [str(one) for one in found.found]


def uses(host: Place, tmp_path, *, is_vf: bool = True) -> list[str]:
    """What the host uses the device for; sysfs shows it as a VF, or as a device without a PF."""
    device = tmp_path / "bus/pci/devices" / VF
    device.mkdir(parents=True, exist_ok=True)
    if is_vf and not (device / "physfn").is_symlink():
        (device / "physfn").symlink_to("../0000:01:00.0")
    kernel = HostKernel(Log({}), Sysfs(str(tmp_path)))
    with host.netns.entered(), RouteSocket() as kernel._sockets[""]:
        return kernel.uses(host.link("nic").replace(parent=VF))


def test_a_macvlan_in_a_pod_is_found(host, pod):
    stack(host, pod.name)
    assert seen(host) == [f"st0 (macvlan) in the network namespace {pod.path}"]


def test_a_macvlan_in_a_namespace_without_a_path_is_found_by_a_process_in_it(host, hidden):
    stack(host, str(hidden))
    assert seen(host) == [f"st0 (macvlan) in the network namespace /proc/{hidden}/ns/net"]


def test_the_other_end_of_a_veth_is_not_stacked_on_it(host, pod):
    host.ip("link", "set", "other", "netns", pod.name)
    assert pod.link("other").lower == 0
    assert seen(host) == []


def test_what_is_stacked_on_another_device_with_the_same_index_is_not_meant(host, pod):
    pod.ip("link", "add", "twin", "index", str(host.link("nic").index), "type", "veth", "peer", "name", "end")
    pod.ip("link", "add", "link", "twin", "name", "st0", "type", "macvlan", "mode", "bridge")
    assert seen(host) == []
    host.ip("link", "add", "link", "nic", "name", "st1", "type", "macvlan", "mode", "bridge")
    host.ip("link", "set", "st1", "netns", pod.name)
    assert seen(host) == [f"st1 (macvlan) in the network namespace {pod.path}"]


def test_a_look_that_takes_too_long_says_that_it_is_not_complete(host):
    with host.netns.entered():
        assert not stacked.look(host.link("nic").index, seconds=-1.0).complete


def test_a_vf_that_is_up_or_has_link_local_addresses_only_is_nobodys(host, tmp_path):
    assert uses(host, tmp_path) == []
    host.ip("link", "set", "nic", "up")
    host.ip("addr", "add", "169.254.7.7/16", "dev", "nic", "scope", "link")
    assert len(addressing.addresses(host.ours, host.link("nic").index)) in (1, 2)
    assert uses(host, tmp_path) == []


@pytest.mark.parametrize("address", ["192.0.2.5/24", "2001:db8::5/64"])
@pytest.mark.parametrize("state", ["up", "down"])
def test_a_vf_with_a_global_address_is_the_hosts(host, tmp_path, address, state):
    host.ip("link", "set", "nic", "up")
    host.ip("addr", "add", address, "dev", "nic", "nodad")
    host.ip("link", "set", "nic", state)
    found = uses(host, tmp_path)
    # The kernel removes IPv6 addresses of a link that goes down.
    assert ("it has a global address" in found) == (state == "up" or "." in address)
    assert ("a route goes through it" in found) == (state == "up")


def test_a_route_through_another_device_is_no_use_of_this_one(host, tmp_path):
    for name in ("nic", "other"):
        host.ip("link", "set", name, "up")
    host.ip("addr", "add", "192.0.2.5/24", "dev", "other")
    host.ip("route", "add", "default", "via", "192.0.2.1")
    assert uses(host, tmp_path) == []


@pytest.mark.parametrize("hops", [["dev", "nic"], ["nexthop", "dev", "other", "nexthop", "dev", "nic"]])
def test_a_vf_with_a_route_is_the_hosts(host, tmp_path, hops):
    for name in ("nic", "other"):
        host.ip("link", "set", name, "up")
    host.ip("route", "add", "198.51.100.0/24", *hops)
    assert uses(host, tmp_path) == ["a route goes through it"]


def test_a_vf_that_carries_the_macvlans_of_pods_is_the_hosts(host, pod, tmp_path):
    stack(host, pod.name)
    assert uses(host, tmp_path) == []  # nothing passes through a VF that is down
    host.ip("link", "set", "nic", "up")
    assert uses(host, tmp_path) == [f"st0 (macvlan) in the network namespace {pod.path} is stacked on it"]


def test_a_macvlan_that_is_up_shows_on_a_vf_that_is_down(host, pod, tmp_path):
    stack(host, pod.name)
    host.ip("link", "set", "nic", "up")
    pod.ip("link", "set", "st0", "up")
    host.ip("link", "set", "nic", "down")
    assert len(uses(host, tmp_path)) == host.link("nic").promiscuity


def test_a_device_without_a_pf_that_carries_the_macvlans_of_pods_is_the_hosts(host, pod, tmp_path):
    stack(host, pod.name)
    assert len(uses(host, tmp_path, is_vf=False)) == 1


def test_a_look_that_is_not_complete_is_no_leave(host, tmp_path, monkeypatch):
    host.ip("link", "set", "nic", "up")
    monkeypatch.setattr(stacked, "look", lambda _index: stacked.Look(found=(), complete=False))
    with pytest.raises(TryAgainLater, match="cannot be seen"):
        uses(host, tmp_path)


def test_looking_leaves_no_descriptor_and_the_thread_where_it_was(host, pod, hidden):
    stack(host, str(hidden))
    before, open_before = os.stat("/proc/thread-self/ns/net").st_ino, len(os.listdir("/proc/self/fd"))
    assert len(seen(host)) == 1
    assert (os.stat("/proc/thread-self/ns/net").st_ino, len(os.listdir("/proc/self/fd"))) == (before, open_before)
