"""Allocation and release, killed at every step and in random order: no device is lost or given twice."""

from __future__ import annotations

import asyncio
import errno
import json
import tempfile
from pathlib import Path

import pytest

from cni.errors import CniError, DeviceBusy, TryAgainLater
from deviceplugin.conf import parse
from deviceplugin.holding import Journal
from deviceplugin.reclaim import Reclaimer, resume
from deviceplugin.stock import Stock
from tests.kubelet.pcihost import GPU, SOUND, VFS, Killed, PciHost, card, graphics
from tests.recording_log import RecordingLog

RESOURCE = "intel.com/vfs"
BINDING = b'{"resourceList": [{"resourceName": "vfs", "driver": "vfio-pci", "selectors": {"drivers": ["iavf"]}}], "auto": {"classes": ["03", "04"]}}'
CARDS, AUDIO = "devices.kubevirt.io/10de_1bb3", "devices.kubevirt.io/10de_10f0"
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class Mortal:
    """Counts changes to host or disk, and kills the process at one of them: from then on no operation has an effect."""

    def __init__(self):
        self.steps, self.last = 0, 10**6

    def __call__(self, function):
        def step(*args):
            if self.steps >= self.last:
                raise Killed
            self.steps += 1
            return function(*args)

        return step


class Pods:
    """The kubelet's list of pods; None while it does not respond."""

    def __init__(self):
        self.devices: dict[str, list[str]] | None = {}

    async def listed(self):
        if self.devices is None:
            raise TryAgainLater("no answer")
        return {resource: frozenset(devices) for resource, devices in self.devices.items()}


class Life:
    """One process of the device plugin on a host that outlives it."""

    def __init__(self, host, root, pods, mortal=None, document=BINDING):
        journal, real = Journal(str(root / "state")), host.host()
        if mortal:
            for part, names in ((journal, ("write", "remove", "mend")), (real, ("write_info", "remove_info"))):
                for name in names:
                    setattr(part, name, mortal(getattr(part, name)))
            real._write = real._drivers._writer = mortal(host.write)
        self.log = RecordingLog()
        self.stock = Stock(real, journal, parse(document), self.log)
        self.reclaimer = Reclaimer(self.stock, pods, self.log, settle=0.0)

    async def started(self):
        await self.stock.look()
        await resume(self.stock, self.log)
        return self

    async def reclaimed(self):
        for _ in range(3):
            await self.reclaimer.round()
        return self


def host_in(root):
    host = PciHost(root / "host")
    card(host, vfs=2)
    graphics(host)
    return host


async def _is_killed(call):
    """Whether the process was killed during the call."""
    try:
        await call
    except Killed:
        return True
    return False


async def _allocate_then_free(root, last):
    """Kills an allocation of two devices at a step; the kubelet never got a response. Returns whether it was killed."""
    host, pods, mortal = host_in(root), Pods(), Mortal()
    life = await Life(host, root, pods, mortal).started()
    mortal.last = mortal.steps + last
    killed = await _is_killed(life.stock.allocate(RESOURCE, VFS[:2]))
    again = await (await Life(host, root, pods).started()).reclaimed()
    assert not again.stock.held
    assert [host.bound(vf) for vf in VFS[:2]] == ["iavf", "iavf"]
    assert [offer.ailments for offer in again.stock.offers(RESOURCE)] == [(), ()]
    assert not host.info.exists() or list(host.info.iterdir()) == []
    assert list((root / "state").iterdir()) == []
    return killed


async def _release_killed(root, last):
    host, pods, mortal = host_in(root), Pods(), Mortal()
    life = await Life(host, root, pods, mortal).started()
    await life.stock.allocate(RESOURCE, VFS[:2])
    mortal.last = mortal.steps + last
    killed = await _is_killed(life.reclaimed())
    again = await (await Life(host, root, pods).started()).reclaimed()
    assert not again.stock.held
    assert [host.bound(vf) for vf in VFS[:2]] == ["iavf", "iavf"]
    assert list((root / "state").iterdir()) == []
    return killed


