"""Leftovers of a pod on its device do not reach the next one: stacked links, XDP programs, limits, offloads."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cni.errors import CniError, DeviceBusy, LinksUnsettled
from cni.host.netlink import Link
from cni.host.netns import Netns
from cni.node.node import DevicePolicy
from tests.fakes import TUNING
from tests.node import EVERYTHING, VF0, VF1, Node

NETNS = "/run/netns/a"


@pytest.fixture
def node(tmp_path) -> Node:
    return Node(tmp_path)


def vf(node: Node) -> Any:
    return node.kernel.devices[VF0]


def program(node: Node) -> None:
    vf(node).tuning["xdp"] = "2"


def listener(node: Node) -> None:
    vf(node).tuning["promiscuity"] = "1"


def macvlan(node: Node) -> None:
    vf(node).stacked.append("st0 (macvlan) in the network namespace /run/netns/b")


def namespace_that_goes(node: Node) -> None:
    macvlan(node)
    node.kernel.delete_netns(NETNS)


TRACES = {"XDP": program, "promiscuity": listener, "macvlan": macvlan, "namespace that goes": namespace_that_goes}


@pytest.mark.parametrize("trace", TRACES)
def test_what_no_setting_takes_back_ends_with_the_network_device(node, trace):
    node.add(**EVERYTHING)
    TRACES[trace](node)
    instance = vf(node).netdev_instance
    node.delete(**EVERYTHING)
    assert vf(node).netdev_instance != instance
    node.assert_as_before()


def test_a_pod_that_left_nothing_costs_no_new_network_device(node):
    instance = vf(node).netdev_instance
    node.add(**EVERYTHING)
    node.delete(**EVERYTHING)
    assert vf(node).netdev_instance == instance


def test_a_node_whose_administrator_trusts_no_look_makes_a_new_network_device_each_time(node):
    node.policy, instance = DevicePolicy(rebind=True), vf(node).netdev_instance
    node.add(**EVERYTHING)
    node.delete(**EVERYTHING)
    assert vf(node).netdev_instance != instance
    node.assert_as_before()


def test_limits_and_offloads_are_put_back_without_a_new_network_device(node):
    vf(node).tuning["channels"] = "02"  # set by the administrator
    node.before, instance = node.kernel.snapshot(), vf(node).netdev_instance
    node.add()
    vf(node).tuning.update(gso_max_size="1400", features="00", channels="01")
    node.delete()
    assert vf(node).netdev_instance == instance
    node.assert_as_before()


def test_what_the_driver_does_not_take_back_ends_with_the_network_device(node):
    node.kernel.refused_tuning = {"channels"}
    node.add()
    vf(node).tuning.update(channels="01", features="00")
    node.delete()
    node.assert_as_before()


def test_a_device_is_not_held_back_for_what_a_new_network_device_does_not_have(node):
    vf(node).tuning["channels"] = "02"
    node.kernel.refused_tuning = {"channels"}
    node.add()
    program(node)
    node.delete()
    assert (vf(node).tuning["channels"], node.files()) == ("04", [])


def test_a_failed_add_makes_no_new_network_device_wherever_it_fails(tmp_path):
    counting = Node(tmp_path / "count")
    counting.add(**EVERYTHING)
    for change in range(1, counting.kernel.changes + 1):
        node = Node(tmp_path / str(change))
        instance = vf(node).netdev_instance
        node.kernel.refuse(change)
        try:
            node.add(**EVERYTHING)
        except CniError:
            assert vf(node).netdev_instance == instance
            node.assert_as_before()


def test_a_vf_that_keeps_changes_of_its_pod_keeps_its_vlan_and_is_not_attached_again(node):
    node.add(vlan=100)
    macvlan(node)
    node.kernel.loaded.discard("igbvf")
    node.kernel.devices[VF0].open = True
    node.delete(vlan=100)
    assert (vf(node).info.vlan, vf(node).stacked != []) == (100, True)
    with pytest.raises(CniError, match="still has changes that its pod made"):
        node.add("b", vlan=7)
    node.kernel.loaded.add("igbvf")
    node.kernel.devices[VF0].open = False
    node.add("b", vlan=7)
    assert (vf(node).info.vlan, vf(node).stacked) == (7, [])
    node.delete("b")
    node.assert_as_before()


def failing_deletes(tmp_path, trace: str) -> Iterator[Node]:
    """Nodes on which a DEL failed at one of its changes, or at all changes from one of them on."""
    counting = Node(tmp_path / "count")
    counting.add(**EVERYTHING)
    TRACES[trace](counting)
    start = counting.kernel.changes
    counting.delete(**EVERYTHING)
    for change in range(1, counting.kernel.changes - start + 1):
        for refuse in ("refuse", "refuse_from"):
            node = Node(tmp_path / f"{refuse}{change}")
            node.add(**EVERYTHING)
            TRACES[trace](node)
            getattr(node.kernel, refuse)(change)
            try:
                node.delete(**EVERYTHING)
            except CniError:
                assert node.files() != []
            node.kernel.refuse_nothing()
            yield node


@pytest.mark.parametrize("trace", TRACES)
def test_after_a_failure_anywhere_the_next_del_rids_the_device(tmp_path, trace):
    for node in failing_deletes(tmp_path, trace):
        node.delete(**EVERYTHING)
        assert node.files() == []
        assert (vf(node).tuning, vf(node).stacked, vf(node).place, vf(node).driver) == (TUNING, [], "", "igbvf")
        found = Node(tmp_path / "found").kernel.devices[VF0]
        assert (vf(node).info, vf(node).link.mac, vf(node).override) == (found.info, found.link.mac, "")


def test_a_del_that_is_repeated_makes_no_second_network_device(tmp_path):
    repeated = 0
    for node in failing_deletes(tmp_path, "namespace that goes"):
        instance = vf(node).netdev_instance
        if node.files() and instance not in ("", "n10"):
            node.delete(**EVERYTHING)
            assert vf(node).netdev_instance == instance
            repeated += 1
    assert repeated > 3


def test_a_record_of_an_earlier_version_says_nothing_of_the_tuning_and_is_fine(node):
    node.add(vlan=7)
    (path,) = [path for path in node.files() if path.startswith(node.state) and not os.path.islink(path)]
    with open(path) as file:
        document = json.load(file)
    del document["found"]["tuning"], document["found"]["netdev_instance"]
    with open(path, "w") as file:
        json.dump(document, file)
    program(node)
    node.delete(vlan=7)
    node.assert_as_before()


def test_a_device_without_a_record_is_rid_of_everything(node):
    node.add(vlan=7)
    macvlan(node)
    for path in node.files():
        os.unlink(path)
    node.kernel.delete_netns(NETNS)
    node.add("b", vlan=8)
    assert vf(node).stacked == []


@pytest.mark.parametrize("resetting", [0, 4])
def test_offloads_that_a_driver_limits_while_the_pf_gives_the_vf_a_vlan_cost_no_new_network_device(node, resetting):
    node.kernel.limits_offloads, instance = True, vf(node).netdev_instance
    node.add(**EVERYTHING)
    node.kernel.resetting = resetting
    assert vf(node).tuning["features"] == "0f"
    node.delete(**EVERYTHING)
    assert vf(node).netdev_instance == instance
    node.assert_as_before()


def test_what_a_pod_left_is_looked_for_while_the_pf_holds_the_pods_settings_also_where_offloads_are_limited(node):
    node.kernel.limits_offloads = True
    node.add(vlan=100)
    macvlan(node)
    node.kernel.refused_settings = {"vlan"}
    node.delete(vlan=100)
    assert (vf(node).info.vlan, vf(node).stacked) == (100, [])


def change_record(node: Node, change: Callable[[dict[str, Any]], None]) -> None:
    (path,) = [path for path in node.files() if path.startswith(node.state) and not os.path.islink(path)]
    with open(path) as file:
        document = json.load(file)
    change(document["found"])
    with open(path, "w") as file:
        json.dump(document, file)


def forget_instance(found: dict[str, Any]) -> None:
    del found["tuning"], found["netdev_instance"]


@pytest.mark.parametrize("forget", [forget_instance, lambda _found: None])
@pytest.mark.parametrize("gone", [True, False])
def test_a_network_device_that_has_been_looked_at_is_not_replaced_while_the_pf_is_busy(node, forget, gone):
    first = vf(node).netdev_instance
    node.add(vlan=100)
    change_record(node, forget)
    if gone:
        node.kernel.delete_netns(NETNS)
    node.kernel.refused_settings = {"vlan"}
    node.delete(vlan=100)
    instance = vf(node).netdev_instance
    assert (instance != first) == gone
    for _ in range(3):
        node.delete(vlan=100)
        assert vf(node).netdev_instance == instance
    node.kernel.refused_settings = set()
    node.delete(vlan=100)
    assert (vf(node).netdev_instance, vf(node).info.vlan, node.files()) == (instance, 0, [])


def test_another_network_device_than_the_one_that_was_looked_at_is_looked_at(node):
    node.add(vlan=100)
    change_record(node, forget_instance)
    node.kernel.refused_settings = {"vlan"}
    node.delete(vlan=100)
    node.kernel.bind(VF0, "", "")
    node.kernel.bind(VF0, "igbvf", "")
    macvlan(node)
    node.delete(vlan=100)
    assert vf(node).stacked == []


@pytest.mark.parametrize(("seconds", "rebinds"), [(5.0, True), (2.9, False)])
def test_another_pods_call_binds_a_driver_again_only_with_time_left(node, monkeypatch, seconds, rebinds):
    node.add(vlan=100)
    node.kernel.hide(VF0)
    node.kernel.delete_netns(NETNS)
    with pytest.raises(CniError, match="not back on the host"):
        node.delete(vlan=100)
    node.kernel.reveal(VF0)
    instance = vf(node).netdev_instance
    monkeypatch.setattr("cni.attachment.removal.DRAIN_SECONDS", seconds)
    node.add("b", VF1)
    assert (vf(node).netdev_instance != instance, vf(node).info.vlan == 0) == (rebinds, rebinds)
    node.add("b", ifname="net2")
    assert (vf(node).netdev_instance != instance, vf(node).info.vlan) == (True, 0)


class Killed(BaseException):
    """A signal ends the call's process."""


