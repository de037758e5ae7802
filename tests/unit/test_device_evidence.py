"""A failed read is not evidence: it withdraws, offers or takes back no device."""

from __future__ import annotations

import asyncio
import builtins
import errno
import os
import threading
import time

import pytest

from cni.errors import CniError, DeviceBusy, IoFailure, TryAgainLater
from cni.host import processes
from cni.host.sysfs import Sysfs
from deviceplugin import __main__, stock
from deviceplugin.holding import Journal
from deviceplugin.host import Host
from deviceplugin.hostuse import HostUse
from deviceplugin.reclaim import Reclaimer, resume
from tests.kubelet.pcihost import DISK, GPU, PF, SOUND, VFS, graphics
from tests.recording_log import RecordingLog
from tests.unit.test_device_hostuse import Kernel, block, host as described  # noqa: F401 - a fixture
from tests.unit.test_device_stock import CARDS, RESOURCE, Life, Pods, host_in


class Shortage:
    """Makes one of the calls that need a descriptor fail, as if the process had too many open files for a moment."""

    def __init__(self, monkeypatch, number):
        self.left = number
        for module, name in ((os, "open"), (os, "listdir"), (builtins, "open")):
            monkeypatch.setattr(module, name, self._failing(getattr(module, name)))

    def _failing(self, function):
        def call(*args, **kwargs):
            self.left -= 1
            if self.left == 0:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return function(*args, **kwargs)

        return call


def host_with_uses(place):
    """A host that uses some of its PFs and VFs, with a mounted disk, and a group for VFIO."""
    graphics(place)
    place.add_vf(PF, 0, VFS[0], driver="iavf", group="10", netdev="eth0v0")
    for address, name in ((PF, "eth0"), (VFS[0], "eth0v0")):
        link, folder = place.sys / "class/net" / name, place.sys / "devices/pci0000:00" / address / "net" / name
        folder.rmdir()
        link.rename(folder)
        link.symlink_to(folder)
    block(place, "8:0", f"devices/pci0000:00/{DISK}/block/sda")
    (place.root / "proc/1/mountinfo").write_text("21 1 8:0 / / rw shared:1 - ext4 /dev/sda rw\n")
    sysfs = Sysfs(str(place.sys))
    uses = HostUse(sysfs, RecordingLog(), str(place.root / "proc"), str(place.dev))
    uses._kernel = Kernel({"eth0": ["the default route"]})  # type: ignore[assignment]
    return Host(sysfs, dev=str(place.dev), uses=uses)


def test_a_look_that_is_short_of_a_descriptor_at_any_point_fails_or_finds_the_same(described, monkeypatch):  # noqa: F811
    looker = host_with_uses(described)
    whole = looker.look()
    assert whole.used.keys() == {PF, DISK}
    number = failed = 0
    while True:
        number += 1
        with monkeypatch.context() as patch:
            shortage = Shortage(patch, number)
            try:
                seen = looker.look()
            except CniError:
                failed += 1
            else:
                assert (dict(seen.inventory.functions), seen.used, seen.nodes) == (
                    dict(whole.inventory.functions),
                    whole.used,
                    whole.nodes,
                )
        if shortage.left > 0:
            break
    assert failed > 20, "points of failure"


def test_what_was_seen_last_is_offered_on_when_a_look_fails(tmp_path, monkeypatch):
    async def scenario():
        life = await Life(host_in(tmp_path), tmp_path, Pods()).started()
        offered = {name: life.stock.offers(name) for name in life.stock.resources()}
        with monkeypatch.context() as patch:
            Shortage(patch, 1)
            with pytest.raises(IoFailure, match="Too many open files"):
                await life.stock.look()
            Shortage(patch, 1)
            with pytest.raises(IoFailure):
                await life.stock.allocate(RESOURCE, VFS[:1])
        assert {name: life.stock.offers(name) for name in life.stock.resources()} == offered
        assert not life.stock.held
        await life.stock.allocate(RESOURCE, VFS[:1])

    asyncio.run(scenario())


def test_a_host_that_has_no_device_at_all_any_more_is_not_believed(tmp_path):
    async def scenario():
        host = host_in(tmp_path)
        life = await Life(host, tmp_path, Pods()).started()
        (host.sys / "bus/pci").rename(host.sys / "bus/hidden")
        with pytest.raises(IoFailure, match="no PCI device any more"):
            await life.stock.look()
        assert len(life.stock.offers(RESOURCE)) == 2

    asyncio.run(scenario())


