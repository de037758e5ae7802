"""The device plugin and a strict kubelet, over the kubelet's own sockets."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import tempfile
import threading
import time
from pathlib import Path

import pytest

from deviceplugin.podresources import owners
from deviceplugin.status import answers, status
from tests.kubelet.kubelet import CHECKPOINT, AdmissionError
from tests.kubelet.node import Node, driven, until
from tests.kubelet.pcihost import GPU, PF, SOUND, VFS, card, graphics

RESOURCE = "intel.com/vfs"
CONFIG = {"resourceList": [{"resourceName": "vfs", "selectors": {"pfNames": ["eth0"]}}]}
BINDING = {"resourceList": [{"resourceName": "vfs", "driver": "vfio-pci", "selectors": {"drivers": ["iavf"]}}]}
CARDS, AUDIO = "devices.kubevirt.io/10de_1bb3", "devices.kubevirt.io/10de_10f0"
AUTO = {"auto": {"classes": ["0302", "0403"]}}


@pytest.fixture
def place():
    """A folder with a short path: that of a socket has at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="bw") as folder:
        yield Path(folder)


def of_card(place, config, driver="vfio-pci", **options):
    node = Node(place, config, **options)
    card(node.host, driver=driver)
    return node


def of_graphics(place, config=AUTO, **options):
    node = Node(place, config)
    graphics(node.host, **options)
    return node


@driven
async def test_vfs_are_offered_and_a_pod_gets_one_with_what_it_needs(place):
    async with of_card(place, CONFIG) as node:
        await node.offered(RESOURCE, 4)
        assert node.kubelet.capacity(RESOURCE) == 4
        [device] = await node.kubelet.admit("pod", RESOURCE)
        await node.kubelet.start_container("pod")
        answer = node.kubelet.answers["pod", "app", RESOURCE]
        group = 10 + VFS.index(device)
        assert [device_node.container_path for device_node in answer.devices] == [
            "/dev/vfio/vfio",
            f"/dev/vfio/{group}",
        ]
        assert answer.envs["PCIDEVICE_INTEL_COM_VFS"] == device
        assert answer.envs["PCI_RESOURCE_INTEL_COM_VFS"] == device
        assert json.loads(answer.envs["PCIDEVICE_INTEL_COM_VFS_INFO"]) == {
            device: {
                "generic": {"deviceID": device},
                "vfio": {"mount": "/dev/vfio/vfio", "dev-mount": f"/dev/vfio/{group}"},
            }
        }
        [file] = node.host.info.iterdir()
        assert file.name == f"intel.com-vfs-{device}-device.json"
        assert json.loads(file.read_text())["pci"] == {"pci-address": device, "pf-pci-address": PF}
        assert set(node.kubelet.endpoints[RESOURCE].numa.values()) == {0}


@driven
async def test_a_pod_that_is_gone_gives_its_device_back_and_its_info_file_goes(place):
    async with of_card(place, CONFIG) as node:
        await node.offered(RESOURCE, 4)
        [device] = await node.kubelet.admit("pod", RESOURCE)
        assert node.service.stock.held[device].resource == RESOURCE
        node.kubelet.end("pod")
        await until("release", lambda: not node.service.stock.held)
        assert ("reset", "1") in node.host.writes
        assert list(node.host.info.iterdir()) == list(node.state.iterdir()) == []


@driven
async def test_a_driver_is_bound_at_allocation_and_goes_back_when_the_pod_is_gone(place):
    async with of_card(place, BINDING, driver="iavf") as node:
        await node.offered(RESOURCE, 4)
        [device] = await node.kubelet.admit("pod", RESOURCE)
        assert node.host.bound(device) == "vfio-pci"
        assert len(node.kubelet.answers["pod", "app", RESOURCE].devices) == 2
        # It does not match the selector any more, but still belongs to the pool, because its holder must not lose it.
        assert node.kubelet.health(RESOURCE)[device] == "Healthy"
        node.kubelet.end("pod")
        await until("release", lambda: not node.service.stock.held)
        assert node.host.bound(device) == "iavf"
        await node.offered(RESOURCE, 4)