async def _allocate_then_kept(root, last):
    """Like the first, but the kubelet has given the devices to a pod, so the allocation is completed."""
    host, pods, mortal = host_in(root), Pods(), Mortal()
    life = await Life(host, root, pods, mortal).started()
    mortal.last = mortal.steps + last
    killed = await _is_killed(life.stock.allocate(RESOURCE, VFS[:1]))
    pods.devices = {RESOURCE: VFS[:1]}
    again = await (await Life(host, root, pods).started()).reclaimed()
    assert [*again.stock.held] == VFS[:1]
    await again.stock.prepare(RESOURCE, VFS[:1])
    # Without an entry in the journal, the plugin does not know that a driver was promised.
    assert host.bound(VFS[0]) == ("vfio-pci" if last else "iavf")
    pods.devices = {}
    await again.reclaimed()
    assert host.bound(VFS[0]) == "iavf"
    return killed


@pytest.mark.parametrize("scenario", [_allocate_then_free, _release_killed, _allocate_then_kept])
def test_a_process_that_is_killed_at_any_step_leaves_nothing_that_the_next_does_not_put_right(scenario):
    last = 0
    killed = True
    while killed:
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            killed = asyncio.run(scenario(Path(folder), last))
        last += 1
    assert last > 4, "steps"


def test_a_device_that_could_not_be_given_back_stays_held_and_is_tried_again(tmp_path):
    async def scenario():
        host, pods = host_in(tmp_path), Pods()
        life = await Life(host, tmp_path, pods).started()
        await life.stock.allocate(RESOURCE, VFS[:1])
        host.refuse["unbind"] = 16
        await life.reclaimed()
        assert [*life.stock.held] == VFS[:1]
        assert "could not be taken back" in life.log.messages[-1]
        host.refuse.clear()
        await life.reclaimed()
        assert not life.stock.held

    asyncio.run(scenario())


def test_a_device_that_cannot_be_reset_comes_back_all_the_same_and_one_whose_reset_fails_does_not(tmp_path):
    async def scenario():
        host = host_in(tmp_path)
        life = await Life(host, tmp_path, Pods()).started()
        await life.stock.allocate(CARDS, [GPU])
        host.refuse["reset"] = errno.EIO
        await life.reclaimed()
        assert [*life.stock.held] == [GPU]
        host.refuse["reset"] = errno.ENOTTY
        await life.reclaimed()
        assert not life.stock.held

    asyncio.run(scenario())


def test_a_kubelet_that_has_just_started_frees_nothing_however_often_it_lists_nothing(tmp_path):
    async def scenario():
        host, pods = host_in(tmp_path), Pods()
        life = await Life(host, tmp_path, pods).started()
        patient = Reclaimer(life.stock, pods, life.log, settle=1000.0)
        await life.stock.allocate(RESOURCE, VFS[:1])
        pods.devices = {RESOURCE: VFS[:1]}
        await patient.round()
        pods.devices = None
        await patient.round()
        pods.devices = {}
        for _ in range(5):
            await patient.round()
        assert [*life.stock.held] == VFS[:1]

    asyncio.run(scenario())


def test_a_container_starts_though_the_pf_has_no_link_and_not_with_a_driver_that_was_not_promised(tmp_path):
    async def scenario():
        host = host_in(tmp_path)
        life = await Life(host, tmp_path, Pods()).started()
        document = json.loads(BINDING)
        document["resourceList"][0]["needLink"] = True
        life.stock.configure(parse(json.dumps(document).encode()))
        await life.stock.allocate(RESOURCE, VFS[:1])
        (host.sys / "class/net/eth0/carrier").write_text("0\n")
        await life.stock.prepare(RESOURCE, VFS[:1])
        await life.stock.look()
        assert [offer.ailments for offer in life.stock.offers(RESOURCE)] == [("its PF eth0 has no link",)] * 2
        host.bind(VFS[0], "iavf")
        host.refuse["drivers_probe"] = 5
        with pytest.raises(CniError, match="the kernel refused"):
            await life.stock.prepare(RESOURCE, VFS[:1])
        host.refuse.clear()
        await life.stock.prepare(RESOURCE, VFS[:1])
        assert host.bound(VFS[0]) == "vfio-pci"

    asyncio.run(scenario())


