"""A mark on a device is followed only if we set it, and never if the host uses the device."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from cni.attachment.delegate import IpamCall
from cni.attachment.record import Key
from cni.attachment.records import Attachments
from cni.errors import DeviceBusy, TryAgainLater
from cni.host.netlink import IFF_UP
from cni.log import Log
from cni.sriov import model
from cni.sriov.model import PLUGIN
from cni.sriov.removal import DeviceRemoval
from cni.tool.gc import Devices
from tests.fakes import NIC, PF
from tests.node import VF0, VF1, Node

MAC = "02:00:00:00:00:42"


class Loud(Log):
    """Keeps its messages."""

    def __init__(self) -> None:
        super().__init__({}, level="panic")
        self.said: list[str] = []

    def warning(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path)
    made.log = Loud()
    return made


def forge(node, device, *, flags=0) -> None:
    """Writes what a pod can write to a device that another plugin gave it, and that returns with the device."""
    fake = node.kernel.devices[device]
    fake.link = fake.link.replace(alias=f"barewire {device} evil0 net/x/net1", flags=fake.link.flags | flags)
    node.before = node.kernel.snapshot()


def lose_the_record(node) -> None:
    shutil.rmtree(node.state)
    node.kernel.delete_netns("/run/netns/a")


def gc(node) -> None:
    node.plugin().gc(node.request("GC", version="1.1.0", **{"cni.dev/valid-attachments": []}))


def collection(node) -> Devices:
    attachments = Attachments(node.state, node.run, plugin=PLUGIN)
    removal = DeviceRemoval(kernel=node.kernel, attachments=attachments, ipam=node.ipam, log=node.log)
    return Devices(node.kernel, attachments, removal)


def warnings(node) -> str:
    return "\n".join(node.log.said)


@pytest.mark.parametrize("flags", [0, IFF_UP])
@pytest.mark.parametrize("device", [VF0, PF, NIC])
def test_gc_leaves_a_device_with_a_forged_mark_as_it_is_and_warns(node, device, flags):
    forge(node, device, flags=flags)
    gc(node)
    assert list(collection(node).unrecorded()) == []
    collection(node).remove_unrecorded(device)
    node.assert_as_before()
    assert f"{device} carries the mark 'barewire {device} evil0 net/x/net1', and Barewire did not set it" in warnings(
        node
    )


def test_an_add_refuses_a_vf_with_a_forged_mark_with_the_way_out_and_chooses_another(node):
    forge(node, VF0)
    with pytest.raises(DeviceBusy, match="did not set it") as refused:
        node.add()
    assert refused.value.hint.endswith("ip link set eth1 alias ''")
    node.assert_as_before()
    node.add(device=None, master="eth0")
    assert node.kernel.devices[VF1].place != ""


@pytest.mark.parametrize("use", ["it has a global address", "it is enslaved to a bridge, bond or VRF"])
def test_a_device_that_came_home_without_a_record_is_left_alone_while_the_host_uses_it(node, use):
    node.add(vlan=7)
    lose_the_record(node)
    node.kernel.used[VF0] = [use]
    node.before = node.kernel.snapshot()
    gc(node)
    with pytest.raises(DeviceBusy, match=use):
        node.add("b")
    assert list(collection(node).unrecorded()) == []
    assert node.kernel.snapshot() == node.before
    assert f"the host uses it: {use}" in warnings(node)
    node.kernel.used.clear()
    gc(node)
    assert (node.kernel.device(VF0).settings.vlan, node.marks()) == (0, [])


def test_a_device_that_came_home_without_a_record_is_listed_although_its_link_is_left(node):
    """A call removes the links of a part of the devices only."""
    node.add()
    lose_the_record(node)
    link = Path(node.state) / ".devices" / VF0
    link.parent.mkdir(parents=True)
    link.symlink_to("../net/lost.json")
    assert [leftover.device for leftover in collection(node).unrecorded()] == [VF0]


def test_a_device_that_came_home_without_a_record_is_cleaned_also_where_the_host_sets_vfs_up(node):
    node.add(vlan=7)
    lose_the_record(node)
    node.kernel.change(node.kernel.link(VF0, None), None, up=True)
    (leftover,) = collection(node).unrecorded()
    assert leftover.device == VF0
    node.add("b")
    assert node.kernel.device(VF0).settings.vlan == 0


def test_a_pod_does_not_choose_the_name_that_its_device_gets_on_the_host(node):
    node.add()
    fake = node.kernel.devices[VF0]
    fake.link = fake.link.replace(alias=fake.link.alias.replace("eth1", "evil0"))
    lose_the_record(node)
    gc(node)
    assert fake.link.name == "eth1"


@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_a_device_that_another_plugin_gave_a_pod_is_not_taken_out_of_it_for_a_forged_mark(node, command):
    pod = node.kernel.netns("/run/netns/a")
    node.kernel.move(node.kernel.link(VF1, None), None, pod, alias=f"barewire {VF1} eth2 net/a/net1")
    before = node.kernel.snapshot()
    node.delete() if command == "DEL" else gc(node)
    assert node.kernel.snapshot() == before
    assert "did not set" in warnings(node)


def test_a_mark_is_forgotten_with_its_record_and_not_with_anothers(node):
    node.add(device=VF0)
    attachments = Attachments(node.state, node.run, plugin=PLUGIN)
    mark = attachments.marked(VF0)
    assert mark is not None
    assert (mark.note, str(mark.key)) == ("eth1", "net/a/net1")
    record = attachments.of_device(VF0)
    assert record is not None
    attachments._drop_mark(record.replace(key=Key(network="net", container_id="b", ifname="net1")))
    assert node.marks() == [VF0]
    node.delete()
    assert node.marks() == []


@pytest.mark.parametrize("target", ["", "eth1", "eth1 net/a", "eth1 a/b/c/d"])
def test_what_is_no_mark_of_ours_says_nothing(tmp_path, target):
    os.makedirs(tmp_path / "run/marks", mode=0o700)
    os.chmod(tmp_path / "run", 0o700)
    os.symlink(target or " ", tmp_path / "run/marks" / VF0)
    assert Attachments(str(tmp_path / "state"), str(tmp_path / "run"), plugin=PLUGIN).marked(VF0) is None


@pytest.mark.parametrize("spoofchk", [True, False])
@pytest.mark.parametrize("requested", [{}, {"spoofchk": "on"}, {"spoofchk": "off"}])
def test_a_vf_that_is_cleaned_has_the_spoof_check_that_it_had(node, spoofchk, requested):
    """On mlx5 the default is off, and a VF whose address the PF does not know sends nothing while it is on."""
    node.kernel.devices[VF0].info = node.kernel.devices[VF0].info.replace(spoofchk=spoofchk)
    node.add(vlan=7, trust="on", mac=MAC, **requested)
    lose_the_record(node)
    gc(node)
    settings = node.kernel.device(VF0).settings
    assert (settings.vlan, settings.trust, settings.spoofchk) == (0, False, spoofchk)


def test_a_mark_has_at_most_255_bytes_also_where_characters_have_several():
    key = Key(network="n", container_id="c" * 230, ifname="é" * 7)
    mark = model.mark(VF0, "eth1", key)
    assert len(mark.encode()) <= 255
    assert model.names_owner(mark, key)


def test_gc_waits_once_for_a_silent_ipam_plugin_and_every_vf_is_home(node, monkeypatch):
    for container, device in (("a", VF0), ("b", VF1)):
        node.add(container, device, vlan=7, ipam={"type": "fake"})
        node.kernel.delete_netns(f"/run/netns/{container}")
    called: list[str] = []

    def release(call: IpamCall, *, seconds: float | None = None) -> None:
        called.append(call.type)
        raise TryAgainLater(f"{call.type} did not finish DEL in {seconds} s")

    monkeypatch.setattr(node.ipam, "release", release)
    gc(node)
    assert called == ["fake"]
    assert [node.kernel.device(device).settings.vlan for device in (VF0, VF1)] == [0, 0]
    assert node.marks() == []
    monkeypatch.undo()
    gc(node)
    node.assert_as_before()


def test_a_vf_that_a_pod_hides_is_looked_for_by_other_calls_and_not_awaited(node, monkeypatch):
    node.add()
    node.kernel.devices[VF0].place = "hidden"
    node.kernel.delete_netns("/run/netns/a")
    waited: list[float] = []

    def await_home(_device: str, seconds: float) -> bool:
        waited.append(seconds)
        return False

    monkeypatch.setattr(node.kernel, "await_home", await_home)
    with pytest.raises(Exception, match="not back on the host"):
        node.delete()
    assert waited == [3.0]
    node.add("b", VF1)
    node.delete("b", VF1)
    assert waited[1:] == []
    with pytest.raises(Exception, match="not back on the host"):
        gc(node)
    assert waited[1:] == [3.0], "a GC has the time"
