"""The announcement frames, byte by byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from cni.host.announce import announce, checksum, gratuitous_arp, unsolicited_na

if TYPE_CHECKING:
    from collections.abc import Callable

    Builder = Callable[[str, str], bytes]

MAC = "02:00:00:aa:bb:cc"


def test_a_gratuitous_arp_is_a_broadcast_request_for_its_own_address() -> None:
    assert gratuitous_arp(MAC, "10.1.2.3").hex(" ", 2) == (
        "ffff ffff ffff 0200 00aa bbcc 0806 0001 0800 0604 0001 0200 00aa bbcc 0a01 0203 0000 0000 0000 0a01 0203"
    )


def test_an_unsolicited_advertisement_goes_to_all_nodes_with_override_and_our_mac() -> None:
    frame = unsolicited_na(MAC, "2001:db8::5").hex(" ", 2)
    owner = "2001 0db8 0000 0000 0000 0000 0000 0005"
    all_nodes = "ff02 0000 0000 0000 0000 0000 0000 0001"
    ethernet, ipv6 = "3333 0000 0001 0200 00aa bbcc 86dd", f"6000 0000 0020 3aff {owner} {all_nodes}"
    # The checksum was computed by hand: the one's complement sum of pseudo-header and message.
    assert frame == f"{ethernet} {ipv6} 8800 {expected_checksum()} 2000 0000 {owner} 0201 0200 00aa bbcc"


def expected_checksum() -> str:
    pseudo_header = 0x2001 + 0x0DB8 + 0x0005 + 0xFF02 + 0x0001 + 0x0020 + 0x003A
    message = 0x8800 + 0x2000 + 0x2001 + 0x0DB8 + 0x0005 + 0x0201 + 0x0200 + 0x00AA + 0xBBCC
    total = pseudo_header + message
    return f"{0xFFFF - (total % 0x10000 + total // 0x10000):04x}"


@given(st.binary(min_size=2, max_size=64).filter(lambda raw: len(raw) % 2 == 0))
def test_content_with_its_checksum_sums_up_to_nothing(content: bytes) -> None:
    assert checksum(content + checksum(content).to_bytes(2, "big")) == 0


@pytest.mark.parametrize("mac", ("", "02:00:00", "02:00:00:aa:bb:cg", "00:" * 19 + "01"))
@pytest.mark.parametrize(("build", "address"), ((gratuitous_arp, "10.0.0.1"), (unsolicited_na, "fe80::1")))
def test_what_is_no_ethernet_address_is_refused(build: Builder, address: str, mac: str) -> None:
    with pytest.raises(ValueError, match="not an Ethernet address"):
        build(mac, address)


@pytest.mark.parametrize(
    ("build", "address"),
    ((gratuitous_arp, "10.0.0.1/24"), (gratuitous_arp, "::1"), (unsolicited_na, "10.0.0.1"), (unsolicited_na, "a\0:b")),
)
def test_what_is_no_address_of_the_family_is_refused(build: Builder, address: str) -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        build(MAC, address)


def test_nothing_to_announce_is_no_problem() -> None:
    assert announce(0, "", []) == []


def test_a_missing_interface_is_one_problem_however_many_addresses() -> None:
    assert announce(2**31 - 1, MAC, ["10.0.0.1", "10.0.0.2"]) == ["interface 2147483647: No such device or address"]
