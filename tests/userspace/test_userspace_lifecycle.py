"""The life of a port: ADD, CHECK, DEL, GC, STATUS by the frozen plugin on a real Open vSwitch with DPDK."""

from __future__ import annotations

import json

import pytest

from tests.cli.program import BUNDLE
from tests.ovs.node import STATE

BAREWIRE = str(BUNDLE / "barewire")

OURS = {"type": "barewire-ipam", "subnet": "192.0.2.0/24"}
HOST_LOCAL = {"type": "host-local", "subnet": "192.0.2.0/24", "dataDir": "/var/lib/cni/networks"}


def socket_of(result):
    return result["interfaces"][0]["socketPath"]


def port_of(pod, ifname="net1"):
    return f"{pod.container_id[:12]}-{ifname}"


def test_a_port_is_made_checked_and_deleted(node):
    pod, before = node.pod(), node.snapshot()
    result = node.add(node.conf(), pod)
    (interface,) = result["interfaces"]
    assert interface["name"] == "net1"
    assert interface["sandbox"] == pod.netns
    assert interface["mac"].startswith("02:")
    row = node.ports()[port_of(pod)]
    assert dict(row["options"][1]) == {"vhost-server-path": interface["socketPath"]}
    assert port_of(pod) in node.daemon.datapath_ports()
    ids = dict(row["external_ids"][1])
    assert ids == {
        "owner": "barewire", "container-id": pod.container_id, "ifname": "net1", "network": "net", "pod-uid": pod.uid,
        "socket": f"/run/barewire/sockets/{port_of(pod)}/{port_of(pod)}",
    }  # fmt: skip
    node.call("CHECK", {**node.conf(), "prevResult": result}, pod).required()
    node.delete(node.conf(), pod)
    assert node.snapshot() == before
    node.delete(node.conf(), pod)


def test_every_setting_reaches_the_vswitch(node):
    pod = node.pod()
    conf = node.conf(
        vlan=100, trunks=[200, 300], vlanMode="native-untagged", mtu=1400, mac="02:00:00:00:00:07", txRetries=3,
        txSteering="hash", bandwidth={"ingressRate": 8000000, "ingressBurst": 4000000, "egressRate": 2000000},
    )  # fmt: skip
    result = node.add(conf, pod)
    dump = node.daemon.dump()
    (port,) = [row for row in dump["Port"].values() if row["name"] == port_of(pod)]
    (qos,) = dump["QoS"].values()
    row = node.ports()[port_of(pod)]
    assert (port["tag"], port["trunks"], port["vlan_mode"]) == (100, ["set", [200, 300]], "native-untagged")
    # The traffic that the pod receives, CNI's ingress, is what OVS sends: bytes per second, and bytes.
    assert dict(qos["other_config"][1]) == {"cir": "1000000", "cbs": "500000"}
    assert (row["ingress_policing_rate"], row["ingress_policing_burst"]) == (2000, 8000)
    assert row["mtu_request"] == 1400
    assert dict(row["options"][1])["tx-retries-max"] == "3"
    assert dict(row["other_config"][1]) == {"tx-steering": "hash"}
    assert result["interfaces"][0]["mtu"] == 1400
    assert result["interfaces"][0]["mac"] == "02:00:00:00:00:07"
    node.call("CHECK", {**conf, "prevResult": result}, pod).required()
    node.delete(conf, pod)
    assert node.daemon.dump()["QoS"] == {}


@pytest.mark.parametrize("ipam", [HOST_LOCAL, OURS], ids=["host-local", "barewire-ipam"])
def test_addresses_are_reported_in_result_and_file_and_released(node, ipam):
    # Our IPAM plugin is not in CNI_PATH, because the plugin contains it.
    pod = node.pod("shared-dir")
    conf = node.conf(ipam=ipam, cniVersion="1.0.0")
    result = node.add(conf, pod)
    assert result["ips"][0]["interface"] == 0
    (name,) = [entry for entry in node.run("ls", pod.volume("shared-dir")).stdout.split() if entry.startswith("config")]
    element = json.loads(node.text(f"{pod.volume('shared-dir')}/{name}"))
    # app-netutil requires the family.
    assert element["ipResult"]["ips"] == [{**result["ips"][0], "version": "4"}]
    assert element["config"]["vhost"] == {"mode": "server", "socketfile": port_of(pod)}
    node.delete(conf, pod)
    leases = node.run("ls", "/var/lib/cni/networks/net").stdout.split()
    assert [lease for lease in leases if lease.startswith("192.")] == []


