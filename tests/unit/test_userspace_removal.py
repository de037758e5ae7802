"""Removals of ports that cannot be finished: they end when the missing part is back, has moved, or is given up."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from cni.attachment.delegate import IpamCall
from cni.attachment.record import DEVICE, IPAM, POD, Key, Record
from cni.attachment.records import Attachments
from cni.attachment.removal import COLLECT_SECONDS
from cni.errors import DeviceBusy, InvalidConfig, IoFailure, TryAgainLater
from cni.node.node import NodeConf, SocketPolicy
from cni.protocol.request import Request
from cni.tool.giving_up import give_up, key_of
from cni.userspace.adapters import Adapters
from cni.userspace.attachment import PLUGIN, PortAttachment, document, owner_of
from cni.userspace.plan import port_name
from cni.userspace.plugin import UserspacePlugin
from cni.userspace.publish import Publisher
from cni.userspace.removal import PortRemoval
from cni.userspace.sockets.directory import SocketDirectory
from cni.userspace.sockets.sockets import Sockets
from cni.userspace.vswitch.model import Port
from tests.fake_vswitch import FakeVswitch
from tests.fakes import FakeIpam
from tests.recording_log import RecordingLog

OLD, NEW = "unix:/run/old/db.sock", "unix:/run/new/db.sock"
VHOST = "/run/barewire/vhost"


class Namespaces:
    """The namespaces that are in use."""

    def __init__(self) -> None:
        self.inhabited: set[str] = set()

    def is_inhabited(self, path: str, _identity: str) -> bool:
        return path in self.inhabited


class Host:
    """A node with two databases. `contacted` are those that received requests, in order; `silent` those that do not
    respond.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = RecordingLog()
        self.vswitches = {OLD: FakeVswitch(), NEW: FakeVswitch()}
        self.silent: set[str] = set()
        self.contacted: list[str] = []
        self.namespaces = Namespaces()
        self.ipam = FakeIpam()
        self.attachments = self.opened()
        (folder / "sockets").mkdir()

    def opened(self) -> Attachments:
        return Attachments(
            str(self.folder / "state"),
            str(self.folder / "run"),
            plugin=PLUGIN,
            lasting_locks=False,
            warn=self.log.warning,
        )

    def vswitch(self, remote: str, **_how: float) -> FakeVswitch:
        self.contacted.append(remote)
        found = self.vswitches[remote]
        found.database = remote not in self.silent
        return found

    def removal(self, present: str = "") -> PortRemoval:
        sockets = Sockets(self.log)
        publisher = Publisher(sockets, lambda _kubeconfig, _seconds: None, self.log)  # type: ignore[arg-type,return-value]
        adapters = Adapters(namespaces=self.namespaces, vswitch=self.vswitch, sockets=sockets, publisher=publisher)  # type: ignore[arg-type]
        return PortRemoval(
            adapters=adapters, attachments=self.attachments, ipam=self.ipam, log=self.log, present=present
        )

    def drain(self, present: str = "") -> list[str]:
        """The databases to which a call sends requests for pending removals."""
        self.contacted.clear()
        self.removal(present).drain("net")
        return self.contacted

    def attach(self, name: str, remote: str = OLD, **how: Any) -> Record:
        """Creates a record, and its port."""
        key = Key(network="net", container_id=name, ifname="net1")
        port = Port(name=port_name(key), bridge="br0", path=f"/run/{name}", owner=owner_of(key))
        directory = SocketDirectory(root=str(self.folder), path=str(self.folder / "sockets"), since=1)
        attachment = PortAttachment(
            remote=remote, port=port, directory=directory, socket=name, container_dir="/s", mac=""
        )
        record = Record(
            key=key, plugin=PLUGIN, device=port.name, netns=f"/run/netns/{name}", netns_identity="1:1",
            boot_id=self.attachments.boot_id, left=(DEVICE, POD), found={}, wanted=document(attachment),
        )  # fmt: skip
        record = record.replace(**how)
        self.attachments.claim(record)
        self.vswitches[remote]._put(port)
        return record

    def aged(self, *records: Record, first: float, last: float) -> None:
        """Sets the times of the first and of the last attempt of the removals, in seconds ago."""
        now = time.time()
        for record in records:
            link = self.attachments._pending_link(record.key)
            os.utime(self.attachments._path(record.key), (now - first, now - first))
            os.utime(link, (now - last, now - last), follow_symlinks=False)

    def left(self) -> list[str]:
        return [record.key.container_id for record in self.attachments.of_network("net")]


@pytest.fixture
def host(tmp_path) -> Host:
    return Host(tmp_path)


def pending(host: Host, *names: str) -> list[Record]:
    """Attachments whose removal is pending because their database is silent."""
    host.silent.add(OLD)
    records = [host.attach(name) for name in names]
    for record in records:
        host.removal().remove_or_keep(record)
    return records


def test_a_call_asks_a_silent_database_once_however_many_removals_wait_for_it(host):
    pending(host, "a", "b", "c")
    assert host.drain() == [OLD]