@driven
async def test_an_allocation_that_cannot_bind_fails_the_pod_and_leaves_the_host_as_it_was(place):
    async with of_card(place, BINDING, driver="iavf") as node:
        await node.offered(RESOURCE, 4)
        node.host.refuse["drivers_probe"] = 5
        with pytest.raises(AdmissionError, match="the kernel refused"):
            await node.kubelet.admit("pod", RESOURCE, 2)
        assert [node.host.bound(vf) for vf in VFS] == ["iavf"] * 4
        assert not node.service.stock.held
        assert list(node.state.iterdir()) == []
        assert node.metrics.registry.get_sample_value(
            "barewire_refusals_total", {"resource": RESOURCE, "call": "Allocate", "reason": "KernelRefused"}
        )


@driven
async def test_a_device_of_a_held_iommu_group_is_unhealthy_in_every_pool_until_its_release(place):
    async with of_graphics(place) as node:
        await node.offered(CARDS, 1)
        await node.offered(AUDIO, 1)
        await node.kubelet.admit("machine", CARDS)
        await until("withdrawal", lambda: node.kubelet.health(AUDIO) == {SOUND: "Unhealthy"})
        assert node.kubelet.health(CARDS) == {GPU: "Healthy"}
        node.kubelet.end("machine")
        await node.offered(AUDIO, 1)


@driven
async def test_two_pods_that_race_for_one_iommu_group_do_not_both_get_it(place):
    async with of_graphics(place) as node:
        await node.offered(CARDS, 1)
        await node.offered(AUDIO, 1)
        node.kubelet.endpoints[AUDIO].task.cancel()  # this kubelet gets no further changes
        await node.kubelet.admit("first", CARDS)
        node.kubelet.endpoints[AUDIO].devices = {SOUND: "Healthy"}
        with pytest.raises(AdmissionError, match=f"{GPU} of its IOMMU group is held"):
            await node.kubelet.admit("second", AUDIO)


@driven
async def test_a_group_with_a_member_of_a_foreign_driver_is_unhealthy(place):
    async with of_graphics(place, sound_driver="snd_hda_intel") as node:
        await until("a list", lambda: node.kubelet.health(CARDS))
        assert node.kubelet.health(CARDS) == {GPU: "Unhealthy"}
        reasons = node.service.stock.offers(CARDS)[0].ailments
        assert reasons == (f"its IOMMU group is not viable: {SOUND} is bound to snd_hda_intel",)


@driven
async def test_both_members_of_a_group_are_given_to_one_container(place):
    config = {"resourceList": [{"resourceName": "g", "deviceType": "pci", "selectors": {"vendors": ["10de"]}}]}
    async with of_graphics(place, config) as node:
        await node.offered("intel.com/g", 2)
        assert sorted(await node.kubelet.admit("machine", "intel.com/g", 2)) == [GPU, SOUND]
        assert [
            device_node.container_path for device_node in node.kubelet.answers["machine", "app", "intel.com/g"].devices
        ] == [
            "/dev/vfio/vfio",
            "/dev/vfio/20",
        ]


@driven
async def test_a_whole_group_is_one_device_and_its_members_are_bound_and_go_back(place):
    config = {"auto": {"classes": ["0302"], "groups": "group", "driver": "vfio-pci", "companions": ["snd_hda_intel"]}}
    resource = "devices.kubevirt.io/group_10de_10f0_10de_1bb3"
    async with of_graphics(place, config, sound_driver="snd_hda_intel") as node:
        await node.offered(resource, 1)
        assert await node.kubelet.admit("machine", resource) == [GPU]
        await node.kubelet.start_container("machine")
        answer = node.kubelet.answers["machine", "app", resource]
        assert answer.envs["PCI_RESOURCE_DEVICES_KUBEVIRT_IO_GROUP_10DE_10F0_10DE_1BB3"] == f"{GPU},{SOUND}"
        assert [device_node.container_path for device_node in answer.devices] == ["/dev/vfio/vfio", "/dev/vfio/20"]
        assert node.host.bound(SOUND) == "vfio-pci"
        await node.stop_plugin()
        await node.start_plugin()
        await node.offered(resource, 1)
        assert {*node.service.stock.held} == {GPU, SOUND}
        node.kubelet.end("machine")
        await until("release", lambda: not node.service.stock.held)
        assert node.host.bound(SOUND) == "snd_hda_intel"


