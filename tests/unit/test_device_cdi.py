"""CDI files contain the devices that containers hold. They are repaired after a failure; pods cannot change them."""

from __future__ import annotations

import asyncio
import errno
import json
import os

import pytest

from cni.errors import CniError, DeviceNotFound, IoFailure, TryAgainLater
from cni.host import files
from deviceplugin import cdi
from deviceplugin.conf import parse
from deviceplugin.holding import Journal
from deviceplugin.reclaim import Reclaimer
from tests.kubelet.pcihost import GPU, SOUND, VFS
from tests.unit.test_device_stock import RESOURCE, Life, Pods, host_in, in_a_pod

BOUND = b'{"resourceList": [{"resourceName": "vfs", "driver": "vfio-pci", "cdi": true, "selectors": {"drivers": ["iavf"]}}]}'
UNNAMED = BOUND.replace(b'"cdi": true', b'"cdi": false')
TUN = ["/dev/vhost-net", "/dev/net/tun"]


def selected(*selectors, **keys):
    """A configuration whose pool has these selectors, and binds no driver."""
    return json.dumps(
        {"resourceList": [{"resourceName": "vfs", "cdi": True, "selectors": [*selectors], **keys}]}
    ).encode()


def named(host):
    """The paths of the nodes in all CDI files, by device."""
    files = [json.loads(path.read_text()) for path in sorted(host.cdi.glob("*.json"))] if host.cdi.exists() else []
    return {
        device["name"]: [node["path"] for node in device["containerEdits"]["deviceNodes"]]
        for file in files
        for device in file["devices"]
    }


async def begun(root, pods, document=BOUND, *, number=1):
    """A running plugin with that many allocated VFs."""
    host = host_in(root)
    for node in ("vhost-net", "net/tun"):
        (host.dev / node).parent.mkdir(exist_ok=True)
        (host.dev / node).touch()
    life = await Life(host, root, pods, document=document).started()
    await life.stock.allocate(RESOURCE, VFS[:number])
    return host, life


def full(*_args):
    raise IoFailure("No space left on device")


# Files that must be written


@pytest.mark.parametrize("answers", [True, False])
def test_a_device_that_is_dropped_because_another_one_has_its_address_leaves_the_file(tmp_path, answers):
    async def scenario():
        pods = Pods()
        pods.devices = {RESOURCE: VFS[1:2]} if answers else None
        host, _life = await begun(tmp_path, pods, number=2)
        host.remove(VFS[0])
        host.add(VFS[0], driver="nvme", group="10", class_="0x010802", device="0xa808")
        again = await Life(host, tmp_path, pods, document=BOUND).started()
        assert {*again.stock.held} == {VFS[1]}
        await again.reclaimer.round()
        assert named(host).keys() == {VFS[1]}

    asyncio.run(scenario())


def test_a_released_device_leaves_the_file_though_the_look_after_the_release_fails(tmp_path):
    async def scenario():
        host, life = await begun(tmp_path, Pods())
        look, give_back = life.stock.look, life.stock._give_back

        async def failing(_named=None):
            raise TryAgainLater("a driver hangs")

        async def given_back(device):
            await give_back(device)
            life.stock.look = failing

        life.stock._give_back = given_back
        with pytest.raises(TryAgainLater):
            await life.stock.release(VFS[0], 1)
        life.stock.look = look
        assert not life.stock.held
        await life.reclaimer.round()
        assert named(host) == {}

    asyncio.run(scenario())


def test_a_file_that_could_not_be_written_is_written_in_a_later_round_and_reported_once(tmp_path):
    async def scenario():
        pods = Pods()
        host, life = await begun(tmp_path, pods, number=2)
        pods.devices = {RESOURCE: VFS[1:2]}
        write, life.stock.host.write_cdi = life.stock.host.write_cdi, full
        await life.reclaimed()
        await life.reclaimed()
        assert ({*life.stock.held}, named(host).keys()) == ({VFS[1]}, {*VFS[:2]})
        assert [text for text in life.log.messages if "No space left" in text] == [
            "a CDI file does not have what containers hold, tried again: No space left on device"
        ]
        life.stock.host.write_cdi = write
        pods.devices = None
        await life.reclaimer.round()
        assert named(host).keys() == {VFS[1]}

    asyncio.run(scenario())


