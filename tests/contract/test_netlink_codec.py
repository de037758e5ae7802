"""Our rtnetlink codec against pyroute2: what each writes, the other reads with the same meaning."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given, strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from cni.host import netlink as nl

MACS = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
VFS = st.integers(0, 255)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=15)
U32 = st.integers(0, 2**32 - 1)


def read_by_pyroute2(kind: type, message_kind: int, body: bytes):
    decoded = kind(nl.message(message_kind, nl.NLM_F_ACK, 7, body))
    decoded.decode()
    return decoded


def vf_setting(body: bytes):
    decoded = read_by_pyroute2(ifinfmsg, nl.RTM_SETLINK, body)
    return decoded.get_attr("IFLA_VFINFO_LIST").get_attr("IFLA_VF_INFO")


@given(
    index=st.integers(1, 2**31 - 1),
    name=NAMES,
    mac=MACS,
    mtu=U32,
    alias=st.text("abc /:", max_size=255),
    up=st.booleans(),
    fd=U32,
)
def test_pyroute2_reads_our_link_change(index, name, mac, mtu, alias, up, fd):
    attrs = (
        nl.u32(nl.IFLA_NET_NS_FD, fd),
        nl.text(nl.IFLA_IFNAME, name),
        nl.u32(nl.IFLA_MTU, mtu),
        nl.attribute(nl.IFLA_ADDRESS, nl.packed_mac(mac)),
        nl.attribute(nl.IFLA_IFALIAS, alias.encode()),
    )
    decoded = read_by_pyroute2(
        ifinfmsg, nl.RTM_SETLINK, nl.link_body(index, *attrs, flags=nl.IFF_UP if up else 0, change=nl.IFF_UP)
    )
    assert decoded["index"] == index
    assert (decoded["flags"], decoded["change"]) == (int(up), 1)
    assert decoded.get_attr("IFLA_NET_NS_FD") == fd
    assert decoded.get_attr("IFLA_IFNAME") == name
    assert decoded.get_attr("IFLA_MTU") == mtu
    assert decoded.get_attr("IFLA_ADDRESS") == mac


def test_a_link_change_without_up_leaves_the_flags_alone():
    decoded = read_by_pyroute2(ifinfmsg, nl.RTM_SETLINK, nl.link_body(3))
    assert (decoded["flags"], decoded["change"]) == (0, 0)


@given(vf=VFS, mac=MACS)
def test_pyroute2_reads_our_vf_mac(vf, mac):
    decoded = vf_setting(nl.vf_body(2, nl.vf_mac(vf, mac))).get_attr("IFLA_VF_MAC")
    assert decoded["vf"] == vf
    assert decoded["mac"][: len(mac)] == mac


@given(vf=VFS, vlan=st.integers(0, 4094), qos=st.integers(0, 7), proto=st.sampled_from(["802.1q", "802.1ad"]))
def test_pyroute2_reads_our_vf_vlan(vf, vlan, qos, proto):
    decoded = vf_setting(nl.vf_body(2, nl.vf_vlan(vf, vlan, qos, proto)))
    entry = decoded.get_attr("IFLA_VF_VLAN_LIST").get_attr("IFLA_VF_VLAN_INFO")
    assert (entry["vf"], entry["vlan"], entry["qos"]) == (vf, vlan, qos)
    assert entry["proto"] == nl.VLAN_PROTOCOLS[proto]


@given(vf=VFS, low=U32, high=U32)
def test_pyroute2_reads_our_vf_rate(vf, low, high):
    decoded = vf_setting(nl.vf_body(2, nl.vf_rate(vf, low, high))).get_attr("IFLA_VF_RATE")
    assert (decoded["vf"], decoded["min_tx_rate"], decoded["max_tx_rate"]) == (vf, low, high)


@given(vf=VFS, enabled=st.booleans(), state=st.sampled_from(nl.LINK_STATES))
def test_pyroute2_reads_our_vf_switches(vf, enabled, state):
    spoofchk = vf_setting(nl.vf_body(2, nl.vf_spoofchk(vf, enabled))).get_attr("IFLA_VF_SPOOFCHK")
    assert (spoofchk["vf"], spoofchk["spoofchk"]) == (vf, enabled)
    trust = vf_setting(nl.vf_body(2, nl.vf_trust(vf, enabled))).get_attr("IFLA_VF_TRUST")
    assert (trust["vf"], trust["trust"]) == (vf, enabled)
    link_state = vf_setting(nl.vf_body(2, nl.vf_link_state(vf, state))).get_attr("IFLA_VF_LINK_STATE")
    assert (link_state["vf"], link_state["link_state"]) == (vf, nl.LINK_STATES.index(state))


def test_pyroute2_reads_our_altnames():
    properties = nl.nested(nl.IFLA_PROP_LIST, nl.text(nl.IFLA_ALT_IFNAME, "enp1s0f0v3"))
    decoded = read_by_pyroute2(ifinfmsg, nl.RTM_NEWLINKPROP, nl.link_body(4, properties))
    assert decoded.get_attr("IFLA_PROP_LIST").get_attr("IFLA_ALT_IFNAME") == "enp1s0f0v3"


@given(packed=st.binary(min_size=4, max_size=4), prefix=st.integers(0, 32))
def test_pyroute2_reads_our_ipv4_address(packed, prefix):
    body = nl.address_body(5, 2, packed, prefix, b"\xff" * 4)
    decoded = read_by_pyroute2(ifaddrmsg, nl.RTM_NEWADDR, body)
    dotted = ".".join(map(str, packed))
    assert (decoded["family"], decoded["prefixlen"], decoded["index"]) == (2, prefix, 5)
    assert decoded.get_attr("IFA_LOCAL") == decoded.get_attr("IFA_ADDRESS") == dotted
    assert decoded.get_attr("IFA_BROADCAST") == "255.255.255.255"


@given(table=st.one_of(st.none(), U32), priority=U32, mtu=st.integers(0, 65535), gateway=st.booleans())
def test_pyroute2_reads_our_route(table, priority, mtu, gateway):
    body = nl.route_body(
        index=6,
        family=2,
        destination=bytes([10, 1, 0, 0]),
        prefix=16,
        gateway=bytes([10, 0, 0, 1]) if gateway else b"",
        table=table,
        priority=priority,
        mtu=mtu,
    )
    decoded = read_by_pyroute2(rtmsg, nl.RTM_NEWROUTE, body)
    assert (decoded["family"], decoded["dst_len"], decoded["type"], decoded["proto"]) == (2, 16, 1, 3)
    assert decoded.get_attr("RTA_DST") == "10.1.0.0"
    assert decoded.get_attr("RTA_OIF") == 6
    assert decoded.get_attr("RTA_GATEWAY") == ("10.0.0.1" if gateway else None)
    assert decoded.get_attr("RTA_TABLE") == (254 if table is None else table)
    assert decoded["scope"] == (0 if gateway else 253)
    assert decoded.get_attr("RTA_PRIORITY") == (priority or None)
    metrics = decoded.get_attr("RTA_METRICS")
    assert (metrics.get_attr("RTAX_MTU") if metrics else None) == (mtu or None)


def written_by_pyroute2(kind: type, fields: dict[str, Any], attrs: list[Any]) -> bytes:
    encoded = kind()
    for name, value in fields.items():
        encoded[name] = value
    encoded["attrs"] = attrs
    encoded.encode()
    return bytes(encoded.data)[16:]


@given(name=NAMES, mac=MACS, mtu=U32, up=st.booleans(), altnames=st.lists(NAMES, max_size=3))
def test_we_read_the_link_that_pyroute2_writes(name, mac, mtu, up, altnames):
    properties = {"attrs": [("IFLA_ALT_IFNAME", other) for other in altnames]}
    body = written_by_pyroute2(
        ifinfmsg,
        {"index": 9, "flags": int(up)},
        [
            ("IFLA_IFNAME", name),
            ("IFLA_ADDRESS", mac),
            ("IFLA_MTU", mtu),
            ("IFLA_IFALIAS", "an alias"),
            ("IFLA_PROP_LIST", properties),
            ("IFLA_PARENT_DEV_NAME", "0000:01:10.0"),
            ("IFLA_PARENT_DEV_BUS_NAME", "pci"),
        ],
    )
    link = nl.link(body)
    assert (link.index, link.name, link.mac, link.mtu, link.up) == (9, name, mac, mtu, up)
    assert link.altnames == tuple(altnames)
    assert (link.alias, link.parent) == ("an alias", "0000:01:10.0")


def test_a_parent_on_another_bus_is_no_pci_address():
    body = written_by_pyroute2(
        ifinfmsg,
        {"index": 9, "flags": 0},
        [("IFLA_IFNAME", "eth0"), ("IFLA_PARENT_DEV_NAME", "virtio3"), ("IFLA_PARENT_DEV_BUS_NAME", "virtio")],
    )
    assert nl.link(body).parent == ""


@given(
    vf=VFS,
    mac=MACS,
    vlan=st.integers(0, 4094),
    qos=st.integers(0, 7),
    spoofchk=st.sampled_from([0, 1, 0xFFFFFFFF]),
    rate=U32,
)
def test_we_read_the_vf_that_pyroute2_writes(vf, mac, vlan, qos, spoofchk, rate):
    info = {
        "attrs": [
            ("IFLA_VF_MAC", {"vf": vf, "mac": mac}),
            ("IFLA_VF_VLAN", {"vf": vf, "vlan": vlan, "qos": qos}),
            (
                "IFLA_VF_VLAN_LIST",
                {"attrs": [("IFLA_VF_VLAN_INFO", {"vf": vf, "vlan": vlan, "qos": qos, "proto": 0x88A8})]},
            ),
            ("IFLA_VF_SPOOFCHK", {"vf": vf, "spoofchk": spoofchk}),
            ("IFLA_VF_TRUST", {"vf": vf, "trust": 1}),
            ("IFLA_VF_LINK_STATE", {"vf": vf, "link_state": 2}),
            ("IFLA_VF_RATE", {"vf": vf, "min_tx_rate": 1, "max_tx_rate": rate}),
        ]
    }
    body = written_by_pyroute2(
        ifinfmsg,
        {"index": 2, "flags": 1},
        [("IFLA_IFNAME", "eth0"), ("IFLA_VFINFO_LIST", {"attrs": [("IFLA_VF_INFO", info)]})],
    )
    (read,) = nl.link(body).vfs
    assert (read.index, read.mac, read.vlan, read.qos, read.proto) == (vf, mac, vlan, qos, "802.1ad")
    assert read.spoofchk is {0: False, 1: True, 0xFFFFFFFF: None}[spoofchk]
    assert (read.trust, read.link_state, read.min_tx_rate, read.max_tx_rate) == (True, "disable", 1, rate)


def test_a_refusal_gives_errno_and_the_kernels_words():
    request = nl.message(nl.RTM_SETLINK, nl.NLM_F_ACK, 3, nl.link_body(1))
    words = nl.attribute(nl.NLMSGERR_ATTR_MSG, b"VF index out of range\0")
    capped = struct.pack("=i", -22) + request[:16] + words
    assert nl.failure(capped, nl.NLM_F_CAPPED | nl.NLM_F_ACK_TLVS) == (22, "VF index out of range")
    whole = struct.pack("=i", -22) + request + words
    assert nl.failure(whole, nl.NLM_F_ACK_TLVS) == (22, "VF index out of range")
    assert nl.failure(struct.pack("=i", 0) + request, 0) == (0, "")


@given(st.binary(max_size=200))
def test_garbage_never_breaks_the_decoder(garbage):
    assert all(isinstance(payload, bytes) for _, payload in nl.attributes(garbage))
    try:
        nl.link(garbage)
    except ValueError:
        return