def injected(node, answer):
    """The device nodes that a runtime finds under the names in the response."""
    files = [json.loads(path.read_text()) for path in node.host.cdi.glob("*.json")]
    known = {f"{file['kind']}={device['name']}": device for file in files for device in file["devices"]}
    edits = [known[name.name]["containerEdits"]["deviceNodes"] for name in answer.cdi_devices]
    return [device_node["path"] for nodes in edits for device_node in nodes]


@driven
async def test_cdi_names_have_a_file_with_what_is_held_for_as_long_as_containers_can_start(place):
    config = {"resourceList": [{"resourceName": "vfs", "driver": "vfio-pci", "cdi": True}]}
    async with of_card(place, config, driver="iavf") as node:
        await node.offered(RESOURCE, 4)
        [device] = await node.kubelet.admit("pod", RESOURCE)
        answer, paths = (
            node.kubelet.answers["pod", "app", RESOURCE],
            ["/dev/vfio/vfio", f"/dev/vfio/{10 + VFS.index(device)}"],
        )
        assert not answer.devices
        assert injected(node, answer) == paths
        [file] = node.host.cdi.iterdir()
        assert [one["name"] for one in json.loads(file.read_text())["devices"]] == [device], "nobody can name others"
        # A boot removes the file, and containers start again with the response that the kubelet has stored.
        file.unlink()
        await node.kubelet.start_container("pod")
        assert injected(node, answer) == paths
        await node.kubelet.admit("other", RESOURCE)
        # The configuration does not request names any more, but the container has already received its name.
        node.configure({"resourceList": [{"resourceName": "vfs", "driver": "vfio-pci"}]})
        await until("the change", lambda: not node.service.stock.assignment.pools[RESOURCE].cdi)
        await node.kubelet.start_container("pod")
        assert injected(node, answer) == paths
        node.kubelet.end("other")
        await until("the end of the other one", lambda: len(json.loads(file.read_text())["devices"]) == 1)
        assert injected(node, answer) == paths
        node.kubelet.end("pod")
        await until("the end of the file", lambda: not [*node.host.cdi.iterdir()])


@driven
async def test_a_start_removes_cdi_files_of_what_is_not_held_and_makes_those_of_what_is(place):
    config = {"resourceList": [{"resourceName": "vfs", "cdi": True}]}
    async with of_card(place, config) as node:
        await node.offered(RESOURCE, 4)
        await node.kubelet.admit("pod", RESOURCE)
        await node.stop_plugin()
        [file] = node.host.cdi.iterdir()
        before = file.read_text()
        file.write_text(before.replace("rw", "r"))
        for name, kind in (
            ("barewire-old-01234567.json", "node.barewire/barewire-old-01234567"),
            ("vendor.json", "a.b/c"),
        ):
            (node.host.cdi / name).write_text(json.dumps({"kind": kind}))
        await node.start_plugin()
        await until(
            "the right files",
            lambda: (
                {path.name for path in node.host.cdi.iterdir()} == {file.name, "vendor.json"}
                and file.read_text() == before
            ),
        )


@driven
async def test_status_names_the_pod_of_each_held_device_and_which_resources_are_served(place):
    async with of_card(place, CONFIG) as node:
        await node.offered(RESOURCE, 4)
        [device] = await node.kubelet.admit("pod", RESOURCE)
        pods = await owners(str(node.kubelet.pod_resources / "kubelet.sock"))
        stock, served = node.service.stock, functools.partial(answers, str(node.kubelet.folder))
        found = status(stock.sight, node.service.read(), stock.held, is_served=served, owners=pods)
        assert [(one.device, one.pod) for one in found.held] == [(device, "default/pod/app")]
        assert found.is_served
        await node.stop_plugin()
        assert not status(stock.sight, node.service.read(), stock.held, is_served=served).is_served