@pytest.mark.parametrize(
    ("volume", "seen"), [("shared-dir", "/var/lib/cni/usrspcni"), ("sockets", "/var/run/kubevirt/sockets")]
)
def test_the_socket_is_in_the_volume_that_the_pod_has_for_it(node, volume, seen):
    pod = node.pod(volume)
    info = "/var/run/k8s.cni.cncf.io/devinfo/cni/net-info"
    conf = node.conf(volume=volume, socketNaming="interface", runtimeConfig={"CNIDeviceInfoFile": info})
    result = node.add(conf, pod)
    node.bind(socket_of(result))
    assert node.exists(f"{pod.volume(volume)}/net1")
    assert json.loads(node.text(info))["vhost-user"] == {"mode": "server", "path": f"{seen}/net1"}
    node.delete(conf, pod)
    assert node.run("ls", pod.volume(volume)).stdout == ""
    assert not node.exists(info)


def test_deleting_one_interface_does_not_touch_those_whose_names_are_alike(node):
    pod = node.pod("shared-dir")
    sockets = {}
    for ifname in ("net1", "net2", "net10"):
        sockets[ifname] = socket_of(node.add(node.conf(), pod, ifname))
        node.bind(sockets[ifname])
    node.delete(node.conf(), pod, "net1")
    for ifname in ("net2", "net10"):
        assert node.exists(sockets[ifname])
        assert node.exists(f"{pod.volume('shared-dir')}/configData-{port_of(pod, ifname)}.json")
        assert port_of(pod, ifname) in node.ports()
        node.delete(node.conf(), pod, ifname)


def test_del_needs_neither_pod_nor_namespace_nor_a_valid_configuration(node):
    pod = node.pod("shared-dir")
    before = node.daemon.dump()
    node.add(node.conf(), pod)
    node.end(pod)
    node.delete({"cniVersion": "1.1.0", "name": "net", "type": "userspace", "vlan": "no"}, pod)
    assert node.daemon.dump() == before
    assert node.run("ls", "/run/barewire/vhost").stdout == ""


def test_without_its_record_del_follows_the_mark_on_the_port(node):
    pod, before = node.pod("shared-dir"), node.daemon.dump()
    node.bind(socket_of(node.add(node.conf(), pod)))
    node.run("rm", "-rf", STATE)
    node.delete(node.conf(), pod)
    assert node.daemon.dump() == before
    assert node.run("ls", "/run/barewire/vhost", pod.volume("shared-dir")).stdout.split() == [
        "/run/barewire/vhost:", f"{pod.volume('shared-dir')}:",
    ]  # fmt: skip


def test_without_its_record_a_port_is_recreated_by_the_next_add_of_the_same_interface(node):
    pod = node.pod()
    node.add(node.conf(), pod)
    node.run("rm", "-rf", STATE)
    node.add(node.conf(vlan=7), pod)
    assert len(node.ports()) == 1
    node.delete(node.conf(), pod)


def test_gc_removes_what_the_runtime_does_not_know_and_nothing_of_other_networks(node):
    kept, stale, other = node.pod(), node.pod(), node.pod()
    node.add(node.conf(), kept)
    node.add(node.conf(), stale)
    node.add(node.conf(name="other"), other)
    lost = node.pod()
    node.add(node.conf(), lost)
    node.run("sh", "-c", f"rm {STATE}/net/{lost.container_id}:net1.json {STATE}/.devices/{port_of(lost)}")
    valid = {"cni.dev/valid-attachments": [{"containerID": kept.container_id, "ifname": "net1"}]}
    node.call("GC", {**node.conf(), **valid}, kept).required()
    assert set(node.ports()) == {port_of(kept), port_of(other)}
    assert set(node.run("ls", "/run/barewire/vhost").stdout.split()) == {port_of(kept), port_of(other)}
    node.delete(node.conf(), kept)
    node.delete(node.conf(name="other"), other)
    node.run("rmdir", f"{STATE}/other")


