"""Our link changes on the real kernel: pyroute2 reads our changes, and we read those of pyroute2."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import tracemalloc

import pytest

from cni.host import links
from cni.host.netlink import Link, link
from cni.host.rtnetlink import RECEIVE_BYTES, NetlinkError, RouteSocket
from tests.contract.place import Place


@pytest.fixture
def place():
    made = Place()
    yield made
    made.close()


@pytest.fixture
def other():
    made = Place()
    yield made
    made.close()


@pytest.fixture
def veth(place):
    place.oracle.link("add", ifname="first", kind="veth", peer={"ifname": "second"})
    link = links.by_name(place.ours, "first")
    assert link is not None
    return link


def test_every_change_of_one_message_reaches_the_kernel(place, veth):
    links.change(place.ours, veth.index, name="net1", mac="02:00:00:00:00:07", mtu=1400, alias="an alias", up=True)
    seen = place.seen_by_oracle("net1")
    assert seen["index"] == veth.index
    assert seen["flags"] & 1
    assert (seen.get_attr("IFLA_ADDRESS"), seen.get_attr("IFLA_MTU")) == ("02:00:00:00:00:07", 1400)
    assert seen.get_attr("IFLA_IFALIAS") == "an alias"


def test_an_empty_alias_clears_the_alias(place, veth):
    links.change(place.ours, veth.index, alias="an alias")
    links.change(place.ours, veth.index, alias="")
    assert place.seen_by_oracle("first").get_attr("IFLA_IFALIAS") is None
    again = links.by_name(place.ours, "first")
    assert again is not None
    assert again.alias == ""


def test_we_see_what_pyroute2_did(place, veth):
    place.oracle.link("set", index=veth.index, address="02:00:00:00:00:08", mtu=1300, state="up")
    place.oracle.link("property_add", index=veth.index, altname="a-name-longer-than-fifteen")
    for name in ("first", "a-name-longer-than-fifteen"):
        link = links.by_name(place.ours, name)
        assert link is not None
        assert (link.index, link.mac, link.mtu, link.up) == (veth.index, "02:00:00:00:00:08", 1300, True)
        assert link.altnames == ("a-name-longer-than-fifteen",)


def test_altnames_come_and_go_and_may_be_there_already(place, veth):
    links.add_altnames(place.ours, veth.index, ["one", "two"])
    links.add_altnames(place.ours, veth.index, ["two"])
    link = links.by_index(place.ours, veth.index)
    assert link is not None
    assert set(link.altnames) == {"one", "two"}
    links.remove_altnames(place.ours, veth.index, ["one", "none"])
    link = links.by_index(place.ours, veth.index)
    assert link is not None
    assert link.altnames == ("two",)


def test_an_altname_of_another_device_is_refused(place, veth):
    second = links.by_name(place.ours, "second")
    assert second is not None
    links.add_altnames(place.ours, second.index, ["taken"])
    with pytest.raises(NetlinkError) as refused:
        links.add_altnames(place.ours, veth.index, ["taken"])
    assert refused.value.errno == errno.EEXIST


def test_a_move_renames_on_the_way(place, other, veth):
    links.change(place.ours, veth.index, netns_fd=other.netns.fd, name="net1", mtu=1450, alias="mark", up=True)
    assert links.by_name(place.ours, "first") is None
    moved = links.by_name(other.ours, "net1")
    assert moved is not None
    assert (moved.mtu, moved.alias, moved.up) == (1450, "mark", True)


def test_a_move_to_a_taken_name_is_refused(place, other, veth):
    other.oracle.link("add", ifname="net1", kind="veth", peer={"ifname": "peer"})
    with pytest.raises(NetlinkError) as refused:
        links.change(place.ours, veth.index, netns_fd=other.netns.fd, name="net1")
    assert refused.value.errno == errno.EEXIST


def test_a_refused_mtu_leaves_the_link_moved_under_one_name_or_the_other(place, other, veth):
    """This is why the plugin searches by PCI parent: the name and namespace are changed before the MTU fails."""
    with pytest.raises(NetlinkError) as refused:
        links.change(place.ours, veth.index, netns_fd=other.netns.fd, name="net1", mtu=100_000)
    assert refused.value.errno == errno.EINVAL
    assert "mtu" in refused.value.words
    assert links.by_name(place.ours, "first") is None
    assert {link.name for link in links.every(other.ours)} & {"first", "net1"}


def test_a_link_that_is_not_there_is_none_and_no_error(place):
    assert links.by_name(place.ours, "nothing") is None
    assert links.by_name(place.ours, "a-name-longer-than-fifteen") is None
    assert links.by_index(place.ours, 4711) is None
    assert links.by_parent(place.ours, "0000:ff:1f.7") is None


def test_every_link_is_listed(place, veth):
    assert {link.name for link in links.every(place.ours)} == {"lo", "first", "second"} | _fallback_tunnels(place)
    assert veth.name == "first"


def _fallback_tunnels(place) -> set[str]:
    # Modules such as ip6_tunnel or sit add a device to each new namespace.
    names = {link.get_attr("IFLA_IFNAME") for link in place.oracle.get_links()}
    return names - {"lo", "first", "second"}


def test_one_link_among_thousands_is_found_without_keeping_the_others(place, veth, monkeypatch):
    commands = "".join(f"link add many{number} type ifb\n" for number in range(1500))
    subprocess.run(["ip", "-n", place.name, "-batch", "-"], input=commands, text=True, check=True)
    links.change(place.ours, veth.index, alias="0000:ff:1f.7")
    links.every(place.ours, b"0000:ff:1f.7")
    tracemalloc.start()
    try:
        (found,) = links.every(place.ours, b"0000:ff:1f.7")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.index == veth.index
    assert most < 2 * RECEIVE_BYTES
    decoded = []

    def counted(body: bytes) -> Link:
        decoded.append(body)
        return link(body)

    monkeypatch.setattr("cni.host.netlink.link", counted)
    assert links.by_parent(place.ours, "0000:ff:1f.7") is None  # here it is an alias
    assert len(decoded) == 1


def test_a_socket_stays_in_its_namespace(place):
    own = os.stat("/proc/self/ns/net").st_ino
    assert own != int(place.netns.identity.partition(":")[2])
    with RouteSocket() as outside:
        names = {link.name for link in links.every(outside)}
    assert names != {link.name for link in links.every(place.ours)} or len(names) == 1


def test_an_answer_that_does_not_fit_is_an_error_and_not_cut(place, veth):
    with place.netns.entered():
        short = RouteSocket(receive_bytes=256)
    with short, pytest.raises(NetlinkError, match="longer than 256 bytes") as failed:
        links.by_index(short, veth.index)
    assert failed.value.errno == errno.EMSGSIZE


def test_a_dropped_acknowledgement_is_an_error_that_says_so(place, veth):
    """The kernel drops it if the preceding response fills the socket."""
    links.add_altnames(place.ours, veth.index, [f"{number:0>120}" for number in range(64)])
    link = links.by_index(place.ours, veth.index)
    assert link is not None
    assert len(link.altnames) == 64
    place.ours._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    with pytest.raises(NetlinkError, match="dropped a message") as failed:
        links.by_index(place.ours, veth.index)
    assert failed.value.errno == errno.ENOBUFS