@driven
async def test_containers_restart_and_follow_init_containers_without_a_release(place):
    async with of_card(place, CONFIG) as node:
        await node.offered(RESOURCE, 4)
        first = await node.kubelet.admit("pod", RESOURCE, container="init")
        assert await node.kubelet.admit("pod", RESOURCE) == first
        for _ in range(3):
            await node.kubelet.start_container("pod")
        node.host.open.update(first)
        resets = node.host.writes.count(("reset", "1"))
        await node.kubelet.start_container("pod")
        assert node.host.writes.count(("reset", "1")) == resets, "a device that is open was reset"
        assert [*node.service.stock.held] == first


@driven
async def test_a_device_stays_held_while_there_is_doubt(place):
    async with of_card(place, CONFIG) as node:
        await node.offered(RESOURCE, 4)
        [device] = await node.kubelet.admit("pod", RESOURCE)
        node.host.open.add(device)
        node.kubelet.end("pod")
        await until("the warning", lambda: any("a process has it open" in text for text in node.log.messages))
        node.host.records.add(device)
        node.host.open.clear()
        await until("the warning", lambda: any("has a record of it" in text for text in node.log.messages))
        assert device in node.service.stock.held
        node.host.records.clear()
        await until("release", lambda: not node.service.stock.held)


@driven
async def test_nothing_is_freed_while_the_kubelet_does_not_answer(place):
    async with of_card(place, CONFIG) as node:
        await node.offered(RESOURCE, 4)
        [device] = await node.kubelet.admit("pod", RESOURCE)
        await node.kubelet.stop()
        node.kubelet.end("pod")
        await until("the warning", lambda: any("does not say" in text for text in node.log.messages))
        texts = [text for text in node.log.messages if "does not say" in text]
        assert all(re.fullmatch(r"[^<\n]+ \([A-Z_]+\)", text.partition(". ")[0]) for text in texts), texts
        assert device in node.service.stock.held


@driven
async def test_a_kubelet_that_starts_again_has_all_resources_again_at_once_and_never_a_short_list(place):
    names = [f"r{number}" for number in range(64)]
    resources = [
        {"resourceName": name, "selectors": {"rootDevices": [f"{PF}#{number}"]}} for number, name in enumerate(names)
    ]
    async with of_card(place, {"resourceList": resources}) as node:
        await until("registrations", lambda: len(node.kubelet.endpoints) == 64)
        (node.kubelet.folder / CHECKPOINT).write_text("{}")
        for _ in range(3):
            await node.kubelet.restart()
            began = time.monotonic()
            node.kubelet.registrations.clear()
            await until("registrations", lambda: len(node.kubelet.endpoints) == 64)
            assert node.kubelet.registrations[-1][1] - began < 5, "seconds; a second on a machine that is not busy"
            await until("lists", lambda: all(endpoint.lists for endpoint in node.kubelet.endpoints.values()))
            assert sum(len(endpoint.lists[0]) for endpoint in node.kubelet.endpoints.values()) == 4
        assert (node.kubelet.folder / CHECKPOINT).exists()


def registrations(node, *, ok):
    return node.metrics._registered.labels("ok" if ok else "failed")._value.get()


@driven
async def test_registration_is_tried_until_the_kubelet_takes_it(place):
    node = of_card(place, CONFIG)
    node.kubelet.refuses_registration = "not now"
    async with node:
        await until("refusals", lambda: registrations(node, ok=False) > 3)
        node.kubelet.refuses_registration = ""
        await node.offered(RESOURCE, 4)
        refusals = [text for text in node.log.messages if "not now" in text]
        # Once, not at each attempt, and in one sentence.
        assert refusals == [f"the kubelet does not register {RESOURCE}, tried again soon: not now (UNKNOWN)"]