def test_a_network_device_that_cannot_be_looked_at_for_a_moment_is_not_withdrawn_and_for_long_it_is(described):  # noqa: F811
    looker = host_with_uses(described)
    uses = looker._uses
    assert VFS[0] not in looker.look().used
    uses._kernel = Kernel({"eth0": [], "eth0v0": None})
    for _ in range(2):
        with pytest.raises(CniError):
            looker.look()
    assert looker.look().used[VFS[0]] == "the host may use eth0v0: the kernel refused"
    uses._kernel = Kernel({})
    assert VFS[0] not in looker.look().used


def test_a_device_is_not_taken_back_while_it_cannot_be_seen_who_has_it_open(tmp_path):
    async def scenario():
        host = host_in(tmp_path)
        life = await Life(host, tmp_path, Pods()).started()
        await life.stock.allocate(CARDS, [GPU])

        def blind(_devices):
            raise IoFailure("Too many open files")

        seeing, life.stock.host.opened = life.stock.host.opened, blind
        await life.reclaimed()
        assert [*life.stock.held] == [GPU]
        assert "it cannot be seen whether a process has it open" in life.log.messages[-1]
        assert len(life.log.messages) == 1
        life.stock.host.opened = seeing
        await life.reclaimed()
        assert not life.stock.held

    asyncio.run(scenario())


