"""The location of a machine's socket: the sidecar computes the same path as the CNI plugin."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cni.errors import InvalidConfig
from cni.userspace.podkind import VIRT_LAUNCHER
from kubevirt import machine as machines
from kubevirt.facts import Fact, device_metadata, network_info
from kubevirt.podnames import hashed
from kubevirt.port import OF_KUBEVIRT, SOCKETS, Port, Sight, ports
from tests.kubevirt_hooks.domains import BINDING, DATAPLANE, bound, machine, network


def located(vmi: dict[str, Any], **sight: Any) -> list[Port]:
    parsed = machines.parse(json.dumps(vmi).encode())
    return ports(parsed, parsed.of_binding(BINDING), Sight(**{"info": {}, "claims": {}, **sight}), {}, 1)


def test_the_plugin_sees_the_sockets_in_the_volume_where_the_sidecar_has_them():
    assert VIRT_LAUNCHER.seen == SOCKETS


def test_the_plugin_and_the_sidecar_leave_the_same_names_to_kubevirt():
    assert VIRT_LAUNCHER.reserved == OF_KUBEVIRT


def test_a_network_of_multus_has_the_hash_of_its_name():
    (port,) = located(machine())
    assert (port.ifname, port.path) == (DATAPLANE, f"{SOCKETS}/{DATAPLANE}")


def test_the_default_network_of_multus_is_the_pods_first_interface():
    (port,) = located(machine(networks=[network(multus={"networkName": "x", "default": True})]))
    assert port.ifname == "eth0"


@pytest.mark.parametrize(
    ("status", "names"),
    [
        ([], [DATAPLANE, hashed("second")]),
        ([{"name": "other", "podInterfaceName": "net1"}], ["net2", "net3"]),
        ([{"name": "other", "podInterfaceName": "net1-dpdk"}], [DATAPLANE, hashed("second")]),
        ([{"name": "dataplane", "podInterfaceName": "net2"}], ["net2", "net3"]),
        ([{"name": "second", "podInterfaceName": "ovn-udn1"}], [DATAPLANE, "ovn-udn1"]),
    ],
)
def test_names_follow_the_status_and_its_scheme(status, names):
    vmi = machine(bound(), bound("second"), networks=[network("other"), network(), network("second")], status=status)
    assert [port.ifname for port in located(vmi)] == names


@pytest.mark.parametrize("name", ["../../etc", "a/b", "launcher-sock", "x" * 16, "%d"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(InvalidConfig, match="no name of an interface"):
        located(machine(status=[{"name": "dataplane", "podInterfaceName": name}]))


def test_a_claims_socket_is_where_the_device_says_and_so_is_the_mtu():
    vmi = machine(networks=[network(resourceClaim={"claimName": "c", "requestName": "r"})])
    (port,) = located(vmi, claims={"dataplane": Fact(path="/var/run/ovsdpdk/c/r/vhost.sock", mtu=9000)})
    assert (port.path, port.mtu) == ("/var/run/ovsdpdk/c/r/vhost.sock", 9000)


def test_two_networks_of_claims_have_names_of_their_own():
    claims = [network(name, resourceClaim={"claimName": name, "requestName": "r"}) for name in ("a", "b")]
    found = located(
        machine(bound("a"), bound("b"), networks=claims), claims={"a": Fact(path="/a"), "b": Fact(path="/b")}
    )
    assert len({port.ifname for port in found}) == 2


def test_a_device_info_files_socket_counts_more_than_the_convention():
    (port,) = located(machine(), info={"dataplane": Fact(path="/var/lib/sockets/a")})
    assert port.path == "/var/lib/sockets/a"


@pytest.mark.parametrize("path", ["sockets/a", "/a/../b", "/a\nb", "/a\0b"])
def test_a_path_that_is_none_is_refused(path):
    with pytest.raises(InvalidConfig, match="no absolute path"):
        located(machine(), info={"dataplane": Fact(path=path)})


@pytest.mark.parametrize("source", ["info", "claims"])
@pytest.mark.parametrize("name", ["launcher-sock", "launcher-init-sock"])
def test_a_path_of_a_socket_of_virt_launcher_is_refused(source, name):
    claim: dict[str, Any] = {"resourceClaim": {"claimName": "c", "requestName": "r"}} if source == "claims" else {}
    with pytest.raises(InvalidConfig, match="a socket of virt-launcher"):
        located(machine(networks=[network(**claim)]), **{source: {"dataplane": Fact(path=f"{SOCKETS}/{name}")}})


def test_network_info_reports_networks_by_their_names():
    text = json.dumps({"interfaces": [
        {"network": "a", "mac": "02:00:00:00:00:01", "mtu": 9000},
        {"network": "b", "deviceInfo": {"type": "vhost-user", "version": "1.1.0", "vhost-user": {"mode": "server", "path": "/s"}}},
        {"network": "c", "deviceInfo": {"type": "pci", "pci": {"pci-address": "0000:01:00.0"}}, "mtu": 0},
    ]})  # fmt: skip
    assert network_info(text.encode(), {"a", "b", "c", "d"}) == {"a": Fact(mtu=9000), "b": Fact(path="/s"), "c": Fact()}


@pytest.mark.parametrize(
    "other", [{"mtu": 65520}, {"deviceInfo": "none"}, {"mac": 5}, {"network": ["ib0"]}, {"network": None}]
)
def test_an_entry_of_another_interface_is_not_judged(other):
    text = json.dumps({"interfaces": [{"network": "ib0", **other}, {"network": "a", "mtu": 9000}]})
    assert network_info(text.encode(), {"a"}) == {"a": Fact(mtu=9000)}


def test_a_wrong_mtu_of_our_interface_is_refused_with_a_short_reason():
    text = json.dumps({"interfaces": [{"network": "a", "mtu": "\x1b" * 500}]})
    with pytest.raises(InvalidConfig, match=r"mtu '\\x1b.* is not a number from 68 to 9702") as refused:
        network_info(text.encode(), {"a"})
    assert len(str(refused.value)) < 200


def test_an_empty_file_says_that_nothing_is_written_yet():
    assert network_info(b" \n", {"a"}) is None
    assert device_metadata(b"", "f") is None
    assert network_info(b"{}", {"a"}) == {}


def metadata(**attributes: Any) -> dict[str, Any]:
    device = {"driver": "d.example.com", "pool": "p", "name": "n", "attributes": attributes}
    return {
        "kind": "DeviceMetadata",
        "apiVersion": "metadata.resource.k8s.io/v1alpha1",
        "metadata": {"name": "c", "generation": 1},
        "requests": [{"name": "r", "devices": [{"name": "other"}, device]}],
    }


def test_a_devices_metadata_have_path_and_mtu_in_the_first_object_of_a_known_version():
    known = metadata(**{"vhost-user-path": {"string": "/v/s"}, "mtu": {"int": 1400}})
    text = json.dumps({"apiVersion": "metadata.example.com/v9"}) + "\n" + json.dumps(known) + json.dumps(metadata())
    assert device_metadata(text.encode(), "f") == Fact(path="/v/s", mtu=1400)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (metadata(), "no device with the attribute vhost-user-path"),
        (metadata(**{"vhost-user-path": {"string": "/s"}, "mtu": {"int": 9703}}), "not a number from 68 to 9702"),
        (metadata(**{"vhost-user-path": {"string": 5}}), "not a text"),
        (metadata(**{"vhost-user-path": "/s"}), "not an object"),
        ({"apiVersion": "v1"}, "no object of metadata.resource.k8s.io"),
        ([], "no object of"),
    ],
)
def test_metadata_that_do_not_tell_of_a_port_are_refused(document, reason):
    with pytest.raises(InvalidConfig, match=reason):
        device_metadata(json.dumps(document).encode(), "f")
