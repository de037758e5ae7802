"""Devices other than a VF with a network driver: for user space, bound on request, PFs, NICs, VFs by PF."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.attaching import changes, conf, netdev, seen_from_pf, wait_for
from tests.lab.snapshot import host_snapshot

HOST_LOCAL = {"type": "host-local", "ranges": [[{"subnet": "10.56.40.0/24"}]]}
MAC = "02:00:00:00:40:01"
DEVICE_INFO = "/var/run/k8s.cni.cncf.io/devinfo/cni/net-pod_net1"

BIND = """
cd /sys/bus/pci/devices/$0
echo "$1" >driver_override
[ ! -e driver ] || echo $0 >driver/unbind
echo $0 >/sys/bus/pci/drivers_probe
"""


def bind(lab, address, driver):
    lab.vm.run("bash", "-c", BIND, address, driver)


def driver_of(lab, address):
    return lab.vm.sh(f"basename $(readlink /sys/bus/pci/devices/{address}/driver) || true").out.strip()


def without(settings, *keys):
    return {key: value for key, value in settings.items() if key not in keys}


# For user space.


@pytest.mark.leaves_traces("a VF without an admin MAC has another MAC when its driver comes back")
def test_a_vf_of_vfio_stays_where_it_is_gets_its_settings_and_comes_back_with_the_first_del(lab):
    vf, pod = lab.vfs[3], lab.pod()
    bind(lab, vf.address, "vfio-pci")
    before = host_snapshot(lab.vm)
    document = conf(vf, vlan=100, trust="on", spoofchk="off", mac=MAC, ipam=HOST_LOCAL)
    result = lab.runtime.add({**document, "cniVersion": "1.1.0", "ipam": {}}, pod).required().result
    assert result["interfaces"] == [
        {"name": "net1", "mac": MAC, "mtu": 1500, "sandbox": pod.netns, "pciID": vf.address}
    ]
    lab.runtime.delete({**document, "ipam": {}}, pod).required()
    assert changes(lab, before) == []
    result = lab.runtime.add(document, pod).required().result
    assert [ip["interface"] for ip in result["ips"]] == [0]
    assert pod.interfaces() == []
    seen = seen_from_pf(lab, vf)
    assert (seen["vlan_list"][0]["vlan"], seen["trust"], seen["spoofchk"], seen["address"]) == (100, True, False, MAC)
    lab.runtime.check({**document, "prevResult": result}, pod).required()
    lab.runtime.delete(document, pod).required()
    assert changes(lab, before) == []


@pytest.mark.leaves_traces("a VF without an admin MAC has another MAC when its driver comes back")
def test_what_a_vf_for_user_space_cannot_have_is_refused_before_anything_changes(lab):
    vf, pod = lab.vfs[3], lab.pod()
    bind(lab, vf.address, "vfio-pci")
    before = host_snapshot(lab.vm)
    error = lab.runtime.add(conf(vf, promisc="on", trust="on"), pod).error
    assert error["code"] == 7
    assert error["msg"].startswith("promisc: VF ")
    assert changes(lab, before) == []


# Bound on request.


@pytest.mark.parametrize(
    "asked", [{"driver": "vfio-pci"}, {"dpdk": {"kernel_driver": "igbvf", "dpdk_driver": "vfio-pci"}}]
)
def test_a_driver_is_bound_on_request_and_del_gives_the_vf_its_own_back(lab, asked):
    vf, pod = lab.vfs[4], lab.pod()
    document = conf(vf, vlan=7, mac=MAC, **asked)
    answer = lab.runtime.add(document, pod).required()
    assert answer.result["interfaces"][0]["mac"] == MAC
    assert ("old key" in answer.stderr) == ("dpdk" in asked)
    assert driver_of(lab, vf.address) == "vfio-pci"
    assert lab.vm.run("test", "-c", f"/dev/vfio/{vf.iommu_group}", check=False).rc == 0
    lab.runtime.check({**document, "prevResult": answer.result}, pod).required()
    lab.runtime.delete(document, pod).required()
    assert changes(lab) == []
    lab.runtime.add(conf(vf), pod).required()
    lab.runtime.delete(conf(vf), pod).required()


@pytest.mark.leaves_traces("a VF without an admin MAC has another MAC when its driver comes back")
def test_a_network_driver_is_bound_on_request_to_a_vf_of_vfio(lab):
    vf, pod = lab.vfs[4], lab.pod()
    bind(lab, vf.address, "vfio-pci")
    before = host_snapshot(lab.vm)
    document = conf(vf, driver="igbvf", mac=MAC, mtu=1400)
    lab.runtime.add(document, pod).required()
    link = pod.link("net1")
    assert (link["address"], link["mtu"]) == (MAC, 1400)
    lab.runtime.delete(document, pod).required()
    assert changes(lab, before) == []


def test_a_vf_whose_driver_was_bound_on_request_comes_back_after_its_pod_is_gone(lab):
    vf, pod = lab.vfs[4], lab.pod()
    document = conf(vf, driver="vfio-pci", vlan=9)
    lab.runtime.add(document, pod).required()
    pod.delete()
    lab.runtime.delete(document, pod).required()
    assert changes(lab) == []


def test_a_driver_that_is_not_loaded_is_refused_with_the_way_out(lab):
    vf, pod = lab.vfs[4], lab.pod()
    error = lab.runtime.add(conf(vf, driver="uio_pci_generic"), pod).error
    assert (error["code"], error["details"]) == (102, "modprobe uio_pci_generic")
    assert changes(lab) == []


@pytest.mark.parametrize("driver", ["sfc", "iavf"])
def test_a_network_driver_that_does_not_support_the_vf_is_refused_and_never_probes_it(lab, driver):
    """With driver_override the kernel lets it probe: then sfc and iavf crash the kernel, which the lab detects."""
    vf, pod = lab.vfs[4], lab.pod()
    lab.vm.run("modprobe", driver)
    error = lab.runtime.add(conf(vf, driver=driver), pod).error
    assert error["code"] == 102
    assert f"driver {driver} does not support {vf.address} (PCI ID 8086:10ca)" in error["msg"]
    assert changes(lab) == []


def test_a_vf_that_a_process_still_has_open_is_taken_back_by_a_later_del(lab):
    vf, pod = lab.vfs[4], lab.pod()
    document = conf(vf, driver="vfio-pci")
    lab.runtime.add(document, pod).required()
    holder = lab.vm.start("bash", "-c", f"exec 3<>/dev/vfio/{vf.iommu_group}; echo open; exec sleep 60")
    holder.wait_for_output("open")
    error = lab.runtime.delete(document, pod).error
    assert error["code"] == 11
    assert f"{vf.address} is still open in a process" in error["msg"]
    holder.kill()
    holder.wait()
    lab.runtime.delete(document, pod).required()
    assert changes(lab) == []


def test_a_vf_that_a_process_has_open_is_neither_given_away_nor_chosen(lab):
    vf, first, second = lab.vfs[4], lab.pod(), lab.pod()
    document = conf(vf, driver="vfio-pci", vlan=7)
    lab.runtime.add(document, first).required()
    holder = lab.vm.start("bash", "-c", f"exec 3<>/dev/vfio/{vf.iommu_group}; echo open; exec sleep 60")
    holder.wait_for_output("open")
    first.delete()
    error = lab.runtime.add(document, second).error
    assert (error["code"], "still open in a process" in error["msg"]) == (11, True)
    assert seen_from_pf(lab, vf)["vlan_list"][0]["vlan"] == 7
    chosen = lab.runtime.add({**by_pf(lab, driver="vfio-pci"), "cniVersion": "1.1.0"}, second).required().result
    assert chosen["interfaces"][0]["pciID"] != vf.address
    holder.kill()
    holder.wait()
    lab.runtime.delete(by_pf(lab), second).required()
    lab.runtime.delete(document, first).required()
    assert changes(lab) == []


@pytest.fixture
def nics(lab):
    """The PCI addresses of two cards without SR-IOV that share an IOMMU group, with their driver."""
    lab.vm.run("modprobe", "e1000")
    devices = lab.vm.sh("ls -d /sys/bus/pci/drivers/e1000/0*").out.split()
    lab.before = host_snapshot(lab.vm)
    return [device.rpartition("/")[2] for device in devices]


def test_an_iommu_group_that_is_not_viable_is_refused_naming_the_member_that_blocks(lab, nics):
    one, other = nics
    pod = lab.pod()
    document = {"cniVersion": "1.0.0", "name": "net", "type": "sriov", "deviceID": one, "driver": "vfio-pci"}
    error = lab.runtime.add(document, pod).error
    assert error["code"] == 102
    assert f"{other} of its IOMMU group is bound to e1000" in error["msg"]
    assert changes(lab) == []
    lab.vm.sh(f"echo {other} >/sys/bus/pci/devices/{other}/driver/unbind")
    lab.runtime.add(document, pod).required()
    assert driver_of(lab, one) == "vfio-pci"
    lab.runtime.delete(document, pod).required()
    lab.vm.sh(f"echo {other} >/sys/bus/pci/drivers_probe")
    wait_for(lambda: driver_of(lab, other) == "e1000", "the driver's return")


# Devices without a PF, as a VF inside a virtual machine.


def plain(address, **settings):
    return {"cniVersion": "1.0.0", "name": "net", "type": "sriov", "deviceID": address, **settings}


def test_a_device_without_a_pf_goes_into_the_pod_with_what_it_can_have_itself(lab, nics):
    pod = lab.pod()
    document = plain(nics[0], mac=MAC, mtu=1400, ipam=HOST_LOCAL)
    result = lab.runtime.add(document, pod).required().result
    link = pod.link("net1")
    assert (link["address"], link["mtu"], link["parentdev"]) == (MAC, 1400, nics[0])
    lab.runtime.check({**document, "prevResult": result}, pod).required()
    lab.runtime.delete(document, pod).required()
    assert changes(lab) == []


def test_what_only_a_pf_could_apply_is_refused_for_a_device_without_one(lab, nics):
    error = lab.runtime.add(plain(nics[0], vlan=5, trust="on"), lab.pod()).error
    assert error["code"] == 7
    assert "vlan, trust: device" in error["msg"]
    assert "has no PF on this host" in error["msg"]
    assert changes(lab) == []


USES = {
    "a global address": ("ip addr add 192.0.2.1/24 dev {0}", "ip addr del 192.0.2.1/24 dev {0}"),
    "a route goes through it": (
        "ip link set {0} up; ip route add 198.51.100.0/24 dev {0}",
        "ip route del 198.51.100.0/24 dev {0}; ip link set {0} down",
    ),
    "child7 is stacked on it": ("ip link add link {0} name child7 type vlan id 7", "ip link del child7"),
    "enslaved to a bridge": (
        "ip link add uses0 type bridge; ip link set {0} master uses0",
        "ip link set {0} nomaster; ip link del uses0",
    ),
}


@pytest.mark.parametrize("use", USES)
def test_a_device_without_a_pf_that_the_host_itself_uses_is_refused(lab, nics, use):
    (name,) = lab.vm.sh(f"ls /sys/bus/pci/devices/{nics[0]}/net").out.split()
    begin, end = (text.format(name) for text in USES[use])
    lab.vm.sh(begin)
    if f"set {name} up" in begin:
        # The link gets an address, and a second or two later the route to it.
        local = f"ip -6 route show table local dev {name}"
        wait_for(lambda: "local fe80:" in lab.vm.sh(local).out, "the route to the link's own address")
    before = host_snapshot(lab.vm)
    error = lab.runtime.add(plain(nics[0]), lab.pod()).error
    assert error["code"] == 100
    assert use in error["msg"]
    assert changes(lab, before) == []
    lab.vm.sh(end)


def test_a_device_that_is_no_network_device_is_refused(lab):
    bridges = lab.vm.sh("grep -l ^0x06 /sys/bus/pci/devices/0*/class").out.split()
    error = lab.runtime.add(plain(bridges[0].split("/")[-2]), lab.pod()).error
    assert error["code"] == 7
    assert "is not a network device" in error["msg"]
    assert changes(lab) == []


# PFs.


@pytest.fixture
def bare_pf(lab):
    """A PF without VFs."""
    pf = lab.pfs[1]
    lab.vm.sh(f"echo 0 >/sys/bus/pci/devices/{pf.address}/sriov_numvfs")
    # That resets the PF, whose carrier is lost for a second.
    wait_for(lambda: lab.vm.get(f"/sys/class/net/{pf.netdev}/carrier") == b"1\n", "the PF's carrier")
    before, lab.before = lab.before, host_snapshot(lab.vm)
    yield pf
    # The machine without these VFs is unsuitable for later tests.
    lab.before = before


def test_a_pf_is_not_taken_for_a_vf_and_not_given_away_with_its_vfs(lab):
    pf, pod = lab.pf, lab.pod()
    error = lab.runtime.add(plain(pf.address), pod).error
    assert (error["code"], error["msg"]) == (7, f"deviceID: {pf.address} is a PF")
    error = lab.runtime.add({**plain(""), "master": pf.netdev, "pfOnly": True}, pod).error
    assert error["code"] == 100
    assert "has 7 VFs" in error["msg"]
    error = lab.runtime.add(plain(lab.vfs[0].address, pfOnly=True), pod).error
    assert (error["code"], error["msg"]) == (7, f"pfOnly: {lab.vfs[0].address} is a VF")
    assert changes(lab) == []


@pytest.mark.pfs(2)
@pytest.mark.leaves_traces("the PF has lost its VFs")
def test_a_pf_without_vfs_goes_into_the_pod_and_comes_back_as_it_was(lab, bare_pf):
    pod = lab.pod()
    document = {**plain(""), "master": bare_pf.netdev, "pfOnly": True, "mac": MAC, "mtu": 1400, "ipam": HOST_LOCAL}
    result = lab.runtime.add(document, pod).required().result
    link = pod.link("net1")
    assert (link["address"], link["mtu"], link["parentdev"]) == (MAC, 1400, bare_pf.address)
    lab.runtime.check({**document, "prevResult": result}, pod).required()
    lab.runtime.delete(document, pod).required()
    # Its link-local address returns with the carrier.
    wait_for(lambda: changes(lab) == [], "the PF's return to what it was")
    by_address = plain(bare_pf.address, pfOnly=True)
    lab.runtime.add(by_address, pod).required()
    pod.delete()
    assert lab.wait_until_home() == ""
    lab.runtime.delete(by_address, pod).required()
    wait_for(lambda: changes(lab) == [], "the PF's return to what it was")


@pytest.mark.pfs(2)
@pytest.mark.leaves_traces("the PF has lost its VFs")
def test_a_pf_that_carries_an_address_of_the_host_is_refused(lab, bare_pf):
    lab.vm.sh(f"ip addr add 192.0.2.1/24 dev {bare_pf.netdev}")
    before = host_snapshot(lab.vm)
    error = lab.runtime.add(plain(bare_pf.address, pfOnly=True), lab.pod()).error
    assert error["code"] == 100
    assert "a global address" in error["msg"]
    assert changes(lab, before) == []


# VFs by their PF.


def by_pf(lab, **settings):
    return {"cniVersion": "1.0.0", "name": "net", "type": "sriov", "master": lab.pf.netdev, **settings}


@pytest.mark.parametrize("number", [0, 5])
def test_a_vf_is_named_by_its_pf_and_number(lab, number):
    pod = lab.pod()
    result = lab.runtime.add(by_pf(lab, vf=number), pod).required().result
    assert pod.link("net1")["parentdev"] == lab.vfs[number].address
    lab.runtime.check({**by_pf(lab, vf=number), "prevResult": result}, pod).required()
    lab.runtime.delete(by_pf(lab, vf=number), pod).required()
    assert changes(lab) == []


def test_a_vf_number_that_the_pf_does_not_have_is_refused(lab):
    error = lab.runtime.add(by_pf(lab, vf=7), lab.pod()).error
    assert error["code"] == 101
    assert "has VFs 0 to 6" in error["msg"]


def test_pods_that_request_any_vf_at_the_same_time_get_one_each_and_the_last_error_names_their_owners(lab):
    pods = [lab.pod() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda pod: lab.runtime.add(by_pf(lab), pod), pods))
    refused = [answer for answer in answers if answer.rc]
    assert [answer.error["code"] for answer in refused] == [100]
    assert "no free VF" in refused[0].error["msg"]
    attached = [pod for pod, answer in zip(pods, answers, strict=True) if not answer.rc]
    assert {pod.link("net1")["parentdev"] for pod in attached} == {vf.address for vf in lab.vfs}
    with ThreadPoolExecutor(8) as pool:
        for answer in pool.map(lambda pod: lab.runtime.delete(by_pf(lab), pod), pods):
            answer.required()
    assert changes(lab) == []


def test_an_automatic_choice_passes_over_a_vf_that_the_host_uses(lab):
    lab.vm.sh(f"ip addr add 192.0.2.1/24 dev {lab.vfs[0].netdev}")
    pod = lab.pod()
    answer = lab.runtime.add({**by_pf(lab), "master": None, "if0": lab.pf.netdev}, pod).required()
    assert "if0: old key" in answer.stderr
    assert pod.link("net1")["parentdev"] == lab.vfs[1].address
    lab.runtime.delete(by_pf(lab), pod).required()
    lab.vm.sh(f"ip addr del 192.0.2.1/24 dev {lab.vfs[0].netdev}")


def test_pods_that_ask_for_any_vf_for_user_space_get_one_each(lab):
    pods = [lab.pod() for _ in range(3)]
    document = by_pf(lab, driver="vfio-pci")
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda pod: lab.runtime.add({**document, "cniVersion": "1.1.0"}, pod), pods))
    devices = {answer.required().result["interfaces"][0]["pciID"] for answer in answers}
    assert len(devices) == 3
    assert all(driver_of(lab, device) == "vfio-pci" for device in devices)
    for pod in pods:
        lab.runtime.delete(document, pod).required()
    assert changes(lab) == []


# What the container learns, and what it receives.


def test_the_device_info_file_reports_the_device_and_ends_with_the_attachment(lab):
    vf, pod = lab.vfs[2], lab.pod()
    lab.vm.put(DEVICE_INFO, "what Multus copied from the device plugin", mode=0o444)
    document = conf(vf, runtimeConfig={"CNIDeviceInfoFile": DEVICE_INFO}, capabilities={"CNIDeviceInfoFile": True})
    result = lab.runtime.add(document, pod).required().result
    assert json.loads(lab.vm.get(DEVICE_INFO)) == {
        "type": "pci",
        "version": "1.1.0",
        "pci": {"pci-address": vf.address, "pf-pci-address": lab.pf.address},
    }
    with_result = {**document, "prevResult": result}
    lab.runtime.check(with_result, pod).required()
    lab.vm.put(DEVICE_INFO, "{}")
    assert f"the device-info file {DEVICE_INFO} was changed" in lab.runtime.check(with_result, pod).error["msg"]
    lab.runtime.delete(document, pod).required()
    assert lab.vm.run("test", "-e", DEVICE_INFO, check=False).rc == 1


@pytest.mark.parametrize("path", ["/etc/cron.d/x", DEVICE_INFO + "/../../../x", "x"])
def test_a_device_info_file_elsewhere_is_refused(lab, path):
    error = lab.runtime.add(conf(lab.vfs[2], runtimeConfig={"CNIDeviceInfoFile": path}), lab.pod()).error
    assert error["code"] == 7
    assert "CNIDeviceInfoFile" in error["msg"]
    assert changes(lab) == []


def test_promisc_and_allmulticast_are_set_for_a_trusted_vf_only(lab):
    vf, pod = lab.vfs[2], lab.pod()
    error = lab.runtime.add(conf(vf, promisc="on", allmulticast="on"), pod).error
    assert error["code"] == 7
    assert "promisc, allmulticast: needs a trusted VF" in error["msg"]
    assert changes(lab) == []
    document = conf(vf, promisc="on", allmulticast="on", trust="on")
    lab.runtime.add(document, pod).required()
    assert {"PROMISC", "ALLMULTI"} <= set(pod.link("net1")["flags"])
    lab.runtime.delete(document, pod).required()
    assert netdev(lab, vf) == vf.netdev
    assert changes(lab) == []
