"""The plugin's life cycle on a host that behaves like igb, with real records and locks on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cni.attachment.record import Key
from cni.attachment.records import Attachments
from cni.errors import (
    CheckFailed,
    CniError,
    DelegateFailed,
    DeviceBusy,
    InterfaceExists,
    InvalidConfig,
    KernelRefused,
    TryAgainLater,
)
from cni.host.netlink import Link
from cni.host.vf_settings import VfSettings
from cni.sriov.model import PLUGIN
from tests.fakes import FakeKernel
from tests.node import EVERYTHING, VF0, VF1, Node
from tests.recording_log import RecordingLog


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def test_add_reports_the_attachment(node):
    result = node.add(**EVERYTHING)
    (interface,) = result.interfaces
    assert (interface.name, interface.mac, interface.mtu) == ("net1", "02:00:00:00:00:42", 1400)
    assert (interface.sandbox, interface.pci_id) == ("/run/netns/a", VF0)
    assert [(ip.address, ip.interface) for ip in result.ips] == [("10.0.0.2/24", 0)]


@pytest.mark.parametrize("conf", [{}, EVERYTHING, {"ipam": {"type": "fake"}}], ids=["l2", "everything", "addresses"])
def test_del_restores_everything_add_changed(node, conf):
    node.add(**conf)
    node.delete(**conf)
    node.assert_as_before()


def test_del_needs_no_configuration(node):
    node.add(**EVERYTHING)
    node.delete(device="nonsense", vlan="nonsense")
    node.assert_as_before()


def test_addresses_stay_with_a_running_pod_whose_vf_could_not_be_taken_from_it(node):
    node.add(ipam={"type": "fake"})
    node.kernel.refuse_from(1)
    with pytest.raises(TryAgainLater, match="not back on the host"):
        node.delete()
    assert node.ipam.leases != {}
    node.kernel.refuse_nothing()
    node.delete()
    node.assert_as_before()


def test_addresses_of_a_pod_that_is_gone_are_released_also_while_its_vf_cannot_be_reset(node):
    node.add(ipam={"type": "fake"})
    node.kernel.delete_netns("/run/netns/a")
    node.kernel.refuse_from(1)
    node.delete()
    assert node.ipam.leases == {}
    assert node.files() != []


@pytest.mark.parametrize("netns", ["", "/run/netns/gone"])
def test_del_works_with_the_namespace_gone(node, netns):
    node.add(**EVERYTHING)
    node.kernel.delete_netns("/run/netns/a")
    node.delete(netns=netns)
    node.assert_as_before()


def test_del_works_without_the_path_while_the_namespace_lives(node):
    node.add(**EVERYTHING)
    node.delete(netns="")
    node.assert_as_before()


def test_del_twice_and_of_nothing_succeeds(node):
    node.add(**EVERYTHING)
    node.delete(**EVERYTHING)
    node.delete(**EVERYTHING)
    node.delete("never-attached")
    node.assert_as_before()


def total_changes(tmp_path, conf) -> int:
    node = Node(tmp_path)
    start = node.kernel.changes
    node.add(**conf)
    return node.kernel.changes - start


def test_a_failing_add_leaves_the_host_as_before_wherever_it_fails(tmp_path):
    for change in range(1, total_changes(tmp_path / "count", EVERYTHING) + 1):
        node = Node(tmp_path / str(change))
        node.kernel.refuse(change)
        try:
            node.add(**EVERYTHING)
        except KernelRefused as error:
            assert "refused" in error.msg  # noqa: PT017 - some refusals are overcome, and then there is no error
            node.assert_as_before()
        else:
            node.delete(**EVERYTHING)
            node.assert_as_before()


def test_an_add_whose_rollback_fails_too_keeps_cause_and_record_and_the_next_del_finishes(tmp_path):
    for change in range(2, total_changes(tmp_path / "count", EVERYTHING) + 1):
        node = Node(tmp_path / str(change))
        node.kernel.refuse_from(change)
        with pytest.raises(KernelRefused, match="refused") as caught:
            node.add(**EVERYTHING)
        assert "clean-up incomplete" in caught.value.details
        assert node.files()
        node.kernel.refuse_nothing()
        node.delete(**EVERYTHING)
        node.assert_as_before()


def test_a_failing_ipam_is_reported_and_rolled_back(node):
    node.ipam.fail = {"lease"}
    with pytest.raises(DelegateFailed, match="lease refused"):
        node.add(**EVERYTHING)
    node.assert_as_before()


def test_an_ipam_without_addresses_is_refused_and_rolled_back(node, monkeypatch):
    lease = node.ipam.lease
    monkeypatch.setattr(node.ipam, "lease", lambda call: lease(call).replace(ips=()))
    with pytest.raises(InvalidConfig, match="no addresses"):
        node.add(**EVERYTHING)
    node.assert_as_before()


def test_del_with_a_failing_ipam_brings_the_vf_home_and_any_later_call_releases_the_address(node):
    node.add(**EVERYTHING)
    node.ipam.fail = {"release"}
    node.delete(**EVERYTHING)
    assert node.kernel.snapshot() == node.before
    assert node.ipam.leases
    node.add("b")  # the device is free for others meanwhile
    node.delete("b")
    assert node.ipam.leases
    node.ipam.fail = set()
    node.delete("never-attached")
    node.assert_as_before()


def test_del_fails_while_the_vf_cannot_come_home_and_succeeds_later(node):
    node.add(**EVERYTHING)
    node.kernel.refuse_from(1)
    with pytest.raises(CniError):
        node.delete(**EVERYTHING)
    assert node.files()
    node.kernel.refuse_nothing()
    node.delete(**EVERYTHING)
    node.assert_as_before()


def test_a_pending_removal_is_finished_by_an_unrelated_add(node):
    node.add(**EVERYTHING)
    node.kernel.refuse_from(1)
    with pytest.raises(CniError):
        node.delete(**EVERYTHING)
    node.kernel.refuse_nothing()
    node.add("b", VF1)
    node.delete("b", VF1)
    node.assert_as_before()


def test_a_second_add_for_a_vf_in_use_is_refused_and_leaves_the_owner_alone(node):
    node.add(**EVERYTHING)
    attached = node.kernel.snapshot()
    with pytest.raises(DeviceBusy, match="belongs to container a"):
        node.add("b", **EVERYTHING)
    assert node.kernel.snapshot() == attached
    node.delete(**EVERYTHING)
    node.assert_as_before()


def test_the_same_attachment_with_another_vf_is_refused(node):
    node.add()
    with pytest.raises(CniError) as caught:
        node.add(device=VF1)
    assert isinstance(caught.value, DeviceBusy | InterfaceExists)
    node.delete()
    node.assert_as_before()


def test_the_same_attachment_with_another_vf_is_refused_even_if_the_interface_was_renamed(node):
    node.add()
    link = node.kernel.link(VF0, node.kernel.netns("/run/netns/a"))
    node.kernel.change(link, node.kernel.netns("/run/netns/a"), up=False, name="renamed")
    with pytest.raises(DeviceBusy, match="already has net1"):
        node.add(device=VF1)
    node.delete()
    node.assert_as_before()


def test_an_interface_of_that_name_in_the_pod_is_left_alone(node):
    pod = node.kernel.netns("/run/netns/a")
    node.kernel.others[pod.identity]["net1"] = Link(index=77, name="net1", flags=1)
    with pytest.raises(InterfaceExists, match="net1"):
        node.add(**EVERYTHING)
    assert node.kernel.others[pod.identity]["net1"] == Link(index=77, name="net1", flags=1)
    node.assert_as_before()


def test_a_vf_whose_owner_is_gone_is_cleaned_for_the_next(node):
    node.add(**EVERYTHING)
    node.kernel.delete_netns("/run/netns/a")
    node.add("b")
    assert node.kernel.device(VF0).settings.vlan == 0
    assert node.ipam.leases == {}
    node.delete("b")
    node.assert_as_before()


def test_a_late_del_of_the_former_owner_touches_nothing(node):
    node.add(**EVERYTHING)
    node.kernel.delete_netns("/run/netns/a")
    node.add("b", vlan=7)
    attached = node.kernel.snapshot()
    node.delete("a", netns="")
    assert node.kernel.snapshot() == attached
    node.delete("b")
    node.assert_as_before()


def forget_records(node) -> None:
    for path in node.files():
        os.unlink(path)


def test_without_a_record_del_follows_the_mark_in_the_pod(node):
    node.add(**{**EVERYTHING, "ipam": None})
    forget_records(node)
    node.delete()
    vf = node.kernel.device(VF0)
    assert (vf.link.name, vf.link.alias, vf.settings.vlan, vf.settings.trust) == ("eth1", "", 0, False)
    assert vf.link.mac != "02:00:00:00:00:42"


def test_without_a_record_del_leaves_another_containers_device_alone(node):
    node.add(**{**EVERYTHING, "ipam": None})
    attached = node.kernel.snapshot()
    forget_records(node)
    node.delete("b")
    assert node.kernel.snapshot() == attached


def test_a_forged_mark_of_another_device_is_not_followed(node):
    node.add()
    node.add("b", VF1)
    attached = node.kernel.devices[VF1].link.alias
    pod = node.kernel.netns("/run/netns/b")
    node.kernel.change(node.kernel.link(VF1, pod), pod, alias=attached.replace("net/b/", "net/x/"))
    before = node.kernel.snapshot()
    node.delete("x", netns="/run/netns/b")  # the record of b holds the device
    assert node.kernel.snapshot() == before


def test_the_next_add_repairs_a_vf_that_came_back_without_a_record(node):
    node.add(**{**EVERYTHING, "ipam": None})
    forget_records(node)
    node.kernel.delete_netns("/run/netns/a")
    result = node.add("b")
    assert result.interfaces[0].name == "net1"
    node.delete("b")
    vf = node.kernel.device(VF0)
    assert (vf.link.name, vf.link.alias, vf.link.mtu, vf.settings.vlan, vf.settings.trust) == (
        "eth1",
        "",
        1500,
        0,
        False,
    )


def test_the_first_call_of_a_boot_frees_the_addresses_of_pods_that_a_reboot_has_ended(node, monkeypatch):
    node.add("a", VF0, ipam={"type": "fake"})
    node.kernel.delete_netns("/run/netns/a")
    node.add("b", VF1, ipam={"type": "fake"})
    assert len(node.ipam.leases) == 2
    monkeypatch.setattr("cni.attachment.records._boot_id", lambda: "a later one")
    monkeypatch.setattr("cni.attachment.removal.DRAIN_SECONDS", 60.0)
    node.delete("c")
    assert node.ipam.leases == {}
    assert node.files() == []


def test_after_a_reboot_a_record_touches_no_device(node):
    node.add(**EVERYTHING)
    record = the_record(node)
    with open(record) as file:
        document = json.load(file)
    with open(record, "w") as file:
        json.dump({**document, "boot_id": "an earlier one"}, file)
    fresh = FakeKernel()
    fresh.add_netns("/run/netns/b")
    node.kernel = fresh
    before = fresh.snapshot()
    node.delete(**EVERYTHING)
    assert fresh.snapshot() == before
    assert node.files() == []
    assert node.ipam.leases == {}


def test_a_vf_that_vanished_with_its_pf_leaves_nothing_behind(node):
    node.add(**EVERYTHING)
    del node.kernel.devices[VF0]
    node.delete(**EVERYTHING)
    assert node.files() == []
    assert node.ipam.leases == {}


def test_a_record_of_a_newer_schema_is_refused_with_the_reason(node):
    node.add()
    record = the_record(node)
    with open(record) as file:
        document = json.load(file)
    with open(record, "w") as file:
        json.dump({**document, "schema": 99}, file)
    with pytest.raises(CniError, match="schema 99"):
        node.delete()


def test_a_locked_device_is_not_touched(node):
    with (
        Attachments(node.state, node.run, plugin=PLUGIN).locked(VF0),
        pytest.raises(TryAgainLater, match=f"{VF0} is locked"),
    ):
        node.plugin(lock_seconds=0.01).add(node.request("ADD"))
    node.assert_as_before()


def test_check_passes_after_add_and_names_each_difference(node):
    node.add(**EVERYTHING)
    node.plugin().check(node.request("CHECK", **EVERYTHING))
    fake = node.kernel.devices[VF0]
    fake.info = fake.info.replace(vlan=5, trust=False)
    fake.link = fake.link.replace(flags=0)
    with pytest.raises(CheckFailed) as caught:
        node.plugin().check(node.request("CHECK", **EVERYTHING))
    for part in ("vlan is 5, not 100", "trust is off, not on", "net1 is down"):
        assert part in caught.value.msg


def test_gc_removes_what_the_runtime_does_not_know(node):
    node.add(**EVERYTHING)
    node.add("b", VF1)
    known = [{"containerID": "b", "ifname": "net1"}]
    node.plugin().gc(node.request("GC", version="1.1.0", **{"cni.dev/valid-attachments": known}))
    assert node.kernel.devices[VF0].place == ""
    assert node.kernel.devices[VF1].place != ""
    node.delete("b", VF1)
    node.assert_as_before()


def test_a_configuration_that_its_version_cannot_express_is_refused_before_anything_changes(node):
    with pytest.raises(InvalidConfig, match="without addresses"):
        node.add(version="0.2.0")
    node.assert_as_before()


def test_status_says_when_records_cannot_be_written(node, tmp_path):
    node.plugin().status(node.request("STATUS", version="1.1.0"))
    (tmp_path / "file").write_text("")
    node.state = str(tmp_path / "file" / "state")
    with pytest.raises(CniError, match="state"):
        node.plugin().status(node.request("STATUS", version="1.1.0"))


def test_the_key_reads_as_network_container_and_interface():
    assert str(Key(network="net", container_id="c1", ifname="net1")) == "net/c1/net1"


def test_a_stale_pending_link_does_not_lead_to_the_removal_of_the_next_life_of_an_attachment(node):
    node.add()
    links = os.path.join(node.state, ".pending")
    os.makedirs(links)
    os.symlink("../net/a:net1.json", os.path.join(links, "net:a:net1"))
    attached = node.kernel.snapshot()
    node.add("b", VF1)
    assert node.kernel.devices[VF0].place == attached[VF0][2]
    node.delete("b", VF1)
    node.delete()
    node.assert_as_before()


@pytest.mark.parametrize("previous", ["x", {"interfaces": 5}, {"ips": [{"address": 7}]}])
def test_a_malformed_prev_result_is_refused_before_anything_changes(node, previous):
    with pytest.raises(InvalidConfig):
        node.add(prevResult=previous)
    node.assert_as_before()


def test_a_prev_result_is_passed_through_with_ours_behind_it(node):
    previous = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "sandbox": "/run/netns/a"}],
        "ips": [{"address": "192.0.2.2/24", "interface": 0}],
    }
    result = node.add(prevResult=previous, ipam={"type": "fake"})
    assert [interface.name for interface in result.interfaces] == ["eth0", "net1"]
    assert [(ip.address, ip.interface) for ip in result.ips] == [("192.0.2.2/24", 0), ("10.0.0.2/24", 1)]


def the_record(node) -> str:
    (path,) = [path for path in node.files() if path.endswith("net1.json") and not os.path.islink(path)]
    return str(path)


def rewrite(path, **fields) -> None:
    with open(path) as file:
        document = json.load(file)
    with open(path, "w") as file:
        json.dump({**document, **fields}, file)


def test_a_pending_record_that_makes_trouble_stops_no_other_pod(node):
    node.add()
    rewrite(the_record(node), found={}, removing=True)
    os.makedirs(os.path.join(node.state, ".pending"))
    os.symlink("../net/a:net1.json", os.path.join(node.state, ".pending", "net:a:net1"))
    node.add("b", VF1)
    node.delete("b", VF1)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "key": {}, "left": "device"}'])
def test_a_damaged_record_is_set_aside_and_del_follows_the_mark(node, content):
    node.add(vlan=7)
    path = the_record(node)
    with open(path, "w") as file:
        file.write(content)
    node.delete()
    assert node.kernel.device(VF0).link.name == "eth1"
    assert node.kernel.device(VF0).settings.vlan == 0
    assert os.path.exists(path + ".damaged")


def test_a_pod_cannot_keep_its_vf_by_an_alternative_name_that_the_host_has(node):
    node.add()
    pod = node.kernel.netns("/run/netns/a")
    node.kernel.set_altnames(node.kernel.link(VF0, pod), pod, ("eth0",))
    node.delete()
    node.assert_as_before()


def test_flags_and_queue_length_that_a_pod_changed_do_not_come_home(node):
    node.add()
    pod = node.kernel.netns("/run/netns/a")
    node.kernel.change(node.kernel.link(VF0, pod), pod, flags=(0x100, 0x1100), txqlen=5, group=9)
    node.delete()
    node.assert_as_before()


def test_a_removal_never_touches_a_device_that_another_record_owns(node):
    node.add(vlan=5)
    os.unlink(os.path.join(node.state, ".devices", VF0))
    node.kernel.devices[VF0].place = ""
    node.kernel.devices[VF0].link = node.kernel.devices[VF0].link.replace(name="eth1", alias="", flags=0x1000)
    node.add("b", vlan=9)
    attached = node.kernel.snapshot()
    node.delete()
    assert node.kernel.snapshot() == attached


def test_a_vf_that_is_home_but_not_clean_does_not_block_its_pod_and_is_not_attached_again(node):
    node.add(max_tx_rate=500)
    node.kernel.refused_settings = {"rate"}
    node.delete()
    assert node.kernel.device(VF0).link.name == "eth1"
    with pytest.raises(TryAgainLater, match="max_tx_rate is 500, not 0"):
        node.add("b")
    node.kernel.refused_settings = set()
    node.delete("never-attached")
    node.assert_as_before()


def test_a_driver_without_the_zero_mac_gets_its_own_back(node):
    node.kernel.knows_zero_mac = False
    node.kernel.devices[VF0].info = node.kernel.devices[VF0].info.replace(mac="aa:00:00:00:00:77")
    before = node.kernel.device(VF0).settings
    node.add(mac="02:00:00:00:00:42")
    node.delete()
    assert node.kernel.device(VF0).settings == before


def test_a_vf_that_was_rebound_to_another_driver_loses_the_pods_mac_all_the_same(node):
    before = node.kernel.device(VF0).settings
    node.add(mac="02:00:00:00:00:42", vlan=7)
    fake = node.kernel.devices[VF0]
    fake.driver, fake.home, fake.place = "vfio-pci", None, ""
    node.delete()
    assert node.kernel.device(VF0).settings == before
    assert node.kernel.device(VF0).driver == "vfio-pci"
    assert node.files() == []


@pytest.mark.parametrize("ipam", [{"type": 5}, {"type": "a/b"}, "host-local", {"subnet": "10.0.0.0/24"}])
def test_del_without_a_record_ignores_an_ipam_section_that_no_add_can_have_used(node, ipam):
    node.delete(ipam=ipam)
    node.assert_as_before()


def test_the_same_container_can_be_attached_again_when_its_former_namespace_is_gone(node):
    node.add(**EVERYTHING)
    node.kernel.delete_netns("/run/netns/a")
    node.pod("a")
    node.add(device=VF1)
    assert node.kernel.device(VF0).settings.vlan == 0
    node.delete(device=VF1)
    node.assert_as_before()


def test_the_device_may_be_named_by_the_runtime(node):
    node.add(device="", runtimeConfig={"deviceID": VF1})
    assert node.kernel.devices[VF1].place != ""
    node.delete()
    node.assert_as_before()


def test_gc_repairs_a_vf_that_came_back_without_a_record(node):
    node.add(vlan=7)
    forget_records(node)
    node.kernel.delete_netns("/run/netns/a")
    node.plugin().gc(node.request("GC", version="1.1.0", **{"cni.dev/valid-attachments": []}))
    vf = node.kernel.device(VF0)
    assert (vf.link.name, vf.link.alias, vf.settings.vlan) == ("eth1", "", 0)


def test_check_misses_an_address_that_is_gone(node):
    node.add(ipam={"type": "fake"})
    result = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "net1", "sandbox": "/run/netns/a"}],
        "ips": [{"address": "10.0.0.2/24", "interface": 0}],
    }
    node.plugin().check(node.request("CHECK", ipam={"type": "fake"}, prevResult=result))
    node.kernel.configured.clear()
    with pytest.raises(CheckFailed, match=r"address 10\.0\.0\.2/24 is missing"):
        node.plugin().check(node.request("CHECK", ipam={"type": "fake"}, prevResult=result))


def test_a_state_directory_that_others_may_write_to_is_refused(node):
    os.makedirs(node.state)
    os.chmod(node.state, 0o777)
    with pytest.raises(CniError, match="others may write"):
        node.add()


def test_the_litter_of_killed_calls_is_swept_away_but_not_a_living_ones(node):
    node.add()
    node.delete()
    gone, living = 2**22 + 1, os.getpid()
    litter = [f"{folder}/.x.{{}}.tmp" for folder in (".", "net", ".devices", ".pending")] + ["net/c:net1.json.{}.tmp"]
    for name in litter:
        for pid in (gone, living):
            Path(node.state, name.format(pid)).parent.mkdir(exist_ok=True)
            Path(node.state, name.format(pid)).touch()
    for name in (VF1, f"{VF1}.{gone}.tmp"):  # the second one as older versions named it
        os.symlink("../net/gone:net1.json", os.path.join(node.state, ".devices", name))
    node.delete("never-attached")
    left = sorted(os.path.relpath(path, node.state) for path in node.files())
    assert left == sorted(os.path.normpath(name.format(living)) for name in litter)


def test_a_device_link_that_an_add_has_just_made_is_not_swept_away(node):
    node.add()
    node.delete()
    link = os.path.join(node.state, ".devices", VF1)
    os.symlink("../net/coming:net1.json", link)
    with Attachments(node.state, node.run, plugin=PLUGIN).locked(VF1):
        node.delete("never-attached")
        assert os.path.islink(link)


def test_gc_without_a_list_warns_and_removes_nothing(node):
    node.log = RecordingLog()
    node.add()
    before = node.kernel.snapshot()
    node.plugin().gc(node.request("GC", version="1.1.0"))
    assert node.kernel.snapshot() == before
    assert [text for text in node.log.messages if "valid-attachments is missing" in text]


# A VF that was created again at the same address.


def recreated(node, **conf):
    """Creates the VF again, as an administrator can do while the pod lives; returns the new VF's state."""
    node.add(**conf)
    node.kernel.recreate(VF0)
    node.kernel.set_vf(node.kernel.device(VF0), "vlan", VfSettings(vlan=55, qos=0, proto="802.1q"))
    node.kernel.set_vf(node.kernel.device(VF0), "mac", VfSettings(mac="02:aa:aa:aa:aa:02"))
    return node.kernel.snapshot()