def test_a_silent_database_is_contacted_after_growing_pauses(host):
    records = pending(host, "a", "b", "c")
    host.aged(*records, first=120, last=59)
    assert host.drain() == []
    host.aged(*records, first=120, last=61)
    assert host.drain() == [OLD]
    assert host.drain() == []
    host.aged(*records, first=100_000, last=601)
    host.silent.clear()
    host.drain()
    assert host.left() == []
    assert host.vswitches[OLD].ports == {}


def test_a_try_that_fails_does_not_make_the_removal_younger(host):
    (record,) = pending(host, "a")
    host.aged(record, first=120, last=61)
    before = os.stat(host.attachments._path(record.key)).st_mtime
    host.drain()
    assert os.stat(host.attachments._path(record.key)).st_mtime == before


def test_steps_that_wait_for_no_server_are_done_beside_a_silent_database(host):
    pending(host, "a", "b")
    other = host.attach("c", NEW)
    host.attachments.keep_pending(other.replace(left=()))
    assert host.drain() == [OLD]
    assert sorted(host.left()) == ["a", "b"]


def test_a_port_whose_database_moved_is_removed_where_it_is_now(host):
    pending(host, "a")
    host.vswitches[NEW] = host.vswitches[OLD]
    host.vswitches[OLD] = FakeVswitch()
    host.drain(NEW)
    assert host.left() == []
    assert host.vswitches[NEW].ports == {}


def test_a_port_that_the_present_database_does_not_have_waits_for_the_one_of_its_record(host):
    pending(host, "a")
    host.drain(NEW)
    assert host.left() == ["a"]
    assert len(host.vswitches[OLD].ports) == 1


def test_a_promise_whose_database_moved_is_kept_where_the_port_is_now(host):
    host.silent.add(OLD)
    record = host.attach("a", NEW)
    host.attachments.forget(record)
    host.removal().defer(record.key, OLD, str(host.folder / "vhost"))
    host.drain(NEW)
    assert host.left() == []
    assert host.vswitches[NEW].ports == {}


# Addresses


@pytest.mark.parametrize("is_there", [True, False])
def test_addresses_stay_with_a_running_pod_whose_port_could_not_be_taken_off(host, is_there):
    host.silent.add(OLD)
    call = IpamCall(
        type="fake",
        stdin=b"{}",
        container_id="a",
        netns="",
        ifname="net1",
        args="",
        path=(),
    )
    record = host.attach("a", ipam=call.as_document(), left=(DEVICE, IPAM, POD))
    host.ipam.leases["a", "net1"] = "10.0.0.2/24"
    host.namespaces.inhabited = {record.netns} if is_there else set()
    host.removal().remove_or_keep(record)
    assert bool(host.ipam.leases) == is_there
    host.namespaces.inhabited.clear()
    host.drain()
    assert host.ipam.leases == {}
    assert host.left() == ["a"]


# After a reboot


def reboot(host: Host, monkeypatch: pytest.MonkeyPatch, boot: str = "later") -> None:
    monkeypatch.setattr("cni.attachment.records._boot_id", lambda: boot)
    monkeypatch.setattr("cni.attachment.removal.DRAIN_SECONDS", 60.0)
    host.attachments = host.opened()


def test_the_first_call_of_a_boot_puts_away_what_earlier_boots_left_and_no_later_one_looks_again(host, monkeypatch):
    for number in range(30):
        host.attach(f"c{number}")
    reboot(host, monkeypatch)
    alive = host.attach("alive")
    host.drain()
    assert host.left() == ["alive"]
    assert list(host.vswitches[OLD].ports) == [alive.device]
    assert host.drain() == []
    monkeypatch.setattr(Attachments, "of_earlier_boots", lambda _self: pytest.fail("it looks again"))
    host.drain()


def test_what_earlier_boots_left_in_a_silent_database_costs_one_wait_and_is_done_later(host, monkeypatch):
    for number in range(30):
        host.attach(f"c{number}")
    reboot(host, monkeypatch)
    host.silent.add(OLD)
    assert host.drain() == [OLD]
    assert len(host.attachments.pending()) == 30
    host.silent.clear()
    for _ in range(8):
        host.drain()
    assert host.left() == []


def test_where_the_time_is_over_the_next_call_goes_on(host, monkeypatch):
    for number in range(5):
        host.attach(f"c{number}")
    reboot(host, monkeypatch)
    monkeypatch.setattr("cni.attachment.removal.DRAIN_SECONDS", -1.0)
    host.drain()
    assert len(host.left()) == 5
    monkeypatch.setattr("cni.attachment.removal.DRAIN_SECONDS", 60.0)
    host.drain()
    assert host.left() == []


# Giving up


def test_a_removal_whose_database_is_gone_for_good_is_given_up(host):
    (record,) = pending(host, "a")
    assert "forgotten, without device" in give_up(host.attachments, host.removal(), record.key)
    assert host.left() == []
    assert host.drain() == []
    assert give_up(host.attachments, host.removal(), record.key) == ""