def test_a_process_that_hides_its_descriptors_may_have_any_device_open(monkeypatch):
    listdir = os.listdir

    def hidden(path):
        if path.endswith("/fd"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", hidden)
    with pytest.raises(IoFailure, match="Permission denied"):
        processes.opened({os.makedev(1, 3)})


def test_one_scan_of_the_processes_covers_all_devices(monkeypatch):
    looks, listdir = [], os.listdir

    def counted(path):
        looks.append(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", counted)
    with open("/dev/null", "rb") as null, open("/dev/zero", "rb") as zero:
        numbers = {os.fstat(file.fileno()).st_rdev for file in (null, zero)}
        assert processes.opened({*numbers, os.makedev(250, 250)}) == numbers
    assert looks.count("/proc") == 1


def test_a_record_that_cannot_be_looked_for_is_not_taken_for_none(tmp_path, monkeypatch):
    monkeypatch.setattr(__main__, "STATE_DIRECTORY", str(tmp_path))
    assert not __main__._has_record(GPU)
    (tmp_path / ".devices").touch()
    with pytest.raises(IoFailure):
        __main__._has_record(GPU)


DAMAGE = [
    b"",
    b"{",
    b"[" * 100_000,
    b"[]",
    b"1",
    b'{"schema": 1}',
    b'{"schema": 1, "device": 1, "resource": 2}',
    b"\xff",
]


@pytest.mark.parametrize("content", DAMAGE)
def test_a_device_whose_journal_is_damaged_is_held_until_there_is_evidence(tmp_path, content):
    async def scenario():
        host, pods = host_in(tmp_path), Pods()
        life = await Life(host, tmp_path, pods).started()
        await life.stock.allocate(CARDS, [GPU])
        file = tmp_path / "state" / f"{GPU}.json"
        file.write_bytes(content)
        again = await Life(host, tmp_path, pods).started()
        assert again.stock.held[GPU].resource == CARDS
        assert not again.stock.offers("devices.kubevirt.io/10de_10f0")[0].healthy
        assert file.with_name(f"{GPU}.json.damaged").read_bytes() == content
        host.open.add(GPU)
        await again.reclaimed()
        third = await (await Life(host, tmp_path, pods).started()).reclaimed()
        assert third.stock.held[GPU].resource == CARDS
        host.open.clear()
        await third.reclaimed()
        assert not third.stock.held

    asyncio.run(scenario())


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/nowhere", path)])
def test_what_is_no_file_in_the_journal_stops_no_call(tmp_path, make):
    async def scenario():
        host = host_in(tmp_path)
        Journal(str(tmp_path / "state")).load()
        make(tmp_path / "state" / f"{GPU}.json")
        (tmp_path / "state" / "README.json").touch()
        life = await Life(host, tmp_path, Pods()).started()
        assert [*life.stock.held] == [GPU]
        await life.reclaimed()
        assert not life.stock.held

    asyncio.run(scenario())


def test_a_journal_that_cannot_be_read_for_want_of_descriptors_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch):
    async def scenario():
        life = await Life(host_in(tmp_path), tmp_path, Pods()).started()
        await life.stock.allocate(CARDS, [GPU])

    asyncio.run(scenario())
    journal = Journal(str(tmp_path / "state"))
    whole = journal.load()
    with monkeypatch.context() as patch:
        Shortage(patch, 2)  # the first call lists the folder
        with pytest.raises(IoFailure):
            journal.load()
    assert journal.load() == whole


def test_a_pod_s_device_that_is_gone_is_reported_once(tmp_path):
    async def scenario():
        pods = Pods()
        pods.devices = {RESOURCE: ["0000:77:00.0"]}
        life = await (await Life(host_in(tmp_path), tmp_path, pods).started()).reclaimed()
        assert life.log.messages == [
            f"0000:77:00.0 ({RESOURCE}) is held by a pod, and is gone: the host has no PCI device 0000:77:00.0"
        ]

    asyncio.run(scenario())


def test_a_full_disk_does_not_keep_other_devices_from_being_taken_back(tmp_path):
    async def scenario():
        pods = Pods()
        life = await Life(host_in(tmp_path), tmp_path, pods).started()
        await life.stock.allocate(CARDS, [GPU])
        pods.devices = {RESOURCE: VFS[:1]}

        def full(_holding):
            raise IoFailure("No space left on device")

        life.stock._journal.write = full
        await life.reclaimed()
        assert not life.stock.held
        assert len(life.log.messages) == 1
        assert "cannot be noted: No space left" in life.log.messages[0]

    asyncio.run(scenario())


def test_a_device_that_a_pod_has_under_another_name_of_its_resource_is_not_taken_back(tmp_path):
    async def scenario():
        pods = Pods()
        life = await Life(host_in(tmp_path), tmp_path, pods).started()
        await life.stock.allocate(CARDS, [GPU])
        pods.devices = {"example.com/former-name": [GPU]}
        await life.reclaimed()
        assert [*life.stock.held] == [GPU]

    asyncio.run(scenario())


def test_a_start_with_held_devices_looks_once_and_touches_only_what_was_not_completed(tmp_path, monkeypatch):
    async def scenario():
        host, looks = host_in(tmp_path), []
        life = await Life(host, tmp_path, Pods()).started()
        await life.stock.allocate(RESOURCE, VFS[:2])
        await life.stock.allocate(CARDS, [GPU])
        host.bind(VFS[1], "iavf")
        host.writes.clear()
        again = Life(host, tmp_path, Pods())
        look = again.stock.host.look

        def counted(named):
            looks.append(named)
            return look(named)

        monkeypatch.setattr(again.stock.host, "look", counted)
        await again.started()
        assert looks == [None, {VFS[1]}], "the first, and one for the driver that was bound"
        assert host.bound(VFS[1]) == "vfio-pci"
        assert "reset" not in [name for name, _text in host.writes]

    asyncio.run(scenario())


def test_a_driver_that_hangs_at_a_start_holds_up_only_its_own_device(tmp_path, monkeypatch):
    async def scenario():
        host = host_in(tmp_path)
        life = await Life(host, tmp_path, Pods()).started()
        await life.stock.allocate(RESOURCE, VFS[:2])
        for vf in VFS[:2]:
            host.bind(vf, "iavf")
        again = Life(host, tmp_path, Pods())
        await again.stock.look()
        bind = again.stock.host.bind

        def hanging(device, driver, override):
            if device == VFS[0]:
                raise TryAgainLater("the kernel does not finish it in time")
            bind(device, driver, override)

        monkeypatch.setattr(again.stock.host, "bind", hanging)
        await resume(again.stock, again.log)
        assert [host.bound(vf) for vf in VFS[:2]] == ["iavf", "vfio-pci"]
        assert [*again.stock.held] == VFS[:2]

    asyncio.run(scenario())


def test_a_look_that_hangs_ends_and_no_second_one_hangs_beside_it(tmp_path, monkeypatch):
    async def scenario():
        life = await Life(host_in(tmp_path), tmp_path, Pods()).started()
        look, go, begun = life.stock.host.look, threading.Event(), []
        monkeypatch.setattr(stock, "LOOK_SECONDS", 0.05)

        def hanging(named):
            begun.append(named)
            go.wait()
            return look(named)

        life.stock.host.look = hanging
        for _ in range(3):
            with pytest.raises(TryAgainLater, match="does not end"):
                await life.stock.look()
        assert len(begun) == 1
        assert len(life.stock.offers(RESOURCE)) == 2
        monkeypatch.setattr(stock, "LOOK_SECONDS", 20.0)
        go.set()
        await life.stock.look()

    asyncio.run(scenario())


def test_members_of_a_group_are_examined_with_the_requested_one(tmp_path):
    async def scenario():
        host = host_in(tmp_path)
        life = await Life(host, tmp_path, Pods()).started()
        host.bind(SOUND, "snd_hda_intel")
        with pytest.raises(DeviceBusy, match="is not viable"):
            await life.stock.allocate(CARDS, [GPU])

    asyncio.run(scenario())


def test_a_reclaimer_goes_on_after_a_device_has_vanished_between_look_and_release(tmp_path):
    async def scenario():
        life = await Life(host_in(tmp_path), tmp_path, Pods()).started()
        await life.stock.allocate(CARDS, [GPU])
        life.stock.host.netdev_is_away = lambda _device: life.stock.held.pop(GPU, None) and False
        reclaimer = Reclaimer(life.stock, Pods(), life.log, settle=0.0)
        for _ in range(3):
            await reclaimer.round()

    asyncio.run(scenario())


def test_a_device_that_a_former_pod_s_process_has_open_is_not_given_to_the_next_pod(tmp_path):
    async def scenario():
        host = host_in(tmp_path)
        life = await Life(host, tmp_path, Pods()).started()
        await life.stock.allocate(CARDS, [GPU])
        host.open.add(GPU)
        with pytest.raises(DeviceBusy, match="a process has it open"):
            await life.stock.allocate(CARDS, [GPU])
        assert life.stock.grants[GPU] == 1, "a refusal counted, and put its release off"
        host.open.clear()
        await life.stock.allocate(CARDS, [GPU])

    asyncio.run(scenario())


@pytest.mark.parametrize(("took", "pause"), [(0.0, 0.25), (0.01, 0.5), (3.0, 1.0)])
def test_questions_to_the_kubelet_take_a_bounded_share_of_a_processor_and_none_waits_longer_than_a_second(
    tmp_path, took, pause
):
    async def scenario():
        pods = Pods()
        life = await Life(host_in(tmp_path), tmp_path, pods).started()
        reclaimer = Reclaimer(life.stock, pods, life.log)
        await life.stock.allocate(CARDS, [GPU])
        pods.devices = {CARDS: [GPU]}
        await reclaimer.round()
        assert reclaimer._pause_after(took) == pause
        pods.devices = {}
        await reclaimer.round()
        assert reclaimer._pause_after(took) == 0.1, "the second answer is waited for"

    asyncio.run(scenario())


def test_the_examination_of_processes_delays_the_next_query_as_well(tmp_path, monkeypatch):
    async def scenario():
        life = await Life(host_in(tmp_path), tmp_path, Pods()).started()
        await life.stock.allocate(CARDS, [GPU])

        def examine(devices):
            until = time.thread_time() + 0.1
            while time.thread_time() < until:
                pass
            return {device: ["a process has it open"] for device in devices}

        monkeypatch.setattr(life.stock, "signs_of_use", examine)
        for _ in range(2):
            await life.reclaimer.round()
        assert life.reclaimer.took > 0.1
        assert GPU in life.stock.held

    asyncio.run(scenario())


def test_drivers_that_are_bound_during_a_query_do_not_delay_the_next_one(tmp_path):
    def bind():
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass

    class BusyPods(Pods):
        async def listed(self):
            await asyncio.to_thread(bind)
            return await super().listed()

    async def scenario():
        life = await Life(host_in(tmp_path), tmp_path, Pods()).started()
        began = time.process_time()
        reclaimer = Reclaimer(life.stock, BusyPods(), life.log)
        async with life.stock._changing:
            await reclaimer.round()
        assert reclaimer.took < (time.process_time() - began) / 2

    asyncio.run(scenario())
