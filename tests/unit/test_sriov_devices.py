"""Devices other than a VF with a network driver, on a host that behaves like igb: the same rules apply to them."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import pytest

from cni.errors import (
    CheckFailed,
    CniError,
    DeviceBusy,
    DeviceNotFound,
    DriverUnfit,
    InvalidConfig,
    KernelRefused,
    LimitedConnectivity,
    NotAvailable,
    TryAgainLater,
)
from cni.host.netlink import IFF_ALLMULTI, IFF_PROMISC, IFF_UP
from tests.fakes import NIC, PF
from tests.node import VF0, VF1, Node
from tests.recording_log import RecordingLog

MAC = "02:00:00:00:00:42"
BY_PF = {"device": None, "master": "eth0"}
BOUND = {"driver": "vfio-pci", "vlan": 7, "trust": "on", "mac": MAC, "ipam": {"type": "fake"}}
WHOLE_PF = {"device": PF, "pfOnly": True, "mac": MAC, "mtu": 1400, "ipam": {"type": "fake"}}
PLAIN = {"device": NIC, "mac": MAC, "mtu": 1400, "ipam": {"type": "fake"}}
PROMISCUOUS = {"promisc": "on", "allmulticast": "on", "trust": "on"}
KINDS: dict[str, dict[str, Any]] = {
    "bound": BOUND,
    "pf": WHOLE_PF,
    "plain": PLAIN,
    "promiscuous": PROMISCUOUS,
    "by pf": BY_PF,
}


@pytest.fixture
def node(tmp_path):
    return made(tmp_path)


def made(folder) -> Node:
    """A node whose PF has VFs, unless a test of the whole PF removes them."""
    return Node(folder)


def without_vfs(node) -> None:
    """Removes the PF's VFs."""
    for address in list(node.kernel.functions):
        del node.kernel.devices[address]
    node.kernel.functions.clear()
    node.before = node.kernel.snapshot()


def prepared(folder, conf) -> Node:
    node = Node(folder)
    if conf.get("pfOnly"):
        without_vfs(node)
    return node


def user_space(node, device=VF0) -> None:
    """The VF was bound to vfio-pci before any call."""
    fake = node.kernel.devices[device]
    fake.driver, fake.home, fake.place = "vfio-pci", None, ""
    node.before = node.kernel.snapshot()


@pytest.mark.parametrize("kind", KINDS)
def test_del_restores_what_add_changed_of_every_kind_of_device(tmp_path, kind):
    node = prepared(tmp_path, KINDS[kind])
    node.add(**KINDS[kind])
    assert node.kernel.snapshot() != node.before
    node.delete(**KINDS[kind])
    node.assert_as_before()


@pytest.mark.parametrize("kind", KINDS)
def test_an_add_that_fails_anywhere_leaves_every_kind_of_device_as_before(tmp_path, kind):
    conf = KINDS[kind]
    counting = prepared(tmp_path / "count", conf)
    start = counting.kernel.changes
    counting.add(**conf)
    for change in range(1, counting.kernel.changes - start + 1):
        node = prepared(tmp_path / str(change), conf)
        node.kernel.refuse(change)
        try:
            node.add(**conf)
        except KernelRefused:
            node.assert_as_before()
        else:
            node.delete(**conf)
            node.assert_as_before()


@pytest.mark.parametrize("kind", ["bound", "pf", "plain"])
def test_after_a_crash_anywhere_the_next_del_brings_every_kind_of_device_home(tmp_path, kind):
    conf = KINDS[kind]
    counting = prepared(tmp_path / "count", conf)
    start = counting.kernel.changes
    counting.add(**conf)
    for change in range(1, counting.kernel.changes - start + 1):
        node = prepared(tmp_path / str(change), conf)
        node.kernel.refuse_from(change)
        with pytest.raises(CniError):
            node.add(**conf)
        node.kernel.refuse_nothing()
        node.delete(**conf)
        node.assert_as_before()


def test_a_vf_of_user_space_gets_its_settings_and_its_addresses_are_reported_not_configured(node):
    user_space(node)
    conf = {"vlan": 100, "mac": MAC, "ipam": {"type": "fake"}}
    result = node.add(**conf)
    (interface,) = result.interfaces
    assert (interface.name, interface.mac, interface.mtu, interface.pci_id) == ("net1", MAC, 1500, VF0)
    assert [ip.interface for ip in result.ips] == [0]
    assert node.kernel.configured == {}
    node.delete(**conf)
    node.assert_as_before()


