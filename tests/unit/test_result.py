"""Results in every version of the specification: read from each, written to each."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from cni import jsontext
from cni.errors import InvalidConfig
from cni.protocol.request import VERSIONS
from cni.protocol.result import Dns, Interface, IpConfig, Result, Route, decode, encode

OLD = ("0.1.0", "0.2.0")
MIDDLE = ("0.3.0", "0.3.1", "0.4.0")
NEW = ("1.0.0", "1.1.0")
PAIRS = list(itertools.product(VERSIONS, VERSIONS))

FULL = Result(
    interfaces=(
        Interface(name="ens1f0", mac="02:00:00:00:00:01"),
        Interface(
            name="net1",
            mac="02:00:00:00:00:02",
            mtu=9000,
            sandbox="/run/netns/c1",
            socket_path="/s",
            pci_id="0000:01:10.0",
        ),
    ),
    ips=(
        IpConfig(address="10.0.0.2/24", gateway="10.0.0.254", interface=1),
        IpConfig(address="fd00::2/64", gateway="fd00::1", interface=0),
        IpConfig(address="10.1.0.2/24"),
    ),
    routes=(
        Route(dst="0.0.0.0/0", gw="10.0.0.254", mtu=1400, advmss=1360, priority=0, table=100, scope=0),
        Route(dst="fd01::/64"),
        Route(dst="10.9.0.0/16", gw="10.0.0.253"),
    ),
    dns=Dns(nameservers=("10.0.0.53",), domain="example.net", search=("a", "b"), options=("ndots:5",)),
)
INTERFACES = [
    {"name": "ens1f0", "mac": "02:00:00:00:00:01"},
    {
        "name": "net1",
        "mac": "02:00:00:00:00:02",
        "mtu": 9000,
        "sandbox": "/run/netns/c1",
        "socketPath": "/s",
        "pciID": "0000:01:10.0",
    },
]
IPS: list[dict[str, Any]] = [
    {"interface": 1, "address": "10.0.0.2/24", "gateway": "10.0.0.254"},
    {"interface": 0, "address": "fd00::2/64", "gateway": "fd00::1"},
    {"address": "10.1.0.2/24"},
]
ROUTES = [
    {"dst": "0.0.0.0/0", "gw": "10.0.0.254", "mtu": 1400, "advmss": 1360, "priority": 0, "table": 100, "scope": 0},
    {"dst": "fd01::/64"},
    {"dst": "10.9.0.0/16", "gw": "10.0.0.253"},
]
DNS = {"nameservers": ["10.0.0.53"], "domain": "example.net", "search": ["a", "b"], "options": ["ndots:5"]}


def document(version):
    """FULL in the form of that version."""
    if version in OLD:
        return {
            "cniVersion": version,
            "ip4": {
                "ip": "10.0.0.2/24",
                "gateway": "10.0.0.254",
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.254"}, {"dst": "10.9.0.0/16", "gw": "10.0.0.253"}],
            },
            "ip6": {"ip": "fd00::2/64", "gateway": "fd00::1", "routes": [{"dst": "fd01::/64"}]},
            "dns": DNS,
        }
    families = ("4", "6", "4") if version in MIDDLE else (None, None, None)
    ips = [{"version": family, **ip} if family else ip for family, ip in zip(families, IPS, strict=True)]
    return {"cniVersion": version, "interfaces": INTERFACES, "ips": ips, "routes": ROUTES, "dns": DNS}


# FULL in 0.1.0 and 0.2.0: one address of each family, v4 first, plain routes, no interfaces.
LEGACY = Result(
    ips=(IpConfig(address="10.0.0.2/24", gateway="10.0.0.254"), IpConfig(address="fd00::2/64", gateway="fd00::1")),
    routes=(
        Route(dst="0.0.0.0/0", gw="10.0.0.254"),
        Route(dst="10.9.0.0/16", gw="10.0.0.253"),
        Route(dst="fd01::/64"),
    ),
    dns=FULL.dns,
)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_writes_its_own_form(version):
    assert encode(FULL, version) == document(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_versions_form_is_read(version):
    assert decode(document(version), "0.1.0") == (LEGACY if version in OLD else FULL)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_result_of_any_version_is_converted_to_any_other(source, target):
    converted = encode(decode(document(source), "0.1.0"), target)
    assert converted == (encode(LEGACY, target) if source in OLD else document(target))
    assert converted["cniVersion"] == target


@pytest.mark.parametrize("version", NEW)
def test_a_legacy_result_becomes_ips_in_the_order_v4_v6(version):
    text = {"ip6": {"ip": "fd00::2/64"}, "ip4": {"ip": "10.0.0.2/24"}}
    assert encode(decode(text, "0.2.0"), version)["ips"] == [{"address": "10.0.0.2/24"}, {"address": "fd00::2/64"}]


@pytest.mark.parametrize("version", OLD)
def test_legacy_routes_of_a_family_without_address_are_left_out(version):
    only6 = Result(
        ips=(IpConfig(address="fd00::2/64"),), routes=(Route(dst="0.0.0.0/0"), Route(dst="::/0", gw="fd00::1"))
    )
    assert encode(only6, version) == {
        "cniVersion": version,
        "ip6": {"ip": "fd00::2/64", "routes": [{"dst": "::/0", "gw": "fd00::1"}]},
        "dns": {},
    }


@pytest.mark.parametrize("version", OLD)
@pytest.mark.parametrize("empty", [Result(), Result(interfaces=FULL.interfaces, routes=FULL.routes, dns=FULL.dns)])
def test_legacy_versions_cannot_express_a_result_without_addresses(version, empty):
    with pytest.raises(InvalidConfig) as caught:
        encode(empty, version)
    assert caught.value.msg == f"cniVersion {version} cannot express an attachment without addresses"
    assert "0.3.0" in caught.value.hint


@pytest.mark.parametrize("version", OLD + MIDDLE)
def test_versions_before_1_always_have_dns(version):
    result = Result(ips=(IpConfig(address="10.0.0.2/24"),))
    assert encode(result, version)["dns"] == {}


@pytest.mark.parametrize("version", NEW)
def test_versions_from_1_omit_what_is_empty(version):
    assert encode(Result(), version) == {"cniVersion": version}


@pytest.mark.parametrize("version", MIDDLE + NEW)
def test_interface_index_0_is_written_and_a_missing_one_is_not(version):
    result = Result(ips=(IpConfig(address="10.0.0.2/24", interface=0), IpConfig(address="10.0.0.3/24")))
    first, second = encode(result, version)["ips"]
    assert first["interface"] == 0
    assert "interface" not in second
    assert decode(encode(result, version), version) == result


@pytest.mark.parametrize("version", MIDDLE + NEW)
def test_route_details_of_0_are_written(version):
    route = Route(dst="10.0.0.0/8", priority=0, scope=0, table=0, advmss=0)
    assert encode(Result(routes=(route,)), version)["routes"] == [
        {"dst": "10.0.0.0/8", "advmss": 0, "priority": 0, "table": 0, "scope": 0}
    ]


def test_a_documents_own_version_beats_the_default():
    assert decode({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.2/24"}}, "1.1.0").ips
    assert not decode({"cniVersion": "1.0.0", "ip4": {"ip": "10.0.0.2/24"}}, "0.2.0").ips


@pytest.mark.parametrize("absent", [{}, {"cniVersion": None}, {"cniVersion": ""}])
def test_without_a_version_the_default_counts(absent):
    assert decode({**absent, "ip4": {"ip": "10.0.0.2/24"}}, "0.1.0").ips == (IpConfig(address="10.0.0.2/24"),)


@pytest.mark.parametrize("version", VERSIONS)
def test_null_and_empty_parts_are_absent(version):
    nothing = dict.fromkeys(("interfaces", "ips", "routes", "dns", "ip4", "ip6"))
    assert decode(nothing, version) == Result()
    assert decode({key: {} if key in ("dns", "ip4", "ip6") else [] for key in nothing}, version) == Result()


def test_null_fields_are_absent():
    fields = {"interface": None, "address": "10.0.0.2/24", "gateway": None, "version": None}
    assert decode({"ips": [fields]}, "0.4.0").ips == (IpConfig(address="10.0.0.2/24"),)


def test_unknown_keys_are_ignored():
    text = {"x": 1, "interfaces": [{"name": "a", "y": 2}], "dns": {"z": 3}}
    assert decode(text, "1.1.0") == Result(interfaces=(Interface(name="a"),))


MALFORMED = {
    OLD: [
        {"ip4": 5},
        {"ip4": "10.0.0.2/24"},
        {"ip4": ["10.0.0.2/24"]},
        {"ip4": {"gateway": "10.0.0.1"}},
        {"ip4": {"ip": None}},
        {"ip4": {"ip": ""}},
        {"ip4": {"ip": "10.0.0.2/24", "routes": [{"dst": ""}]}},
        {"ip6": {"ip": 5}},
        {"ip4": {"ip": "10.0.0.2/24", "gateway": 5}},
        {"ip4": {"ip": "10.0.0.2/24", "routes": 5}},
        {"ip4": {"ip": "10.0.0.2/24", "routes": {"dst": "0.0.0.0/0"}}},
        {"ip4": {"ip": "10.0.0.2/24", "routes": [{"gw": "10.0.0.1"}]}},
        {"dns": ["10.0.0.53"]},
        {"dns": 5},
    ],
    MIDDLE + NEW: [
        {"interfaces": {"name": "a"}},
        {"interfaces": "a"},
        {"interfaces": ["a"]},
        {"interfaces": [None]},
        {"interfaces": [{}]},
        {"interfaces": [{"name": 5}]},
        {"interfaces": [{"name": "a", "mtu": "1500"}]},
        {"interfaces": [{"name": "a", "mtu": 1500.0}]},
        {"interfaces": [{"name": "a", "mtu": True}]},
        {"interfaces": [{"name": "a", "sandbox": ["x"]}]},
        {"ips": [{}]},
        {"ips": [{"address": 5}]},
        {"ips": [{"address": ""}]},
        {"interfaces": [{"name": ""}]},
        {"routes": [{"dst": ""}]},
        {"ips": [{"address": "10.0.0.2/24", "interface": "0"}]},
        {"ips": [{"address": "10.0.0.2/24", "interface": False}]},
        {"routes": [{"gw": "10.0.0.1"}]},
        {"routes": [{"dst": "0.0.0.0/0", "priority": "0"}]},
        {"routes": 5},
        {"dns": "10.0.0.53"},
        {"dns": {"nameservers": "10.0.0.53"}},
        {"dns": {"nameservers": [5]}},
        {"dns": {"search": [None]}},
        {"dns": {"options": [["a"]]}},
        {"dns": {"domain": ["a"]}},
    ],
}


@pytest.mark.parametrize(("versions", "text"), [(v, text) for v, texts in MALFORMED.items() for text in texts])
def test_a_malformed_result_is_refused(versions, text):
    for version in versions:
        with pytest.raises(InvalidConfig, match=f"a CNI result of version {version} is malformed: "):
            decode(text, version)


# Arbitrary results.

WORDS = st.text(min_size=1)
NUMBERS = st.none() | st.integers(0, 2**32)
V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(str)


def networks(gateways):
    return st.builds(lambda ip, bits: f"{ip}/{bits}", gateways, st.integers(0, 32))


def ips_of(family):
    index = st.none() | st.integers(0, 9)
    return st.builds(IpConfig, address=networks(family), gateway=family | st.just(""), interface=index)


def routes_of(family):
    return st.builds(
        Route,
        dst=networks(family),
        gw=family | st.just(""),
        mtu=st.none() | st.integers(1, 65535),
        advmss=NUMBERS,
        priority=NUMBERS,
        table=NUMBERS,
        scope=NUMBERS,
    )


def results():
    ips, routes = ips_of(V4) | ips_of(V6), routes_of(V4) | routes_of(V6)
    text = WORDS | st.just("")
    interfaces = st.builds(
        Interface, name=WORDS, mac=text, mtu=st.integers(0, 65535), sandbox=text, socket_path=text, pci_id=text
    )
    words = st.lists(st.text(), max_size=3).map(tuple)
    return st.builds(
        Result,
        interfaces=st.lists(interfaces, max_size=3).map(tuple),
        ips=st.lists(ips, max_size=4).map(tuple),
        routes=st.lists(routes, max_size=4).map(tuple),
        dns=st.builds(Dns, nameservers=words, domain=st.text(), search=words, options=words),
    )


@given(results(), st.sampled_from(MIDDLE + NEW))
def test_what_is_written_is_read_to_the_same_result(result, version):
    text = jsontext.dumps(encode(result, version)).encode()
    assert decode(jsontext.loads(text), "0.1.0") == result


@given(results(), st.sampled_from(OLD))
def test_a_legacy_form_keeps_the_first_address_of_each_family_and_is_stable(result, version):
    if not result.ips:
        with pytest.raises(InvalidConfig):
            encode(result, version)
        return
    written = encode(result, version)
    again = decode(json.loads(jsontext.dumps(written)), version)
    firsts = [next((ip for ip in result.ips if (":" in ip.address) == v6), None) for v6 in (False, True)]
    assert again.ips == tuple(ip.replace(interface=None) for ip in firsts if ip)
    families = {":" in ip.address for ip in again.ips}
    kept = {Route(dst=route.dst, gw=route.gw) for route in result.routes if (":" in route.dst) in families}
    assert set(again.routes) == kept
    assert again.dns == result.dns
    assert encode(again, version) == written


@given(results(), st.sampled_from(MIDDLE + NEW), st.sampled_from(MIDDLE + NEW))
def test_conversions_between_newer_versions_lose_nothing(result, source, target):
    assert encode(decode(encode(result, source), source), target) == encode(result, target)


ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = ATOMS | st.lists(ATOMS, max_size=3) | st.dictionaries(st.text(), ATOMS, max_size=3)
PARTS = st.sampled_from(["cniVersion", "interfaces", "ips", "routes", "dns", "ip4", "ip6"])
FIELDS = st.sampled_from("name mac mtu address interface gateway dst gw ip routes nameservers domain".split())


OBJECTS = st.dictionaries(FIELDS, JSON, max_size=4)


def test_what_says_nothing_is_absent():
    text = {"interfaces": [{"name": "a", "mac": "", "mtu": 0}], "routes": [{"dst": "0.0.0.0/0", "gw": "", "mtu": 0}]}
    assert decode(text, "1.1.0") == Result(interfaces=(Interface(name="a"),), routes=(Route(dst="0.0.0.0/0"),))


@given(st.dictionaries(PARTS, JSON | OBJECTS | st.lists(OBJECTS, max_size=3), max_size=4), st.sampled_from(VERSIONS))
def test_any_document_is_a_result_that_can_be_written_or_is_refused(text, version):
    try:
        result = decode(text, version)
    except InvalidConfig:
        return
    assert decode(encode(result, "1.1.0"), "1.1.0") == result
