"""The configuration of `barewire-ipam`: table, model and rules, and the resulting ranges."""

from __future__ import annotations

import ipaddress
import time

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from cni.config.schema import reference
from cni.config.validation import canonical, parse
from cni.errors import AddressTaken, InvalidConfig
from cni.log import Log
from cni.protocol.request import parse as parse_call, parse_environment
from cni.protocol.result import Dns, IpConfig, Route
from ipam.address import parse as parse_address
from ipam.config.conf import IpamConf
from ipam.config.conf_table import REQUIRED, TABLE
from ipam.config.location import lease_location, lease_owner
from ipam.config.request import parse_request
from ipam.config.rules import cross_check, range_sets
from ipam.ranges import unleased, walk

LONG = 10.0
"""Seconds: valid input takes a twentieth of that, and quadratic time would take minutes."""

GOOD = [
    {"subnet": "10.0.0.0/24"},
    {"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.5", "rangeEnd": "10.0.0.9", "gateway": "10.0.0.254"},
    {"subnet": "10.0.0.0/24", "gateway": "192.0.2.1"},
    {"subnet": "10.0.0.0/31"},
    {"subnet": "10.0.0.7/32"},
    {"subnet": "fd00::/127"},
    {"subnet": "fd00::7/128"},
    {"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.1.0/24"}], [{"subnet": "fd00::/64"}]]},
    {"ranges": [[{"subnet": "10.0.0.0/24", "exclude": ["10.0.0.8/29", "10.0.0.3"]}]]},
    {"backend": "local", "range": "10.0.0.0/24"},
    {"backend": "local", "range": "10.0.0.7/24"},
    {"backend": "local", "range": "10.0.0.5-10.0.0.9/24", "gateway": "10.0.0.1"},
    {
        "backend": "local",
        "range": "10.0.0.0/24",
        "range_start": "10.0.0.5",
        "range_end": "10.0.0.9",
        "exclude": ["fd00::/64"],
    },
    {"backend": "local", "ipRanges": [{"range": "10.0.0.0/24"}, {"range": "fd00::/64"}], "gateway": "10.0.0.1"},
    {"subnet": "::ffff:10.0.0.0/120"},
    {"addresses": [{"address": "10.0.0.5/24", "gateway": "10.0.0.1"}]},
    {"addresses": []},
    {"subnet": "10.0.0.0/24", "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}], "dns": {"nameservers": ["10.0.0.1"]}},
    {"subnet": "10.0.0.0/24", "backend": "etcd", "etcd": {"endpoints": ["http://127.0.0.1:2379"]}},
    {
        "range": "10.0.0.0/24",
        "backend": "kubernetes",
        "kubernetes": {"kubeconfig": "/k"},
        "leader_lease_duration": 1500,
    },
]
BAD = [
    ({"subnet": "10.0.0.5/24"}, "ipam.subnet", "host bits set"),
    ({"subnet": "10.0.0.0"}, "ipam.subnet", "not an address with a prefix length"),
    ({"subnet": "010.0.0.0/24"}, "ipam.subnet", "not an address"),
    ({"subnet": "10.0.0.0/33"}, "ipam.subnet", "not an address"),
    ({"rangeStart": "10.0.0.5"}, "ipam.subnet", "missing"),
    ({"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.5"}, "ipam.rangeStart", "is not in network 10.0.0.0/24"),
    ({"subnet": "10.0.0.0/24", "rangeEnd": "fd00::1"}, "ipam.rangeEnd", "is not in network"),
    ({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.5"}, "ipam.rangeEnd", "before"),
    ({"subnet": "10.0.0.0/24", "gateway": "fd00::1"}, "ipam.gateway", "another IP version"),
    ({"subnet": "10.0.0.0/24", "gateway": "here"}, "ipam.gateway", "not an IP address"),
    ({"ranges": [[]]}, "ipam.ranges[0]", "empty set"),
    ({"ranges": [{"subnet": "10.0.0.0/24"}]}, "ipam.ranges[0]", "not a list"),
    ({"ranges": [["10.0.0.0/24"]]}, "ipam.ranges[0][0]", "not an object"),
    ({"ranges": [[{"subnet": 5}]]}, "ipam.ranges[0][0].subnet", "not a string"),
    ({"ranges": [[{"subnet": "10.0.0.0/24", "exclude": ["x"]}]]}, "ipam.ranges[0][0].exclude[0]", "not an address"),
    ({"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]}, "ipam.ranges[0]", "mixes IPv4 and IPv6"),
    ({"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.0.0/25"}]]}, "ipam", "overlap"),
    ({"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.0/25"}]]}, "ipam", "range set 0 overlaps with 1"),
    ({"backend": "local", "range": "10.0.0.5-10.0.1.9/24"}, "ipam.range", "is not in network"),
    ({"backend": "local", "range": "10.0.0.5-/24"}, "ipam.range", "is not first-last"),
    ({"range_start": "10.0.0.5"}, "ipam.range", "not an address"),
    ({"ipRanges": {"range": "10.0.0.0/24"}}, "ipam.ipRanges", "not a list"),
    ({"exclude": ["10.0.0.300"], "subnet": "10.0.0.0/24"}, "ipam.exclude[0]", "not an address"),
    ({"addresses": [{"address": "10.0.0.5"}]}, "ipam.addresses[0].address", "CIDR"),
    ({"addresses": ["10.0.0.5/24"]}, "ipam.addresses[0]", "not an object"),
    ({"addresses": [{"address": "10.0.0.5/24", "gateway": "x"}]}, "ipam.addresses[0].gateway", "not an IP address"),
    ({"subnet": "10.0.0.0/24", "routes": [{"dst": "default"}]}, "ipam.routes[0].dst", "not an address"),
    ({"subnet": "10.0.0.0/24", "routes": {"dst": "0.0.0.0/0"}}, "ipam.routes", "not a list"),
    ({"subnet": "10.0.0.0/24", "routes": [{"dst": "0.0.0.0/0", "gw": "x"}]}, "ipam.routes[0].gw", "not an IP address"),
    ({"subnet": "10.0.0.0/24", "routes": [{"gw": "10.0.0.1"}]}, "ipam.routes[0].dst", "missing"),
    ({"subnet": "10.0.0.0/24", "dns": {"search": "a"}}, "ipam.dns.search", "not a list of strings"),
    ({"addresses": [{"gateway": "10.0.0.1"}]}, "ipam.addresses[0].address", "missing"),
    ({"ranges": [[{"subnet": "10.0.0.0/24"}]], "gateway": "x"}, "ipam.gateway", "not an IP address"),
    ({"backend": "local", "range": "10.0.0.0/24", "gateway": "fd00::1"}, "ipam.gateway", "another IP version"),
    ({"subnet": "10.0.0.0/24", "nodeName": "a/b"}, "ipam.nodeName", "not a name"),
    ({"subnet": "10.0.0.0/24", "network_name": "../b"}, "ipam.network_name", "not a name"),
    (
        {"subnet": "10.0.0.0/24", "backend": "etcd", "etcd": {"endpoints": ["https://x:1"], "keyFile": "/k"}},
        "ipam.etcd.certFile",
        "keyFile",
    ),
    (
        {"backend": "kubernetes", "kubernetes": {"kubeconfig": "k"}},
        "ipam.kubernetes.kubeconfig",
        "absolute path",
    ),
    (
        {"backend": "kubernetes", "range": "10.0.0.0/24", "network_name": "net_a"},
        "ipam.network_name",
        "Kubernetes object",
    ),
    ({"backend": "kubernetes", "range": "10.0.0.0/24", "network_name": "Net"}, "ipam.network_name", "lower-case"),
    ({"backend": "kubernetes", "range": "10.0.0.0/24", "network_name": "n" * 245}, "ipam.network_name", "too long"),
    ({"backend": "kubernetes", "range": "::1:0/112"}, "ipam.network_name", "begin with -"),
    (
        {"subnet": "x", "backend": "etcd", "etcd": {"endpoints": ["https://x:1"], "prefix": "/registry/secrets"}},
        "ipam.etcd.prefix",
        "belongs to another program",
    ),
    (
        {"subnet": "10.0.0.0/24", "backend": "etcd", "etcd": {"endpoints": ["https://x:1"], "prefix": "/"}},
        "ipam.etcd.prefix",
        "is not of the form",
    ),
    ({"subnet": "10.0.0.0/24", "dataDir": "networks"}, "ipam.dataDir", "absolute path"),
    ({"subnet": "10.0.0.0/24", "dataDir": "/var/../etc"}, "ipam.dataDir", "absolute path"),
    ({"subnet": "10.0.0.0/24", "resolvConf": "resolv.conf"}, "ipam.resolvConf", "absolute path"),
    ({"subnet": "10.0.0.0/24", "backend": "etcd"}, "ipam.etcd.endpoints", "missing"),
    (
        {"subnet": "10.0.0.0/24", "backend": "etcd", "etcd": {"endpoints": ["x:1"]}},
        "ipam.etcd.endpoints[0]",
        "http",
    ),
    ({"subnet": "10.0.0.0/24", "etcd": {"endpoints": ["http://x:1"]}}, "ipam.etcd", "the backend is local"),
    ({"range": "10.0.0.0/24"}, "ipam.backend", "set to local, etcd or kubernetes"),
    ({"subnet": "10.0.0.0/24", "backend": "redis"}, "ipam.backend", "is not one of"),
    ({"subnet": "::ffff:0.0.0.0/96"}, "ipam.subnet", "every address"),
    ({"ranges": [[{"subnet": f"10.0.{number}.0/24"}] for number in range(33)]}, "ipam", "has 33 sets of ranges"),
    ({"ranges": [[{"subnet": "10.0.0.0/24"}] * 1001]}, "ipam", "has 1001 ranges"),
    ({"subnet": "10.0.0.0/24", "exclude": ["10.0.0.1"] * 10001}, "ipam", "10001 exclusions"),
    ({"subnet": "10.0.0.0/24", "node_slice_size": "/22"}, "ipam.node_slice_size", "not supported"),
    (
        {"backend": "kubernetes", "range": "fd00::/64", "range_start": "fd00:0:0:0:8000::"},
        "ipam",
        "outside the first 2**63 addresses",
    ),
]


