"""DEL, GC and `barewire gc` on fakes if the record is missing, deferred, or belongs to another attachment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cni.attachment.record import DEVICE, Record
from cni.attachment.records import Attachments
from cni.errors import CheckFailed, DeviceBusy, IoFailure, TryAgainLater
from cni.host import files
from cni.userspace import removal
from cni.userspace.vswitch.model import Owner
from tests.port_node import PortNode, key, port, port_node

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def node(monkeypatch) -> Iterator[PortNode]:
    with port_node(monkeypatch) as node:
        yield node


def rename_port(node: PortNode, old: str, new: str) -> None:
    """Renames one of our ports, as a program with write access to the database can."""
    seen = node.vswitch.ports.pop(old)
    node.vswitch.ports[new] = seen.replace(port=seen.port.replace(name=new))


def test_without_its_record_del_follows_the_mark_on_the_port(node):
    pod = node.pod("a", "shared-dir")
    before = node.snapshot()
    node.add(pod)
    node.listen(node.volume("a", "shared-dir"), port(pod))
    node.forget_record(pod)
    node.delete(pod)
    assert node.snapshot() == before
    assert any("has no record, only its mark: removing it" in text for text in node.log.messages)


def test_without_port_and_record_del_removes_the_folders_that_bear_the_ports_name(node):
    pod = node.pod("a", "shared-dir")
    before = node.snapshot()
    node.add(pod)
    node.forget_record(pod)
    node.vswitch.ports.clear()
    node.delete(pod)
    assert node.snapshot() == before


def test_a_marked_port_that_another_attachment_has_a_record_of_is_left(node):
    pod, other = node.pod("a"), node.pod("b")
    node.add(pod)
    seen = node.vswitch.ports[port(pod)]
    forged = Owner(container_id=other.container_id, ifname="net1", network="net")
    node.vswitch.ports[port(pod)] = seen.replace(port=seen.port.replace(owner=forged))
    node.delete(other)
    assert list(node.vswitch.ports) == [port(pod)]
    assert node.record(pod)


@pytest.mark.parametrize("name", ["eth0", "../../etc/x", "0123456789ab-", "x" * 12 + "-net1"])
@pytest.mark.parametrize("command", ["del", "gc"])
def test_a_marked_port_whose_name_is_none_of_ours_is_named_and_left(node, name, command):
    pod = node.pod()
    node.add(pod)
    node.forget_record(pod)
    rename_port(node, port(pod), name)
    node.delete(pod) if command == "del" else node.gc()
    assert list(node.vswitch.ports) == [name]
    assert any("has a name that we do not give: it is left alone" in text for text in node.log.messages)
    assert node.removal().damaged(node.remote) == [name]


# Deferred removals.


def test_del_without_record_and_vswitch_leaves_a_promise_that_any_later_call_keeps(node):
    pod, other = node.pod("a", "shared-dir"), node.pod("b")
    before = node.snapshot()
    node.add(pod)
    node.forget_record(pod)
    node.vswitch.database = False
    node.delete(pod)
    node.delete(pod)
    assert node.pending() == [pod.container_id]
    assert any("a later call looks whether there is a port" in text for text in node.log.messages)
    with pytest.raises(CheckFailed, match="is being removed"):
        node.check(pod)
    node.vswitch.database = True
    node.delete(other)
    assert node.snapshot() == before


def test_promises_have_a_bound(node, monkeypatch):
    pod, most = node.pod(), 6
    monkeypatch.setattr(removal, "MOST_DEFERRED", most)
    node.vswitch.database = False
    for number in range(most + 2):
        node.delete(pod, f"eth{number}")
    assert len(node.pending()) == most
    assert any("no other is noted, GC finds the port" in text for text in node.log.messages)
    node.vswitch.database = True
    for _ in range(2):
        node.delete(pod)
    assert node.pending() == []


def test_a_promise_does_not_make_del_forget_the_addresses(node):
    pod, conf = node.pod(), {"ipam": {"type": "fake"}}
    node.add(pod, **conf)
    node.forget_record(pod)
    node.vswitch.database = False
    node.ipam.fail = {"release"}
    node.delete(pod, **conf)
    assert any("IPAM DEL without a record: release refused" in text for text in node.log.messages)
    node.ipam.fail = set()
    node.delete(pod, **conf)
    assert node.ipam.leases == {}


@pytest.mark.parametrize("is_known", [True, False])
def test_no_promise_is_left_beside_a_record_of_another_plugin_or_of_an_add(node, is_known, monkeypatch):
    pod = node.pod()
    state, run = str(node.folder / "state"), str(node.folder / "run")
    plugin = "userspace" if is_known else "sriov"
    others = Attachments(state, run, plugin=plugin)
    record = Record(
        key=key(pod), plugin=plugin, device="0000:01:00.0", netns=pod.netns, netns_identity="", boot_id=others.boot_id,
        left=(DEVICE,), found={}, wanted={},
    )  # fmt: skip
    others.claim(record)
    node.removal().defer(key(pod), node.remote, node.vhost)
    assert others.find(key(pod)) == record
    assert node.pending() == []


def test_a_failed_add_of_a_node_without_open_vswitch_leaves_no_promise(node):
    pod = node.pod()
    node.vswitch.database = False
    os.rmdir(node.folder / "ovs")
    node.delete(pod)
    assert node.pending() == []
    assert any("no port of" in text and "is looked for" in text for text in node.log.messages)


def test_del_is_no_success_when_what_is_left_cannot_be_noted(node, monkeypatch):
    pod = node.pod()
    node.add(pod)
    node.vswitch.database = False

    def refuse(*_arguments: object) -> None:
        raise IoFailure("a read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Attachments, "keep_pending", refuse)
        with pytest.raises(TryAgainLater) as refused:
            node.delete(pod)
    assert "clean-up incomplete: a read-only file system" in refused.value.details
    node.vswitch.database = True
    node.delete(pod)
    assert node.vswitch.ports == {}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_lock_file_that_cannot_be_removed_stays_beside_a_record_and_blocks_no_call(node, monkeypatch, number):
    pod, removals = node.pod(), []
    before, remove = node.snapshot(), files.remove_file

    def refuse(path: str) -> None:
        removals.extend([path] * path.startswith(f"{node.folder}/run/lock/"))
        if len(removals) == number and path == removals[-1]:
            raise IoFailure(f"cannot remove {path}: Input/output error")
        remove(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "remove_file", refuse)
        try:
            node.add(pod)
        except IoFailure:
            assert node.record(pod)
    node.delete(pod)
    assert node.snapshot() == before
    assert os.listdir(node.folder / "run/lock") == [".directories"]


def test_a_del_during_an_add_that_has_no_record_yet_removes_what_that_makes(node, monkeypatch):
    """The ADD saves its record while the DEL looks for a port."""
    pod = node.pod()
    before, show = node.snapshot(), node.vswitch.show

    def added_meanwhile(**how: object) -> object:
        monkeypatch.setattr(node.vswitch, "show", show)
        node.add(pod)
        return []

    monkeypatch.setattr(node.vswitch, "show", added_meanwhile)
    node.delete(pod)
    assert node.snapshot() == before


# `barewire gc`.


def test_an_orphan_is_removed_by_its_name_when_it_has_a_mark_and_has_no_record(node):
    lost, alive = node.pod("a", "shared-dir"), node.pod("b")
    for pod in (lost, alive):
        node.add(pod)
    node.forget_record(lost)
    node.vswitch.add_foreign_port("br0", "0123456789ab-net1", "/run/theirs")
    removing = node.removal()
    assert removing.places(node.vhost) == sorted([port(lost), port(alive)])
    for name in (port(lost), port(alive), "0123456789ab-net1", "no-name-of-ours"):
        removing.remove_orphan(name, node.remote, node.vhost)
    assert set(node.vswitch.ports) == {port(alive), "0123456789ab-net1"}
    assert removing.places(node.vhost) == [port(alive)]
    node.check(alive)


def test_no_single_port_blocks_gc_and_gc_reports_what_it_could_not_remove(node):
    pods = [node.pod(name) for name in ("a", "b")]
    for pod in pods:
        node.add(pod)
        node.forget_record(pod)
    node.vswitch.refuse(1)
    with pytest.raises(Exception, match="refused by the test"):
        node.gc()
    assert len(node.vswitch.ports) == 1
    node.gc()
    assert node.vswitch.ports == {}


def test_short_folders_in_a_folder_that_others_can_write_to_are_left(node):
    os.makedirs(f"{node.vhost}/0123456789ab-net1", 0o700)
    os.chmod(node.vhost, 0o777)
    node.gc()
    assert os.listdir(node.vhost) == ["0123456789ab-net1"]


@pytest.mark.parametrize("kind", ["file", "full", "open", "link"])
def test_what_is_beside_the_short_folders_and_not_as_we_make_them_is_left(node, kind):
    place = f"{node.vhost}/0123456789ab-net1"
    os.mkdir(node.vhost)
    if kind == "file":
        open(place, "w").close()
    elif kind == "link":
        os.symlink(node.shared, place)
    else:
        os.mkdir(place, 0o700 if kind == "full" else 0o755)
        if kind == "full":
            open(f"{place}/file", "w").close()
    before = node.snapshot()
    node.gc()
    assert node.snapshot() == before


def test_a_port_of_a_living_container_with_the_same_name_in_another_network_is_busy(node):
    pod = node.pod()
    node.add(pod)
    with pytest.raises(DeviceBusy):
        node.add(pod, name="other")
    node.delete(pod, name="other")
    node.check(pod)
