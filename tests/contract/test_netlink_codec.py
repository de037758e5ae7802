"""Our rtnetlink codec against pyroute2: each reads what the other writes, with the same meaning."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from cni.host import netlink as nl
from cni.host.vf_settings import LINK_STATES, SETTINGS, VLAN_PROTOCOLS, reported

MACS = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
VFS = st.integers(0, 255)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=15)
U32 = st.integers(0, 2**32 - 1)


def read_by_pyroute2(kind: type, message_kind: int, body: bytes):
    decoded = kind(nl.message(message_kind, nl.NLM_F_ACK, 7, body))
    decoded.decode()
    return decoded


def vf_setting(name: str, vf: int, *values: Any):
    decoded = read_by_pyroute2(ifinfmsg, nl.RTM_SETLINK, nl.vf_body(2, SETTINGS[name].encode(vf, *values)))
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
    decoded = vf_setting("mac", vf, mac).get_attr("IFLA_VF_MAC")
    assert decoded["vf"] == vf
    assert decoded["mac"][: len(mac)] == mac


@given(vf=VFS, vlan=st.integers(0, 4094), qos=st.integers(0, 7), proto=st.sampled_from(["802.1q", "802.1ad"]))
def test_pyroute2_reads_our_vf_vlan(vf, vlan, qos, proto):
    entry = vf_setting("vlan", vf, vlan, qos, proto).get_attr("IFLA_VF_VLAN_LIST").get_attr("IFLA_VF_VLAN_INFO")
    assert (entry["vf"], entry["vlan"], entry["qos"]) == (vf, vlan, qos)
    assert entry["proto"] == VLAN_PROTOCOLS[proto]


@given(vf=VFS, low=U32, high=U32)
def test_pyroute2_reads_our_vf_rate(vf, low, high):
    decoded = vf_setting("rate", vf, low, high).get_attr("IFLA_VF_RATE")
    assert (decoded["vf"], decoded["min_tx_rate"], decoded["max_tx_rate"]) == (vf, low, high)


CHOICES = {
    name: tuple(row.fields[0].words.values()) or LINK_STATES
    for name, row in SETTINGS.items()
    if name not in ("vlan", "rate", "mac")
}
"""The values of each setting that the kernel numbers, in the order of these numbers."""


@pytest.mark.parametrize("name", CHOICES)
@given(vf=VFS, data=st.data())
def test_pyroute2_reads_our_vf_choice(name, vf, data):
    value = data.draw(st.sampled_from(CHOICES[name]))
    ((attribute, entry),) = vf_setting(name, vf, value)["attrs"]
    (number,) = [entry[field] for field, _ in entry.fields if field != "vf"]
    # pyroute2 may use another name for the attribute: IFLA_VF_RSS_QUERY_EN is the setting query_rss.
    assert set(attribute.lower().split("_")) >= set(name.split("_"))
    assert (entry["vf"], number) == (vf, CHOICES[name].index(value))


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("number", [0, 1, 0xFFFFFFFF])
def test_we_read_the_vf_choice_that_pyroute2_writes(name, number):
    ((attribute, entry),) = vf_setting(name, 3, CHOICES[name][0])["attrs"]
    (field,) = [field for field, _ in entry.fields if field != "vf"]
    read = read_vf({attribute: {"vf": 3, field: number}})
    assert getattr(read, name) == (CHOICES[name][number] if number < len(CHOICES[name]) else None)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_the_driver_does_not_report_is_none(name):
    known = {"vlan": 0, "qos": 0, "proto": "802.1q", "mac": "02:00:00:00:00:01"}  # the kernel always reports these
    for field in SETTINGS[name].fields:
        assert getattr(read_vf({}), field.name) == known.get(field.name)


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


def read_vf(attributes: dict[str, Any]):
    """The VF as we read it; pyroute2 writes the given attributes, and those that the kernel always sends."""
    always = {
        "IFLA_VF_MAC": {"vf": 3, "mac": "02:00:00:00:00:01"},
        "IFLA_VF_VLAN": {"vf": 3, "vlan": 0, "qos": 0},
    }
    info = {"attrs": list({**always, **attributes}.items())}
    vfs = ("IFLA_VFINFO_LIST", {"attrs": [("IFLA_VF_INFO", info)]})
    (read,) = reported(nl.link(written_by_pyroute2(ifinfmsg, {"index": 2, "flags": 1}, [("IFLA_IFNAME", "eth0"), vfs])))
    return read


@given(vf=VFS, mac=MACS, vlan=st.integers(0, 4094), qos=st.integers(0, 7), rate=U32)
def test_we_read_the_vf_that_pyroute2_writes(vf, mac, vlan, qos, rate):
    tag = {"vf": vf, "vlan": vlan, "qos": qos}
    read = read_vf(
        {
            "IFLA_VF_MAC": {"vf": vf, "mac": mac},
            "IFLA_VF_VLAN": tag,
            "IFLA_VF_VLAN_LIST": {"attrs": [("IFLA_VF_VLAN_INFO", {**tag, "proto": 0x88A8})]},
            "IFLA_VF_RATE": {"vf": vf, "min_tx_rate": 1, "max_tx_rate": rate},
        }
    )
    assert (read.index, read.mac, read.vlan, read.qos, read.proto) == (vf, mac, vlan, qos, "802.1ad")
    assert (read.min_tx_rate, read.max_tx_rate) == (1, rate)


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