@driven
async def test_a_kubelet_that_starts_while_sockets_are_checked_finds_every_socket(place):
    async with of_card(place, CONFIG) as node:
        await node.offered(RESOURCE, 4)
        plugin = node.service.kubelet
        starts: list[str] = []
        serve = plugin._serve

        async def found_before_they_are_removed(resource):
            served = await serve(resource)
            if not starts:
                starts.append(resource)
                await node.kubelet.restart()
            return served

        plugin._serve = found_before_they_are_removed
        plugin.bell.ring()
        await until("the restart", lambda: starts)
        await node.offered(RESOURCE, 4)
        assert node.kubelet.failed_dials == []


@driven
async def test_a_registration_that_a_restart_of_the_kubelet_interrupts_is_not_a_failure_to_report(place):
    async with of_card(place, CONFIG) as node:
        await node.offered(RESOURCE, 4)
        plugin = node.service.kubelet
        interrupted: list[str] = []
        register = plugin._register

        async def with_a_restart(channel, resource, present):
            if not interrupted:
                interrupted.append(resource)
                await node.kubelet.restart()
            return await register(channel, resource, present)

        plugin._register = with_a_restart
        await node.kubelet.restart()
        await until("the interruption", lambda: interrupted)
        await node.offered(RESOURCE, 4)
        assert [text for text in node.log.messages if "does not register" in text] == []


@driven
async def test_a_kubelet_that_finds_plugins_itself_finds_every_resource(place):
    async with of_card(place, CONFIG, registry=True) as node:
        await until("the sockets", lambda: [*node.kubelet.registry.iterdir()])
        assert not node.kubelet.endpoints
        await node.kubelet.find_plugins()
        await node.offered(RESOURCE, 4)


@driven
async def test_a_resource_outlives_its_plugin_unhealthy_for_the_grace_and_comes_back_with_it(place):
    async with of_card(place, CONFIG) as node:
        await node.offered(RESOURCE, 4)
        [device] = await node.kubelet.admit("pod", RESOURCE)
        await node.stop_plugin()
        await until("the end of the stream", lambda: node.kubelet.allocatable(RESOURCE) == 0)
        await until("the end of the grace", lambda: node.kubelet.capacity(RESOURCE) == 0)
        await node.start_plugin()
        await node.offered(RESOURCE, 4)
        assert [*node.service.stock.held] == [device]


@driven
async def test_a_plugin_that_is_stopped_finishes_the_allocations_that_it_has_begun(place):
    """Otherwise a rolling update failed the pod, and undid the allocation while a thread was binding the driver."""
    async with of_card(place, BINDING, driver="iavf") as node:
        await node.offered(RESOURCE, 4)
        begun = threading.Event()
        write = node.host.write

        def slow(path, text, deadline):
            begun.set()
            time.sleep(0.2)
            write(path, text, deadline)

        node.service.stock.host._drivers._writer = slow
        admission = asyncio.create_task(node.kubelet.admit("pod", RESOURCE))
        await until("the first write", begun.is_set)
        await node.stop_plugin()
        [device] = await admission
        assert node.host.bound(device) == "vfio-pci"
        assert [*node.service.stock.held] == [device]


@driven
async def test_a_device_that_the_journal_has_lost_is_held_again_because_the_kubelet_lists_it(place):
    async with of_card(place, CONFIG) as node:
        await node.offered(RESOURCE, 4)
        [device] = await node.kubelet.admit("pod", RESOURCE)
        await node.stop_plugin()
        (node.state / f"{device}.json").unlink()
        await node.start_plugin()
        await until("adoption", lambda: device in node.service.stock.held)