@pytest.mark.parametrize("conf", [{"mtu": 1400}, {"promisc": "on", "trust": "on"}], ids=["mtu", "promisc"])
def test_what_only_a_network_device_can_have_is_refused_for_user_space(node, conf):
    with pytest.raises(InvalidConfig, match="is for user space"):
        node.add(device=VF1, driver="vfio-pci", **conf)
    user_space(node)
    with pytest.raises(InvalidConfig, match="is for user space"):
        node.add(**{"promisc": "on", "trust": "on", **conf})
    node.assert_as_before()


@pytest.mark.parametrize(
    ("conf", "warning"),
    [
        ({"mtu": 9000}, "mtu: ignored, the device is for user space"),
        ({"vf": 5}, "vf: ignored, deviceID names the device"),
    ],
)
def test_what_sriov_cni_ignores_is_ignored_with_a_warning(node, conf, warning):
    user_space(node)
    node.log = RecordingLog()
    node.add(**conf)
    assert warning in "\n".join(node.log.messages)
    node.delete(**conf)
    node.assert_as_before()


def test_an_infiniband_device_is_refused_with_the_plugin_for_it(node):
    node.kernel.infiniband = {VF0}
    with pytest.raises(InvalidConfig, match="is an InfiniBand device") as refused:
        node.add()
    assert "ib-sriov" in refused.value.hint
    node.assert_as_before()


def test_a_group_that_is_not_viable_is_refused_before_anything_changes(node):
    node.kernel.group_hindrances = ["0000:01:00.1 of its IOMMU group is bound to igb"]
    with pytest.raises(DriverUnfit, match=r"0000:01:00\.1"):
        node.add(**BOUND)
    node.assert_as_before()


def test_a_device_that_is_open_keeps_its_record_until_it_is_closed(node):
    node.add(**BOUND)
    node.kernel.devices[VF0].open = True
    with pytest.raises(TryAgainLater, match="still open in a process"):
        node.delete(**BOUND)
    assert node.files()
    node.kernel.devices[VF0].open = False
    node.delete(**BOUND)
    node.assert_as_before()


def test_a_device_that_a_process_has_open_is_neither_given_away_nor_changed(node):
    user_space(node)
    node.kernel.devices[VF0].open = True
    with pytest.raises(DeviceBusy, match="open in a process"):
        node.add(vlan=7)
    node.assert_as_before()


def test_the_settings_of_a_pod_that_is_gone_stay_while_its_machine_still_runs(node):
    node.add(**BOUND)
    node.kernel.delete_netns("/run/netns/a")
    node.kernel.devices[VF0].open = True
    for attempt in (node.delete, lambda: node.add("b", **BOUND)):
        with pytest.raises(TryAgainLater, match="still open"):
            attempt()
        assert node.kernel.device(VF0).settings.vlan == 7


@pytest.mark.parametrize("conf", [BOUND, BY_PF | {"driver": "vfio-pci"}], ids=["by address", "by PF"])
def test_a_device_in_an_unknown_namespace_is_not_taken_from_there(node, conf):
    elsewhere = node.kernel.add_netns("/run/netns/docker")
    for device in (VF0, VF1):
        link = node.kernel.link(device, None)
        node.kernel.move(link, None, elsewhere, name=f"other{link.index}")
    before = node.kernel.snapshot()
    with pytest.raises(DeviceBusy, match="no network device on the host"):
        node.add(**conf)
    assert node.kernel.snapshot() == before


def test_a_vf_whose_driver_cannot_be_bound_again_keeps_its_record(node):
    node.add()
    fake = node.kernel.devices[VF0]
    fake.driver, fake.home, fake.place = "", None, ""
    node.kernel.loaded.discard("igbvf")
    with pytest.raises(TryAgainLater, match="still bound to no driver"):
        node.delete()
    node.kernel.loaded.add("igbvf")
    node.delete()
    node.assert_as_before()


@pytest.mark.parametrize("driver", ["vfio-pci", "igbvf", ""])
@pytest.mark.parametrize("override", ["", "sfc"])
def test_a_network_driver_that_does_not_support_the_vf_is_refused_and_the_vf_is_as_before(node, driver, override):
    """FakeKernel crashes, as the kernel does, if such a driver is bound nevertheless."""
    fake = node.kernel.devices[VF0]
    if driver != "igbvf":
        fake.driver, fake.home = driver, None
    fake.override = override
    node.before = node.kernel.snapshot()
    with pytest.raises(DriverUnfit, match="sfc does not support"):
        node.add(driver="sfc")
    node.assert_as_before()