def kill_at(node: Node, change: int, call: Callable[[], None]) -> bool:
    """Makes the call, and ends it at one of its changes. Returns whether it got that far."""
    last = node.kernel.changes + change

    def killed(count: int) -> bool:
        if count == last:
            raise Killed
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node.kernel, "_refused", killed)
        try:
            call()
        except Killed:
            return True
        return False


def lose_the_record(node: Node) -> None:
    node.add(vlan=100, trust="on")
    shutil.rmtree(node.state)
    node.kernel.delete_netns(NETNS)


def gc(node: Node) -> None:
    node.plugin().gc(node.request("GC", version="1.1.0", **{"cni.dev/valid-attachments": []}))


def is_clean(node: Node) -> bool:
    return (vf(node).info.vlan, vf(node).info.trust, vf(node).driver) == (0, False, "igbvf")


def test_a_repair_that_is_killed_anywhere_is_finished_by_the_next_add(tmp_path):
    change, killed = 0, True
    while killed:
        change += 1
        node = Node(tmp_path / str(change))
        lose_the_record(node)
        killed = kill_at(node, change, lambda: gc(node))  # noqa: B023 - called at once
        node.add("b")
        assert is_clean(node)
    assert change > 8


@pytest.mark.parametrize("finisher", ["ADD", "DEL", "GC"])
@pytest.mark.parametrize("beginner", ["ADD", "GC"])
def test_a_repair_that_the_pf_refuses_is_finished_by_any_later_call(node, beginner, finisher):
    lose_the_record(node)
    node.kernel.refused_settings = {"vlan"}
    with pytest.raises(CniError, match="vlan is 100, not 0"):
        gc(node) if beginner == "GC" else node.add("b")
    (node.delete if finisher == "DEL" else node.add)("b", VF1)
    assert vf(node).info.vlan == 100
    node.kernel.refused_settings = set()
    if finisher == "GC":
        gc(node)
    else:
        (node.delete if finisher == "DEL" else node.add)("b", device=VF1 if finisher == "DEL" else VF0, ifname="net2")
    assert is_clean(node)