def test_a_reclaimer_that_holds_nothing_does_not_rest_while_a_file_is_due(tmp_path):
    async def scenario():
        host, life = await begun(tmp_path, Pods())
        remove, removed = life.stock.host.remove_cdi, asyncio.Event()
        loop = asyncio.get_running_loop()

        def late(name):
            remove(name)
            loop.call_soon_threadsafe(removed.set)

        life.stock.host.remove_cdi = full
        await life.reclaimed()
        assert not life.stock.held
        assert life.stock.is_due

        class Patient(Reclaimer):
            async def round(self):
                await super().round()
                life.stock.host.remove_cdi = late

        work = asyncio.ensure_future(Patient(life.stock, Pods(), life.log, settle=0.0, pause=0.0).run())
        async with asyncio.timeout(20):
            await removed.wait()
        work.cancel()
        assert named(host) == {}

    asyncio.run(scenario())


def test_a_failed_allocation_leaves_no_name_though_the_file_was_replaced_before_the_failure(tmp_path, monkeypatch):
    async def scenario():
        host = host_in(tmp_path)
        life = await Life(host, tmp_path, Pods(), document=BOUND).started()
        sync = files._sync_directory

        def failing(path):
            if path == str(host.cdi):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            sync(path)

        with monkeypatch.context() as patch:
            patch.setattr(files, "_sync_directory", failing)
            with pytest.raises(IoFailure):
                await life.stock.allocate(RESOURCE, VFS[:1])
        assert named(host).keys() == {VFS[0]}
        assert not life.stock.held
        await life.reclaimer.round()
        assert named(host) == {}

    asyncio.run(scenario())


def test_an_allocation_whose_device_vanishes_in_the_last_look_is_taken_back(tmp_path):
    async def scenario():
        host = host_in(tmp_path)
        life = await Life(host, tmp_path, Pods(), document=BOUND).started()
        write = life.stock.host.write_cdi

        def vanishing(name, document):
            write(name, document)
            life.stock._count = life.stock._count.replace(assignment=life.stock.assignment.replace(pool_of={}))

        life.stock.host.write_cdi = vanishing
        with pytest.raises(DeviceNotFound):
            await life.stock.allocate(RESOURCE, VFS[:1])
        assert not life.stock.held
        assert host.bound(VFS[0]) == "iavf"

    asyncio.run(scenario())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(tmp_path, monkeypatch, number):
    async def scenario():
        host, life = await begun(tmp_path, Pods())
        (host.cdi / "barewire-old-01234567.json").write_text('{"kind": "node.barewire/barewire-old-01234567"}')
        listdir = os.listdir

        def failing(path):
            if path == str(host.cdi):
                raise OSError(number, os.strerror(number))
            return listdir(path)

        with monkeypatch.context() as patch:
            patch.setattr(os, "listdir", failing)
            with pytest.raises(IoFailure):
                life.stock.host.cdi_files()
            with pytest.raises(IoFailure):
                await life.stock.publish_all()
        await life.reclaimer.round()
        assert [path.name for path in host.cdi.iterdir()] == [cdi.file_name(RESOURCE)]

    asyncio.run(scenario())


def test_a_start_removes_only_files_of_ours_and_what_killed_writers_left(tmp_path):
    async def scenario():
        host, life = await begun(tmp_path, Pods())
        kept = {
            "barewire-vendor.json": b'{"kind": "vendor.com/gpu"}',
            "barewire-empty.json": b"",
            "barewire-list.json": b"[]",
            ".vendor.json.4194305.tmp": b"",
            "vendor.json": b'{"kind": "node.barewire/barewire-a"}',
        }
        gone = {
            "barewire-old-01234567.json": b'{"kind": "node.barewire/barewire-old-01234567"}',
            ".barewire-old-01234567.json.4194305.tmp": b"{",
        }
        for name, content in {**kept, **gone}.items():
            (host.cdi / name).write_bytes(content)
        (host.cdi / "barewire-link.json").symlink_to("/nowhere")
        await life.stock.publish_all()
        assert {path.name for path in host.cdi.iterdir()} == {*kept, "barewire-link.json", cdi.file_name(RESOURCE)}

    asyncio.run(scenario())


# The content of a response


