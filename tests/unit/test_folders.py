"""Temporary names: no key has one, although a key may look like an older version's temporary name."""

from __future__ import annotations

import os

import pytest

from cni.attachment import device_info
from cni.attachment.record import DEVICE, IPAM, Key, Record
from cni.attachment.records import LOOKED_AT, Attachments
from cni.errors import IoFailure
from cni.host import files, folders
from cni.names import is_identifier
from ipam.command.networks import Folders, attached, entries, records

GONE = 2**22 + 1
"""No process has this ID."""

LIKE_TEMPORARY = ["x.tmp", "x.damaged", "x.json.damaged", "x.123.tmp", f"x.{GONE}.tmp", ".x", ".x.1.tmp"]


@pytest.fixture
def attachments(tmp_path):
    return Attachments(str(tmp_path / "state"), str(tmp_path / "run"), plugin="userspace")


def record(ifname: str, network: str = "net", device: str = "", **fields) -> Record:
    return Record(
        **{
            "key": Key(network=network, container_id="a", ifname=ifname),
            "plugin": "userspace",
            "device": device,
            "netns": "",
            "netns_identity": "",
            "boot_id": "",
            "left": (DEVICE, IPAM),
            "found": {},
            "wanted": {},
            **fields,
        }
    )


@pytest.mark.parametrize("ifname", LIKE_TEMPORARY)
def test_an_unfinished_removal_of_an_interface_that_is_called_like_a_temporary_file_is_kept(attachments, ifname):
    attachments.claim(record(ifname))
    attachments.keep_pending(record(ifname))
    attachments.sweep("net")
    assert [one.key.ifname for one in attachments.pending()] == [ifname]


@pytest.mark.parametrize("ifname", LIKE_TEMPORARY)
def test_a_port_of_an_interface_that_is_called_like_a_temporary_file_keeps_its_owner(attachments, ifname):
    device = f"0123456789ab-{ifname}"
    attachments.claim(record(ifname, device=device))
    attachments.sweep("net")
    assert attachments.of_device(device) is not None
    assert [one.key.ifname for one in attachments.of_network("net")] == [ifname]


def test_dangling_links_of_many_devices_are_removed_by_few_calls_and_each_looks_at_some(tmp_path):
    attachments = Attachments(str(tmp_path / "state"), str(tmp_path / "run"), plugin="sriov")
    attachments.claim(record("net1", device="owned"))
    devices = tmp_path / "state" / ".devices"
    for number in range(5 * LOOKED_AT):
        (devices / f"device{number}").symlink_to("../net/gone.json")
    sizes = []
    for _ in range(10):
        before = len(list(devices.iterdir()))
        attachments.sweep("net")
        sizes.append(before - len(list(devices.iterdir())))
    assert max(sizes) <= LOOKED_AT
    assert [path.name for path in devices.iterdir()] == ["owned"]


def test_calls_of_one_process_number_find_every_dangling_link_in_the_end(tmp_path):
    attachments = Attachments(str(tmp_path / "state"), str(tmp_path / "run"), plugin="sriov")
    attachments.claim(record("net1", device="owned"))
    devices = tmp_path / "state" / ".devices"
    for number in range(2 * LOOKED_AT):
        (devices / f"device{number}").symlink_to(os.readlink(devices / "owned"))
    for name in ("device3", f"device{LOOKED_AT + 3}"):
        (devices / name).unlink()
        (devices / name).symlink_to("../net/gone.json")
    # Each call finds each of them in about half of the cases.
    for _ in range(200):
        attachments.sweep("net")
    assert not {"device3", f"device{LOOKED_AT + 3}"} & {path.name for path in devices.iterdir()}


@pytest.mark.parametrize("network", ["x.tmp", "x.damaged", "x.1.tmp"])
def test_a_network_that_is_called_like_a_temporary_file_is_a_network(attachments, network, tmp_path):
    attachments.claim(record("net1", network))
    assert attachments.networks() == [network]
    assert [
        one.key.network for one in attachments.others_with(Key(network="n", container_id="b", ifname="i"), "a")
    ] == [network]
    known = Folders(state=str(tmp_path / "state"), data=str(tmp_path / "data"), run=str(tmp_path / "run"))
    assert [one.network for one in attached(known)] == [network]
    assert len(list(records(known))) == 1
    assert list(entries(known)) == []