def test_what_can_be_removed_after_all_is_not_forgotten(host):
    (record,) = pending(host, "a")
    host.silent.clear()
    assert give_up(host.attachments, host.removal(), record.key) == f"{record.key}: removed"
    assert host.vswitches[OLD].ports == {}


def test_an_attachment_of_a_living_pod_is_not_given_up(host):
    record = host.attach("a")
    host.namespaces.inhabited.add(record.netns)
    with pytest.raises(DeviceBusy, match="in use"):
        give_up(host.attachments, host.removal(), record.key)
    assert host.left() == ["a"]


@pytest.mark.parametrize("text", ["net/a", "net/a/net1/x", "../a/net1", ""])
def test_what_names_no_attachment_is_refused(text):
    with pytest.raises(InvalidConfig, match="is not the name of an attachment"):
        key_of(text)


def test_an_attachment_is_named_as_it_is_listed(host):
    record = host.attach("a")
    assert key_of(str(record.key)) == record.key


def test_nothing_of_a_silent_database_is_an_error_of_the_call(host):
    record, removal = host.attach("a"), host.removal()
    host.silent.add(OLD)
    with pytest.raises(TryAgainLater):
        removal.remove(record)
    host.drain()
    assert any("still pending: net/a/net1" in text for text in host.log.messages)


# A vswitch that does not exist


@pytest.mark.parametrize(("exists", "promises"), [(True, 20), (False, 0)])
def test_failed_sandboxes_on_a_node_without_open_vswitch_leave_nothing(host, exists, promises):
    remote = f"unix:{host.folder}/{'sockets' if exists else 'nowhere'}/db.sock"
    host.vswitches[remote] = FakeVswitch()
    host.silent.add(remote)
    removal = host.removal()
    plugin = UserspacePlugin(
        adapters=removal._adapters, attachments=host.attachments, ipam=FakeIpam(), log=host.log, removal=removal,
        node=NodeConf(sockets=SocketPolicy(ovsdb=(remote,))),
    )  # fmt: skip
    for number in range(20):
        request = Request(
            command="DEL", container_id=f"c{number}", netns="", ifname="net1", args="", path=(), env={}, cni_version="1.1.0",
            network="net", config={"name": "net", "ovsdb": remote}, stdin=b"",
        )  # fmt: skip
        plugin.delete(request)
    assert len(host.attachments.pending()) == promises


def test_gc_waits_once_for_a_silent_database_and_keeps_the_rest_pending(host):
    records = [host.attach(f"c{number}") for number in range(10)]
    host.silent.add(OLD)
    host.removal().collect_all([record.key for record in records])
    assert host.contacted == [OLD]
    assert len(host.attachments.pending()) == 10
    host.silent.clear()
    host.removal().collect_all([record.key for record in records])
    assert host.left() == []


class SilentIpam(FakeIpam):
    """An IPAM plugin that does not respond. `limits` are the time limits of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.limits: list[float | None] = []

    def release(self, call: IpamCall, *, seconds: float | None = None) -> None:
        self.limits.append(seconds)
        raise TryAgainLater(f"{call.type} does not answer")


def leasing(host: Host, count: int) -> list[Key]:
    """Attachments with addresses of an IPAM plugin that has stopped responding."""
    host.ipam = SilentIpam()
    calls = {
        name: IpamCall(type="fake", stdin=b"{}", container_id=name, netns="", ifname="net1", args="", path=())
        for name in (f"c{number}" for number in range(count))
    }
    left = (DEVICE, IPAM, POD)
    return [host.attach(name, ipam=call.as_document(), left=left).key for name, call in calls.items()]


def test_gc_waits_once_for_a_silent_ipam_plugin_and_takes_off_every_port(host):
    keys = leasing(host, 5)
    host.removal().collect_all(keys)
    assert len(host.ipam.limits) == 1
    assert host.vswitches[OLD].ports == {}
    assert {record.left for record in host.attachments.pending()} == {(IPAM,)}
    assert len(host.attachments.pending()) == 5
    host.ipam = FakeIpam()
    host.removal().collect_all(keys)
    assert host.left() == []


def test_gc_lets_nothing_wait_for_longer_than_it_may_last_itself(host):
    keys = leasing(host, 1)
    host.removal().collect_all(keys)
    assert 0 < host.ipam.limits[0] <= COLLECT_SECONDS / 2


def test_what_a_gc_has_no_time_for_is_kept_pending_and_a_later_call_goes_on(host, monkeypatch):
    monkeypatch.setattr("cni.attachment.removal.COLLECT_SECONDS", 0.0)
    keys = [host.attach(f"c{number}").key for number in range(3)]
    host.removal().collect_all(keys)
    assert host.contacted == []
    assert len(host.attachments.pending()) == 3
    host.drain()
    assert host.left() == []


def test_litter_that_cannot_be_swept_keeps_no_removal_from_its_end(host, monkeypatch):
    pending(host, "a")
    host.silent.clear()

    def refuse(*_arguments: object) -> None:
        raise IoFailure("a read-only file system")

    monkeypatch.setattr(Attachments, "sweep", refuse)
    host.drain()
    assert host.left() == []