def table_says(section, **more):
    return parse(TABLE, REQUIRED, {"ipam": section, **more}, cross_check)


def request(section, cni_args="", version="1.0.0", **more):
    import json

    env = {
        "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/n", "CNI_IFNAME": "net1", "CNI_PATH": "/x",
        "CNI_ARGS": cni_args,
    }  # fmt: skip
    config = {
        "cniVersion": version,
        "name": "net",
        "type": "sriov",
        "deviceID": "0000:01:00.1",
        "ipam": section,
        **more,
    }
    return parse_call(parse_environment(env), json.dumps(config).encode())


def wanted(section, **more):
    return parse_request(request(section, **more), Log({}, level="panic"))


def leased(section):
    """All addresses of each set, as text; for small ranges."""
    return [[str(address) for _range, address in walk(one)] for one in range_sets({"ipam": section}, [])]


@pytest.mark.parametrize("section", GOOD)
def test_table_and_model_take_what_is_right(section):
    table_says(section)
    IpamConf.model_validate(canonical(TABLE, {"ipam": section}))


@pytest.mark.parametrize(("section", "path", "words"), BAD)
def test_table_and_model_refuse_what_is_wrong_and_path_and_reason_are_reported(section, path, words):
    with pytest.raises(InvalidConfig) as caught:
        table_says(section)
    (told,) = [one for one in caught.value.msg.split("; ") if one.startswith(f"{path}: ")]
    assert words in told
    with pytest.raises(ValidationError):
        IpamConf.model_validate(canonical(TABLE, {"ipam": section}))


