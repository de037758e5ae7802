"""Maintenance of a node: GC, `barewire gc`, repair of dirty VFs, reboots, STATUS."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest

from tests.lab.attaching import changes, conf, netdev, wait_for
from tests.lab.snapshot import host_snapshot
from tests.lab.topology import pfs

STATE = "/var/lib/cni/barewire"
SETTINGS = {"vlan": 100, "trust": "on", "mac": "02:00:00:00:60:01", "mtu": 1400}


def lose_records(lab):
    lab.vm.sh(f"rm -rf {STATE}")


def attached(lab, number, **settings):
    """A pod with the VF of that number, and its configuration."""
    pod = lab.pod()
    document = conf(lab.vfs[number], **{**SETTINGS, "mac": f"02:00:00:00:60:1{number}", **settings})
    document["cniVersion"] = "1.1.0"
    lab.runtime.add(document, pod).required()
    return pod, document


# GC.


def test_gc_with_an_empty_list_or_null_removes_all_and_without_the_list_nothing(lab):
    for valid in (list[str](), None):
        _pod, document = attached(lab, 0)
        assert "valid-attachments is missing" in lab.runtime.call("GC", document).required().stderr
        assert netdev(lab, lab.vfs[0]) is None
        lab.runtime.call("GC", {**document, "cni.dev/valid-attachments": valid}).required()
        assert changes(lab) == []


def test_gc_touches_no_other_network(lab):
    pod, document = attached(lab, 0)
    other, others = attached(lab, 1, name="other")
    lab.runtime.gc(document, []).required()
    assert netdev(lab, lab.vfs[0]) == lab.vfs[0].netdev
    assert other.interfaces() == ["net1"]
    lab.runtime.delete(document, pod).required()
    lab.runtime.delete(others, other).required()


@pytest.mark.leaves_traces("nothing knows the MAC addresses of VFs whose records are lost")
def test_gc_finds_what_lost_its_record_in_a_living_namespace_and_on_the_host(lab):
    _kept, document = attached(lab, 0)
    valid, with_valid = attached(lab, 1)
    gone, _ = attached(lab, 2)
    _other, others = attached(lab, 3, name="other")
    lose_records(lab)
    gone.delete()
    wait_for(lambda: netdev(lab, lab.vfs[2]) is not None, "the VF's return")
    lab.runtime.gc(document, [(valid.container_id, "net1")]).required()
    at_home = {vf.index: vf.netdev for vf in pfs(lab.vm)[0].vfs if vf.netdev}
    assert at_home.keys() == {0, 2, 4, 5, 6}
    assert at_home[0] == lab.vfs[0].netdev
    assert at_home[2] == lab.vfs[2].netdev
    lab.runtime.gc(with_valid, []).required()
    lab.runtime.gc(others, []).required()
    left = [line for line in changes(lab) if "mac" not in line and "address" not in line]
    # The addresses of VFs whose records are lost are unknown; everything else is back.
    assert [line for line in left if ".permaddr" not in line] == []


# `barewire gc`.


def barewire(lab, *arguments):
    return lab.vm.run(f"{lab.runtime.bin_dir}/barewire", *arguments, check=False)


def test_barewire_gc_lists_first_and_removes_in_all_networks_only_on_request(lab):
    assert barewire(lab, "gc").out == "nothing is left behind\n"
    living, document = attached(lab, 0)
    for number, network in ((1, "north"), (2, "south")):
        pod, _ = attached(lab, number, name=network)
        pod.delete()
    wait_for(lambda: netdev(lab, lab.vfs[1]) and netdev(lab, lab.vfs[2]), "the VFs' return")
    before = host_snapshot(lab.vm)
    dry = barewire(lab, "gc")
    assert dry.rc == 0
    lines = dry.out.splitlines()
    assert [line.partition("/")[0] for line in lines[:2]] == ["north", "south"]
    assert lab.vfs[1].address in lines[0]
    assert "is gone" in lines[0]
    assert lines[2] == "2 to remove; nothing was changed: run again with --apply"
    assert changes(lab, before) == []
    done = barewire(lab, "gc", "--apply")
    assert (done.rc, done.out.splitlines()[-1]) == (0, "2 of 2 removed")
    assert barewire(lab, "gc").out == "nothing is left behind\n"
    assert living.interfaces() == ["net1"]
    lab.runtime.delete(document, living).required()
    assert changes(lab) == []


def test_barewire_gc_finds_a_vf_without_a_record_and_reports_what_it_could_not_remove(lab):
    pod, _ = attached(lab, 0, driver="vfio-pci", mac=None, mtu=None)
    vf = lab.vfs[0]
    pod.delete()
    holder = lab.vm.start("bash", "-c", f"exec 3<>/dev/vfio/{vf.iommu_group}; echo open; exec sleep 60")
    holder.wait_for_output("open")
    failed = barewire(lab, "gc", "--apply")
    assert failed.rc == 1
    assert "still open in a process" in failed.err
    assert failed.out.splitlines()[-1] == "0 of 1 removed"
    holder.kill()
    holder.wait()
    assert barewire(lab, "gc").out.startswith(f"net/{pod.container_id}/net1  {vf.address}  its removal did not finish")
    assert barewire(lab, "gc", "--apply").rc == 0
    assert changes(lab) == []


# Repair.


@pytest.mark.leaves_traces("nothing knows the MAC address of a VF whose record is lost")
@pytest.mark.parametrize("with_record", [True, False], ids=["with its record", "without a record"])
def test_a_dirty_vf_is_put_right_before_the_next_pod_gets_it(lab, with_record):
    vf = lab.vfs[0]
    first, _ = attached(lab, 0)
    first.delete()
    assert lab.wait_until_home() == ""
    assert netdev(lab, vf) == "net1"
    if not with_record:
        lose_records(lab)
    second = lab.pod()
    lab.runtime.add(conf(vf), second).required()
    seen = json.loads(lab.vm.run("ip", "-d", "-j", "link", "show", lab.pf.netdev).out)[0]["vfinfo_list"][0]
    assert (seen["vlan_list"][0].get("vlan", 0), seen["trust"]) == (0, False)
    assert second.link("net1")["mtu"] == 1500
    lab.runtime.delete(conf(vf), second).required()
    assert netdev(lab, vf) == vf.netdev
    if with_record:
        assert changes(lab) == []


@pytest.mark.leaves_traces("the VFs are new ones")
def test_a_vf_that_is_gone_with_its_pfs_vfs_leaves_nothing_behind(lab):
    pod, document = attached(lab, 0)
    numvfs = f"/sys/bus/pci/devices/{lab.pf.address}/sriov_numvfs"
    lab.vm.sh(f"echo 0 >{numvfs}")
    lab.runtime.delete(document, pod).required()
    assert lab.vm.sh(f"find {STATE} -type f -o -type l").out == ""
    lab.vm.sh(f"echo 7 >{numvfs}")


def test_with_the_pf_down_a_vf_comes_home_and_what_must_wait_is_named_and_done_later(lab):
    pod, document = attached(lab, 0, max_tx_rate=500)
    # igb changes no rate while the card has no link, according to the card's register. QEMU's card gets one some time
    # after its PF is set down; only without a cable it has none.
    lab.vm.plug_cable(plugged=False)
    lab.vm.sh(f"ip link set {lab.pf.netdev} down")
    answer = lab.runtime.delete(document, pod)
    assert answer.rc == 0
    assert "max_tx_rate is 500, not 0" in answer.stderr
    assert netdev(lab, lab.vfs[0]) == lab.vfs[0].netdev
    lab.vm.plug_cable(plugged=True)
    lab.vm.sh(f"ip link set {lab.pf.netdev} up")
    carrier = f"/sys/class/net/{lab.pf.netdev}/carrier"
    wait_for(lambda: lab.vm.get(carrier) == b"1\n", "the PF's carrier")
    lab.runtime.delete(document, pod).required()
    wait_for(lambda: changes(lab) == [], "the PF's return to what it was")


@pytest.mark.leaves_traces("a VF without an admin MAC has another MAC when its driver comes back")
@pytest.mark.parametrize("driver", ["igbvf", "vfio-pci", ""])
def test_a_vf_that_was_rebound_while_in_the_pod_ends_without_the_pods_settings(lab, driver):
    vf = lab.vfs[0]
    pod, document = attached(lab, 0)
    lab.vm.sh(f"""
    cd /sys/bus/pci/devices/{vf.address}
    echo {vf.address} >driver/unbind
    [ -z "{driver}" ] || {{ echo {driver} >driver_override; echo {vf.address} >/sys/bus/pci/drivers_probe; }}
    echo >driver_override
    """)
    lab.runtime.delete(document, pod).required()
    (now,) = [one for one in pfs(lab.vm)[0].vfs if one.index == 0]
    assert now.driver == (driver or "igbvf")
    if driver != "vfio-pci":
        assert now.netdev == vf.netdev
        assert changes(lab) == []
    seen = json.loads(lab.vm.run("ip", "-d", "-j", "link", "show", lab.pf.netdev).out)[0]["vfinfo_list"][0]
    assert (seen["vlan_list"][0].get("vlan", 0), seen["trust"]) == (0, False)


# Reboots.


@pytest.mark.leaves_traces("after a boot everything is new")
def test_after_a_reboot_with_kept_records_the_first_add_works_at_once_and_puts_them_away(lab):
    first, document = attached(lab, 0)
    attached(lab, 1)
    lab.vm.reboot()
    again, fresh = lab.pod(), conf(lab.vfs[0], **SETTINGS)
    lab.runtime.add(fresh, again).required()
    assert again.link("net1")["mtu"] == 1400
    assert lab.vm.sh(f"ls {STATE}/net").out.split() == [f"{again.container_id}:net1.json"]
    lab.runtime.gc(document, [(again.container_id, "net1")]).required()
    assert lab.vm.sh(f"ls {STATE}/net").out.split() == [f"{again.container_id}:net1.json"]
    assert again.interfaces() == ["net1"]
    lab.runtime.delete(fresh, again).required()
    assert lab.vm.sh(f"find {STATE} -type f -o -type l").out == ""
    assert first.container_id


# STATUS.


@contextmanager
def strict_status(lab):
    lab.vm.sh("mkdir -p -m 0755 /etc/barewire && echo '{\"strictStatus\": true}' >/etc/barewire/node.json")
    yield
    lab.vm.sh("rm -r /etc/barewire")


def test_status_reports_what_is_missing(lab):
    document = conf(lab.vfs[0])
    document["cniVersion"] = "1.1.0"
    lab.runtime.status(document).required()
    lacking = {**document, "deviceID": "", "master": "eth77"}
    assert "eth77" in lab.runtime.status(lacking).required().stderr
    with strict_status(lab):
        missing = lab.runtime.status(lacking).error
    assert (missing["code"], "eth77" in missing["msg"]) == (50, True)
    unwritable = lab.vm.run(
        "unshare", "--mount", "bash", "-c", f"mount -t tmpfs -o ro none /var/lib/cni; exec {lab.runtime.bin_dir}/sriov",
        stdin=json.dumps(document), env={"CNI_COMMAND": "STATUS", "CNI_PATH": lab.runtime.bin_dir}, check=False,
    )  # fmt: skip
    assert (unwritable.rc, json.loads(unwritable.out)["code"]) == (1, 50)
    bare = lab.vm.run(
        "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", f"{lab.runtime.bin_dir}/sriov",
        stdin=json.dumps(document), env={"CNI_COMMAND": "STATUS", "CNI_PATH": lab.runtime.bin_dir}, check=False,
    )  # fmt: skip
    assert (json.loads(bare.out)["code"], "CAP_NET_ADMIN" in bare.out) == (50, True)


def test_status_reports_that_the_pf_of_attached_vfs_is_down(lab):
    pod, document = attached(lab, 0)
    lab.runtime.status(document).required()
    lab.vm.sh(f"ip link set {lab.pf.netdev} down")
    assert f"PF {lab.pf.netdev} is down" in lab.runtime.status(document).required().stderr
    with strict_status(lab):
        error = lab.runtime.status(document).error
    assert (error["code"], f"PF {lab.pf.netdev} is down" in error["msg"]) == (51, True)
    lab.vm.sh(f"ip link set {lab.pf.netdev} up")
    carrier = f"/sys/class/net/{lab.pf.netdev}/carrier"
    wait_for(lambda: lab.vm.get(carrier) == b"1\n", "the PF's carrier")
    lab.runtime.delete(document, pod).required()
    wait_for(lambda: changes(lab) == [], "the PF's return to what it was")


# Records of other versions.


def test_a_record_of_a_newer_schema_is_refused_and_of_an_older_one_read(lab):
    pod, document = attached(lab, 0)
    path = f"{STATE}/net/{pod.container_id}:net1.json"
    record = json.loads(lab.vm.get(path))
    lab.vm.put(path, json.dumps({**record, "schema": 99}), mode=0o600)
    error = lab.runtime.delete(document, pod).error
    assert (error["code"], "has schema 99" in error["msg"]) == (5, True)
    assert pod.interfaces() == ["net1"]
    older = {key: value for key, value in record.items() if key != "device_info"}
    older["found"].pop("override")
    for key in ("driver", "userspace", "flags", "mac"):
        older["wanted"].pop(key)
    lab.vm.put(path, json.dumps({**older, "schema": 1}), mode=0o600)
    lab.runtime.delete(document, pod).required()
    assert changes(lab) == []
