"""ADD and DEL of the `sriov` plugin on real VFs, in all the orders and circumstances in which runtimes call them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.examples import EXAMPLES
from tests.lab.attaching import changes, conf, netdev, udev, wait_for
from tests.lab.snapshot import host_snapshot
from tests.lab.topology import pfs
from tests.layouts import DAEMON, below

MAC = "02:00:00:00:0a:02"
HOST_LOCAL = {"type": "host-local", "ranges": [[{"subnet": "10.56.2.0/24"}]]}
EVERYTHING = {"vlan": 100, "trust": "on", "spoofchk": "off", "mac": MAC, "mtu": 1400, "ipam": HOST_LOCAL}


def test_an_interface_of_that_name_in_the_pod_is_untouched_and_the_add_refused(lab):
    vf, pod = lab.vfs[0], lab.pod()
    pod.ip("link", "add", "net1", "type", "bridge")
    before = pod.link("net1")
    outcome = lab.runtime.add(conf(vf, **EVERYTHING), pod)
    assert outcome.error["code"] == 104
    assert pod.link("net1") == before
    assert changes(lab) == []
    lab.runtime.delete(conf(vf, **EVERYTHING), pod).required()
    assert pod.link("net1") == before


def test_a_vf_in_use_is_refused_to_a_second_pod_and_stays_with_the_first(lab):
    vf, first, second = lab.vfs[0], lab.pod(), lab.pod()
    lab.runtime.add(conf(vf, **EVERYTHING), first).required()
    before = first.link("net1")
    outcome = lab.runtime.add(conf(vf, vlan=7), second)
    assert outcome.error["code"] == 100
    assert first.container_id in outcome.error["msg"]
    lab.runtime.delete(conf(vf, vlan=7), second).required()
    assert first.link("net1") == before
    lab.runtime.delete(conf(vf, **EVERYTHING), first).required()


def test_the_same_attachment_with_another_vf_is_refused_while_the_first_is_there(lab):
    one, other, pod = lab.vfs[0], lab.vfs[1], lab.pod()
    lab.runtime.add(conf(one), pod).required()
    assert lab.runtime.add(conf(other), pod).error["code"] in (100, 104)
    pod.ip("link", "set", "net1", "down")
    pod.ip("link", "set", "net1", "name", "hidden0")
    assert lab.runtime.add(conf(other), pod).error["code"] == 100
    lab.runtime.delete(conf(one), pod).required()


def test_del_twice_succeeds(lab):
    vf, pod = lab.vfs[0], lab.pod()
    lab.runtime.add(conf(vf, **EVERYTHING), pod).required()
    for _ in range(2):
        assert lab.runtime.delete(conf(vf, **EVERYTHING), pod).required().stdout == ""


def test_a_pod_cannot_block_del_add_or_gc_with_an_alias_that_is_no_text(lab):
    vf, pod = lab.vfs[0], lab.pod()
    lab.runtime.add(conf(vf, vlan=7), pod).required()
    pod.run("bash", "-c", r"ip link set net1 alias $'barewire \377\376'")
    lab.runtime.delete(conf(vf), pod).required()
    assert changes(lab) == []
    lab.runtime.add(conf(vf, vlan=7), pod).required()
    pod.run("bash", "-c", r"ip link set net1 alias $'\377'")
    pod.delete()
    assert lab.wait_until_home() == ""
    lab.runtime.gc({**conf(vf), "cniVersion": "1.1.0"}, []).required()
    assert changes(lab) == []


def test_del_with_an_empty_cni_netns_brings_the_vf_home(lab):
    vf, pod = lab.vfs[0], lab.pod()
    before = host_snapshot(lab.vm)
    lab.runtime.add(conf(vf, **EVERYTHING), pod).required()
    lab.runtime.delete(conf(vf, **EVERYTHING), pod, netns="").required()
    assert changes(lab, before) == []


@pytest.mark.parametrize("netns", [None, ""])
def test_del_after_the_namespace_is_gone_cleans_the_vf(lab, netns):
    vf, pod = lab.vfs[0], lab.pod()
    lab.runtime.add(conf(vf, **EVERYTHING), pod).required()
    pod.delete()
    lab.wait_until_home()
    lab.runtime.delete(conf(vf, **EVERYTHING), pod, netns=netns).required()


def test_del_frees_a_vf_from_a_namespace_that_only_a_process_keeps_alive(lab):
    vf, pod = lab.vfs[0], lab.pod()
    lab.runtime.add(conf(vf, **EVERYTHING), pod).required()
    holder = pod.start("sleep", "300")
    wait_for(lambda: lab.vm.run("ip", "netns", "pids", pod.name).out.split() != [], "the start of the process")
    lab.vm.run("ip", "netns", "del", pod.name)
    lab.runtime.delete(conf(vf, **EVERYTHING), pod).required()
    holder.kill()


NEW_MAC = "the VF's own address is not known any more, and the pod's must not stay"


def assert_only_its_mac_is_new(lab, vf):
    mac = (f"links.{vf.address}.address:", f"links.{vf.address}.permaddr:")
    at_pf = f"links.{lab.pf.address}.vfinfo_list.vf {vf.index}.address:"
    assert [line for line in changes(lab) if not line.startswith((*mac, at_pf))] == []


def forget_records(lab):
    lab.vm.sh("rm -rf /var/lib/cni/barewire")


@pytest.mark.leaves_traces(NEW_MAC)
def test_without_its_record_del_follows_the_mark_on_the_device(lab):
    vf, pod = lab.vfs[0], lab.pod()
    lab.runtime.add(conf(vf, vlan=100, trust="on"), pod).required()
    forget_records(lab)
    lab.runtime.delete(conf(vf, vlan=100, trust="on"), pod).required()
    assert pod.interfaces() == []
    assert netdev(lab, vf) == vf.netdev
    assert_only_its_mac_is_new(lab, vf)


@pytest.mark.leaves_traces(NEW_MAC)
def test_without_its_record_a_vf_whose_namespace_died_is_repaired_by_the_next_add(lab):
    vf, pod, other = lab.vfs[0], lab.pod(), lab.pod()
    lab.runtime.add(conf(vf, vlan=100, trust="on", mtu=1400), pod).required()
    forget_records(lab)
    pod.delete()
    lab.wait_until_home()
    assert netdev(lab, vf) == "net1"
    outcome = lab.runtime.add(conf(vf), other).required()
    assert outcome.result["interfaces"][0]["mtu"] == 1500
    lab.runtime.delete(conf(vf), other).required()
    assert netdev(lab, vf) == vf.netdev
    assert_only_its_mac_is_new(lab, vf)


def test_a_vf_whose_owner_is_gone_is_cleaned_for_the_next_and_a_late_del_touches_nothing(lab):
    vf, pod, other = lab.vfs[0], lab.pod(), lab.pod()
    lab.runtime.add(conf(vf, **EVERYTHING), pod).required()
    pod.delete()
    lab.wait_until_home()
    lab.runtime.add(conf(vf, vlan=7), other).required()
    link = other.link("net1")
    assert link["mtu"] == 1500
    assert link["address"] != MAC
    lab.runtime.delete(conf(vf, **EVERYTHING), pod).required()
    assert other.link("net1") == link
    lab.runtime.delete(conf(vf, vlan=7), other).required()


def test_seven_pods_are_attached_to_one_pf_at_the_same_time(lab):
    pods = [lab.pod() for _ in lab.vfs]
    confs = [conf(vf, vlan=100 + vf.index, mac=f"02:00:00:00:0c:{vf.index:02x}", ipam=HOST_LOCAL) for vf in lab.vfs]
    assert len(pods) == 7
    with ThreadPoolExecutor(7) as pool:
        outcomes = list(pool.map(lab.runtime.add, confs, pods))
    addresses = [outcome.required().result["ips"][0]["address"] for outcome in outcomes]
    assert len(set(addresses)) == 7
    assert [pod.link("net1")["address"] for pod in pods] == [f"02:00:00:00:0c:{vf.index:02x}" for vf in lab.vfs]
    with ThreadPoolExecutor(7) as pool:
        for outcome in pool.map(lab.runtime.delete, confs, pods):
            outcome.required()


def test_of_two_adds_for_one_vf_at_the_same_time_one_gets_it(lab):
    vf, pods = lab.vfs[0], [lab.pod(), lab.pod()]
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda pod: lab.runtime.add(conf(vf), pod), pods))
    assert sorted(outcome.rc for outcome in outcomes) == [0, 1]
    (refused,) = [outcome for outcome in outcomes if outcome.rc]
    assert refused.error["code"] == 100
    assert "belongs to container" in refused.error["msg"]
    for pod in pods:
        lab.runtime.delete(conf(vf), pod).required()


def test_a_failing_ipam_plugin_is_reported_and_everything_rolled_back(lab):
    vf, pod = lab.vfs[0], lab.pod()
    before = host_snapshot(lab.vm)
    broken = {"type": "host-local", "ranges": [[{"subnet": "10.56.2.0/33"}]]}
    outcome = lab.runtime.add(conf(vf, **{**EVERYTHING, "ipam": broken}), pod)
    assert outcome.rc == 1
    assert "10.56.2.0/33" in outcome.error["msg"] + outcome.error.get("details", "")
    assert changes(lab, before) == []
    missing = lab.runtime.add(conf(vf, ipam={"type": "no-such-ipam"}), pod)
    assert missing.error["code"] == 106
    assert "no-such-ipam" in missing.error["msg"]
    assert changes(lab, before) == []


def test_an_exhausted_range_is_reported_in_the_ipam_plugins_words(lab):
    vf, pod = lab.vfs[0], lab.pod()
    tiny = {
        "type": "host-local",
        "ranges": [[{"subnet": "10.56.9.0/24", "rangeStart": "10.56.9.1", "rangeEnd": "10.56.9.1"}]],
    }
    outcome = lab.runtime.add(conf(vf, ipam=tiny), pod)
    assert "no IP addresses available" in outcome.error["msg"]


def test_the_dhcp_plugin_without_its_daemon_fails_the_add_and_leaves_nothing(lab):
    vf, pod = lab.vfs[0], lab.pod()
    before = host_snapshot(lab.vm)
    outcome = lab.runtime.add(conf(vf, ipam={"type": "dhcp"}), pod)
    assert outcome.rc == 1
    assert "dhcp" in outcome.stdout
    lab.runtime.delete(conf(vf, ipam={"type": "dhcp"}), pod).required()
    assert changes(lab, before) == []


def test_a_device_that_is_no_vf_is_refused_with_the_reason(lab):
    pod = lab.pod()
    for address, code, reason in ((lab.pf.address, 7, "is a PF"), ("0000:7f:00.0", 101, "no PCI device")):
        outcome = lab.runtime.add({**conf(lab.vfs[0]), "deviceID": address}, pod)
        assert outcome.error["code"] == code
        assert reason in outcome.error["msg"]


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "several at once": ({"vlan": 4095, "spoofchk": "yes", "mac": "nonsense", "max-tx-rate": 5}, 7, "max_tx_rate"),
    "vlan rules": ({"vlanQoS": 3, "vlanProto": "802.1ad"}, 7, "needs vlan"),
    "rates": ({"min_tx_rate": 20, "max_tx_rate": 10}, 7, "min_tx_rate"),
    "multicast mac": ({"mac": "01:00:5e:00:00:01"}, 7, "unicast"),
    "strict": ({"strictConfig": True, "colour": "blue"}, 2, "colour"),
    "ipam without type": ({"ipam": {"subnet": "10.0.0.0/24"}}, 7, "ipam.type"),
    "prevResult": ({"prevResult": {"interfaces": 5}}, 7, "interfaces"),
    "version": ({"cniVersion": "9.0.0"}, 1, "incompatible"),
    "device": ({"deviceID": "eth0"}, 7, "deviceID"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_configuration_gets_one_error_and_changes_nothing(lab, name):
    settings, code, part = BAD[name]
    outcome = lab.runtime.add({**conf(lab.vfs[0]), **settings}, lab.pod())
    assert outcome.rc == 1
    assert outcome.error["code"] == code
    assert part in outcome.error["msg"]
    assert changes(lab) == []


def test_check_names_what_drifted(lab):
    vf, pod = lab.vfs[0], lab.pod()
    added = lab.runtime.add(conf(vf, **EVERYTHING), pod).required().result
    with_result = {**conf(vf, **EVERYTHING), "prevResult": added}
    assert lab.runtime.check(with_result, pod).required().stdout == ""
    lab.vm.run("ip", "link", "set", lab.pf.netdev, "vf", str(vf.index), "vlan", "200")
    outcome = lab.runtime.check(with_result, pod)
    assert outcome.error["code"] == 107
    assert "vlan is 200, not 100" in outcome.error["msg"]
    pod.ip("link", "set", "net1", "down")
    assert "net1 is down" in lab.runtime.check(with_result, pod).error["msg"]
    lab.runtime.delete(with_result, pod).required()


def test_gc_removes_what_the_runtime_does_not_know_and_nothing_else(lab):
    one, other, lost, kept = lab.vfs[0], lab.vfs[1], lab.pod(), lab.pod()
    newest = {"cniVersion": "1.1.0"}
    lab.runtime.add({**conf(one, vlan=5), **newest}, lost).required()
    lab.runtime.add({**conf(other), **newest}, kept).required()
    gc = {"cniVersion": "1.1.0", "name": "net", "type": "sriov"}
    assert "valid-attachments is missing" in lab.runtime.call("GC", gc).required().stderr
    assert (lost.interfaces(), kept.interfaces()) == (["net1"], ["net1"])
    lab.runtime.gc(gc, [(kept.container_id, "net1")]).required()
    assert (lost.interfaces(), kept.interfaces()) == ([], ["net1"])
    lab.runtime.gc(gc, []).required()
    assert kept.interfaces() == []


def test_status_succeeds_on_a_healthy_node(lab):
    lab.runtime.status({"cniVersion": "1.1.0", "name": "net", "type": "sriov"}).required()


def test_below_multus_thick_daemon_a_pod_comes_and_goes_as_on_the_host(lab):
    lab.vm.run("mount", "--make-rshared", "/")
    daemon = lab.vm.start(*DAEMON)
    try:
        wait_for(lambda: lab.vm.run("test", "-s", "/run/thick.pid", check=False).rc == 0, "the daemon's start")
        prefix = below(lab.vm.run("cat", "/run/thick.pid").out.strip())
        vf = lab.vfs[0]
        with lab.pod() as pod:
            lab.runtime.add(conf(vf, **EVERYTHING), pod, prefix=prefix).required()
            assert pod.link("net1")["address"] == MAC
            lab.runtime.delete(conf(vf, **EVERYTHING), pod, prefix=prefix).required()
            assert netdev(lab, vf) == vf.netdev
    finally:
        daemon.kill()
        lab.vm.run("mount", "--make-rprivate", "/")
        lab.vm.run("rm", "-f", "/run/thick.pid")


def test_results_are_written_in_the_version_of_the_configuration(lab):
    vf, pod = lab.vfs[0], lab.pod()
    for version in ("0.2.0", "0.3.1", "0.4.0", "1.0.0"):
        outcome = lab.runtime.add({**conf(vf, ipam=HOST_LOCAL), "cniVersion": version}, pod).required()
        assert outcome.result["cniVersion"] == version
        assert ("ip4" in outcome.result) == (version == "0.2.0")
        lab.runtime.delete({**conf(vf, ipam=HOST_LOCAL), "cniVersion": version}, pod).required()
    refused = lab.runtime.add({**conf(vf), "cniVersion": "0.2.0"}, pod)
    assert refused.error["code"] == 7


def test_a_chain_with_tuning_and_sbr_is_added_checked_and_deleted(lab):
    vf, pod = lab.vfs[0], lab.pod()
    conflist = json.loads((EXAMPLES / "sriov-chain.conflist").read_text())
    conflist["plugins"][0]["deviceID"] = vf.address
    attachment = lab.runtime.chain_add(conflist, pod)
    assert attachment.result["interfaces"][0]["mac"] == pod.link("net1")["address"]
    assert pod.run("cat", "/proc/sys/net/ipv4/conf/net1/arp_ignore").out.strip() == "1"
    assert "net1" in pod.ip("route", "show", "table", "100").out
    for outcome in lab.runtime.chain_check(attachment):
        outcome.required()
    for outcome in lab.runtime.chain_delete(attachment):
        outcome.required()


def test_later_in_a_chain_the_result_so_far_is_passed_through_with_ours_behind_it(lab):
    vf, pod = lab.vfs[0], lab.pod()
    before = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "mac": "02:00:00:00:0b:01", "sandbox": pod.netns}],
        "ips": [{"interface": 0, "address": "192.0.2.9/24"}],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    document = conf(vf, ipam=HOST_LOCAL, prevResult=before)
    result = lab.runtime.add(document, pod).required().result
    assert [interface["name"] for interface in result["interfaces"]] == ["eth0", "net1"]
    assert result["interfaces"][0] == before["interfaces"][0]
    assert [ip["interface"] for ip in result["ips"]] == [0, 1]
    assert result["routes"] == before["routes"]
    lab.runtime.check({**document, "prevResult": result}, pod).required()
    lab.runtime.delete({**document, "prevResult": result}, pod).required()
    assert changes(lab) == []


@pytest.mark.leaves_traces("udev renames every device")
def test_it_works_while_udev_renames_as_it_likes(lab):
    with udev(lab):
        pod = lab.pod()
        before = host_snapshot(lab.vm)
        vf = pfs(lab.vm)[0].vfs[4]
        for _ in range(3):
            outcome = lab.runtime.add(conf(vf, **EVERYTHING), pod).required()
            assert outcome.result["interfaces"][0]["name"] == "net1"
            lab.runtime.delete(conf(vf), pod).required()
        lab.vm.run("udevadm", "settle", "--timeout=60", timeout=90)
        assert changes(lab, before) == []
