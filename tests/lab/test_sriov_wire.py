"""The frames that a pod on a VF sends and receives, seen from the far end of the PF's cable and from other pods."""

from __future__ import annotations

import json

import pytest

from tests.lab.attaching import changes, conf
from tests.lab.wire import ETHERTYPE_ARP, ETHERTYPE_IPV6

MAC = "02:00:00:00:0a:03"
ICMPV6, NEIGHBOUR_ADVERTISEMENT = 58, 136
OVERRIDE = 0x20


def static(*addresses, **more):
    return {"type": "static", "addresses": [{"address": address} for address in addresses], **more}


def host_local(subnet):
    return {"type": "host-local", "ranges": [[{"subnet": subnet}]]}


def test_a_pods_frames_carry_the_vlan_tag_and_priority_on_the_wire(lab):
    vf, pod, wire = lab.vfs[0], lab.pod(), lab.wire()
    lab.runtime.add(conf(vf, vlan=100, vlanQoS=5, mac=MAC, ipam=static("10.56.3.2/24")), pod).required()
    frame = wire.wait_for(lambda frame: frame.source == MAC and frame.ethertype == ETHERTYPE_ARP)
    assert (frame.vlan, frame.qos) == (100, 5)
    lab.runtime.delete(conf(vf), pod).required()


def test_without_a_vlan_there_is_no_tag(lab):
    vf, pod, wire = lab.vfs[0], lab.pod(), lab.wire()
    lab.runtime.add(conf(vf, mac=MAC, ipam=static("10.56.3.3/24")), pod).required()
    assert wire.wait_for(lambda frame: frame.source == MAC and frame.ethertype == ETHERTYPE_ARP).tag is None
    lab.runtime.delete(conf(vf), pod).required()


def test_the_addresses_are_announced_to_the_neighbours(lab):
    vf, pod, wire = lab.vfs[0], lab.pod(), lab.wire()
    lab.runtime.add(conf(vf, mac=MAC, ipam=static("10.56.3.4/24", "fd56:3::4/64")), pod).required()

    def gratuitous_arp(frame):
        sender, target = frame.payload[14:18], frame.payload[24:28]
        return frame.source == MAC and frame.ethertype == ETHERTYPE_ARP and sender == target == bytes([10, 56, 3, 4])

    def unsolicited_na(frame):
        if (frame.source, frame.ethertype) != (MAC, ETHERTYPE_IPV6) or frame.payload[6] != ICMPV6:
            return False
        icmp = frame.payload[40:]
        return icmp[0] == NEIGHBOUR_ADVERTISEMENT and icmp[8:24].hex() == "fd560003000000000000000000000004"

    assert wire.wait_for(gratuitous_arp).destination == "ff:ff:ff:ff:ff:ff"
    advertisement = wire.wait_for(unsolicited_na)
    assert advertisement.destination == "33:33:00:00:00:01"
    assert advertisement.payload[44] & OVERRIDE
    lab.runtime.delete(conf(vf), pod).required()


def test_pods_of_one_vlan_reach_each_other_and_those_of_another_do_not(lab):
    settings = [(100, "10.56.4.0/24"), (100, "10.56.4.0/24"), (200, "10.56.4.0/24")]
    pods = [lab.pod() for _ in settings]
    confs = [
        conf(vf, vlan=vlan, ipam=host_local(subnet)) for vf, (vlan, subnet) in zip(lab.vfs, settings, strict=False)
    ]
    results = [lab.runtime.add(one, pod).required().result for one, pod in zip(confs, pods, strict=True)]
    addresses = [result["ips"][0]["address"].partition("/")[0] for result in results]
    assert pods[0].pings(addresses[1]) == 3
    assert pods[0].pings(addresses[2]) == 0
    for one, pod in zip(confs, pods, strict=True):
        lab.runtime.delete(one, pod).required()


