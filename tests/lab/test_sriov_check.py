"""CHECK of the `sriov` plugin: each part of an ADD is changed alone, and CHECK reports it and nothing else."""

from __future__ import annotations

from tests.lab.attaching import conf

MAC, OTHER_MAC = "02:00:00:00:50:01", "02:00:00:00:50:02"
DEVICE_INFO = "/run/k8s.cni.cncf.io/devinfo/cni/net-check_net1"
SETTINGS = {
    "vlan": 100,
    "vlanQoS": 3,
    "trust": "on",
    "spoofchk": "off",
    "max_tx_rate": 500,
    "mac": MAC,
    "mtu": 1400,
    "promisc": "on",
    "allmulticast": "on",
    "capabilities": {"CNIDeviceInfoFile": True},
    "runtimeConfig": {"CNIDeviceInfoFile": DEVICE_INFO},
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.56.50.0/24"}], [{"subnet": "fd00:50::/64"}]],
        "routes": [{"dst": "198.51.100.0/24", "gw": "10.56.50.1"}, {"dst": "2001:db8::/32", "gw": "fd00:50::1"}],
    },
}

# The changes: by whom, how, how to revert it, and CHECK's message. {pf} and {vf} are name and number.
DRIFTS = (
    ("host", "ip link set {pf} vf {vf} vlan 101 qos 3", "vlan 100 qos 3", ["vlan is 101, not 100"]),
    ("host", "ip link set {pf} vf {vf} vlan 100 qos 5", "vlan 100 qos 3", ["vlanQoS is 5, not 3"]),
    ("host", "ip link set {pf} vf {vf} spoofchk on", "spoofchk off", ["spoofchk is on, not off"]),
    ("host", "ip link set {pf} vf {vf} trust off", "trust on", ["trust is off, not on"]),
    ("host", "ip link set {pf} vf {vf} max_tx_rate 200", "max_tx_rate 500", ["max_tx_rate is 200, not 500"]),
    (
        "host",
        f"ip link set {{pf}} vf {{vf}} mac {OTHER_MAC}",
        f"mac {MAC}",
        [f"the MAC address at the PF is {OTHER_MAC}, not {MAC}"],
    ),
    (
        "pod",
        f"ip link set net1 address {OTHER_MAC}",
        f"ip link set net1 address {MAC}",
        # igb's PF adopts the VF's own address.
        [f"the MAC address at the PF is {OTHER_MAC}, not {MAC}", f"mac is {OTHER_MAC}, not {MAC}"],
    ),
    ("pod", "ip link set net1 promisc off", "ip link set net1 promisc on", ["promisc is off, not on"]),
    ("pod", "ip link set net1 allmulticast off", "ip link set net1 allmulticast on", ["allmulticast is off, not on"]),
    (
        "pod",
        "ip link set net1 name other0",
        "ip link set other0 name net1",
        ["the interface is named other0, not net1"],
    ),
    (
        "pod",
        "ip addr del 10.56.50.2/24 dev net1",
        "ip addr add 10.56.50.2/24 dev net1; ip route add 198.51.100.0/24 via 10.56.50.1",
        # The kernel removes a route together with the address from which its gateway is reached.
        ["address 10.56.50.2/24 is missing", "route 198.51.100.0/24 via 10.56.50.1 is missing"],
    ),
    (
        "pod",
        "ip route del 198.51.100.0/24",
        "ip route add 198.51.100.0/24 via 10.56.50.1",
        ["route 198.51.100.0/24 via 10.56.50.1 is missing"],
    ),
    (
        "pod",
        "ip -6 route del 2001:db8::/32",
        "ip -6 route add 2001:db8::/32 via fd00:50::1",
        ["route 2001:db8::/32 via fd00:50::1 is missing"],
    ),
    ("host", f"mv {DEVICE_INFO} /run/away", "", [f"the device-info file {DEVICE_INFO} is missing"]),
    ("pod", "ip link set net1 down", "", ["net1 is down"]),
)


def test_each_attribute_that_drifts_is_named_and_nothing_else(lab):
    vf, pod = lab.vfs[0], lab.pod()
    document = conf(vf, **SETTINGS)
    document["prevResult"] = lab.runtime.add(document, pod).required().result
    for where, change, back, wanted in DRIFTS:
        lab.runtime.check(document, pod).required()
        at_pf = f"ip link set {lab.pf.netdev} vf {vf.index} "
        run(lab, pod, where, change.format(pf=lab.pf.netdev, vf=vf.index))
        error = lab.runtime.check(document, pod).error
        assert error is not None, change
        assert (error["code"], error["msg"].split("; ")) == (107, wanted), change
        if "mv " in change:
            lab.vm.sh(f"mv /run/away {DEVICE_INFO}")
        elif back:
            run(lab, pod, where, back if where == "pod" else at_pf + back)
    lab.runtime.delete(document, pod).required()


def run(lab, pod, where, script):
    if where == "pod":
        pod.run("bash", "-c", script)
    else:
        lab.vm.sh(script)


def test_a_driver_that_was_taken_away_is_named(lab):
    vf, pod = lab.vfs[0], lab.pod()
    document = conf(vf, driver="vfio-pci")
    document["prevResult"] = lab.runtime.add(document, pod).required().result
    lab.runtime.check(document, pod).required()
    lab.vm.sh(f"echo {vf.address} >/sys/bus/pci/drivers/vfio-pci/unbind")
    error = lab.runtime.check(document, pod).error
    assert (error["code"], error["msg"]) == (107, "the driver is none, not vfio-pci")
    lab.runtime.delete(document, pod).required()


def test_a_vf_in_another_namespace_than_it_was_put_into_is_named(lab):
    vf, pod, other = lab.vfs[0], lab.pod(), lab.pod()
    document = conf(vf)
    document["prevResult"] = lab.runtime.add(document, pod).required().result
    error = lab.runtime.check(document, pod, netns=other.netns).error
    assert error["msg"] == f"{other.netns} is not the network namespace that the device was put into"
    pod.ip("link", "set", "net1", "netns", other.name)
    error = lab.runtime.check(document, pod).error
    assert error["msg"] == f"VF {vf.address} is not in the pod"
    other.ip("link", "set", "net1", "netns", pod.name)
    lab.runtime.delete(document, pod).required()


def test_an_ipam_plugins_check_is_called_too(lab):
    vf, pod = lab.vfs[0], lab.pod()
    document = conf(vf, ipam={"type": "host-local", "ranges": [[{"subnet": "10.56.51.0/24"}]]})
    document["prevResult"] = lab.runtime.add(document, pod).required().result
    lab.runtime.check(document, pod).required()
    lab.vm.sh("mv /var/lib/cni/networks/net/10.56.51.2 /run/lease")
    assert lab.runtime.check(document, pod).rc == 1
    lab.vm.sh("mv /run/lease /var/lib/cni/networks/net/10.56.51.2")
    lab.runtime.delete(document, pod).required()