def test_barewire_gc_lists_first_and_removes_ports_of_pods_that_are_gone_and_those_without_a_record(node):
    alive, gone, lost = node.pod(), node.pod("shared-dir"), node.pod()
    for pod in (alive, gone, lost):
        node.add(node.conf(), pod)
    node.end(gone)
    node.run("sh", "-c", f"rm {STATE}/net/{lost.container_id}:net1.json {STATE}/.devices/{port_of(lost)}")
    node.run("mkdir", "-m", "0700", "/run/barewire/vhost/0123456789ab-net9")
    node.run("mkdir", "/run/barewire/vhost/theirs")
    listed = node.run(BAREWIRE, "gc").stdout
    assert f"net/{gone.container_id}/net1  {port_of(gone)}  its network namespace {gone.netns} is gone" in listed
    assert f"no record  {port_of(lost)}  it is a port of ours" in listed
    assert "3 to remove; nothing was changed" in listed
    assert len(node.ports()) == 3
    assert "3 of 3 removed" in node.run(BAREWIRE, "gc", "--apply").stdout
    assert list(node.ports()) == [port_of(alive)]
    assert node.run("ls", "/run/barewire/vhost").stdout.split() == [port_of(alive), "theirs"]
    node.run("rmdir", "/run/barewire/vhost/theirs")
    assert "nothing is left behind" in node.run(BAREWIRE, "gc").stdout
    node.delete(node.conf(), alive)


def test_a_bridge_of_ours_comes_with_its_first_port_and_goes_with_its_last(node):
    pods = [node.pod(), node.pod()]
    conf = node.conf(createBridge=True)
    conf["host"] = {**conf["host"], "bridge": {"bridgeName": "ours0"}}
    for pod in pods:
        node.add(conf, pod)
    node.delete(conf, pods[0])
    assert "ours0" in node.daemon.vsctl("list-br").split()
    node.delete(conf, pods[1])
    assert "ours0" not in node.daemon.vsctl("list-br").split()


def test_an_empty_bridge_of_the_administrator_stays_however_often_del_is_called(node):
    pod = node.pod()
    for _ in range(2):
        node.delete(node.conf(createBridge=True), pod)
    conf = node.conf(createBridge=True)
    conf["host"] = {**conf["host"], "bridge": {"bridgeName": "br1"}}
    node.add(conf, pod)
    node.delete(conf, pod)
    node.delete(conf, pod)
    assert {"br0", "br1"} <= set(node.daemon.vsctl("list-br").split())


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_results_are_written_in_the_version_of_the_configuration_with_gateway_and_index(node, version):
    pod = node.pod()
    ipam = {**HOST_LOCAL, "gateway": "192.0.2.1"}
    result = node.add(node.conf(ipam=ipam, cniVersion=version), pod)
    assert result["cniVersion"] == version
    (ip,) = result["ips"]
    assert (ip["interface"], ip["gateway"], ip.get("version")) == (0, "192.0.2.1", "4" if version != "1.0.0" else None)
    assert result["interfaces"][0]["mac"]
    node.delete(node.conf(ipam=ipam, cniVersion=version), pod)


def test_status_is_good_and_check_names_every_difference(node):
    pod = node.pod()
    node.call("STATUS", node.conf(), pod).required()
    result = node.add(node.conf(vlan=5), pod)
    node.daemon.vsctl("set", "Port", port_of(pod), "tag=6")
    node.run("umount", f"/run/barewire/vhost/{port_of(pod)}")
    told = node.call("CHECK", {**node.conf(vlan=5), "prevResult": result}, pod)
    assert told.document["code"] == 107
    assert "tag is 6, not 5" in told.document["msg"]
    assert f"/run/barewire/vhost/{port_of(pod)} is not the mount" in told.document["msg"]
    node.delete(node.conf(), pod)
