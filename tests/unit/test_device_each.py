"""Several devices are changed at the same time."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cni.errors import DeviceBusy, IoFailure
from cni.host import binding
from deviceplugin.each import AT_ONCE, for_each
from tests.kubelet.pcihost import GPU, SOUND, PciHost, graphics
from tests.unit.test_device_groups import BINDS, TOGETHER, host_in, started
from tests.unit.test_device_stock import Pods

SECONDS = 60.0


def test_a_failure_is_raised_after_all_steps_have_ended_and_names_the_others():
    ended = []

    async def step(number):
        await asyncio.sleep(0)
        if number % 2:
            raise DeviceBusy(f"number {number}")
        ended.append(number)

    with pytest.raises(DeviceBusy, match="number 1") as failed:
        asyncio.run(for_each(range(5), step))
    assert failed.value.__notes__ == ["and: number 3"]
    assert ended == [0, 2, 4]


def test_steps_that_hang_leave_threads_for_others():
    running, most = set(), []

    async def step(number):
        running.add(number)
        most.append(len(running))
        await asyncio.sleep(0)
        running.remove(number)

    asyncio.run(for_each(range(3 * AT_ONCE), step))
    assert max(most) == AT_ONCE


def test_drivers_of_a_group_are_bound_and_restored_at_the_same_time(tmp_path):
    async def scenario():
        pci, pods = host_in(tmp_path), Pods()
        life = await started(pci, tmp_path, pods, {**BINDS, "groups": "group"})
        both = threading.Barrier(2)

        def probe(path, _text):
            if path.endswith(("drivers_probe", "/bind")):
                both.wait(SECONDS)

        pci.before_write = probe
        await life.stock.allocate(TOGETHER, [GPU])
        assert (pci.bound(GPU), pci.bound(SOUND)) == ("vfio-pci", "vfio-pci")
        assert await life.stock.release(GPU, 1)
        assert (pci.bound(GPU), pci.bound(SOUND)) == ("nvidia", "snd_hda_intel")

    asyncio.run(scenario())


def test_a_device_that_has_its_driver_back_is_not_reset_when_its_release_is_repeated(tmp_path, monkeypatch):
    async def scenario():
        pci = host_in(tmp_path)
        life = await started(pci, tmp_path, Pods(), {**BINDS, "groups": "group"})
        await life.stock.allocate(TOGETHER, [GPU])

        def refuse(_device):
            raise IoFailure("no space left")

        with monkeypatch.context() as patch:
            patch.setattr(life.stock._journal, "remove", refuse)
            with pytest.raises(IoFailure):
                await life.stock.release(GPU, 1)
        assert (pci.bound(GPU), pci.bound(SOUND)) == ("nvidia", "snd_hda_intel")
        assert {*life.stock.held} == {GPU, SOUND}
        assert pci.writes.count(("reset", "1")) == 2
        assert await life.stock.release(GPU, 1)
        assert pci.writes.count(("reset", "1")) == 2
        assert not life.stock.held

    asyncio.run(scenario())


def test_a_check_of_one_member_does_not_find_the_group_open_because_of_a_check_of_another(tmp_path, monkeypatch):
    pci = PciHost(tmp_path)
    graphics(pci)
    host = pci.host()
    del host.in_use, host.opened
    inside: list[str] = []
    entered, go = threading.Event(), threading.Event()

    def is_busy(node):
        """The kernel's answer: a group can be open once."""
        if inside:
            return True
        inside.append(node)
        entered.set()
        go.wait(SECONDS)
        inside.remove(node)
        return False

    monkeypatch.setattr(binding, "_is_busy", is_busy)
    found: list[str] = []
    devices = list(host.look().inventory.functions)
    checks = [threading.Thread(target=lambda one=one: found.extend(host.opened([one]))) for one in devices]
    checks[0].start()
    assert entered.wait(SECONDS)
    checks[1].start()
    checks[1].join(0.2)
    go.set()
    for check in checks:
        check.join(SECONDS)
    assert found == []
