"""Links that are stacked on a device in other namespaces, and the host's uses of a device, on the real kernel.

A veth represents the device, and the namespace `host` the host's namespace.
"""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from cni.errors import InvalidNetns, TryAgainLater
from cni.host import addressing, links, netlink as nl, stacked
from cni.host.kernel import HostKernel
from cni.host.rtnetlink import NetlinkError, RouteSocket, Unsettled
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
    """Puts a macvlan on the device, and moves it to a namespace with a name or a process."""
    host.ip("link", "add", "link", "nic", "name", "st0", "type", "macvlan", "mode", "bridge")
    host.ip("link", "set", "st0", "netns", pod)


def seen(host: Place) -> list[str]:
    index = host.link("nic").index
    with host.netns.entered():
        found = stacked.look(index)
    assert (found.unseen, found.failed) == ((), ())
    return [str(one) for one in found.found]


def uses(host: Place, tmp_path, *, is_vf: bool = True) -> list[str]:
    """The host's uses of the device; sysfs shows it as a VF, or as a device without a PF."""
    device = tmp_path / "bus/pci/devices" / VF
    device.mkdir(parents=True, exist_ok=True)
    if is_vf and not (device / "physfn").is_symlink():
        (device / "physfn").symlink_to("../0000:01:00.0")
    kernel = HostKernel(Log({}), Sysfs(str(tmp_path)))
    with host.netns.entered(), RouteSocket() as kernel._sockets[""]:
        return kernel.host_uses(host.link("nic").replace(parent=VF))


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
        assert stacked.look(host.link("nic").index, seconds=-1.0).failed == ("the time is over",)


def test_a_vf_that_is_up_or_has_only_link_local_addresses_is_free(host, tmp_path):
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
    # The kernel removes IPv6 addresses of a link when it is set down.
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
    assert uses(host, tmp_path) == []  # a VF that is down passes no traffic
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
    monkeypatch.setattr(stacked, "look", lambda _index: stacked.Look(found=(), failed=("the time is over",)))
    with pytest.raises(TryAgainLater, match="cannot be seen"):
        uses(host, tmp_path)


def unsettle(monkeypatch, path: str, settles_at: float = float("inf")) -> list[int]:
    """Makes the links of a namespace appear to change all the time, and counts each attempt."""
    tries, once, inode = [0], links.bodies_once, os.stat(path).st_ino

    def changing(socket, having, deadline):
        bodies = once(socket, having, deadline)
        if os.stat("/proc/thread-self/ns/net").st_ino == inode:
            tries[0] += 1
            if tries[0] < settles_at:
                raise Unsettled(1, bodies)
        return bodies

    monkeypatch.setattr(links, "bodies_once", changing)
    return tries


def stacked_on(host: Place) -> list[str]:
    with host.netns.entered():
        return HostKernel(Log({})).stacked(host.link("nic"))


def test_a_pod_that_changes_its_links_all_the_time_keeps_no_device_from_others(host, pod, tmp_path, monkeypatch):
    host.ip("link", "set", "nic", "up")
    unsettle(monkeypatch, pod.path)
    assert uses(host, tmp_path) == []
    assert uses(host, tmp_path, is_vf=False) == []


def test_what_one_try_showed_in_a_changing_namespace_counts(host, pod, tmp_path, monkeypatch):
    stack(host, pod.name)
    host.ip("link", "set", "nic", "up")
    unsettle(monkeypatch, pod.path)
    assert uses(host, tmp_path) == [f"st0 (macvlan) in the network namespace {pod.path} is stacked on it"]


def test_a_changing_namespace_makes_del_assume_that_something_is_stacked(host, pod, monkeypatch):
    unsettle(monkeypatch, pod.path)
    (found,) = stacked_on(host)
    assert f"the links of {pod.path} change all the time" in found


def test_a_namespace_that_settles_is_looked_into_again(host, pod, monkeypatch):
    tries = unsettle(monkeypatch, pod.path, settles_at=3)
    assert (stacked_on(host), tries) == ([], [3])


