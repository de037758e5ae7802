"""The life of a port on fakes: ADD, CHECK, DEL, GC and STATUS, and the state after each possible failure."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from cni import jsontext
from cni.errors import (
    BridgeUnfit,
    CheckFailed,
    CniError,
    DelegateFailed,
    DeviceBusy,
    InterfaceExists,
    InvalidConfig,
    InvalidNetns,
    KubeRefused,
    LimitedConnectivity,
    NotAvailable,
    PortTaken,
    SocketDirUnfit,
    TryAgainLater,
    VswitchRefused,
)
from cni.userspace.vswitch.model import DEFAULT_BURST_KBIT, Owner, Rate
from tests.port_node import KUBECONFIG, PortNode, port, port_node

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS: dict[str, Any] = {
    "vlan": 100,
    "trunks": [300, 200],
    "vlanMode": "native-untagged",
    "mtu": 1400,
    "mac": "02:00:00:00:00:07",
    "txRetries": 3,
    "txSteering": "hash",
    "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 4_000_000, "egressRate": 2_000_000},
}
ADDRESSES = {"ipam": {"type": "fake"}}
ANNOTATED = {"kubeconfig": KUBECONFIG}


@pytest.fixture
def node(monkeypatch) -> Iterator[PortNode]:
    with port_node(monkeypatch) as node:
        yield node


def everything(node: PortNode) -> dict[str, Any]:
    """A configuration with which ADD does everything that it can."""
    return {
        **SETTINGS,
        **ADDRESSES,
        **ANNOTATED,
        "createBridge": True,
        "host": {"bridge": {"bridgeName": "ours0"}},
        "socketDirectory": {"mode": "0750"},
        "runtimeConfig": {"CNIDeviceInfoFile": f"{node.folder}/devinfo/net-info"},
    }


# ADD and DEL.


def test_add_reports_its_port(node):
    pod = node.pod()
    result = node.add(pod, mac="02:00:00:00:00:07", mtu=1400, **ADDRESSES)
    (interface,) = result.interfaces
    assert (interface.name, interface.mac, interface.mtu) == ("net1", "02:00:00:00:00:07", 1400)
    assert interface.sandbox == pod.netns
    assert interface.socket_path == f"{node.vhost}/{port(pod)}/{port(pod)}"
    assert [(ip.address, ip.interface) for ip in result.ips] == [("10.0.0.2/24", 0)]


def test_every_setting_reaches_the_vswitch(node):
    pod = node.pod()
    node.add(pod, host={"bridge": {"bridgeName": "br1"}}, **SETTINGS)
    (seen,) = node.vswitch.show()
    assert (seen.port.name, seen.port.bridge) == (port(pod), "br1")
    assert seen.port.path == f"{node.vhost}/{port(pod)}/{port(pod)}"
    assert seen.port.socket == f"{node.folder}/run/sockets/{port(pod)}/{port(pod)}"
    assert seen.port.owner == Owner(container_id=pod.container_id, ifname="net1", network="net", pod_uid=pod.uid)
    assert (seen.port.tag, seen.port.trunks, seen.port.vlan_mode) == (100, (200, 300), "native-untagged")
    assert (seen.port.mtu, seen.port.tx_retries, seen.port.tx_steering) == (1400, 3, "hash")
    # The traffic that the pod receives is CNI's ingress.
    assert seen.port.to_pod == Rate(kbit=8000, burst_kbit=4000)
    assert seen.port.from_pod == Rate(kbit=2000, burst_kbit=DEFAULT_BURST_KBIT)


@pytest.mark.parametrize(
    ("volumes", "conf"),
    [
        ((), {}),
        (("shared-dir",), {}),
        ((), ADDRESSES),
        (("shared-dir",), {**ANNOTATED, **ADDRESSES}),
        (("shared-dir",), {"allowUnsafeSocketDir": True, "socketDirectory": {"mode": "0750"}}),
    ],
    ids=["own directory", "volume", "addresses", "annotations", "no mount"],
)
def test_del_leaves_the_node_as_it_was_before_add(node, volumes, conf):
    pod = node.pod("a", *volumes)
    before = node.snapshot()
    node.add(pod, **conf)
    assert node.snapshot() != before
    node.delete(pod, **conf)
    assert node.snapshot() == before
    node.delete(pod, **conf)
    assert node.snapshot() == before


def test_del_of_an_attachment_with_everything_leaves_nothing(node):
    pod = node.pod("a", "shared-dir")
    before = node.snapshot()
    node.add(pod, **everything(node))
    assert node.vswitch.bridges["ours0"].ours
    node.delete(pod, **everything(node))
    assert node.snapshot() == before


def test_del_needs_no_namespace_no_pod_and_no_valid_configuration(node):
    pod = node.pod("a", "shared-dir")
    before = node.snapshot()
    node.add(pod, **everything(node))
    node.end_sandbox(pod)
    node.delete(pod, vlan="nonsense", host={"engine": "nonsense"}, ovsdb="nonsense")
    assert node.snapshot() == before


@pytest.mark.parametrize("listed", ["net1", "net10", "net2"])
def test_del_of_one_interface_does_not_touch_those_whose_names_are_alike(node, listed):
    pod = node.pod("a", "shared-dir")
    ifnames = {"net1", "net10", "net2"}
    for ifname in sorted(ifnames):
        node.add(pod, ifname)
        node.listen(node.volume("a", "shared-dir"), port(pod, ifname))
    node.delete(pod, listed)
    left = {port(pod, ifname) for ifname in ifnames - {listed}}
    assert set(node.vswitch.ports) == left
    assert {name for name in os.listdir(node.volume("a", "shared-dir")) if "configData" not in name} == left
    assert set(os.listdir(node.vhost)) == left


def test_a_repeated_add_is_refused_and_the_attachment_stays(node):
    pod = node.pod()
    node.add(pod)
    attached = node.snapshot()
    with pytest.raises(DeviceBusy, match=f"belongs to container {pod.container_id}") as refused:
        node.add(pod, vlan=7)
    assert refused.value.hint == "DEL it first"
    assert node.snapshot() == attached
    node.check(pod)


def test_a_port_name_of_another_network_is_refused_while_its_owner_lives_and_freed_when_it_is_gone(node):
    pod = node.pod()
    node.add(pod)
    with pytest.raises(DeviceBusy, match="network net") as refused:
        node.add(pod, name="other")
    assert "freed by that container's DEL" in refused.value.hint
    node.end_sandbox(pod)
    node.kernel.add_netns(pod.netns)
    node.add(pod, name="other", vlan=7)
    assert [seen.port.owner.network for seen in node.vswitch.show()] == ["other"]
    assert any("and is gone: cleaning up" in text for text in node.log.messages)


def test_a_port_name_whose_owner_is_gone_and_cannot_be_removed_yet_is_to_be_tried_later(node):
    pod = node.pod()
    node.add(pod)
    node.end_sandbox(pod)
    node.kernel.add_netns(pod.netns)
    node.vswitch.refuse_from(1)
    with pytest.raises(TryAgainLater, match="is being removed for net/") as refused:
        node.add(pod, name="other")
    assert "barewire forget" in refused.value.hint
    node.vswitch.refuse_nothing()
    node.add(pod, name="other")
    assert [seen.port.owner.network for seen in node.vswitch.show()] == ["other"]


def test_a_namespace_that_is_not_there_is_refused_and_changes_nothing(node):
    pod = node.pod()
    node.end_sandbox(pod)
    before = node.snapshot()
    with pytest.raises(InvalidNetns):
        node.add(pod)
    assert node.snapshot() == before


def test_an_earlier_life_of_the_same_container_is_removed_by_its_next_add(node):
    pod = node.pod()
    node.add(pod, vlan=5, **ADDRESSES)
    node.end_sandbox(pod)
    node.kernel.add_netns(pod.netns)
    node.add(pod, vlan=6)
    (seen,) = node.vswitch.show()
    assert seen.port.tag == 6
    assert node.ipam.leases == {}
    assert any("and is gone: cleaning up" in text for text in node.log.messages)


def test_an_earlier_sandbox_whose_del_was_lost_gives_its_socket_to_the_next_one(node):
    pod = node.pod("a", "shared-dir")
    node.add(pod, socketNaming="interface")
    node.listen(node.volume("a", "shared-dir"), "net1")
    node.end_sandbox(pod)
    again = node.sandbox(pod, "again")
    node.add(again, socketNaming="interface")
    assert list(node.vswitch.ports) == [port(again)]
    node.delete(pod)
    node.check(again)


# A refusal changes nothing.


def refused(node: PortNode, pod: Any, error: type[CniError], words: str, **conf: Any) -> CniError:
    before = node.snapshot()
    with pytest.raises(error, match=words) as caught:
        node.add(pod, **conf)
    assert node.snapshot() == before
    return caught.value


@pytest.mark.parametrize(
    ("conf", "error", "words", "hint"),
    [
        ({"host": {"bridge": {"bridgeName": "none0"}}}, BridgeUnfit, "there is no bridge none0", ""),
        ({"host": {"engine": "vpp"}}, InvalidConfig, "engine 'vpp' is not supported", ""),
        ({"volume": "missing"}, InvalidConfig, "the pod has no volume missing", "give the pod an emptyDir"),
        ({"sharedDir": "/etc"}, InvalidConfig, "sharedDir: '/etc' is not in a place for sockets", ""),
        ({"host": {"vhost": {"mode": "client", "socketfile": "x" * 64}}}, SocketDirUnfit, "more than 107", "shorten"),
        ({"host": {"vhost": {"mode": "client", "group": "no-such"}}}, SocketDirUnfit, "no group no-such", "name one"),
        ({"annotations": True, "args": {}}, None, "", ""),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(node, conf, error, words, hint):
    pod = node.pod("a", "shared-dir")
    if error is None:
        pod, error, words, hint = (
            pod._replace(args=""),
            InvalidConfig,
            "which pod to annotate",
            "a file in the pod contains the information",
        )
    assert hint in refused(node, pod, error, words, **conf).hint


def test_an_interface_of_prev_result_in_the_pod_is_refused_before_anything_is_looked_at(node):
    pod = node.pod()
    previous = {"cniVersion": "1.1.0", "interfaces": [{"name": "net1", "sandbox": pod.netns}]}
    assert "a network of its own" in refused(node, pod, InterfaceExists, "net1", prevResult=previous).hint


def test_a_foreign_port_of_that_name_is_neither_taken_nor_removed(node):
    pod = node.pod()
    node.vswitch.add_foreign_port("br0", port(pod), "/run/theirs")
    refused(node, pod, PortTaken, port(pod))
    node.delete(pod)
    assert list(node.vswitch.ports) == [port(pod)]


def test_a_vswitch_that_cannot_make_ports_is_quoted(node):
    node.vswitch.capable = False
    refused(node, node.pod(), VswitchRefused, "could not open network device")


@pytest.mark.parametrize("lacking", ["daemon", "database"])
def test_a_vswitch_that_does_not_answer_is_to_be_tried_later(node, lacking):
    setattr(node.vswitch, lacking, False)
    refused(node, node.pod(), TryAgainLater, "does not answer")


def test_a_vswitch_that_does_not_see_the_mount_gets_no_port(node):
    node.visibility.blind = True
    refused(node, node.pod("a", "shared-dir"), SocketDirUnfit, "ovs-vswitchd does not see")
    # Without the mount it need not see any.
    node.add(node.pod("b"), allowUnsafeSocketDir=True)


# Failures during the call.


def _lease_refused(node: PortNode) -> None:
    node.ipam.fail = {"lease"}


def _leases_granted(node: PortNode) -> None:
    node.ipam.fail = set()


def _pods_refused(node: PortNode) -> None:
    node.pods.refuse("change")


def _pods_granted(node: PortNode) -> None:
    node.pods.refuse()


FAULTS: list[Any] = [
    pytest.param(lambda node: node.mounts.refuse(1), SocketDirUnfit, "mount it on", id="mount"),
    pytest.param(lambda node: node.vswitch.refuse(1), VswitchRefused, "refused by the test", id="port"),
    pytest.param(lambda node: setattr(node.visibility, "blind", True), SocketDirUnfit, "not see", id="visibility"),
    pytest.param(_lease_refused, DelegateFailed, "lease refused", id="addresses"),
    pytest.param(_pods_refused, KubeRefused, "refused by the test", id="annotations"),
]


@pytest.mark.parametrize(("fault", "error", "words"), FAULTS)
def test_an_add_that_fails_at_any_step_leaves_the_node_as_it_was(node, fault, error, words):
    pod = node.pod("a", "shared-dir")
    fault(node)
    refused(node, pod, error, words, **everything(node))


def test_addresses_that_are_none_are_refused_and_rolled_back(node, monkeypatch):
    lease = node.ipam.lease
    monkeypatch.setattr(node.ipam, "lease", lambda call: lease(call).replace(ips=()))
    refused(node, node.pod(), InvalidConfig, "returned no addresses", **ADDRESSES)


def test_an_add_whose_rollback_fails_too_keeps_cause_and_record_and_del_finishes(node):
    pod = node.pod("a", "shared-dir")
    before = node.snapshot()
    _lease_refused(node)
    # The port, and then its removal.
    node.vswitch.refuse_from(2)
    with pytest.raises(DelegateFailed, match="lease refused") as caught:
        node.add(pod, **everything(node))
    assert "clean-up incomplete: refused by the test" in caught.value.details
    assert node.record(pod).removing
    # The pod may continue to use the port, and so its address.
    assert node.record(pod).left == ("device", "ipam")
    node.vswitch.refuse_nothing()
    node.delete(pod)
    assert node.snapshot() == before


def test_a_mount_that_cannot_be_taken_off_is_pending_and_any_call_finishes_it(node):
    pod, other = node.pod("a", "shared-dir"), node.pod("b")
    before = node.snapshot()
    node.add(pod)
    node.mounts.refuse_from(1)
    node.delete(pod)
    assert node.pending() == [pod.container_id]
    assert any("take off the mount" in text for text in node.log.messages)
    node.mounts.refuse_nothing()
    node.delete(other)
    assert node.snapshot() == before


def test_del_while_the_vswitch_is_silent_is_done_by_any_later_call(node):
    pod, other = node.pod("a", "shared-dir"), node.pod("b")
    before = node.snapshot()
    node.add(pod, **everything(node))
    node.end_sandbox(pod)
    node.vswitch.database = False
    node.delete(pod)
    # Everything but the port is gone.
    assert node.record(pod).left == ("device",)
    assert (node.ipam.leases, node.mounts.mounted()) == ({}, [])
    assert node.pods.annotations("default", "a") == {}
    node.vswitch.database = True
    node.delete(other)
    assert node.snapshot() == before


def test_an_add_beside_a_removal_that_waits_finishes_it_first(node):
    pod = node.pod()
    node.add(pod)
    node.vswitch.database = False
    node.delete(pod)
    node.vswitch.database = True
    node.add(node.pod("b"))
    assert node.pending() == []
    assert len(node.vswitch.ports) == 1


# CHECK.


def changed(node: PortNode, pod: Any, **settings: Any) -> None:
    """Changes the port, as another program can."""
    seen = node.vswitch.ports[port(pod)]
    of_seen = {name: settings.pop(name) for name in list(settings) if name in type(seen)._fields and name != "mtu"}
    node.vswitch.ports[port(pod)] = seen.replace(port=seen.port.replace(**settings), **of_seen)


DRIFTS: list[Any] = [
    ({"tag": 6}, "tag is 6, not 100"),
    ({"tag": None}, "tag is none, not 100"),
    ({"trunks": (7, 8)}, "trunks is 7, 8, not 200, 300"),
    ({"vlan_mode": ""}, "vlan_mode is none, not native-untagged"),
    ({"mtu": 9000}, "mtu is 9000, not 1400"),
    ({"bridge": "br1"}, "bridge is br1, not br0"),
    ({"path": "/run/elsewhere"}, "path is /run/elsewhere, not"),
    ({"to_pod": None}, "to_pod is none, not 8000 kbit/s with a burst of 4000 kbit"),
    ({"from_pod": Rate(kbit=1, burst_kbit=2)}, "from_pod is 1 kbit/s with a burst of 2 kbit, not 2000 kbit/s"),
    ({"tx_retries": None}, "tx_retries is none, not 3"),
    ({"tx_steering": ""}, "tx_steering is none, not hash"),
    ({"type": "internal"}, "is of type internal, not dpdkvhostuserclient"),
    ({"type": ""}, "is of type none, not dpdkvhostuserclient"),
    ({"error": "no such device"}, "does not work: no such device"),
    ({"ofport": -1}, "does not work: its ofport is -1"),
    ({"ofport": None}, "does not work: its ofport is None"),
]


@pytest.mark.parametrize(("settings", "reported"), DRIFTS, ids=[reported for _settings, reported in DRIFTS])
def test_check_names_the_changed_settings_of_the_port(node, settings, reported):
    pod = node.pod()
    node.add(pod, **SETTINGS)
    node.check(pod, **SETTINGS)
    changed(node, pod, **settings)
    with pytest.raises(CheckFailed) as caught:
        node.check(pod, **SETTINGS)
    assert reported in caught.value.msg
    assert caught.value.msg.count(";") == 0


def test_check_names_all_differences_at_once(node):
    pod = node.pod("a", "shared-dir")
    info = f"{node.folder}/devinfo/net-info"
    node.add(pod, runtimeConfig={"CNIDeviceInfoFile": info})
    changed(node, pod, tag=6, ofport=-1)
    node.mounts.reboot()
    os.unlink(info)
    with pytest.raises(CheckFailed) as caught:
        node.check(pod)
    assert [text.split()[0] for text in caught.value.msg.split("; ")] == [
        "tag",
        "port",
        f"{node.vhost}/{port(pod)}",
        "the",
    ]
    assert "is not the mount of" in caught.value.msg
    assert f"the device-info file {info} is missing" in caught.value.msg


@pytest.mark.parametrize("change", [lambda path: os.rename(path, f"{path}-old"), os.rmdir])
def test_check_names_a_directory_that_the_pod_took_away(node, change):
    pod = node.pod("a", "shared-dir")
    node.add(pod, **ANNOTATED)
    change(node.volume("a", "shared-dir"))
    with pytest.raises(CheckFailed, match="open 'shared-dir' in it"):
        node.check(pod)


def test_check_of_a_port_that_is_gone_names_it(node):
    pod = node.pod()
    node.add(pod)
    node.vswitch.ports.clear()
    with pytest.raises(CheckFailed, match=f"^the vswitch has no port {port(pod)}$"):
        node.check(pod)


@pytest.mark.parametrize(
    ("mtu", "link", "reported"), [(1400, "up", ""), (1500, "up", "has MTU 1500, not 1400"), (1500, "down", "")]
)
def test_check_compares_the_mtu_in_force_while_an_application_listens(node, mtu, link, reported):
    pod = node.pod()
    node.add(pod, mtu=1400)
    node.vswitch.ports[port(pod)] = node.vswitch.ports[port(pod)].replace(mtu=mtu, link_state=link)
    if reported:
        with pytest.raises(CheckFailed, match=reported):
            node.check(pod)
    else:
        node.check(pod)
    assert any("no application listens on" in text for text in node.log.messages) == (link == "down")


def test_check_asks_the_ipam_plugin_too(node):
    pod = node.pod()
    node.add(pod, **ADDRESSES)
    node.ipam.leases.clear()
    with pytest.raises(DelegateFailed):
        node.check(pod, **ADDRESSES)


def test_check_without_a_record_and_during_a_removal_fails_with_the_remedy(node):
    pod = node.pod()
    with pytest.raises(CheckFailed, match="there is no record"):
        node.check(pod)
    node.add(pod)
    node.vswitch.database = False
    node.delete(pod)
    node.vswitch.database = True
    with pytest.raises(CheckFailed, match="is being removed; still to do: device") as caught:
        node.check(pod)
    assert caught.value.hint == "ADD it again"


# GC.


def test_gc_removes_what_the_runtime_does_not_list_and_nothing_of_other_networks(node):
    kept, stale, lost, other = (node.pod(name, "shared-dir") for name in ("kept", "stale", "lost", "other"))
    for pod in (kept, stale, lost):
        node.add(pod, **ADDRESSES)
    node.add(other, name="other")
    node.forget_record(lost)
    node.gc(kept)
    assert set(node.vswitch.ports) == {port(kept), port(other)}
    assert node.mounts.mounted() == sorted(f"{node.vhost}/{port(pod)}" for pod in (kept, other))
    assert os.listdir(node.volume("stale", "shared-dir")) == []
    node.check(kept, **ADDRESSES)
    node.check(other, name="other")


def test_gc_without_a_list_removes_nothing(node):
    pod = node.pod()
    node.add(pod)
    node.plugin().gc(node.request("GC", pod))
    node.check(pod)
    assert any("valid-attachments" in text for text in node.log.messages)


def test_gc_removes_folders_that_lead_nowhere_and_leaves_those_of_others(node):
    pod = node.pod()
    node.add(pod)
    os.makedirs(f"{node.vhost}/0123456789ab-net9", 0o700)
    os.makedirs(f"{node.folder}/run/sockets/0123456789ab-net8")
    os.makedirs(f"{node.vhost}/theirs")
    node.gc(pod)
    assert set(os.listdir(node.vhost)) == {port(pod), "theirs"}
    assert os.listdir(f"{node.folder}/run/sockets") == [port(pod)]


@pytest.mark.parametrize("command", ["gc", "delete"])
def test_a_database_that_may_not_be_named_is_never_contacted(node, command):
    stranger = node.vswitches["unix:/srv/db.sock"] = type(node.vswitch)()
    stranger.database = False
    conf = {"ovsdb": "unix:/srv/db.sock"}
    pod = node.pod()
    before, allowed = node.snapshot(), node.vswitches.pop("unix:/srv/db.sock")
    assert allowed is stranger
    node.gc(**conf) if command == "gc" else node.delete(pod, **conf)
    assert any("ports are not looked for: ovsdb: 'unix:/srv/db.sock'" in text for text in node.log.messages)
    before.pop("unix:/srv/db.sock")
    assert node.snapshot() == before


# STATUS.


def test_status_is_good_when_ports_can_be_made(node):
    node.status()
    node.status(createBridge=True, host={"bridge": {"bridgeName": "new0"}})
    assert node.log.messages == []


LACKS: list[Any] = [
    (lambda node: setattr(node.vswitch, "database", False), {}, NotAvailable, "no database"),
    (lambda node: setattr(node.vswitch, "daemon", False), {}, LimitedConnectivity, "no vswitchd"),
    (lambda node: setattr(node.vswitch, "capable", False), {}, NotAvailable, "no ports of type"),
    (lambda _node: None, {"host": {"bridge": {"bridgeName": "none0"}}}, NotAvailable, "there is no bridge none0"),
]


@pytest.mark.parametrize(("lack", "conf", "error", "words"), LACKS)
def test_what_one_network_lacks_is_a_warning_unless_the_administrator_wants_status_to_fail(
    node, lack, conf, error, words
):
    lack(node)
    node.status(**conf)
    assert any(text.startswith("STATUS: ") and words in text for text in node.log.messages)
    node.strict_status = True
    with pytest.raises(error, match=words):
        node.status(**conf)


def test_a_node_without_open_vswitch_is_not_available(node):
    os.rmdir(node.folder / "ovs")
    with pytest.raises(NotAvailable, match="Open vSwitch is not installed") as caught:
        node.status()
    assert "install Open vSwitch with DPDK" in caught.value.hint


@pytest.mark.parametrize("strict", [False, True])
def test_status_contacts_a_database_on_another_host_only_with_strict_status(node, strict):
    contacted: list[str] = []

    class Remote(type(node.vswitch)):  # type: ignore[misc]
        def status(self, bridge="", *, create_bridge=False):
            contacted.append(bridge)

    node.vswitches["tcp:192.0.2.1:6640"] = Remote()
    node.strict_status = strict
    node.status(ovsdb="tcp:192.0.2.1:6640")
    assert contacted == ["br0"] * strict


def test_status_fails_where_no_records_can_be_written(node):
    (node.folder / "state").write_text("a file")
    with pytest.raises(NotAvailable):
        node.status()


# Records.


@pytest.mark.parametrize(
    "damage",
    [
        lambda wanted: wanted.pop("remote"),
        lambda wanted: wanted.pop("directory"),
        lambda wanted: wanted.update(port={}),
        lambda wanted: wanted.update(socket="../../etc/passwd"),
        lambda wanted: wanted["port"].update(name="../x"),
        lambda wanted: wanted.update(config_file="a/b"),
        lambda wanted: wanted["directory"].update(path="/etc"),
        lambda wanted: wanted["directory"].update(mount="/run/../etc"),
        lambda wanted: wanted.update(pod_folder="relative"),
        lambda wanted: wanted.update(mac=7),
    ],
)
def test_a_record_that_holds_no_attachment_acts_on_nothing_and_says_so(node, damage):
    pod = node.pod("a", "shared-dir")
    node.add(pod)
    document = jsontext.loads(node.record_file(pod).read_bytes())
    damage(document["wanted"])
    node.record_file(pod).write_text(jsontext.dumps(document))
    files = node.snapshot()["files"]
    with pytest.raises(CniError, match=r"the record of .* is damaged") as caught:
        node.check(pod)
    assert "GC finds the port by its mark" in caught.value.hint
    node.delete(pod)
    assert any("is damaged" in text for text in node.log.messages)
    assert len(node.vswitch.ports) == 1
    # Its file is moved away, as the hint says.
    node.forget_record(pod)
    node.gc()
    assert node.vswitch.ports == {}
    assert any("shared-dir" in path for path in files)


def test_a_record_file_that_is_no_json_is_set_aside_and_the_mark_is_followed(node):
    pod = node.pod("a", "shared-dir")
    node.add(pod)
    node.listen(node.volume("a", "shared-dir"), port(pod))
    node.record_file(pod).write_text("{")
    node.delete(pod)
    assert node.vswitch.ports == {}
    assert os.listdir(node.volume("a", "shared-dir")) == []
    assert node.mounts.mounted() == []
    assert any("has no record, only its mark: removing it" in text for text in node.log.messages)