def test_all_problems_are_reported_at_once():
    with pytest.raises(InvalidConfig) as caught:
        table_says(
            {
                "ranges": [[{"subnet": "x"}], [{"subnet": "10.0.0.1/24"}]],
                "dataDir": "y",
                "range": "z",
                "backend": "local",
            }
        )
    assert caught.value.msg.count("; ") == 3


def test_problems_of_values_and_of_what_they_say_together_are_reported_at_once():
    section = {
        "dataDir": 5,
        "subnet": "10.0.0.1/24",
        "routes": [{"dst": 5}],
        "addresses": [{"address": "x"}],
        "range": 5,
    }
    with pytest.raises(InvalidConfig) as caught:
        table_says({**section, "backend": "etcd"})
    assert [one.split(": ")[0] for one in caught.value.msg.split("; ")] == [
        "ipam.addresses[0].address", "ipam.dataDir", "ipam.etcd.endpoints", "ipam.range", "ipam.routes[0].dst",
    ]  # fmt: skip


def test_keys_in_lists_are_known_in_any_case_misspelt_ones_refused_and_others_ignored_with_a_warning():
    section = {"ranges": [[{"Subnet": "10.0.0.0/24", "RANGESTART": "10.0.0.9"}]], "routes": [{"Dst": "0.0.0.0/0"}]}
    found = wanted(section)
    assert str(found.sets[0][0]) == "10.0.0.9-10.0.0.254"
    assert found.passed_on.routes[0].dst == "0.0.0.0/0"
    with pytest.raises(InvalidConfig, match=r"ipam\.ranges\[0\]\[0\]\.subnets: unknown key, did you mean"):
        table_says({"ranges": [[{"subnet": "10.0.0.0/24", "subnets": "x"}]]})
    (warning,) = table_says({"ranges": [[{"subnet": "10.0.0.0/24", "comment": "x"}]]}).warnings
    assert warning.startswith("ipam.ranges[0][0].comment: unknown key, ignored")