def test_a_pod_whose_links_really_change_all_the_time_keeps_no_device_from_others(host, pod, tmp_path):
    pod.ip("link", "add", "low", "type", "veth", "peer", "name", "end")
    lines = [f"link add link low name m{number} type macvlan mode bridge" for number in range(400)]
    subprocess.run(["ip", "-n", pod.name, "-batch", "-"], input="\n".join(lines), text=True, check=True)
    loops = [f"while :; do ip link add c{one} type veth; ip link del c{one}; done" for one in range(2)]
    churns = [subprocess.Popen(["ip", "netns", "exec", pod.name, "sh", "-c", loop]) for loop in loops]
    try:
        host.ip("link", "set", "nic", "up")
        for _ in range(3):
            assert uses(host, tmp_path) == []
    finally:
        for churn in churns:
            churn.kill()
            churn.wait()


@pytest.mark.parametrize("failure", [TimeoutError(errno.ETIMEDOUT, "no answer"), NetlinkError(errno.EBUSY)])
def test_a_namespace_that_does_not_answer_is_not_taken_for_an_empty_one(host, pod, tmp_path, monkeypatch, failure):
    def refused(*_arguments):
        raise failure

    host.ip("link", "set", "nic", "up")
    monkeypatch.setattr(links, "bodies_once", refused)
    assert len(stacked_on(host)) == 1
    with pytest.raises(TryAgainLater, match="cannot be seen"):
        uses(host, tmp_path)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOENT, errno.ESRCH, 0])
def test_only_a_namespace_that_is_gone_or_none_cannot_hide_anything(host, pod, monkeypatch, number):
    def refused(path: str):
        raise InvalidNetns(path) from (OSError(number, "no") if number else None)

    monkeypatch.setattr(stacked, "open_netns", refused)
    assert (stacked_on(host) != []) == (number == errno.EMFILE)


def test_a_namespace_that_is_slow_to_answer_takes_no_longer_than_the_look(host, pod, monkeypatch):
    monkeypatch.setattr(RouteSocket, "_receive", lambda socket, deadline: wait_until(deadline))
    start = time.monotonic()
    with host.netns.entered():
        assert stacked.look(1, seconds=0.1).failed != ()
    assert time.monotonic() - start < 2


def wait_until(deadline: float) -> list[nl.Message]:
    if time.monotonic() >= deadline:
        raise TimeoutError
    return []


def ipvtap(own: int, lower: int | None) -> bytes:
    """The message about an ipvtap. The kernel omits its lower link if that has the same index."""
    below = [nl.u32(nl.IFLA_LINK, lower)] if lower is not None else []
    kind = nl.nested(nl.IFLA_LINKINFO, nl.text(nl.IFLA_INFO_KIND, "ipvtap"))
    return nl.link_body(own, nl.text(nl.IFLA_IFNAME, "tap0"), *below, kind)


@pytest.mark.parametrize(("own", "lower", "hides"), [(9, 7, True), (7, None, True), (9, 8, False), (9, None, False)])
def test_an_ipvtap_that_may_be_stacked_on_the_device_makes_del_assume_that_it_is(
    host, pod, tmp_path, monkeypatch, own, lower, hides
):
    def told(socket, having, deadline):
        body = ipvtap(own, lower)
        return [body] if any(text in body for text in having) else []

    monkeypatch.setattr(links, "bodies_once", told)
    with host.netns.entered():
        look = stacked.look(7)
    assert (look.found, look.failed, any("tap0" in text for text in look.unseen)) == ((), (), hides)


def test_looking_leaves_no_descriptor_and_the_thread_where_it_was(host, pod, hidden):
    stack(host, str(hidden))
    before, open_before = os.stat("/proc/thread-self/ns/net").st_ino, len(os.listdir("/proc/self/fd"))
    assert len(seen(host)) == 1
    assert (os.stat("/proc/thread-self/ns/net").st_ino, len(os.listdir("/proc/self/fd"))) == (before, open_before)
