"""CHECK of `sriov` after ADD and after later plugins of the chain: permitted changes, and reported ones."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from cni.errors import CheckFailed
from cni.host.netlink import IFF_UP
from cni.protocol import result
from cni.protocol.result import Route
from tests.node import EVERYTHING, VF0, Node

CONF = {"ipam": {"type": "fake"}}
ROUTES = (Route(dst="0.0.0.0/0", gw="10.0.0.1"), Route(dst="192.0.2.0/24", gw="10.0.0.1"))
OTHER_MAC = "02:00:00:00:00:99"


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def added(node, conf=CONF, version="1.0.0"):
    """The result of ADD, as the runtime passes it on."""
    return result.encode(node.add(version=version, **conf), version)


def check(node, previous, conf=CONF):
    node.plugin().check(node.request("CHECK", version=previous["cniVersion"], prevResult=previous, **conf))


def with_interface(previous, **changes):
    (interface,) = previous["interfaces"]
    kept = {key: value for key, value in {**interface, **changes}.items() if value is not None}
    return {**previous, "interfaces": [kept]}


V4 = st.builds(
    lambda number, prefix: f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/{prefix}",
    st.integers(1 << 24, (224 << 24) - 1),
    st.integers(0, 32),
)
V6 = st.builds(lambda number, prefix: f"2001:db8::{number:x}/{prefix}", st.integers(0, 65535), st.integers(0, 128))
ANY_ROUTE = st.builds(
    lambda dst, has_gateway, table, scope: Route(
        dst=dst, gw=("2001:db8::1" if ":" in dst else "10.0.0.1") if has_gateway else "", table=table, scope=scope
    ),
    V4 | V6,
    st.booleans(),
    st.none() | st.integers(1, 300),
    st.none() | st.sampled_from([0, 253]),
)


@given(routes=st.lists(ANY_ROUTE, max_size=4))
def test_check_passes_right_after_add_whatever_routes_ipam_gives(tmp_path_factory, routes):
    node = Node(tmp_path_factory.mktemp("node"))
    node.ipam.routes = tuple(routes)
    check(node, added(node, version="1.1.0"))


def test_a_route_with_host_bits_is_found_as_the_network_that_add_configured(node):
    node.ipam.routes = (Route(dst="192.168.29.7/24", gw="10.0.0.1"),)
    check(node, added(node))


def test_routes_that_sbr_or_vrf_moved_to_another_table_are_no_difference(node):
    node.ipam.routes = ROUTES
    previous = added(node)
    for identity, (ips, routes) in node.kernel.configured.items():
        node.kernel.configured[identity] = (ips, tuple(route.replace(table=100) for route in routes))
    check(node, previous)


def test_a_route_of_a_configured_table_is_missed_in_another_one(node):
    node.ipam.routes = (Route(dst="192.0.2.0/24", gw="10.0.0.1", table=7),)
    previous = added(node, version="1.1.0")
    for identity, (ips, routes) in node.kernel.configured.items():
        node.kernel.configured[identity] = (ips, tuple(route.replace(table=8) for route in routes))
    with pytest.raises(CheckFailed, match=r"route 192\.0\.2\.0/24 via 10\.0\.0\.1 is missing"):
        check(node, previous)


@pytest.mark.parametrize("reported", [None, 1450])
def test_an_mtu_that_tuning_set_is_no_difference_whether_or_not_its_result_keeps_the_old_one(node, reported):
    conf = {**CONF, "mtu": 1450}
    previous = with_interface(added(node, conf, version="1.1.0"), mtu=reported)
    fake = node.kernel.devices[VF0]
    fake.link = fake.link.replace(mtu=1400)
    check(node, previous, conf)


def test_a_mac_address_that_tuning_set_is_no_difference_at_the_pf_either(node):
    conf = {**CONF, "mac": "02:00:00:00:00:42"}
    previous = with_interface(added(node, conf), mac=OTHER_MAC)
    fake = node.kernel.devices[VF0]
    fake.link, fake.info = fake.link.replace(mac=OTHER_MAC), fake.info.replace(mac=OTHER_MAC)
    check(node, previous, conf)


def test_a_mac_address_that_no_result_reports_is_a_difference_at_the_interface_and_at_the_pf(node):
    conf = {**CONF, "mac": "02:00:00:00:00:42"}
    previous = added(node, conf)
    fake = node.kernel.devices[VF0]
    fake.link, fake.info = fake.link.replace(mac=OTHER_MAC), fake.info.replace(mac=OTHER_MAC)
    with pytest.raises(CheckFailed) as caught:
        check(node, previous, conf)
    assert caught.value.msg == (
        f"the MAC address at the PF is {OTHER_MAC}, not 02:00:00:00:00:42; mac is {OTHER_MAC}, not 02:00:00:00:00:42"
    )


def test_the_mac_address_of_a_member_of_a_bond_is_the_bonds_affair(node):
    previous = added(node, EVERYTHING)
    fake = node.kernel.devices[VF0]
    fake.link = fake.link.replace(mac=OTHER_MAC, master=99, flags=fake.link.flags | IFF_UP)
    fake.info = fake.info.replace(mac=OTHER_MAC)
    check(node, previous, EVERYTHING)
