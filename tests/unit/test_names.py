"""The rules for names from other parties, and the second check when a path is built."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cni.attachment.record import DEVICE, Key, Record
from cni.attachment.records import Attachments
from cni.errors import IoFailure, SocketDirUnfit
from cni.host import files
from cni.names import attachment_fault, is_file_name, is_identifier, is_ifname
from cni.userspace.plan import is_port_name, port_name
from cni.userspace.sockets.directory import entry
from cni.userspace.vswitch.model import NOBODY, owner_of
from ipam.cluster.journal import Journal
from ipam.cluster.journal_entry import TOMBSTONE, Entry, decode
from ipam.store import Owner, holder_fault, owner_fault
from tests.hostile import WRONG, climbing

VICTIM = "/etc/shadow"
CLIMBING = [*climbing(VICTIM), "/../../../../etc/shadow", "../../../../../etc/passwd", "..", ".", "", "a/b", "a\0b"]


@pytest.mark.parametrize("name", CLIMBING)
def test_a_name_that_leads_elsewhere_is_no_name_of_anything(name):
    assert not is_identifier(name)
    assert not is_ifname(name)
    assert not is_file_name(name)
    assert attachment_fault("net", name, "net1")
    assert attachment_fault("net", "a", name)
    assert attachment_fault(name, "a", "net1")
    assert not is_port_name(f"0123456789ab-{name}")
    assert not is_port_name(name)


@pytest.mark.parametrize("value", WRONG)
def test_what_is_no_text_is_no_name(value):
    assert attachment_fault("net", value, "net1")
    assert attachment_fault("net", "a", value)
    assert attachment_fault(value, "a", "net1")


@pytest.mark.parametrize("ifname", ["net1", "x.tmp", "x.damaged", "x.json.damaged", ".x", "-rf", "a.12.tmp", "é"])
def test_a_name_that_a_runtime_can_give_is_an_owners(ifname):
    assert attachment_fault("net", "0123abc", ifname) == ""
    assert is_port_name(port_name(Key(network="net", container_id="0123abc", ifname=ifname)))
    assert owner_fault(Owner(network="net", container_id="0123abc", ifname=ifname)) == ""


def test_text_that_no_file_can_have_is_no_interfaces_name():
    assert not is_ifname("\ud800")


def test_an_interface_may_be_unknown_where_older_programs_wrote():
    assert holder_fault("0123abc", "") == ""
    assert holder_fault("../x", "")
    assert holder_fault("", "")
    assert owner_fault(Owner(network="net", container_id="0123abc", ifname=""))


def test_an_owners_names_may_be_longer_than_a_files():
    assert owner_fault(Owner(network="n" * 253, container_id="a" * 240, ifname="net1")) == ""
    assert holder_fault("a" * 300, "net1") == ""


@pytest.mark.parametrize("name", CLIMBING)
def test_a_mark_that_names_no_attachment_is_not_followed(name):
    mark = {"owner": "barewire", "container-id": "a", "ifname": "net1", "network": "net"}
    assert owner_of(mark) != NOBODY
    for part in ("container-id", "ifname", "network"):
        assert owner_of({**mark, part: name}) == NOBODY


@pytest.mark.parametrize("name", [name for name in CLIMBING if "/" in name or "\0" in name])
@pytest.mark.parametrize("part", ["network", "container_id", "ifname"])
def test_no_path_is_made_of_an_attachment_whose_name_leads_elsewhere(part, name, tmp_path):
    """The second check: code that forgets to check a name gets no path from it."""
    key = Key(**{"network": "net", "container_id": "a", "ifname": "net1", part: f"{name}/x"})
    attachments, journal = opened(tmp_path)
    found, owner = record(key), Owner(**key.as_dict())
    told = Entry(owner=owner, phase=TOMBSTONE, claims=None, cluster_conf={}, shared="net", node="n")
    steps: list[Callable[[], object]] = [
        lambda: attachments.find(key),
        lambda: attachments.save(found),
        lambda: attachments.claim(found),
        lambda: attachments.keep_pending(found),
        lambda: attachments.forget(found),
        lambda: attachments.locked_record(found),
        lambda: journal.find(owner),
        lambda: journal.locked(owner),
        lambda: journal.forget(owner),
        lambda: journal.save_tombstone(told),
        lambda: journal.save(told),
    ]
    refuse_all(steps)
    assert written(tmp_path) == []


@pytest.mark.parametrize("name", CLIMBING)
def test_no_path_is_made_of_a_device_or_network_whose_name_leads_elsewhere(name, tmp_path):
    attachments, journal = opened(tmp_path)
    steps: list[Callable[[], object]] = [
        lambda: attachments.locked(name),
        lambda: attachments.of_device(name),
        lambda: attachments.has_owner(name),
        lambda: attachments.of_network(name),
        lambda: attachments.sweep(name),
        lambda: journal.of_network(name),
        lambda: journal.sweep(name),
        lambda: files.component(name),
    ]
    refuse_all(steps)
    with pytest.raises(SocketDirUnfit):
        entry(name)
    assert written(tmp_path) == []


@pytest.mark.parametrize("part", ["network", "container_id", "ifname"])
@pytest.mark.parametrize("name", CLIMBING)
def test_an_entry_or_record_that_names_what_is_no_attachment_is_damaged(part, name, tmp_path):
    key = {"network": "net", "container_id": "a", "ifname": "net1", part: name}
    written = Entry(owner=Owner(**key), phase=TOMBSTONE, claims=None, cluster_conf={}, shared="net", node="n")
    with pytest.raises(ValueError, match="not an entry"):
        decode(written.encoded())
    warnings: list[str] = []
    state = tmp_path / "state"
    (state / "net").mkdir(parents=True, mode=0o700)
    (state / "net" / "a:net1.json").write_bytes(record(Key(**key)).encoded())
    attachments = Attachments(str(state), str(tmp_path / "run"), plugin="sriov", warn=warnings.append)
    assert attachments.of_network("net") == []
    assert "is damaged" in warnings[0]
    assert os.listdir(state / "net") == ["a:net1.json.damaged"]


def test_a_link_that_leads_out_of_our_folders_is_no_record(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("{")
    state = tmp_path / "state"
    (state / ".devices").mkdir(parents=True, mode=0o700)
    (state / ".devices" / "0000:01:00.0").symlink_to("../../victim")
    attachments = Attachments(str(state), str(tmp_path / "run"), plugin="sriov")
    assert attachments.of_device("0000:01:00.0") is None
    assert victim.read_text() == "{"


def opened(folder: Path) -> tuple[Attachments, Journal]:
    run = str(folder / "run")
    return Attachments(str(folder / "state"), run, plugin="sriov"), Journal(str(folder / "journal"), run)


def refuse_all(steps: list[Callable[[], object]]) -> None:
    for step in steps:
        with pytest.raises(IoFailure, match="not a file name"):
            step()


def written(folder: Path) -> list[str]:
    return [os.path.join(top, name) for top, _folders, names in os.walk(folder) for name in names]


def record(key: Key) -> Record:
    return Record(
        key=key,
        plugin="sriov",
        device="",
        netns="",
        netns_identity="",
        boot_id="",
        left=(DEVICE,),
        found={},
        wanted={},
    )