def test_each_change_of_a_device_s_health_is_logged_once_with_the_reason(tmp_path, monkeypatch):
    async def scenario():
        told: list[str] = []
        monkeypatch.setattr(RecordingLog, "info", lambda _log, text: told.append(text))
        life = await Life(host_in(tmp_path), tmp_path, Pods()).started()
        assert told == []
        await life.stock.allocate(CARDS, [GPU])
        await life.stock.look()
        await life.stock.release(GPU, 1)
        assert told == [
            f"{SOUND} ({AUDIO}) is unhealthy: {GPU} of its IOMMU group is held ({CARDS})",
            f"{SOUND} ({AUDIO}) is healthy again",
        ]

    asyncio.run(scenario())


class Meanwhile(Pods):
    """A kubelet that gives a device away while it responds to a request for pods, with its former state."""

    stock: Stock | None = None

    async def listed(self):
        answer = await super().listed()
        if self.stock:
            await self.stock.allocate(RESOURCE, VFS[:1])
        return answer


def test_a_device_that_is_allocated_during_the_request_to_the_kubelet_is_not_taken_back(tmp_path):
    async def scenario():
        host, pods = host_in(tmp_path), Meanwhile()
        life = await Life(host, tmp_path, pods).started()
        await life.stock.allocate(RESOURCE, VFS[:1])
        pods.devices = {RESOURCE: VFS[:1]}
        await life.reclaimer.round()
        pods.devices = {}
        await life.reclaimer.round()
        pods.stock = life.stock
        await life.reclaimer.round()
        assert [*life.stock.held] == VFS[:1]
        assert host.bound(VFS[0]) == "vfio-pci"
        pods.stock = None
        await life.reclaimer.round()
        assert [*life.stock.held] == VFS[:1], "the absence before the grant counted"
        await life.reclaimer.round()
        assert not life.stock.held

    asyncio.run(scenario())


def test_an_allocation_that_waits_is_not_undone_by_a_release_that_was_decided_before(tmp_path):
    async def scenario():
        life = await Life(host_in(tmp_path), tmp_path, Pods()).started()
        await life.stock.allocate(RESOURCE, VFS[:1])
        grant = life.stock.grants[VFS[0]]
        again, late = life.stock.allocate(RESOURCE, VFS[:1]), life.stock.release(VFS[0], grant)
        _contents, released = await asyncio.gather(again, late)
        assert not released
        assert [*life.stock.held] == VFS[:1]

    asyncio.run(scenario())


def in_a_pod(host, device):
    """Moves its network device to a pod: the folder exists, and appears empty from the host."""
    for netdev in (host.devices / device / "net").iterdir():
        netdev.rmdir()


@pytest.mark.parametrize("away", [False, True])
def test_a_device_that_a_pod_has_with_another_driver_is_adopted_as_it_is(tmp_path, away):
    async def scenario():
        host, pods = host_in(tmp_path), Pods()
        pods.devices = {RESOURCE: VFS[:1]}
        await (await Life(host, tmp_path, pods).started()).reclaimed()
        if away:
            in_a_pod(host, VFS[0])
        life = await (await Life(host, tmp_path, pods).started()).reclaimed()
        await life.stock.prepare(RESOURCE, VFS[:1])
        assert host.bound(VFS[0]) == "iavf"
        assert not [name for name, _text in host.writes if name in ("unbind", "reset")]
        assert [*life.stock.held] == VFS[:1]

    asyncio.run(scenario())


def test_an_adopted_device_that_is_allocated_gets_the_driver_of_the_pool_and_its_own_afterwards(tmp_path):
    async def scenario():
        host, pods = host_in(tmp_path), Pods()
        pods.devices = {RESOURCE: VFS[:1]}
        life = await (await Life(host, tmp_path, pods).started()).reclaimed()
        await life.stock.allocate(RESOURCE, VFS[:1])
        assert host.bound(VFS[0]) == "vfio-pci"
        pods.devices = {}
        await life.reclaimed()
        assert host.bound(VFS[0]) == "iavf"
        assert not life.stock.held

    asyncio.run(scenario())