def test_a_network_driver_is_bound_to_a_vf_of_user_space_and_leaves_with_the_attachment(node):
    user_space(node)
    fake = node.kernel.devices[VF0]
    fake.override = "vfio-pci"
    node.add(driver="igbvf")
    assert (fake.driver, fake.override) == ("igbvf", "")
    node.delete(driver="igbvf")
    assert (fake.driver, fake.override) == ("vfio-pci", "vfio-pci")
    assert node.files() == []


@pytest.mark.parametrize(("promised", "driver"), [("igbvf", "igbvf"), ("sfc", "")])
def test_a_vf_without_a_driver_gets_the_promised_one_at_del_if_that_supports_it(node, promised, driver):
    fake = node.kernel.devices[VF0]
    fake.driver, fake.home = "", None
    conf = {"dpdk": {"dpdk_driver": "vfio-pci", "kernel_driver": promised}}
    node.add(**conf)
    assert fake.driver == "vfio-pci"
    node.delete(**conf)
    assert (fake.driver, fake.override) == (driver, "")
    assert node.files() == []


@pytest.mark.parametrize("command", ["DEL", "GC", "ADD of another"])
def test_a_device_for_user_space_is_put_right_although_its_record_is_lost(node, command):
    node.add(**BOUND)
    shutil.rmtree(node.state)
    if command == "ADD of another":
        node.kernel.delete_netns("/run/netns/a")
        node.add("b", **BOUND)
        node.delete("b")
    elif command == "GC":
        node.plugin().gc(node.request("GC", version="1.1.0", **{"cni.dev/valid-attachments": []}))
    else:
        node.delete()
    assert node.kernel.snapshot() == node.before
    assert node.files() == []


def test_a_living_owner_of_a_device_for_user_space_is_known_although_its_record_was_lost(node):
    node.add(**BOUND)
    shutil.rmtree(node.state)
    with pytest.raises(DeviceBusy, match="belongs to container a"):
        node.add("b", **BOUND)
    node.delete()
    node.assert_as_before()


def test_a_driver_that_was_bound_meanwhile_stays(node):
    node.add(**BOUND)
    fake = node.kernel.devices[VF0]
    fake.driver, fake.override = "uio_pci_generic", "uio_pci_generic"
    node.delete(**BOUND)
    assert (fake.driver, fake.override) == ("uio_pci_generic", "uio_pci_generic")
    assert fake.info == node.before[VF0][0]
    assert node.files() == []


def test_check_names_a_driver_that_is_not_the_one_that_was_bound(node):
    node.add(**BOUND)
    node.plugin().check(node.request("CHECK", **BOUND))
    node.kernel.devices[VF0].driver = "igbvf"
    with pytest.raises(CheckFailed, match=r"^the driver is igbvf, not vfio-pci$"):
        node.plugin().check(node.request("CHECK", **BOUND))


def test_a_pf_is_attached_only_on_request_and_without_vfs(node):
    with pytest.raises(InvalidConfig, match=f"{PF} is a PF"):
        node.add(device=PF)
    with pytest.raises(DeviceBusy, match="has 2 VFs"):
        node.add(**WHOLE_PF)
    with pytest.raises(InvalidConfig, match=f"{VF0} is a VF"):
        node.add(device=VF0, pfOnly=True)
    node.assert_as_before()


@pytest.mark.parametrize(
    "conf",
    [WHOLE_PF, PLAIN, {"device": VF0}, {"device": VF0, "driver": "vfio-pci"}, {**BY_PF, "vf": 0}],
    ids=["pf", "plain", "vf", "vf to bind", "vf by number"],
)
def test_a_device_that_the_host_uses_is_not_given_away(tmp_path, conf):
    node = prepared(tmp_path, conf)
    node.kernel.used[conf["device"] or VF0] = ["a route goes through it"]
    with pytest.raises(DeviceBusy, match="a route goes through it"):
        node.add(**conf)
    node.assert_as_before()


def test_settings_of_a_pf_are_refused_for_a_device_without_one_all_at_once(node):
    with pytest.raises(InvalidConfig, match=r"vlan, spoofchk: device .* has no PF"):
        node.add(device=NIC, vlan=5, spoofchk="on")
    node.assert_as_before()