@driven
async def test_a_vf_that_comes_is_offered_and_one_that_goes_is_withdrawn_without_a_restart(place):
    node = Node(place, CONFIG)
    card(node.host, vfs=2, driver="vfio-pci")
    async with node:
        await node.offered(RESOURCE, 2)
        node.host.add_vf(PF, 2, VFS[2], driver="vfio-pci", group="12")
        node.service.event.ring()
        await node.offered(RESOURCE, 3)
        node.host.remove(VFS[0])
        node.service.event.ring()
        await until("withdrawal", lambda: [*node.kubelet.health(RESOURCE)] == VFS[1:3])


@driven
async def test_a_second_claim_to_devices_is_logged_once_and_counted(place):
    config = {"resourceList": [{"resourceName": "a", "selectors": {"pfNames": ["eth0#0-1"]}}, {"resourceName": "b"}]}
    async with of_card(place, config) as node:
        await node.offered("intel.com/a", 2)
        await node.offered("intel.com/b", 2)
        node.service.event.ring()
        await node.kubelet.admit("pod", "intel.com/a")
        told = f"intel.com/b selects as well what intel.com/a has: {VFS[0]}, {VFS[1]}"
        assert [text for text in node.log.messages if "selects as well" in text] == [told]
        labels = {"resource": "intel.com/a", "second_resource": "intel.com/b"}
        assert node.metrics.registry.get_sample_value("barewire_device_claims", labels) == 2


@driven
async def test_the_kubelet_is_advised_by_the_placement_of_the_pool(place):
    resources = [
        {"resourceName": name, "placement": name, "selectors": {"drivers": [driver]}}
        for name, driver in (("pack", "vfio-pci"), ("spread", "iavf"))
    ]
    node = of_card(place, {"resourceList": resources})
    node.host.add("0000:04:00.0", driver="i40e", netdev="eth1", sriov_totalvfs="8")
    for number, address in enumerate(("0000:04:10.0", "0000:04:10.2")):
        node.host.add_vf("0000:04:00.0", number, address, driver="vfio-pci", group=str(30 + number))
    for number, pf in enumerate((PF, PF, "0000:04:00.0", "0000:04:00.0")):
        node.host.add_vf(pf, 6 + number, f"0000:05:10.{number}", driver="iavf", group=str(40 + number))
    async with node:
        await node.offered("intel.com/pack", 6)
        await node.offered("intel.com/spread", 4)
        assert sorted(await node.kubelet.admit("one", "intel.com/pack", 2)) == ["0000:04:10.0", "0000:04:10.2"]
        given = await node.kubelet.admit("two", "intel.com/spread", 2)
        assert [device in given for device in ("0000:05:10.0", "0000:05:10.2")] == [True, True], "one of each PF"


@driven
async def test_a_changed_configuration_is_taken_and_a_bad_one_is_not(place):
    async with of_card(place, CONFIG) as node:
        await node.offered(RESOURCE, 4)
        bad = {"resourceName": "two words", "groups": "some", "selectors": [{}, {"vendors": ["80"]}]}
        node.configure({"resourceList": [{"resourceName": "ok"}, bad], "auto": {"ids": ["10de"]}})
        await until("the error", lambda: any("is not taken" in text for text in node.log.messages))
        [told] = [text for text in node.log.messages if "is not taken" in text]
        bad_keys = ("resourceName", "groups", "selectors[1].vendors[0]")
        assert all(f"resourceList[1].{key}: " in told for key in bad_keys)
        assert "auto.ids[0]: " in told
        assert [*node.kubelet.endpoints] == [RESOURCE]
        assert node.kubelet.allocatable(RESOURCE) == 4
        [device] = await node.kubelet.admit("pod", RESOURCE)
        node.kubelet.end("pod")
        await until("release", lambda: device not in node.service.stock.held)
        node.configure({"resourceList": [{"resourceName": "vfs", "selectors": {"pfNames": ["eth0#0-1"]}}]})
        await node.offered(RESOURCE, 2)
        node.configure({"resourceList": [{"resourceName": "other"}]})
        await node.offered("intel.com/other", 4)
        await until("the end of the other one", lambda: node.kubelet.capacity(RESOURCE) == 0)
