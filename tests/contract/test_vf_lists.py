"""Lists of many VFs in the kernel's format: a list of more than 65535 bytes has a wrapped length.

The responses of real kernels are in `test_recorded_exchanges.py` and, live, in `tests/lab/test_netdevsim.py`.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, strategies as st

from cni.host import netlink as nl
from cni.host.vf_settings import IFLA_VF_VLAN, SETTINGS, VfInfo, report_of, reported

IFLA_VF_IB_NODE_GUID = 10
BEFORE = (nl.text(nl.IFLA_IFNAME, "pf"), nl.u32(nl.IFLA_MTU, 9000), nl.attribute(nl.IFLA_ADDRESS, b"\2\0\0\0\0\1"))
BEHIND = (
    nl.nested(nl.IFLA_PROP_LIST, nl.text(nl.IFLA_ALT_IFNAME, "another-name-of-the-pf")),
    nl.attribute(nl.IFLA_PERM_ADDRESS, b"\2\0\0\0\0\2"),
    nl.text(nl.IFLA_PARENT_DEV_NAME, "0000:02:00.0"),
    nl.text(nl.IFLA_PARENT_DEV_BUS_NAME, "pci"),
)


def mac(vf: int) -> str:
    return bytes([2, 0xAA, *vf.to_bytes(4, "big")]).hex(":")


def entry(vf: int, extra: int = 0) -> bytes:
    """One VF; `extra` is the number of attributes that our decoder does not know."""
    vlan = nl.attribute(IFLA_VF_VLAN, struct.pack("=III", vf, vf % 4095, vf % 8))
    unknown = nl.attribute(IFLA_VF_IB_NODE_GUID, struct.pack("=IIQ", vf, 0, 2**64 - 1))
    address, trust = SETTINGS["mac"].encode(vf, mac(vf)), SETTINGS["trust"].encode(vf, vf % 2 == 1)
    return nl.attribute(nl.IFLA_VF_INFO, address + vlan + unknown * extra + trust)


def list_of(entries: list[bytes]) -> bytes:
    """The list, with the lowest 16 bits of its length."""
    inner = b"".join(entries)
    return struct.pack("=HH", (4 + len(inner)) & 0xFFFF, nl.IFLA_VFINFO_LIST) + inner


def body(number: int | None, entries: list[bytes], behind: tuple[bytes, ...] = BEHIND) -> bytes:
    count = () if number is None else (nl.u32(nl.IFLA_NUM_VF, number),)
    return nl.link_body(3, *BEFORE, *count, list_of(entries), *behind)


def vfs(link: nl.Link) -> list[VfInfo]:
    return list(reported(link))


def assert_the_rest_is_right(link: nl.Link) -> None:
    assert (link.name, link.mtu, link.mac) == ("pf", 9000, "02:00:00:00:00:01")
    assert (link.altnames, link.permanent) == (("another-name-of-the-pf",), "02:00:00:00:00:02")
    assert link.parent == "0000:02:00.0"


@given(number=st.one_of(st.integers(0, 40), st.integers(300, 2500)), extra=st.integers(0, 3))
def test_every_vf_and_what_is_behind_them_is_read(number, extra):
    link = nl.link(body(number, [entry(vf, extra) for vf in range(number)]))
    assert [vf.index for vf in vfs(link)] == list(range(number))
    assert [vf.mac for vf in vfs(link)] == [mac(vf) for vf in range(number)]
    assert all(vf.trust is (vf.index % 2 == 1) and vf.vlan == vf.index % 4095 for vf in vfs(link))
    assert_the_rest_is_right(link)


@pytest.mark.parametrize("length", [65532, 65536, 65540, 131068, 131072, 131076])
def test_a_list_that_ends_at_a_wrap_is_read(length):
    """At 65536 bytes the declared length is 0."""
    size = len(entry(0))
    number, rest = divmod(length - 4, size)
    # An unknown attribute lengthens the first entry, until the list has the wanted length.
    first = entry(0)[4:] + nl.attribute(99, bytes(rest - 4)) if rest >= 4 else entry(0)[4:]
    entries = [nl.attribute(nl.IFLA_VF_INFO, first), *(entry(vf) for vf in range(1, number))]
    assert len(b"".join(entries)) + 4 == length
    link = nl.link(body(number, entries))
    assert [vf.index for vf in vfs(link)] == list(range(number))
    assert_the_rest_is_right(link)


@given(number=st.integers(300, 1500), missing=st.sets(st.integers(0, 1499), min_size=1, max_size=20))
def test_vfs_that_the_driver_does_not_report_are_missing_and_nothing_else_is(number, missing):
    present = [vf for vf in range(number) if vf not in missing]
    link = nl.link(body(number, [entry(vf) for vf in present]))
    assert [vf.index for vf in vfs(link)] == present
    assert_the_rest_is_right(link)


@given(number=st.integers(2, 900), data=st.data())
def test_a_list_that_the_end_of_the_message_cuts_gives_the_vfs_that_are_there(number, data):
    whole = body(number, [entry(vf) for vf in range(number)], behind=())
    start = len(body(number, [], behind=()))
    cut = data.draw(st.integers(start, len(whole) - 1))
    link = nl.link(whole[:cut])
    assert [vf.index for vf in vfs(link)] == list(range((cut - start) // len(entry(0))))
    assert (link.name, link.mtu) == ("pf", 9000)


@given(number=st.integers(2, 300), kept=st.integers(0, 299))
def test_a_list_that_was_closed_early_gives_the_vfs_that_are_there(number, kept):
    kept = min(kept, number)
    link = nl.link(body(number, [entry(vf) for vf in range(kept)]))
    assert [vf.index for vf in vfs(link)] == list(range(kept))
    assert_the_rest_is_right(link)


def test_without_a_number_of_vfs_the_declared_length_counts():
    """pyroute2 writes lists in this way; and anything may follow such a list."""
    link = nl.link(nl.link_body(3, list_of([entry(0), entry(1)]), *BEFORE[::-1], *BEHIND))
    assert [vf.index for vf in vfs(link)] == [0, 1]
    assert_the_rest_is_right(link)
    link = nl.link(nl.link_body(3, list_of([entry(0)]), BEFORE[2], *BEFORE[:2], *BEHIND))
    assert_the_rest_is_right(link)


@pytest.mark.parametrize("missing", [None, 3])
def test_one_vf_of_a_list_is_read_and_the_reports_of_others_are_not(missing):
    entries = [entry(vf) for vf in range(256) if vf != missing]
    entries[7] = nl.attribute(nl.IFLA_VF_INFO, b"")
    link = nl.link(body(256, entries))
    found = report_of(link, 200)
    assert found is not None
    assert (found.index, found.mac) == (200, mac(200))
    with pytest.raises(ValueError, match="malformed"):
        report_of(link, 256)


def test_a_vf_that_the_pf_does_not_report_is_none():
    assert report_of(nl.link(body(2, [entry(0), entry(1)])), 2) is None


def test_one_vf_is_found_by_its_vlan_where_another_attribute_comes_first():
    first = nl.attribute(nl.IFLA_VF_INFO, nl.attribute(99, b"other") + entry(5)[4:])
    found = report_of(nl.link(body(1, [first])), 5)
    assert found is not None
    assert found.index == 5


def test_an_unknown_entry_in_the_list_is_passed_over():
    link = nl.link(body(3, [entry(0), nl.attribute(77, b"new"), entry(1)]))
    assert [vf.index for vf in vfs(link)] == [0, 1]
    assert_the_rest_is_right(link)