def test_promiscuity_needs_a_trusted_vf(node):
    with pytest.raises(InvalidConfig, match="promisc: needs a trusted VF"):
        node.add(promisc="on")
    node.assert_as_before()
    node.add(**PROMISCUOUS)
    assert node.kernel.devices[VF0].link.flags & (IFF_PROMISC | IFF_ALLMULTI) == IFF_PROMISC | IFF_ALLMULTI


# By PF.


def chosen(result) -> Any:
    return result.interfaces[0].pci_id


def test_any_vf_is_chosen_in_order_and_the_last_call_names_the_reasons_when_there_is_none(node):
    node.pod("c")
    assert [chosen(node.add(name, **BY_PF)) for name in "ab"] == [VF0, VF1]
    with pytest.raises(DeviceBusy, match=rf"no free VF.*{VF0}: VF {VF0} belongs to container a.*{VF1}"):
        node.add("c", **BY_PF)


def test_a_vf_that_the_host_uses_or_that_is_for_user_space_is_passed_over(node):
    node.kernel.used[VF0] = ["it has a global address"]
    assert chosen(node.add(**BY_PF)) == VF1
    node.delete(**BY_PF)
    node.kernel.used.clear()
    user_space(node)
    assert chosen(node.add(**BY_PF)) == VF1


def test_a_pf_whose_vfs_are_all_for_user_space_gives_one_that_no_process_has_open(node):
    user_space(node)
    user_space(node, VF1)
    node.kernel.devices[VF0].open = True
    assert chosen(node.add(**BY_PF)) == VF1


def test_a_vf_that_has_the_wanted_driver_already_is_preferred(node):
    user_space(node, VF1)
    assert chosen(node.add(**BY_PF, driver="vfio-pci")) == VF1
    assert chosen(node.add("b", **BY_PF, driver="vfio-pci")) == VF0


def test_a_vf_that_another_call_works_on_is_passed_over_and_awaited_when_all_others_are_taken(node, monkeypatch):
    monkeypatch.setattr("cni.sriov.selection.CHOICE_SECONDS", 0.2)
    plugin = node.plugin()
    with plugin._attachments.locked(VF0):
        assert chosen(node.add(**BY_PF)) == VF1
        with pytest.raises(DeviceBusy, match=f"{VF0} is locked"):
            node.add("b", **BY_PF)
    assert chosen(node.add("b", **BY_PF)) == VF0


@pytest.mark.parametrize(("number", "device"), [(0, VF0), (1, VF1)])
def test_a_vf_is_named_by_its_number(node, number, device):
    assert chosen(node.add(**BY_PF, vf=number)) == device


def test_a_vf_with_the_wanted_network_driver_comes_before_one_that_would_have_to_be_rebound(node):
    user_space(node)
    assert chosen(node.add(**BY_PF, driver="igbvf")) == VF1


def test_what_is_wrong_with_one_vf_does_not_keep_a_pod_from_another(node):
    node.add()
    (path,) = [path for path in node.files() if path.endswith(".json") and not os.path.islink(path)]
    with open(path) as file:
        document = json.load(file)
    with open(path, "w") as file:
        json.dump({**document, "schema": 99}, file)
    assert chosen(node.add("b", **BY_PF)) == VF1


def test_a_number_or_a_pf_that_is_not_there_is_refused(node):
    with pytest.raises(DeviceNotFound, match="has VFs 0 to 1"):
        node.add(**BY_PF, vf=2)
    with pytest.raises(DeviceNotFound, match="eth7"):
        node.add(device=None, master="eth7")
    without_vfs(node)
    with pytest.raises(DeviceNotFound, match="has no VFs"):
        node.add(**BY_PF)


@pytest.mark.parametrize(
    "old",
    [
        {"if0": "eth0", "vf": 1, "l2enable": True, "ipam": {"type": "fake"}},
        {"if0": "eth0", "vf": 1, "if0name": "north0", "cniDir": "/x", "deviceinfo": {}, "pci_addr": ""},
        {"if0": "eth0", "vf": 1, "dpdk": {"dpdk_driver": "vfio-pci", "kernel_driver": "igbvf"}},
    ],
)
def test_configurations_of_the_older_plugins_do_what_they_did(node, old):
    result = node.add(device=None, **old)
    assert (chosen(result), result.interfaces[0].name, result.ips) == (VF1, "net1", ())
    node.delete(device=None, **old)
    node.assert_as_before()


# Device-info.


@pytest.fixture
def device_info(tmp_path, monkeypatch):
    folder = tmp_path / "devinfo"
    monkeypatch.setattr("cni.attachment.device_info.checked", lambda path: path)
    return folder / "net-a_net1"