@pytest.mark.parametrize("conf", [{}, EVERYTHING], ids=["plain", "everything"])
def test_the_late_del_of_a_vf_that_was_created_again_succeeds_and_leaves_the_new_one_as_it_is(node, conf):
    present = recreated(node, **conf)
    node.delete(**conf)
    assert node.kernel.snapshot() == present
    assert node.files() == []
    assert node.ipam.leases == {}


def test_a_vf_that_was_created_again_after_its_pod_had_gone_is_given_to_the_next_as_it_is(node):
    recreated(node, **EVERYTHING)
    node.kernel.delete_netns("/run/netns/a")
    node.add("b")
    assert node.kernel.device(VF0).settings.vlan == 55


def test_check_reports_that_the_vf_was_created_again(node):
    node.add()
    node.kernel.recreate(VF0)
    with pytest.raises(CheckFailed, match=r"has no device .* any more, but another one at its address"):
        node.plugin().check(node.request("CHECK"))


def test_a_record_of_an_older_version_that_does_not_say_which_vf_it_was_is_undone(node):
    node.add(**EVERYTHING)
    (path,) = [file for file in node.files() if file.endswith(".json") and not os.path.islink(file)]
    with open(path) as file:
        document = json.load(file)
    del document["found"]["instance"]
    with open(path, "w") as file:
        json.dump(document, file)
    node.delete(**EVERYTHING)
    node.assert_as_before()


def test_while_the_pod_hides_its_vf_del_fails_the_record_stays_and_a_later_call_ends_it(node):
    node.add(**EVERYTHING)
    node.kernel.hide(VF0)
    for _ in range(2):
        with pytest.raises(TryAgainLater, match="not back on the host"):
            node.delete(**EVERYTHING)
        assert node.kernel.device(VF0).settings.vlan == 100
        assert node.files()
    node.kernel.reveal(VF0)
    node.add("b", VF1)
    node.delete("b", VF1)
    node.assert_as_before()


def test_only_its_own_del_waits_for_a_vf_that_stays_hidden(node):
    node.add(**EVERYTHING)
    node.kernel.hide(VF0)
    node.kernel.delete_netns("/run/netns/a")
    with pytest.raises(TryAgainLater):
        node.delete(**EVERYTHING)
    assert node.kernel.awaited == 1
    node.add("b", VF1)
    node.delete("b", VF1)
    assert node.kernel.awaited == 1