@pytest.mark.parametrize(
    ("selectors", "nodes"),
    [
        ([{"linkTypes": ["infiniband"], "needVhostNet": True}, {"linkTypes": ["ether"]}], []),
        ([{"linkTypes": ["infiniband"]}, {"linkTypes": ["ether"], "needVhostNet": True}], TUN),
    ],
)
def test_a_file_has_the_nodes_that_were_given_also_when_a_pod_has_the_network_device(tmp_path, selectors, nodes):
    async def scenario():
        pods = Pods()
        host, life = await begun(tmp_path, pods, selected(*selectors))
        expected = {VFS[0]: nodes} if nodes else {}
        assert named(host) == expected
        in_a_pod(host, VFS[0])
        await life.stock.prepare(RESOURCE, VFS[:1])
        assert named(host) == expected
        again = await Life(host, tmp_path, pods, document=selected(*selectors)).started()
        await again.stock.publish_all()
        assert named(host) == expected
        # Another container of the pod.
        contents = await again.stock.allocate(RESOURCE, VFS[:1])
        assert contents.cdi == tuple(cdi.qualified(RESOURCE, device) for device in expected)
        assert ("vhost" in contents.environment["PCIDEVICE_INTEL_COM_VFS_INFO"]) == bool(nodes)
        assert named(host) == expected

    asyncio.run(scenario())


def test_a_file_without_a_device_is_not_written_because_runtimes_refuse_it(tmp_path):
    async def scenario():
        host, _life = await begun(tmp_path, Pods(), selected({"linkTypes": ["ether"]}))
        assert not [*host.cdi.glob("*")]

    asyncio.run(scenario())


def test_members_that_come_with_a_device_have_the_nodes_of_its_selector(tmp_path):
    async def scenario():
        host = host_in(tmp_path)
        (host.dev / "vhost-net").touch()
        selectors = [{"devices": ["1bb3"]}, {"devices": ["10f0"], "needVhostNet": True}]
        document = selected(*selectors, groups="group", deviceType="pci")
        life = await Life(host, tmp_path, Pods(), document=document).started()
        await life.stock.allocate(RESOURCE, [GPU])
        assert life.stock.assignment.parts(GPU) == (SOUND,)
        assert named(host) == {GPU: ["/dev/vfio/vfio", "/dev/vfio/20"]}

    asyncio.run(scenario())


@pytest.mark.parametrize("document", [UNNAMED, b'{"resourceList": [{"resourceName": "others"}]}'])
def test_a_pool_that_loses_cdi_or_is_gone_keeps_its_file_for_what_is_held_also_after_a_boot(tmp_path, document):
    async def scenario():
        pods = Pods()
        host, _life = await begun(tmp_path, pods)
        before = named(host)
        [file] = host.cdi.iterdir()
        file.unlink()
        again = await Life(host, tmp_path, pods, document=document).started()
        await again.stock.publish_all()
        assert named(host) == before
        await again.reclaimed()
        assert not again.stock.held
        assert named(host) == {}

    asyncio.run(scenario())


def test_a_device_that_had_a_name_keeps_it_when_it_is_allocated_again_without_one(tmp_path):
    async def scenario():
        host, life = await begun(tmp_path, Pods())
        life.stock.configure(parse(UNNAMED))
        contents = await life.stock.allocate(RESOURCE, VFS[:1])
        assert (contents.cdi, len(contents.nodes)) == ((), 2)
        assert named(host).keys() == {VFS[0]}

    asyncio.run(scenario())


@pytest.mark.parametrize(("value", "resource"), [(None, RESOURCE), (True, RESOURCE), ("yes", ""), (1, "")])
def test_a_journal_without_flags_is_accepted_and_one_with_other_values_is_damaged(tmp_path, value, resource):
    async def scenario():
        await begun(tmp_path, Pods())

    asyncio.run(scenario())
    file = tmp_path / "state" / f"{VFS[0]}.json"
    document = json.loads(file.read_text())
    for name in ("rdma", "vhost_net", "cdi"):
        del document[name]
    file.write_text(json.dumps(document | ({} if value is None else {"rdma": value})))
    assert Journal(str(tmp_path / "state")).load()[VFS[0]].resource == resource


def test_nothing_is_published_when_nothing_is_due(tmp_path):
    async def scenario():
        _host, life = await begun(tmp_path, Pods())
        life.stock.host.write_cdi = life.stock.host.remove_cdi = full
        await life.stock.publish_due()
        with pytest.raises(CniError):
            await life.stock.publish_all()
        assert life.stock.is_due

    asyncio.run(scenario())