def test_a_del_releases_the_address_of_an_attachment_whose_repair_is_not_finished(node):
    node.add(**EVERYTHING)
    shutil.rmtree(node.state)
    node.kernel.delete_netns(NETNS)
    node.kernel.refused_settings = {"vlan"}
    with pytest.raises(CniError, match="vlan is 100"):
        gc(node)
    node.delete(**EVERYTHING)
    assert node.ipam.leases == {}


def test_a_device_is_repaired_although_its_last_owner_has_another_one_by_now(node):
    node.add(vlan=100, trust="on")
    shutil.rmtree(node.state)
    node.kernel.delete_netns(NETNS)
    node.pod("a")
    node.add(device=VF1)
    node.kernel.refused_settings = {"vlan"}
    with pytest.raises(CniError, match="vlan is 100"):
        node.add("b")
    node.kernel.refused_settings = set()
    node.add("b")
    assert is_clean(node)
    assert node.kernel.devices[VF1].place != ""


@pytest.mark.parametrize("driver", ["igbvf", "vfio-pci", ""])
def test_a_device_that_has_neither_record_nor_mark_but_was_given_away_is_not_taken_as_found(node, driver):
    lose_the_record(node)
    vf(node).link = vf(node).link.replace(alias="")
    node.kernel.bind(VF0, driver, driver)
    with contextlib.suppress(CniError):
        node.add("b")
    assert (vf(node).info.vlan, vf(node).info.trust) == (0, False)