def test_a_promised_driver_is_not_bound_while_the_network_device_is_in_a_pod(tmp_path):
    async def scenario():
        host = host_in(tmp_path)
        life = await Life(host, tmp_path, Pods()).started()
        await life.stock.allocate(RESOURCE, VFS[:1])
        host.bind(VFS[0], "iavf")
        in_a_pod(host, VFS[0])
        with pytest.raises(DeviceBusy, match="its network device is in a pod"):
            await life.stock.prepare(RESOURCE, VFS[:1])
        assert host.bound(VFS[0]) == "iavf"

    asyncio.run(scenario())


PAIR = "intel.com/pair"


def pools_of(*described):
    """A configuration of pools with these names, group modes, and devices."""
    resources = [
        {"resourceName": name, "groups": groups, "deviceType": "pci", "selectors": {"pciAddresses": devices}}
        for name, groups, devices in described
    ]
    return parse(json.dumps({"resourceList": resources}).encode())


async def with_pair(tmp_path, pods):
    life = await Life(host_in(tmp_path), tmp_path, pods).started()
    life.stock.configure(pools_of(("pair", "exclusive", [GPU, SOUND])))
    await life.stock.allocate(PAIR, [GPU, SOUND])
    return life


def test_members_of_a_group_that_are_still_held_are_not_given_to_two_pods(tmp_path):
    async def scenario():
        life = await with_pair(tmp_path, Pods())
        await life.stock.allocate(PAIR, [GPU])
        with pytest.raises(DeviceBusy, match=f"{GPU} of its IOMMU group is held"):
            await life.stock.allocate(PAIR, [SOUND])
        assert life.stock.grants[SOUND] == 1, "a refusal counted, and put its release off"
        await life.stock.allocate(PAIR, [GPU, SOUND])

    asyncio.run(scenario())


def test_a_container_gets_the_whole_group_when_one_of_it_was_its_own_already(tmp_path):
    async def scenario():
        life = await Life(host_in(tmp_path), tmp_path, Pods()).started()
        life.stock.configure(pools_of(("pair", "exclusive", [GPU, SOUND])))
        await life.stock.allocate(PAIR, [GPU])
        await life.stock.allocate(PAIR, [GPU, SOUND])
        assert {*life.stock.held} == {GPU, SOUND}

    asyncio.run(scenario())


@pytest.mark.parametrize(("first", "second"), [("exclusive", "single"), ("single", "exclusive")])
def test_a_group_is_exclusive_if_the_pool_of_one_of_its_members_says_so(tmp_path, first, second):
    async def scenario():
        life = await Life(host_in(tmp_path), tmp_path, Pods()).started()
        life.stock.configure(pools_of(("a", first, [GPU]), ("b", second, [SOUND])))
        await life.stock.allocate("intel.com/a", [GPU])
        assert not life.stock.offers("intel.com/b")[0].healthy
        with pytest.raises(DeviceBusy, match=f"{GPU} of its IOMMU group is held"):
            await life.stock.allocate("intel.com/b", [SOUND])

    asyncio.run(scenario())


def test_a_device_that_no_pod_has_and_a_process_has_open_is_unhealthy_and_refused_until_it_is_closed(tmp_path):
    async def scenario():
        pods = Pods()
        pods.devices = {PAIR: [GPU, SOUND]}
        life = await (await with_pair(tmp_path, pods)).reclaimed()
        life.stock.host.in_use.__self__.add(GPU)
        pods.devices = {}
        await life.reclaimed()
        [gpu, sound] = life.stock.offers(PAIR)
        assert gpu.ailments == ("no pod has it any more, and a process has it open",)
        assert not sound.healthy
        with pytest.raises(DeviceBusy, match="a process has it open"):
            await life.stock.allocate(PAIR, [GPU])
        pods.devices = {PAIR: [GPU]}
        await life.reclaimed()
        assert life.stock.offers(PAIR)[0].healthy
        pods.devices = {}
        await life.reclaimed()
        life.stock.host.in_use.__self__.clear()
        await life.reclaimed()
        assert [offer.healthy for offer in life.stock.offers(PAIR)] == [True, True]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("sign", "told"),
    [
        (lambda host: host.open.add(GPU), "a process has it open"),
        (lambda host: host.records.add(GPU), "a CNI plugin has a record of it"),
        (lambda host: (host.devices / GPU / "net").mkdir(), "its network device is in a pod"),
    ],
)
def test_a_device_that_is_in_use_without_a_holder_is_refused(tmp_path, sign, told):
    async def scenario():
        host = host_in(tmp_path)
        life = await Life(host, tmp_path, Pods()).started()
        sign(host)
        with pytest.raises(DeviceBusy, match=told):
            await life.stock.allocate(CARDS, [GPU])
        assert not life.stock.held
        assert host.writes == []

    asyncio.run(scenario())


