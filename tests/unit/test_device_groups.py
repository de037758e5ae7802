"""Whole IOMMU groups as devices, and members that are bound together with a device."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

import pytest

from cni.errors import DeviceBusy, InvalidConfig
from cni.pci import PciAddress
from deviceplugin.assignment import Selection, assign
from deviceplugin.conf import parse
from deviceplugin.container import variable
from deviceplugin.explain import explained
from deviceplugin.function import Function, Inventory
from deviceplugin.group import companions
from deviceplugin.offer import offers
from deviceplugin.pool import signature
from deviceplugin.reclaim import Reclaimer, resume
from tests.kubelet.pcihost import GPU, SOUND, Killed, PciHost, graphics
from tests.unit.test_device_stock import MEMORY, Life, Mortal, Pods

TOGETHER = "devices.kubevirt.io/group_10de_10f0_10de_1bb3"
CARDS = "devices.kubevirt.io/10de_1bb3"
ALONE = "0000:04:00.0"
OTHERS = "0000:05:00.0", "0000:05:00.1"


def function(address, device="1bb3", group="20", **fields):
    return Function(address=PciAddress(address), **{"pci_class": "030200", "vendor": "10de", "device": device, "driver": "vfio-pci", "group": group} | fields)  # fmt: skip


def host(*functions):
    return Inventory(functions={one.address: one for one in functions})


PAIR = (function(GPU), function(SOUND, "10f0", pci_class="040300"))
MIRRORED = (function(OTHERS[0], "10f0", "31", pci_class="040300"), function(OTHERS[1], group="31"))


def assigned(inventory, document, used=None, held=None):
    return assign(inventory, Selection(parse(json.dumps(document).encode())), used or {}, held or {})


def auto(**keys):
    return {"auto": {"classes": ["0302"], "groups": "group", **keys}}


def test_a_group_is_one_device_with_the_same_name_wherever_it_has_the_same_members():
    found = assigned(host(*PAIR, *MIRRORED, function(ALONE, group="40")), auto())
    assert found.members(TOGETHER) == (GPU, OTHERS[1])
    assert found.parts(GPU) == (SOUND,)
    assert found.parts(OTHERS[1]) == (OTHERS[0],)
    assert found.members(CARDS) == (ALONE,), "a device that is alone is no group"


def test_the_name_of_many_members_has_room_in_that_of_a_resource_and_is_still_theirs():
    many = [function(f"0000:06:00.{number}", f"{number:04x}") for number in range(7)]
    name = signature(many)
    assert len(name) <= 63
    assert name == signature(reversed(many)) != signature(many[:6])


def test_a_pool_with_a_name_offers_each_group_with_a_member_that_it_selects():
    resource = {"resourceName": "gpu", "deviceType": "pci", "groups": "group", "selectors": {"devices": ["1bb3"]}}
    found = assigned(host(*PAIR, *MIRRORED), {"resourceList": [resource]})
    assert found.members("intel.com/gpu") == (GPU, OTHERS[1])


def test_the_first_pool_decides_whether_a_group_is_given_away_as_a_whole():
    whole = {"resourceName": "gpu", "deviceType": "pci", "groups": "group", "selectors": {"devices": ["1bb3"]}}
    single = {"resourceName": "sound", "deviceType": "pci", "selectors": {"devices": ["10f0"]}}
    first = assigned(host(*PAIR), {"resourceList": [whole, single]})
    assert (first.members("intel.com/gpu"), first.members("intel.com/sound")) == ((GPU,), ())
    assert first.claims == {SOUND: ("intel.com/sound",)}
    last = assigned(host(*PAIR), {"resourceList": [single, whole]})
    assert (last.members("intel.com/gpu"), last.members("intel.com/sound")) == ((), (SOUND,))
    assert last.kept_out[GPU] == f"{SOUND} of its IOMMU group is in intel.com/sound"


def test_a_held_group_keeps_its_name_and_its_device_though_a_member_comes_or_goes():
    more = function("0000:02:00.2", "1ad9", pci_class="0c0300")
    for members in ((*PAIR, more), PAIR[:1]):
        found = assigned(host(*members), auto(), held={GPU: TOGETHER})
        assert found.members(TOGETHER) == (GPU,)


def test_two_members_that_a_pool_selects_are_one_device_under_the_name_of_the_first_or_the_one_that_is_held():
    both = auto(classes=["03", "04"])
    assert assigned(host(*PAIR), both).members(TOGETHER) == (GPU,)
    assert assigned(host(*PAIR), both, held={SOUND: TOGETHER}).members(TOGETHER) == (SOUND,)


def health(inventory, document, used=None, held=None):
    found = assigned(inventory, document, used, held)
    nodes = frozenset(("/dev/vfio/vfio", "/dev/vfio/20"))
    offered = offers(inventory, found, held or {}, nodes, used=used or {})
    return {offer.device: "; ".join(offer.ailments) for some in offered.values() for offer in some}


def sound(driver):
    return host(PAIR[0], PAIR[1].replace(driver=driver))


BINDS = {"driver": "vfio-pci", "companions": ["snd_hda_intel"]}


@pytest.mark.parametrize("groups", ["group", "exclusive"])
@pytest.mark.parametrize(
    ("driver", "keys", "used", "reason"),
    [
        ("vfio-pci", {}, {}, ""),
        ("snd_hda_intel", {}, {}, f"{SOUND} is bound to snd_hda_intel"),
        ("snd_hda_intel", {"driver": "vfio-pci"}, {}, f"{SOUND} is bound to snd_hda_intel"),
        ("snd_hda_intel", BINDS, {}, ""),
        ("snd_hda_intel", BINDS, {SOUND: "the host plays music"}, f"{SOUND}: the host plays music"),
        ("", BINDS, {}, ""),
        ("uio_pci_generic", BINDS, {}, f"{SOUND} is bound to uio_pci_generic"),
    ],
)
def test_members_are_taken_from_the_drivers_that_the_pool_names_only(groups, driver, keys, used, reason):
    assert reason in health(sound(driver), auto(groups=groups, **keys), used)[GPU]
    assert bool(reason) == bool(health(sound(driver), auto(groups=groups, **keys), used)[GPU])


def test_a_member_without_a_driver_is_useless_with_the_group_and_harmless_otherwise():
    assert health(sound(""), auto())[GPU] == f"its IOMMU group is not viable: {SOUND} has no driver for VFIO"
    assert health(sound(""), auto(groups="exclusive"))[GPU] == ""


def test_a_held_device_whose_companion_has_another_driver_again_is_unhealthy():
    found = health(sound("snd_hda_intel"), auto(groups="exclusive", **BINDS), held={GPU: CARDS})
    assert found[GPU] == f"its IOMMU group is not viable: {SOUND} is bound to snd_hda_intel"


def test_a_member_of_uio_is_bound_with_the_device_where_the_pool_names_its_driver():
    keys = auto(groups="exclusive", driver="vfio-pci", companions=["igb_uio"])
    found = assigned(sound("igb_uio"), keys)
    assert health(sound("igb_uio"), keys)[GPU] == ""
    assert companions(PAIR[0], found.pool_of[GPU], sound("igb_uio"), [GPU]) == (PAIR[1].replace(driver="igb_uio"),)


def test_a_group_with_a_member_that_another_pool_s_container_has_is_unhealthy_and_does_not_vanish():
    whole = {"resourceName": "gpu", "deviceType": "pci", "groups": "group", "selectors": {"devices": ["1bb3"]}}
    single = {"resourceName": "sound", "deviceType": "pci", "selectors": {"devices": ["10f0"]}}
    held, document = {SOUND: "intel.com/sound"}, {"resourceList": [whole, single]}
    assert assigned(host(*PAIR), document, held=held).members("intel.com/gpu") == (GPU,)
    assert health(host(*PAIR), document, held=held) == {
        GPU: f"{SOUND} of its IOMMU group is held (intel.com/sound)",
        SOUND: "",
    }


@pytest.mark.parametrize("keys", [{"companions": ["xhci_hcd"]}, {**BINDS, "groups": "single"}, {"companions": ["a b"]}])
def test_companions_that_would_not_be_bound_are_refused(keys):
    with pytest.raises(InvalidConfig, match=r"resourceList.+companions"):
        parse(json.dumps({"resourceList": [{"resourceName": "a", **keys}]}).encode())


# The running plugin


def host_in(root, driver="snd_hda_intel"):
    found = PciHost(root / "host")
    graphics(found, sound_driver=driver)
    found.bind(GPU, "nvidia")
    found.home[GPU] = "nvidia"
    return found


async def started(pci, root, pods, keys, mortal=None):
    life = Life(pci, root, pods, mortal)
    await life.stock.look()
    life.stock.configure(parse(json.dumps(auto(**keys)).encode()))
    await resume(life.stock, life.log)
    life.reclaimer = Reclaimer(life.stock, pods, life.log, settle=0.0)
    return life


@pytest.mark.parametrize(("groups", "resource", "given"), [("exclusive", CARDS, [GPU]), ("group", TOGETHER, [GPU, SOUND])])  # fmt: skip
def test_members_are_bound_with_the_device_and_go_back_to_their_drivers(tmp_path, groups, resource, given):
    async def scenario():
        pci, pods = host_in(tmp_path), Pods()
        life = await started(pci, tmp_path, pods, {**BINDS, "groups": groups})
        contents = await life.stock.allocate(resource, [GPU])
        assert contents.environment[f"PCI_RESOURCE_{variable(resource)}"].split(",") == given
        assert [node.host for node in contents.nodes] == ["/dev/vfio/vfio", "/dev/vfio/20"]
        assert (pci.bound(GPU), pci.bound(SOUND)) == ("vfio-pci", "vfio-pci")
        # An init container had them; the application gets them again, and their original drivers are still known.
        await life.stock.allocate(resource, [GPU])
        pods.devices = {resource: [GPU]}
        await life.reclaimed()
        assert {*life.stock.held} == {GPU, SOUND}
        pci.bind(SOUND, "snd_hda_intel")
        await life.stock.prepare(resource, [GPU])
        assert pci.bound(SOUND) == "vfio-pci"
        pods.devices = {}
        await life.reclaimed()
        assert (pci.bound(GPU), pci.bound(SOUND)) == ("nvidia", "snd_hda_intel")
        assert not life.stock.held
        assert [*(tmp_path / "state").iterdir()] == []

    asyncio.run(scenario())


def test_a_member_that_the_host_uses_is_not_bound_and_the_device_stays_as_it_was(tmp_path):
    async def scenario():
        pci = host_in(tmp_path)
        life = await started(pci, tmp_path, Pods(), {**BINDS, "groups": "group"})
        pci.records.add(SOUND)
        with pytest.raises(DeviceBusy, match=f"{SOUND}: a CNI plugin has a record of it"):
            await life.stock.allocate(TOGETHER, [GPU])
        pci.records.clear()
        pci.used[SOUND] = "the host plays music"
        with pytest.raises(DeviceBusy, match="the host plays music"):
            await life.stock.allocate(TOGETHER, [GPU])
        assert (pci.bound(GPU), pci.bound(SOUND)) == ("nvidia", "snd_hda_intel")
        assert not life.stock.held

    asyncio.run(scenario())


def test_companions_stay_bound_as_long_as_their_device_is_held_by_doubt_and_go_back_with_it(tmp_path):
    async def scenario():
        pci, pods = host_in(tmp_path), Pods()
        life = await started(pci, tmp_path, pods, {**BINDS, "groups": "exclusive"})
        await life.stock.allocate(CARDS, [GPU])
        pci.open.add(GPU)
        await life.reclaimed()
        assert pci.bound(SOUND) == "vfio-pci"
        pci.open.clear()
        assert await life.stock.release(GPU, 1)
        assert not life.stock.held
        assert pci.bound(SOUND) == "snd_hda_intel"

    asyncio.run(scenario())


def test_a_companion_whose_device_the_journal_has_lost_goes_on_with_it_when_the_kubelet_lists_it(tmp_path):
    async def scenario():
        pci, pods = host_in(tmp_path), Pods()
        keys = {**BINDS, "groups": "exclusive"}
        life = await started(pci, tmp_path, pods, keys)
        await life.stock.allocate(CARDS, [GPU])
        (tmp_path / "state" / f"{GPU}.json").unlink()
        pods.devices = {CARDS: [GPU]}
        again = await (await started(pci, tmp_path, pods, keys)).reclaimed()
        assert {*again.stock.held} == {GPU, SOUND}
        await again.stock.allocate(CARDS, [GPU])
        pods.devices = {}
        await again.reclaimed()
        assert not again.stock.held
        assert pci.bound(SOUND) == "snd_hda_intel"

    asyncio.run(scenario())


def test_a_start_makes_companions_ready_with_their_device_and_has_nothing_to_say(tmp_path):
    async def scenario():
        pci, pods = host_in(tmp_path), Pods()
        keys = {**BINDS, "groups": "exclusive"}
        await (await started(pci, tmp_path, pods, keys)).stock.allocate(CARDS, [GPU])
        pci.bind(SOUND, "snd_hda_intel")
        again = await started(pci, tmp_path, pods, keys)
        assert pci.bound(SOUND) == "vfio-pci"
        assert again.log.messages == []

    asyncio.run(scenario())


def test_every_member_of_a_group_is_reset_when_it_is_back(tmp_path):
    async def scenario():
        pci = host_in(tmp_path, "vfio-pci")
        pci.bind(GPU, "vfio-pci")
        life = await started(pci, tmp_path, Pods(), {})
        await life.stock.allocate(TOGETHER, [GPU])
        await life.stock.release(GPU, 1)
        assert pci.writes == [("reset", "1")] * 2

    asyncio.run(scenario())


def test_a_part_is_not_allocated_by_its_own_name_and_explain_names_its_device(tmp_path):
    async def scenario():
        pci = host_in(tmp_path, "vfio-pci")
        life = await started(pci, tmp_path, Pods(), BINDS)
        with pytest.raises(DeviceBusy, match=f"it comes with {GPU}"):
            await life.stock.allocate(TOGETHER, [SOUND])
        rows = explained(life.stock.sight, parse(json.dumps(auto(**BINDS)).encode()), {})
        part = {row.device: row for row in rows}[SOUND]
        assert (part.resource, part.state) == (TOGETHER, "part")
        assert part.why == (f"it comes with {GPU} of its IOMMU group",)

    asyncio.run(scenario())


async def _killed_in_allocation(root, last, keys, resource):
    pci, pods, mortal = host_in(root), Pods(), Mortal()
    life = await started(pci, root, pods, keys, mortal)
    mortal.last = mortal.steps + last
    return pci, pods, await _is_killed(life.stock.allocate(resource, [GPU]))


async def _killed_in_release(root, last, keys, resource):
    pci, pods, mortal = host_in(root), Pods(), Mortal()
    life = await started(pci, root, pods, keys, mortal)
    await life.stock.allocate(resource, [GPU])
    mortal.last = mortal.steps + last
    return pci, pods, await _is_killed(life.reclaimed())


async def _is_killed(call):
    try:
        await call
    except Killed:
        return True
    return False


@pytest.mark.parametrize("scenario", [_killed_in_allocation, _killed_in_release])
@pytest.mark.parametrize(("groups", "resource"), [("exclusive", CARDS), ("group", TOGETHER)])
def test_a_process_that_is_killed_at_any_step_leaves_every_member_of_the_group_as_it_was_found(
    scenario, groups, resource
):
    async def scene(root, last):
        keys = {**BINDS, "groups": groups}
        pci, pods, killed = await scenario(root, last, keys, resource)
        again = await started(pci, root, pods, keys)
        await again.reclaimed()
        assert not again.stock.held, last
        assert (pci.bound(GPU), pci.bound(SOUND)) == ("nvidia", "snd_hda_intel"), last
        assert [*(root / "state").iterdir()] == []
        assert [offer.ailments for offer in again.stock.offers(resource)] == [()]
        return killed

    last, killed = 0, True
    while killed:
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            killed = asyncio.run(scene(Path(folder), last))
        last += 1
    assert last > 6, "steps"