def test_a_device_without_record_and_mark_is_refused_while_the_host_uses_it(node):
    lose_the_record(node)
    vf(node).link = vf(node).link.replace(alias="")
    node.kernel.used[VF0] = ["it has a global address"]
    with pytest.raises(DeviceBusy, match="was given to net/a/net1, has no record any more, and the host uses it"):
        node.add("b")
    assert vf(node).info.vlan == 100


def test_a_vf_in_a_pod_is_left_there_although_its_record_is_lost(node):
    node.add(vlan=100)
    shutil.rmtree(node.state)
    with pytest.raises(DeviceBusy, match="no network device on the host"):
        node.add("b")
    assert (vf(node).info.vlan, vf(node).place) == (100, node.kernel.namespaces[NETNS])


def test_a_mark_that_a_killed_removal_did_not_forget_costs_the_device_nothing(node):
    node.kernel.change(vf(node).link, None, mtu=1600)
    node.add(**EVERYTHING)
    (mark,) = [os.path.join(node.run, "marks", name) for name in node.marks()]
    owner = os.readlink(mark)
    node.ipam.fail = {"release"}
    node.delete(**EVERYTHING)
    os.symlink(owner, mark)
    node.add("b")
    node.delete("b")
    assert vf(node).link.mtu == 1600


@pytest.mark.parametrize("rebind", [True, False])
def test_a_failed_add_rids_a_device_that_the_pod_may_have_had(node, monkeypatch, rebind):
    node.policy, instance = DevicePolicy(rebind=rebind), vf(node).netdev_instance
    bring_up = node.kernel.bring_up

    def conflict(link: Link, netns: Netns) -> None:
        bring_up(link, netns)
        if not rebind:  # the pod has moved it to a namespace that has ended
            node.kernel.hide(VF0)
            node.kernel.reveal(VF0)
        raise CniError("address conflict")

    monkeypatch.setattr(node.kernel, "bring_up", conflict)
    with pytest.raises(CniError, match="address conflict"):
        node.add(**EVERYTHING)
    assert vf(node).netdev_instance != instance
    node.assert_as_before()


@pytest.mark.parametrize("change", [1, 2, 3, 4])
def test_a_driver_override_outlives_a_call_that_is_killed_while_it_binds_again(node, change):
    vf(node).override = "igbvf"
    node.before = node.kernel.snapshot()
    node.add()
    node.kernel.delete_netns(NETNS)
    assert kill_at(node, change, node.delete)
    node.delete()
    node.assert_as_before()


@pytest.mark.parametrize("trace", ["XDP", "macvlan"])
def test_a_vf_that_carries_something_is_not_given_away(node, trace):
    TRACES[trace](node)
    with pytest.raises(DeviceBusy, match="is attached to it" if trace == "XDP" else "st0 .* is stacked on it"):
        node.add()
    node.add(device=VF1)


def test_a_pod_whose_links_change_all_the_time_does_not_make_gc_fail(node, monkeypatch):
    node.add(vlan=7)
    node.kernel.add_netns("/run/netns/b")
    everywhere = node.kernel.links

    def refused(netns, alias=""):
        if netns is not None and netns.path == NETNS:
            raise LinksUnsettled("list the links: the kernel refused a consistent answer")
        return everywhere(netns, alias)

    monkeypatch.setattr(node.kernel, "links", refused)
    valid = [{"containerID": "a", "ifname": "net1"}]
    node.plugin().gc(node.request("GC", version="1.1.0", **{"cni.dev/valid-attachments": valid}))


def test_a_tuning_that_this_version_does_not_know_does_not_hold_the_device_back(node):
    node.add()
    (path,) = [path for path in node.files() if path.startswith(node.state) and not os.path.islink(path)]
    with open(path) as file:
        document = json.load(file)
    document["found"]["tuning"]["coalesce"] = "00"
    with open(path, "w") as file:
        json.dump(document, file)
    node.kernel.refused_tuning = {"coalesce"}
    node.delete()
    assert (node.files(), vf(node).link.alias) == ([], "")


def test_a_refusal_for_an_address_names_its_usual_cause(node):
    node.kernel.used[VF0] = ["it has a global address"]
    with pytest.raises(DeviceBusy) as refusal:
        node.add()
    assert "NetworkManager" in refusal.value.details
    assert "ip addr flush dev" in refusal.value.details