def test_a_pool_that_shares_groups_gives_a_member_away_though_the_group_is_open_for_another(tmp_path):
    async def scenario():
        pods = Pods()
        life = await Life(host_in(tmp_path), tmp_path, pods).started()
        life.stock.configure(pools_of(("a", "single", [GPU]), ("b", "single", [SOUND])))
        await life.stock.allocate("intel.com/a", [GPU])
        life.stock.host.in_use.__self__.update([GPU, SOUND])
        await life.stock.allocate("intel.com/b", [SOUND])
        pods.devices = {"intel.com/a": [GPU]}
        await life.reclaimed()
        assert life.stock.offers("intel.com/b")[0].healthy
        await life.stock.allocate("intel.com/b", [SOUND])

    asyncio.run(scenario())


async def _renumbered(tmp_path, *, spoil=lambda holding: holding, **disk):
    """A process that starts after its held VF has gone and a disk has got its address."""
    host, pods = host_in(tmp_path), Pods()
    life = await Life(host, tmp_path, pods).started()
    await life.stock.allocate(RESOURCE, VFS[:1])
    journal = Journal(str(tmp_path / "state"))
    journal.write(spoil(journal.load()[VFS[0]]))
    host.remove(VFS[0])
    host.add(VFS[0], driver="nvme", group="10", **disk)
    host.used = {VFS[0]: "/ is mounted from it"}
    host.writes.clear()
    return host, await (await Life(host, tmp_path, pods).started()).reclaimed()


@pytest.mark.parametrize("spoil", [lambda holding: holding, lambda holding: holding.replace(identity="")])
def test_another_device_at_a_held_address_is_dropped_from_the_journal_and_not_touched(tmp_path, spoil):
    async def scenario():
        host, life = await _renumbered(tmp_path, spoil=spoil, class_="0x010802", device="0xa808")
        assert host.bound(VFS[0]) == "nvme"
        assert host.writes == []
        assert not life.stock.held
        assert list((tmp_path / "state").iterdir()) == []
        assert "is not the device that was held" in life.log.messages[0]
        assert VFS[0] not in [offer.device for offer in life.stock.offers(RESOURCE)]

    asyncio.run(scenario())


def test_a_device_of_the_same_model_that_the_host_uses_is_not_touched(tmp_path):
    async def scenario():
        host, life = await _renumbered(tmp_path)
        assert host.bound(VFS[0]) == "nvme"
        assert host.writes == []
        assert any("is left as it is: / is mounted from it" in text for text in life.log.messages), life.log.messages
        with pytest.raises(DeviceBusy, match="left as it is"):
            await life.stock.prepare(RESOURCE, VFS[:1])

    asyncio.run(scenario())


def test_a_holding_of_an_older_journal_is_accepted_where_the_host_does_not_use_the_device(tmp_path):
    async def scenario():
        host, pods = host_in(tmp_path), Pods()
        life = await Life(host, tmp_path, pods).started()
        await life.stock.allocate(RESOURCE, VFS[:1])
        file = tmp_path / "state" / f"{VFS[0]}.json"
        document = json.loads(file.read_text())
        del document["identity"]
        file.write_text(json.dumps(document))
        again = await Life(host, tmp_path, pods).started()
        assert [*again.stock.held] == VFS[:1]

    asyncio.run(scenario())


def test_a_refusal_names_every_device_of_the_request(tmp_path):
    async def scenario():
        life = await Life(host_in(tmp_path), tmp_path, Pods()).started()
        with pytest.raises(CniError, match=f"no device of {RESOURCE}"):
            await life.stock.allocate(RESOURCE, [GPU])
        with pytest.raises(CniError, match="the host has no PCI device"):
            await life.stock.allocate(RESOURCE, ["0000:ff:00.0"])

    asyncio.run(scenario())
