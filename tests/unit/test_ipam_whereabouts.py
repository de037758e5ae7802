"""The forms of whereabouts: names of objects, and patches."""

from __future__ import annotations

import pytest

from ipam.address import parse, parse_cidr
from ipam.kubernetes import whereabouts
from ipam.ranges import Range
from ipam.store import Claim, Owner

OWNER = Owner(network="net", container_id="c1", ifname="net1", pod="default/p1")


def range_in(cidr, first, last):
    subnet, prefix = parse_cidr(cidr, "test")
    return Range(subnet=subnet, prefix=prefix, first=parse(first, "test").number, last=parse(last, "test").number)


@pytest.mark.parametrize(
    ("cidr", "network", "name"),
    [
        ("10.10.0.0/16", "", "10.10.0.0-16"),
        ("10.10.0.0/16", "storage", "storage-10.10.0.0-16"),
        ("fd00::/64", "", "fd00---64"),
        ("2001:db8:0:1::/120", "a-b", "a-b-2001-db8-0-1---120"),
        ("::/64", "n", "n----64"),
    ],
)
def test_a_pool_is_named_by_its_subnet(cidr, network, name):
    assert whereabouts.pool_name(cidr, network) == name


@pytest.mark.parametrize(
    ("address", "network", "name"),
    [
        ("10.10.0.7", "", "10.10.0.7"),
        ("10.10.0.7", "storage", "storage-10.10.0.7"),
        ("fd00::7", "", "fd00--7"),
        ("fd00::", "", "fd00--0"),
        ("FD00:0:0:0:0:0:0:7", "n", "n-fd00--7"),
        ("::ffff:10.10.0.7", "", "10.10.0.7"),
    ],
)
def test_a_reservation_is_named_by_its_address_as_go_writes_it(address, network, name):
    assert whereabouts.reservation_name(parse(address, "test"), network) == name


def test_ranges_of_a_subnet_share_its_pool():
    sets = (
        (range_in("10.1.0.0/24", "10.1.0.5", "10.1.0.9"), range_in("10.1.0.0/24", "10.1.0.20", "10.1.0.30")),
        (range_in("fd00::/64", "fd00::1", "fd00::9"),),
    )
    assert whereabouts.subnets_of(sets) == ("10.1.0.0/24", "fd00::/64")


@pytest.mark.parametrize(
    ("cidr", "address", "distance"),
    [
        ("10.1.0.0/24", "10.1.0.255", "255"),
        ("10.1.0.7/32", "10.1.0.7", "0"),
        ("10.1.0.6/31", "10.1.0.7", "1"),
        ("fd00::/64", "fd00:0:0:0:8000::", "9223372036854775808"),
        ("fd00::/64", "fd00::ffff:ffff:ffff:ffff", "18446744073709551615"),
        ("fd00::/48", "fd00:0:0:ffff:ffff:ffff:ffff:ffff", "1208925819614629174706175"),
    ],
)
def test_an_allocation_is_the_decimal_distance_from_the_subnet(cidr, address, distance):
    claim = Claim(range=range_in(cidr, address, address), address=parse(address, "test"))
    assert whereabouts.offset(claim) == distance
    found = whereabouts.pool("p", cidr)
    found["spec"]["allocations"] = {distance: {"id": "c1", "podref": "default/p1", "ifname": "net1"}}
    (lease,) = whereabouts.leases(found, "net")
    assert (lease.address, lease.owner) == (claim.address, OWNER)
    assert [one.address for one in whereabouts.claims_of(found, OWNER)] == [claim.address]


def test_a_patch_tests_all_before_it_changes_anything():
    one = range_in("10.1.0.0/24", "10.1.0.1", "10.1.0.9")
    claims = tuple(Claim(range=one, address=one.address(one.subnet.number + step)) for step in (1, 2))
    assert [step["op"] for step in whereabouts.adding(claims, OWNER)] == ["test", "test", "add", "add"]
    assert [step["op"] for step in whereabouts.removing(claims, OWNER)] == ["test"] * 4 + ["remove"] * 2


@pytest.mark.parametrize("key", ("-1", "1.5", "1e3", "x", "", "9" * 50, "\u0663"))
def test_an_allocation_whose_key_is_no_offset_is_none(key):
    found = whereabouts.pool("p", "10.1.0.0/24")
    found["spec"]["allocations"] = {key: {"id": "c1", "podref": "default/p1"}, "3": "text", "4": {"id": "c"}}
    assert list(whereabouts.allocations(found)) == ["4"]