def test_a_file_is_written_under_a_name_that_no_key_has(tmp_path, monkeypatch):
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "fsync", lambda _fd: seen.append(os.listdir(tmp_path)))
    files.write_file(str(tmp_path / "a"), b"")
    assert seen[0] == [f".a.{os.getpid()}.tmp"]
    assert folders.keys(str(tmp_path)) == ["a"]


@pytest.mark.parametrize("kind", ["file", "link", "fifo"])
def test_what_is_in_the_place_of_a_temporary_file_is_not_opened(tmp_path, kind):
    victim, taken = tmp_path / "victim", tmp_path / f".a.{os.getpid()}.tmp"
    victim.write_text("kept")
    {
        "file": lambda: os.link(victim, taken),
        "link": lambda: taken.symlink_to(victim),
        "fifo": lambda: os.mkfifo(taken),
    }[kind]()
    files.write_file(str(tmp_path / "a"), b"new")
    assert victim.read_text() == "kept"
    assert (tmp_path / "a").read_bytes() == b"new"
    assert not os.path.lexists(taken)


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path):
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(IoFailure, match="cannot list"):
        folders.keys(str(tmp_path / "loop"))
    assert folders.keys(str(tmp_path / "nothing")) == []


def test_only_what_was_left_of_the_very_file_is_swept_with_it(tmp_path):
    path = tmp_path / "a-net1-device.json"
    others = [f"{path.name}.x.{GONE}.tmp", f"{path.name}.tmp", f"b.{GONE}.tmp", f".{path.name}", f".b.{GONE}.tmp"]
    for name in (*others, path.name, f"{path.name}.{GONE}.tmp", f".{path.name}.{GONE}.tmp"):
        (tmp_path / name).touch()
    device_info.remove(str(path))
    assert sorted(os.listdir(tmp_path)) == sorted(others)


def test_a_record_without_a_device_is_kept_and_forgotten_like_any_other(attachments):
    without = record("net1", left=(IPAM,))
    attachments.save(without)
    attachments.keep_pending(without)
    assert [one.key for one in attachments.pending()] == [without.key]
    attachments.forget(without)
    assert attachments.pending() == []
    assert attachments.of_network("net") == []


LONGEST = "n" * 253
CONTAINER = "0123456789abcdef" * 4


@pytest.mark.parametrize("name", ["a", "x.json.damaged", "n" * 255])
def test_what_fits_into_a_file_s_name_is_called_as_ever(name):
    assert files.component(name) == name


@pytest.mark.parametrize("end", ["", ".json"])
def test_what_does_not_fit_is_called_by_a_name_of_its_own_that_no_network_and_no_container_can_have(end):
    found = [files.component(f"{'n' * 254}{one}", end) for one in ("aa", "ab")]
    assert len(set(found)) == 2
    assert all(len(one) < 100 and one.endswith(end) and not is_identifier(one) for one in found)
    assert [files.component(one) for one in found] == found


def test_a_record_with_long_names_is_kept_pending_found_and_listed(attachments, tmp_path):
    key = Key(network=LONGEST, container_id=CONTAINER, ifname="net1")
    kept = record("net1", left=(IPAM,)).replace(key=key)
    attachments.claim(kept)
    attachments.keep_pending(kept)
    assert [one.key for one in attachments.pending()] == [key]
    assert attachments.networks() == [LONGEST]
    with attachments.locked_record(kept):
        assert attachments.find(key) is not None
    attachments.forget(kept)
    assert attachments.pending() == []
    assert os.listdir(tmp_path / "state" / LONGEST) == []


def test_a_damaged_file_of_the_longest_name_is_set_aside_and_one_is_written_in_its_place(tmp_path):
    path = str(tmp_path / ("n" * 255))
    files.write_file(path, b"old")
    kept = folders.set_aside(path)
    files.write_file(path, b"new")
    assert files.read_file(path) == b"new"
    assert files.read_file(kept) == b"old"
    assert kept.endswith(".damaged")


def test_touching_a_link_sets_its_own_time_and_touching_nothing_does_nothing(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("")
    link.symlink_to(target)
    os.utime(target, (1, 1))
    os.utime(link, (1, 1), follow_symlinks=False)
    folders.touch(str(link))
    folders.touch(str(tmp_path / "gone"))
    assert folders.changed(str(link)) > 1
    assert folders.changed(str(target)) == 1
    assert not (tmp_path / "gone").exists()