def test_the_device_info_file_is_written_and_removed_with_the_attachment(node, device_info):
    conf = {"runtimeConfig": {"CNIDeviceInfoFile": str(device_info)}}
    node.add(**conf)
    document = json.loads(device_info.read_text())
    assert document == {"type": "pci", "version": "1.1.0", "pci": {"pci-address": VF0, "pf-pci-address": PF}}
    node.plugin().check(node.request("CHECK", **conf))
    node.delete()
    assert not device_info.exists()


def test_what_multus_wrote_for_a_pods_new_sandbox_survives_the_record_of_its_old_one_of_an_earlier_boot(
    node, device_info, monkeypatch
):
    conf = {"runtimeConfig": {"CNIDeviceInfoFile": str(device_info)}}
    node.add("a", **conf)
    monkeypatch.setattr("cni.attachment.records._boot_id", lambda: "a later one")
    monkeypatch.setattr("cni.attachment.removal.DRAIN_SECONDS", 60.0)
    written = {"type": "pci", "version": "1.1.0", "pci": {"pci-address": VF1, "rdma-device": "mlx5_7"}}
    device_info.write_text(json.dumps(written))
    node.add("b", VF1, **conf)
    assert json.loads(device_info.read_text())["pci"]["rdma-device"] == "mlx5_7"


def test_what_killed_calls_left_of_writing_copies_and_device_info_is_swept_away(node, device_info):
    conf = {**BOUND, "runtimeConfig": {"CNIDeviceInfoFile": str(device_info)}}
    node.add(**conf)
    litter = [f"{device_info}.4194305.tmp", f"{node.run}/spare/{VF0}.4194305.tmp"]
    for path in litter:
        with open(path, "w") as file:
            file.write("{")
    node.delete()
    assert [path for path in litter if os.path.exists(path)] == []
    node.assert_as_before()


def test_an_add_that_cannot_write_the_device_info_file_is_undone(node, device_info):
    device_info.parent.write_text("no folder")
    with pytest.raises(CniError):
        node.add(runtimeConfig={"CNIDeviceInfoFile": str(device_info)})
    node.assert_as_before()


# STATUS.


def status(node, **conf):
    node.plugin().status(node.request("STATUS", version="1.1.0", **conf))


@pytest.fixture(params=[True, False], ids=["strict", "lenient"])
def lacks(request, node):
    """Whether STATUS reports a problem: as an error if the administrator requests that, otherwise as a warning."""
    node.strict_status = request.param

    def reports(error, text, **conf):
        node.log = RecordingLog()
        if node.strict_status:
            with pytest.raises(error, match=text):
                status(node, **conf)
        else:
            status(node, **conf)
            assert [message for message in node.log.messages if text in message]

    return reports


def test_status_reports_what_an_add_of_the_network_would_miss(node, lacks):
    status(node)
    status(node, **BY_PF)
    lacks(NotAvailable, "eth7", device=None, master="eth7")
    without_vfs(node)
    lacks(NotAvailable, "has no VFs", **BY_PF)


def test_status_fails_where_the_node_can_serve_no_add(node):
    node.kernel.privileged = False
    with pytest.raises(NotAvailable, match="may not administrate"):
        status(node)


def test_status_fails_where_the_kernel_does_not_tell_which_device_is_which(node):
    node.kernel.is_recent = False
    with pytest.raises(NotAvailable, match="PCI addresses of network devices"):
        status(node)


def test_status_reports_that_the_pf_of_attached_vfs_is_down(node, lacks):
    pf = node.kernel.devices[PF]
    pf.link = pf.link.replace(flags=pf.link.flags | IFF_UP)
    node.add()
    status(node)
    pf.link = pf.link.replace(flags=pf.link.flags & ~IFF_UP)
    lacks(LimitedConnectivity, "PF eth0 is down")
    node.delete()
    status(node)


# Records of the schema before.


def test_a_record_of_the_schema_before_is_read_and_leads_home(node):
    node.add(vlan=100, mac=MAC)
    (path,) = [path for path in node.files() if path.endswith(".json") and not os.path.islink(path)]
    with open(path) as file:
        document = json.load(file)
    document["schema"] = 1
    del document["device_info"]
    del document["found"]["override"]
    for key in ("driver", "userspace", "flags", "mac"):
        del document["wanted"][key]
    with open(path, "w") as file:
        json.dump(document, file)
    node.plugin().check(node.request("CHECK"))
    node.delete()
    node.assert_as_before()