def test_the_reference_names_the_keys_in_lists():
    page = reference(IpamConf)
    assert "| `ipam.ranges[][].subnet` | string |" in page
    assert "| `ipam.routes[].mtu` | 0 to 4294967295 |" in page


def test_a_misspelt_key_is_refused_and_the_known_one_is_named_and_keys_of_the_main_plugin_are_not_ours():
    with pytest.raises(InvalidConfig, match=r"ipam\.subent: unknown key, did you mean ipam\.subnet"):
        wanted({"subent": "10.0.0.0/24"})
    wanted({"subnet": "10.0.0.0/24"}, vlan="not our business")


@pytest.mark.parametrize(
    ("section", "addresses"),
    [
        ({"subnet": "10.0.0.0/29"}, [["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]]),
        ({"subnet": "10.0.0.0/30"}, [["10.0.0.2"]]),
        ({"subnet": "10.0.0.0/31"}, [["10.0.0.0", "10.0.0.1"]]),
        ({"subnet": "10.0.0.0/31", "gateway": "10.0.0.0"}, [["10.0.0.1"]]),
        ({"subnet": "10.0.0.7/32"}, [["10.0.0.7"]]),
        ({"subnet": "fd00::/127"}, [["fd00::", "fd00::1"]]),
        ({"subnet": "fd00::7/128"}, [["fd00::7"]]),
        ({"subnet": "fd00::/126"}, [["fd00::2", "fd00::3"]]),
        ({"subnet": "10.0.0.0/29", "exclude": ["10.0.0.4/31", "10.0.0.2"]}, [["10.0.0.3", "10.0.0.6"]]),
        (
            {"backend": "local", "range": "10.0.0.0/29"},
            [["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]],
        ),
        ({"backend": "local", "range": "10.0.0.3-10.0.0.5/29", "gateway": "10.0.0.4"}, [["10.0.0.3", "10.0.0.5"]]),
        ({"backend": "local", "range": "10.0.0.0/29", "range_start": "10.0.0.6"}, [["10.0.0.6"]]),
        (
            {
                "backend": "local",
                "ipRanges": [{"range": "10.0.0.4/31"}, {"range": "fd00::4/127", "exclude": ["fd00::5"]}],
            },
            [["10.0.0.4", "10.0.0.5"], ["fd00::4"]],
        ),
        (
            {"ranges": [[{"subnet": "10.0.0.0/30"}, {"subnet": "10.0.1.0/30"}]], "subnet": "10.0.2.0/30"},
            [["10.0.2.2"], ["10.0.0.2", "10.0.1.2"]],
        ),
        ({"subnet": "::ffff:10.0.0.0/126"}, [["10.0.0.2"]]),
        ({"subnet": "10.0.0.0/28", "exclude": ["10.0.0.0/28"]}, [[]]),
    ],
)
def test_a_configuration_means_these_addresses(section, addresses):
    table_says(section)
    assert leased(section) == addresses


WHEREABOUTS_RANGES = [
    ({"range": "10.0.0.0/29", "range_start": "10.0.0.0"}, "10.0.0.1-10.0.0.6"),
    ({"range": "10.0.0.0/29", "range_end": "10.0.0.7"}, "10.0.0.1-10.0.0.6"),
    ({"range": "10.0.0.0-10.0.0.7/29"}, "10.0.0.1-10.0.0.6"),
    ({"range": "10.0.0.6-10.0.0.7/29"}, "10.0.0.6-10.0.0.6"),
    ({"range": "10.0.0.0/29", "range_start": "10.0.0.7", "range_end": "10.0.0.3"}, "10.0.0.1-10.0.0.3"),
    ({"range": "10.0.0.0/29", "range_end": "10.0.0.0"}, "10.0.0.1-10.0.0.6"),
    ({"range": "fd00::/125", "range_start": "fd00::"}, "fd00::1-fd00::6"),
    ({"range": "fd00::/125", "range_end": "fd00::7"}, "fd00::1-fd00::6"),
    ({"range": "fd00::/125"}, "fd00::1-fd00::6"),
    ({"range": "10.0.0.0-10.0.0.1/31"}, "10.0.0.0-10.0.0.1"),
]


@pytest.mark.parametrize("in_list", (False, True))
@pytest.mark.parametrize(("told", "addresses"), WHEREABOUTS_RANGES)
def test_the_keys_of_whereabouts_never_lease_the_network_s_and_the_last_address(told, addresses, in_list):
    section = {"backend": "kubernetes", **({"ipRanges": [told]} if in_list else told)}
    table_says(section)
    assert [str(one) for ranges in range_sets({"ipam": section}, []) for one in ranges] == [addresses]


@pytest.mark.parametrize(
    "section",
    [
        {"range": "fd00::/64"},
        {"subnet": "fd00::/64", "rangeStart": "fd00::1"},
        {"ranges": [[{"subnet": "fd00::/64", "rangeStart": "fd00::1"}]]},
        {"range": "fd00::/48"},
    ],
)
def test_in_kubernetes_only_addresses_are_leased_that_whereabouts_keeps_at_its_next_write(section):
    ((one,),) = wanted({**section, "backend": "kubernetes"}).sets
    assert (one.first - one.subnet.number, one.last - one.subnet.number) == (1, (1 << 63) - 1)
    ((elsewhere,),) = wanted({**section, "backend": "local"}).sets
    assert elsewhere.last > one.last
    with pytest.raises(AddressTaken):
        wanted({**section, "backend": "kubernetes"}, runtimeConfig={"ips": ["fd00::8000:0:0:0"]})


def test_what_was_leased_beyond_whereabouts_part_of_a_subnet_counts_as_leased():
    sets = wanted({"range": "fd00::/64", "backend": "kubernetes"}).sets
    assert unleased(sets, {parse_address("fd00::8000:0:0:0", "old")}) == []
    assert unleased(sets, {parse_address("fd00:0:0:1::1", "elsewhere")}) == unleased(sets, set()) == list(sets)


def test_a_large_configuration_is_understood_at_once_and_reports_a_few_overlaps_only():
    ranges = [{"subnet": f"10.{number >> 8}.{number & 255}.0/24"} for number in range(1000)]
    holes = [f"10.{number >> 8}.{number & 255}.7" for number in range(10000)]
    started = time.process_time()
    sets = wanted({"ranges": [ranges], "exclude": holes}).sets
    assert [one.excluded for one in sets[0][:2]] == [((n, n),) for n in (0x0A000007, 0x0A000107)]
    with pytest.raises(InvalidConfig) as caught:
        wanted({"ranges": [[{"subnet": "10.0.0.0/24"}] * 1000]})
    assert caught.value.msg.count("overlap") == 1
    assert time.process_time() - started < LONG


def test_fixed_addresses_are_leased_to_none():
    section = {"subnet": "10.0.0.0/29", "addresses": [{"address": "10.0.0.3/29", "gateway": "::ffff:10.0.0.1"}]}
    assert leased(section) == [["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"]]
    assert wanted(section).fixed == (IpConfig(address="10.0.0.3/29", gateway="10.0.0.1"),)


def test_an_ipv6_subnet_is_used_beyond_its_first_half():
    section = {"subnet": "fd00::/64", "rangeStart": "fd00::ffff:ffff:ffff:fffe"}
    assert leased(section) == [["fd00::ffff:ffff:ffff:fffe", "fd00::ffff:ffff:ffff:ffff"]]


@given(
    st.tuples(st.sampled_from(["10.20.0.0", "fd00::"]), st.integers(24, 30)),
    st.lists(st.tuples(st.integers(0, 63), st.integers(0, 3)), max_size=4),
)
def test_what_is_leased_is_what_the_standard_library_leaves(network, holes):
    base, prefix = network
    bits = 128 if ":" in base else 32
    subnet = ipaddress.ip_network(f"{base}/{bits - 32 + prefix}")
    excluded = [
        ipaddress.ip_network((int(subnet.network_address) + at >> size << size, bits - size)) for at, size in holes
    ]
    expected = [str(host) for host in subnet if not any(host in one for one in excluded)]
    # The address of the network and the gateway; for IPv4 also the broadcast address.
    usual = {str(subnet[0]), str(subnet[1]), *([str(subnet[-1])] if bits == 32 else [])}
    found = leased({"subnet": str(subnet), "exclude": [str(one) for one in excluded]})
    assert found == [[text for text in expected if text not in usual]]


def test_the_runtimes_ranges_come_first_then_host_locals_then_whereabouts():
    runtime = {"ipRanges": [[{"subnet": "10.3.0.0/24"}]]}
    sets = wanted(
        {"ranges": [[{"subnet": "10.1.0.0/24"}]], "subnet": "10.0.0.0/24", "range": "10.2.0.0/24", "backend": "local"},
        runtimeConfig=runtime,
    ).sets
    assert [str(one[0].subnet) for one in sets] == ["10.3.0.0", "10.0.0.0", "10.1.0.0", "10.2.0.0"]


@pytest.mark.parametrize(
    "where",
    [
        {"runtimeConfig": {"ips": ["fd00::9", "10.0.0.9/24"]}},
        {"args": {"cni": {"ips": ["10.0.0.9", "fd00::9"]}}},
        {"cni_args": "IP=10.0.0.9,fd00::9"},
        {"runtimeConfig": {"ips": ["10.0.0.9"]}, "args": {"cni": {"ips": ["fd00::9"]}}},
    ],
)
def test_requested_addresses_go_to_the_sets_that_hold_them(where):
    sets = {"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]}
    found = parse_request(request(sets, **where), Log({}, level="panic"))
    assert [str(one) for one in found.requested] == ["10.0.0.9", "fd00::9"]


@pytest.mark.parametrize(
    ("ips", "words"),
    [
        (["10.0.1.9"], "failed to allocate all requested IPs: 10.0.1.9"),
        (["10.0.0.9", "10.0.0.10"], "10.0.0.10"),
        (["10.0.0.1"], "is the gateway"),
        (["10.0.0.66"], "is excluded"),
    ],
)
def test_a_request_that_no_set_can_serve_is_refused_with_the_reason(ips, words):
    with pytest.raises(AddressTaken, match=words):
        wanted({"subnet": "10.0.0.0/24", "exclude": ["10.0.0.64/26"]}, runtimeConfig={"ips": ips})


def test_without_ranges_requested_addresses_are_fixed_and_take_the_place_of_the_configured_ones():
    section = {"addresses": [{"address": "10.0.0.5/24", "gateway": "10.0.0.1"}]}
    assert wanted(section).fixed == (IpConfig(address="10.0.0.5/24", gateway="10.0.0.1"),)
    assert wanted(section, runtimeConfig={"ips": ["10.0.0.6/24"]}).fixed == (IpConfig(address="10.0.0.6/24"),)
    found = parse_request(
        request(section, cni_args="IP=10.9.0.6/24;GATEWAY=10.9.0.1,10.8.0.1"), Log({}, level="panic")
    ).fixed
    assert found[1] == IpConfig(address="10.9.0.6/24", gateway="10.9.0.1")
    with pytest.raises(InvalidConfig, match="CIDR notation"):
        wanted(section, runtimeConfig={"ips": ["10.0.0.6"]})
    with pytest.raises(InvalidConfig, match="no IP ranges"):
        wanted({"routes": []})


def test_without_ranges_a_later_source_takes_the_place_of_all_before_it_as_with_static():
    invocation, runtime = {"args": {"cni": {"ips": ["10.2.0.5/24"]}}}, {"runtimeConfig": {"ips": ["10.3.0.5/24"]}}
    for more, address in ((invocation, "10.2.0.5/24"), ({**invocation, **runtime}, "10.3.0.5/24")):
        found = wanted({"addresses": [{"address": "10.0.0.5/24"}]}, cni_args="IP=10.1.0.5/24", **more)
        assert found.fixed == (IpConfig(address=address),)


@pytest.mark.parametrize(
    "later", [{"runtimeConfig": {"ips": ["10.0.0.6/24"]}}, {"args": {"cni": {"ips": ["10.0.0.6/24"]}}}]
)
def test_the_gateway_of_cni_args_is_for_the_addresses_of_cni_args_as_with_static(later):
    found = wanted({"addresses": []}, cni_args="IP=10.0.0.5/24;GATEWAY=10.0.0.1", **later)
    assert found.fixed == (IpConfig(address="10.0.0.6/24"),)


def test_old_versions_of_cni_have_one_address_of_each_family():
    two = {"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.1.0.0/24"}]]}
    with pytest.raises(InvalidConfig, match="more than 1 address per family"):
        parse_request(request(two, version="0.2.0"), Log({}, level="panic"))
    assert len(wanted(two).sets) == 2
    dual = {"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]}
    assert len(parse_request(request(dual, version="0.2.0"), Log({}, level="panic")).sets) == 2


def test_routes_and_name_service_are_passed_on():
    section = {
        "subnet": "10.0.0.0/24", "routes": [{"dst": "10.9.0.0/16", "gw": "10.0.0.7", "mtu": 1400, "table": 5}],
        "dns": {"nameservers": ["10.0.0.53"], "search": ["a.example"]},
    }  # fmt: skip
    found = wanted(section).passed_on
    assert found.routes == (Route(dst="10.9.0.0/16", gw="10.0.0.7", mtu=1400, table=5),)
    assert found.dns == Dns(nameservers=("10.0.0.53",), search=("a.example",))


BROKEN: list[object] = [
    None,
    5,
    [],
    {},
    {"ranges": 5},
    {"subnet": 5},
    {"backend": 5},
    {"etcd": 5},
    {"dataDir": "../x"},
    {"range": ["x"]},
]


@pytest.mark.parametrize("section", BROKEN)
@pytest.mark.parametrize("backend", [None, "local", "etcd", "kubernetes"])
def test_any_configuration_however_broken_gives_the_location_of_its_leases(section, backend):
    if isinstance(section, dict) and backend:
        section = {**section, "backend": backend}
    found = lease_location(request(section))
    assert found.directory == "/var/lib/cni/networks/net"
    assert found.backend == (backend or "local" if isinstance(section, dict) else "local")


def test_the_owner_has_its_pod_also_where_cni_args_are_broken():
    assert lease_owner(request({}, cni_args="K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=u")).pod == "a/b"
    assert lease_owner(request({}, cni_args="nonsense")).pod == ""


WHEREABOUTS_OWN = ("datastore", "etcd_host", "etcd_username", "etcd_password", "etcd_ca_cert_file", "sleep_for_race")


@pytest.mark.parametrize("key", WHEREABOUTS_OWN)
def test_whereabouts_own_keys_are_known_also_to_a_strict_configuration(key):
    section = {"range": "10.0.0.0/24", "backend": "local", key: "kubernetes"}
    assert table_says(section, strictConfig=True).warnings == ()