def test_an_ipv6_address_is_usable_as_soon_as_add_returns(lab):
    vf, pod = lab.vfs[0], lab.pod()
    lab.runtime.add(conf(vf, ipam=static("fd56:5::2/64", "10.56.5.2/24")), pod).required()
    (link,) = json.loads(pod.ip("-j", "addr", "show", "net1").out)
    (address,) = [one for one in link["addr_info"] if one["local"] == "fd56:5::2"]
    assert "tentative" not in address
    assert "dadfailed" not in address
    lab.runtime.delete(conf(vf), pod).required()


def test_an_ipv6_address_that_another_host_has_is_refused_and_rolled_back(lab):
    one, other, first, second = lab.vfs[0], lab.vfs[1], lab.pod(), lab.pod()
    taken = static("fd56:6::2/64")
    lab.runtime.add(conf(one, ipam=taken), first).required()
    outcome = lab.runtime.add(conf(other, ipam=taken), second)
    assert outcome.error["code"] == 108
    assert "fd56:6::2" in outcome.error["msg"]
    assert second.interfaces() == []
    lab.runtime.delete(conf(other, ipam=taken), second).required()
    lab.runtime.delete(conf(one, ipam=taken), first).required()


def test_routes_and_gateways_of_the_ipam_plugin_are_configured(lab):
    vf, pod = lab.vfs[0], lab.pod()
    ipam = {
        "type": "static",
        "addresses": [
            {"address": "10.56.7.2/24", "gateway": "10.56.7.1"},
            {"address": "fd56:7::2/64", "gateway": "fd56:7::1"},
        ],
        "routes": [
            {"dst": "192.0.2.0/24"},
            {"dst": "198.51.100.0/24", "gw": "10.56.7.9"},
            {"dst": "0.0.0.0/0"},
            {"dst": "2001:db8::/32"},
        ],
    }
    outcome = lab.runtime.add(conf(vf, ipam=ipam), pod).required()
    assert len(outcome.result["routes"]) == 4
    routes = {route["dst"]: route.get("gateway") for route in json.loads(pod.ip("-j", "route").out)}
    assert routes["192.0.2.0/24"] == "10.56.7.1"
    assert routes["198.51.100.0/24"] == "10.56.7.9"
    assert routes["default"] == "10.56.7.1"
    (six,) = [route for route in json.loads(pod.ip("-6", "-j", "route").out) if route["dst"] == "2001:db8::/32"]
    assert six["gateway"] == "fd56:7::1"
    lab.runtime.delete(conf(vf, ipam=ipam), pod).required()


def test_a_route_that_the_kernel_refuses_is_named_and_everything_rolled_back(lab):
    vf, pod = lab.vfs[0], lab.pod()
    ipam = static("10.56.8.2/24", routes=[{"dst": "192.0.2.0/24", "gw": "203.0.113.1"}])
    outcome = lab.runtime.add(conf(vf, vlan=9, ipam=ipam), pod)
    assert outcome.error["code"] == 105
    assert "192.0.2.0/24" in outcome.error["msg"]
    assert changes(lab) == []


@pytest.mark.parametrize("version", ["0.3.1", "1.0.0"])
def test_the_neighbours_learn_a_moved_address_at_once(lab, version):
    """The purpose of the announcement: a pod that returns on another VF is reachable without a neighbour time-out."""
    one, other, peer_vf = lab.vfs[0], lab.vfs[1], lab.vfs[2]
    first, second, peer = lab.pod(), lab.pod(), lab.pod()
    moved = {**conf(one, ipam=static("10.56.10.2/24")), "cniVersion": version}
    lab.runtime.add(conf(peer_vf, ipam=static("10.56.10.9/24")), peer).required()
    lab.runtime.add(moved, first).required()
    assert peer.pings("10.56.10.2") == 3
    lab.runtime.delete(moved, first).required()
    lab.runtime.add({**moved, "deviceID": other.address}, second).required()
    assert peer.pings("10.56.10.2") == 3
    lab.runtime.delete(moved, second).required()
    lab.runtime.delete(conf(peer_vf), peer).required()
