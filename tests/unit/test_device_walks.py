"""Random walks, and processes that are killed twice: no device is lost or given twice, and every driver is restored."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cni.errors import CniError, DeviceBusy, IoFailure
from deviceplugin.counting import counted
from tests.kubelet.pcihost import GPU, PF, SOUND, VFS
from tests.unit.test_device_stock import MEMORY, RESOURCE, Life, Mortal, Pods, _is_killed, host_in

WHOLE = bool(os.environ.get("BAREWIRE_MATRIX"))
STEPS = range(24) if WHOLE else range(1, 24, 6)
CARDS, AUDIO = "devices.kubevirt.io/10de_1bb3", "devices.kubevirt.io/10de_10f0"
TOGETHER = "devices.kubevirt.io/group_10de_10f0_10de_1bb3"
VF_POOL = b'"resourceList": [{"resourceName": "vfs", "driver": "vfio-pci", "selectors": {"drivers": ["iavf"]}}]'
WAYS = {
    "exclusive": (b"{%s, %s}" % (VF_POOL, b'"auto": {"classes": ["03", "04"]}'), {CARDS: [GPU], AUDIO: [SOUND]}),
    "group": (
        b"{%s, %s}" % (VF_POOL, b'"auto": {"classes": ["03", "04"], "groups": "group", "driver": "vfio-pci"}'),
        {TOGETHER: [GPU]},
    ),
}


# Killed, and killed again while the next process repairs the state.


async def _course(life):
    await life.started()
    await life.reclaimed()


async def _lives_until(host, root, pods, last):
    """Runs a start and some rounds of a process that is killed at a step. Returns whether it was."""
    mortal = Mortal()
    mortal.last = last
    return await _is_killed(_course(Life(host, root, pods, mortal)))


@pytest.mark.parametrize("first", STEPS)
@pytest.mark.parametrize("kept", [False, True])
def test_a_process_that_is_killed_while_it_puts_right_what_a_killed_one_left(first, kept):
    async def scenario(root, second):
        host, pods = host_in(root), Pods()
        mortal = Mortal()
        life = await Life(host, root, pods, mortal).started()
        mortal.last = mortal.steps + first
        await _is_killed(life.stock.allocate(RESOURCE, VFS[:2]))
        pods.devices = {RESOURCE: VFS[:2]} if kept else {}
        killed = await _lives_until(host, root, pods, second)
        last = await (await Life(host, root, pods).started()).reclaimed()
        assert [*last.stock.held] == (VFS[:2] if kept else [])
        pods.devices = {}
        await last.reclaimed()
        assert not last.stock.held
        assert [host.bound(vf) for vf in VFS[:2]] == ["iavf", "iavf"]
        assert [offer.ailments for offer in last.stock.offers(RESOURCE)] == [(), ()]
        assert list((root / "state").iterdir()) == []
        return killed

    second, killed = 0, True
    while killed:
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            killed = asyncio.run(scenario(Path(folder), second))
        second += 1 if WHOLE else 2


def test_a_process_that_is_killed_while_it_mends_a_damaged_journal_still_holds_the_device():
    async def scenario(root, last):
        host, pods = host_in(root), Pods()
        await (await Life(host, root, pods).started()).stock.allocate(RESOURCE, VFS[:1])
        file = root / "state" / f"{VFS[0]}.json"
        file.write_text("{")
        killed = await _lives_until(host, root, pods, last)
        again = await Life(host, root, pods).started()
        assert last > 1 or [*again.stock.held] == VFS[:1]
        await again.reclaimed()
        assert not again.stock.held
        return killed

    last, killed = 0, True
    while killed:
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            killed = asyncio.run(scenario(Path(folder), last))
        last += 1


# A kubelet that knows its allocations, a plugin that is killed, and a host that changes.


class Kubelet(Pods):
    """`down` while it does not respond; after a start it lists no pods until `heard` is set."""

    def __init__(self):
        super().__init__()
        self.given: dict[str, tuple[str, str]] = {}
        self.down = False
        self.heard = True

    async def listed(self):
        devices: dict[str, list[str]] = {}
        for resource, device in self.given.values():
            devices.setdefault(resource, []).append(device)
        # The product ignores the list of a kubelet that has just started; here such a kubelet does not respond.
        self.devices = None if self.down or not self.heard else devices
        return await super().listed()


class Walk(RuleBasedStateMachine):
    """`way` is how the pools of the graphics card treat its IOMMU group."""

    way = "exclusive"

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        self.root = Path(self.folder.name)
        self.host, self.kubelet = host_in(self.root), Kubelet()
        self.document, cards = WAYS[self.way]
        self.offered = {RESOURCE: VFS[:2], **cards}
        self.choices = [(resource, device) for resource, devices in self.offered.items() for device in devices]
        self.open: dict[str, str] = {}
        self.pods = 0
        self.plugged = {*VFS[:2], GPU, SOUND}
        self.loop = asyncio.new_event_loop()
        self.born()

    def do(self, work):
        return self.loop.run_until_complete(work)

    def holders(self, device):
        return [pod for pod, (_resource, given) in self.kubelet.given.items() if given == device]

    # The plugin

    @rule()
    def born(self):
        self.life = Life(self.host, self.root, self.kubelet, document=self.document)
        self.do(self.life.started())

    @rule(step=st.integers(0, 12), choice=st.integers(0, 3))
    def dies_in_an_allocation(self, step, choice):
        resource, device = self.choices[choice % len(self.choices)]
        mortal = Mortal()
        self.life = Life(self.host, self.root, self.kubelet, mortal, self.document)
        self.do(self.life.started())
        mortal.last = mortal.steps + step
        if self._may_be_given(resource, device):
            self._give(resource, device)
        self.born()

    @rule(step=st.integers(0, 12))
    def dies_while_it_takes_back(self, step):
        mortal = Mortal()
        self.life = Life(self.host, self.root, self.kubelet, mortal, self.document)
        mortal.last = step
        self.do(_is_killed(_course(self.life)))
        self.born()

    @rule()
    def time_passes(self):
        self.do(self.life.reclaimed())

    @rule(number=st.integers(1, 30))
    def a_look_fails(self, number):
        before = {name: [one.device for one in self.life.stock.offers(name)] for name in self.life.stock.resources()}
        with pytest.MonkeyPatch.context() as patch:
            self._spoil(patch, number)
            try:
                self.do(self.life.reclaimed())
                self.do(self.life.stock.look())
            except CniError:
                pass
        assert before == {
            name: [one.device for one in self.life.stock.offers(name)] for name in self.life.stock.resources()
        }

    def _spoil(self, patch, number):
        host, left = self.life.stock.host, [number]
        for name in ("look", "opened", "netdev_is_away", "has_record"):
            patch.setattr(host, name, self._spoiled(getattr(host, name), left))

    @staticmethod
    def _spoiled(function, left):
        def call(*args):
            left[0] -= 1
            if left[0] % 3 == 0:
                raise IoFailure("too many open files")
            return function(*args)

        return call

    # Pods

    def _may_be_given(self, resource, device):
        offered = {offer.device: offer.healthy for offer in self.life.stock.offers(resource)}
        return not self.kubelet.down and not self.holders(device) and offered.get(device)

    def _give(self, resource, device):
        """The kubelet lists the device once Allocate has succeeded. Returns whether it has."""
        try:
            if self.do(_is_killed(self.life.stock.allocate(resource, [device]))):
                return False
        except DeviceBusy:
            return False
        self.pods += 1
        self.kubelet.given[f"pod{self.pods}"] = (resource, device)
        return True

    @rule(choice=st.integers(0, 3))
    def pod_comes(self, choice):
        resource, device = self.choices[choice % len(self.choices)]
        if self._may_be_given(resource, device):
            user = self.open.get(device)
            assert not (self._give(resource, device) and user), "it was open for a former pod"

    @precondition(lambda self: self.kubelet.given)
    @rule(data=st.data())
    def container_starts_and_may_open(self, data):
        pod = data.draw(st.sampled_from(sorted(self.kubelet.given)))
        resource, device = self.kubelet.given[pod]
        try:
            self.do(self.life.stock.prepare(resource, [device]))
        except CniError:
            return
        if data.draw(st.booleans()) and device in self.plugged:
            self.open[device] = pod
            self.host.open.add(device)

    @precondition(lambda self: self.kubelet.given)
    @rule(data=st.data(), closes=st.booleans())
    def pod_ends(self, data, closes):
        pod = data.draw(st.sampled_from(sorted(self.kubelet.given)))
        _resource, device = self.kubelet.given.pop(pod)
        if closes:
            self._close(device)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def process_closes(self, data):
        self._close(data.draw(st.sampled_from(sorted(self.open))))

    def _close(self, device):
        self.open.pop(device, None)
        self.host.open.discard(device)

    # The kubelet and the host

    @rule(down=st.booleans(), heard=st.booleans())
    def kubelet_dies_or_starts(self, down, heard):
        self.kubelet.down, self.kubelet.heard = down, heard

    @precondition(lambda self: not self.holders(VFS[1]) and VFS[1] not in self.life.stock.held)
    @rule()
    def unplugged_and_plugged(self):
        self.host.remove(VFS[1])
        self.do(self.life.stock.look())
        assert VFS[1] not in [offer.device for offer in self.life.stock.offers(RESOURCE)]
        self.host.add_vf(PF, 1, VFS[1], driver="iavf", group="11")
        self.host.netdev(VFS[1], "eth0v1")
        self.do(self.life.stock.look())

    @precondition(lambda self: VFS[0] in self.life.stock.held and VFS[0] not in self.open)
    @rule()
    def administrator_binds_another_driver(self):
        self.host.bind(VFS[0], "iavf")
        self.do(self.life.stock.look())

    @rule(device=st.sampled_from([VFS[0], GPU]), content=st.sampled_from([b"", b"{", b"[" * 5000]))
    def journal_is_damaged(self, device, content):
        file = self.root / "state" / f"{device}.json"
        # The file has the original driver, so it may be lost only for a device that has this driver.
        if file.exists() and device == GPU and self.way == "exclusive":
            file.write_bytes(content)
            self.born()

    # Invariants

    @invariant()
    def what_is_given_is_held_by_one_pod(self):
        given = Counter(device for _resource, device in self.kubelet.given.values())
        assert all(number == 1 for number in given.values())
        assert set(given) <= set(self.life.stock.held)
        if self.way == "exclusive":
            assert not {GPU, SOUND} <= set(given)

    @invariant()
    def lists_are_whole(self):
        for resource, devices in self.offered.items():
            assert [offer.device for offer in self.life.stock.offers(resource)] == devices

    @invariant()
    def what_is_counted_by_changes_is_a_full_count(self):
        count = self.life.stock._count
        assert count is not None
        whole = counted(count.sight, count.selection, count.held, count.doubts)
        assert (count.assignment, count.offers) == (whole.assignment, whole.offers)

    def teardown(self):
        self.kubelet.given.clear()
        self.host.open.clear()
        self.kubelet.down, self.kubelet.heard = False, True
        try:
            self.do(self.life.reclaimed())
            self.do(self.life.stock.look())
            offers = [offer for resource in self.offered for offer in self.life.stock.offers(resource)]
            assert all(offer.healthy for offer in offers), offers
            assert not self.life.stock.held
            assert [self.host.bound(vf) for vf in VFS[:2]] == ["iavf", "iavf"]
            assert [self.host.bound(one) for one in (GPU, SOUND)] == ["vfio-pci", "vfio-pci"]
        finally:
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            self.folder.cleanup()


class WalkWithWholeGroups(Walk):
    way = "group"


SETTINGS = settings(max_examples=300 if WHOLE else 8, stateful_step_count=40 if WHOLE else 25, deadline=None)
TestWalk = Walk.TestCase
TestWalk.settings = SETTINGS
TestWalkWithWholeGroups = WalkWithWholeGroups.TestCase
TestWalkWithWholeGroups.settings = SETTINGS
