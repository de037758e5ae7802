"""The interfaces reported to a container: network status, the plugin's annotations and files, the environment."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from cni.podinfo import PodInfoError, interfaces
from cni.podinfo.annotations import CONFIGURATION_DATA, MAPPED_DIR, NETWORK_STATUS
from tests.unit.test_podinfo_annotations import quoted

if TYPE_CHECKING:
    from pathlib import Path

ETH0 = {"name": "k8s-pod-network", "interface": "eth0", "ips": ["10.244.1.7"], "default": True, "dns": {}}
NET1 = {"name": "default/net-1", "interface": "net1", "mac": "02:00:00:00:00:01", "mtu": 1400, "dns": {}}
VF = "0000:af:06.0"
OTHER_VF = "0000:af:06.1"


class Pod:
    """A pod's folders: downward API volume and shared directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "podnetinfo"
        self.shared = folder / "shared"
        self.folder.mkdir()
        self.shared.mkdir()

    def annotate(self, **values: Any) -> None:
        keys = {"status": NETWORK_STATUS, "data": CONFIGURATION_DATA, "mapped": MAPPED_DIR}
        told = {
            keys[name]: value if name == "mapped" else json.dumps(value, indent=4) for name, value in values.items()
        }
        (self.folder / "annotations").write_text("".join(f"{key}={quoted(value)}\n" for key, value in told.items()))

    def write(self, name: str, content: object, seconds: int) -> None:
        path = self.shared / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        os.utime(path, (seconds, seconds))

    def found(self, environment: dict[str, str] | None = None, shared_dir: str | None = None) -> list[dict[str, Any]]:
        answer = interfaces(str(self.folder), environment=environment or {}, shared_dir=shared_dir)
        assert list(answer) == ["Interface"]
        return answer["Interface"]

    def types(self, environment: dict[str, str] | None = None) -> dict[str, str]:
        found = self.found(environment, str(self.shared))
        return {one["network-status"].get("interface", ""): one["device-type"] for one in found}


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


def pci(address: str, **more: str) -> dict[str, Any]:
    return {"type": "pci", "version": "1.1.0", "pci": {"pci-address": address, **more}}


def port(name: str = "net1", socket: str = "037ecb6703b0-net1", mode: str = "server", **more: Any) -> dict[str, Any]:
    vhost = {"mode": mode, "socketfile": socket}
    config = {"engine": "ovs-dpdk", "iftype": "vhostuser", "netType": "interface", "vhost": vhost, "bridge": {}}
    return {"containerId": "037ecb6703b0", "ifName": name, "name": "net-1", "config": config, **more}


def vhost_user(path: str, mode: str = "server") -> dict[str, Any]:
    return {"type": "vhost-user", "version": "1.1.0", "vhost-user": {"mode": mode, "path": path}}


def test_a_socket_s_path_is_joined_with_one_slash(pod):
    for mapped in ("/var/run/sockets", "/var/run/sockets/"):
        pod.annotate(status=[ETH0, NET1], data=[port()], mapped=mapped)
        assert pod.found() == [
            {"device-type": "host", "network-status": ETH0},
            {
                "device-type": "vhost-user",
                "network-status": {**NET1, "device-info": vhost_user("/var/run/sockets/037ecb6703b0-net1")},
            },
        ]


def test_names_keep_their_spaces_equals_signs_and_backslashes(pod):
    status = {**NET1, "name": r'a = "b" \ c', "dns": {"search": ["x y", "k=v"]}}
    pod.annotate(status=[status])
    assert pod.found()[0]["network-status"] == status


def test_device_information_of_the_network_status_is_worth_more_than_the_annotation(pod):
    told = vhost_user("/standard/net1", "client")
    pod.annotate(status=[{**NET1, "device-info": told}], data=[port()], mapped="/legacy")
    assert pod.found() == [{"device-type": "vhost-user", "network-status": {**NET1, "device-info": told}}]


def test_of_several_sandboxes_entries_the_last_counts_and_nothing_is_reported_twice(pod):
    data = [port(socket="dead-net1"), port("net2", "dead-net2"), port(socket="alive-net1"), port("net2", "alive-net2")]
    pod.annotate(data=data, mapped="/s")
    found = pod.found()
    assert [one["network-status"]["interface"] for one in found] == ["net1", "net2"]
    paths = [one["network-status"]["device-info"]["vhost-user"]["path"] for one in found]
    assert paths == ["/s/alive-net1", "/s/alive-net2"]


def test_an_interface_without_a_network_status_is_reported_with_the_plugin_s_addresses(pod):
    ips = [{"address": "10.56.217.136/24"}, {"version": "6", "address": "fd00::1/64"}]
    pod.annotate(data=[port(ipResult={"cniVersion": "1.1.0", "ips": ips, "dns": {"domain": "x"}})], mapped="/s")
    (found,) = pod.found()
    assert found["network-status"] == {
        "name": "net-1",
        "interface": "net1",
        "ips": ["10.56.217.136", "fd00::1"],
        "dns": {"domain": "x"},
        "device-info": vhost_user("/s/037ecb6703b0-net1"),
    }


def test_an_interface_without_a_network_status_is_reported_with_its_mac_and_mtu(pod):
    interfaces = [{"name": "other", "mac": "no"}, {"name": "net1", "mac": "02:00:00:00:00:01", "mtu": 1400}]
    pod.annotate(data=[port(ipResult={"interfaces": interfaces})], mapped="/s")
    (found,) = pod.found()
    assert (found["network-status"]["mac"], found["network-status"]["mtu"]) == ("02:00:00:00:00:01", 1400)


def test_a_memif_port_is_reported_with_role_and_mode(pod):
    memif = {"role": "slave", "socketfile": "memif-net1.sock"}
    pod.annotate(data=[{"ifName": "net1", "config": {"iftype": "memif", "memif": memif}}], mapped="/s")
    (found,) = pod.found()
    told = {"role": "slave", "path": "/s/memif-net1.sock", "mode": "ethernet"}
    assert found["device-type"] == "memif"
    assert found["network-status"]["device-info"] == {"type": "memif", "version": "1.1.0", "memif": told}


@pytest.mark.parametrize(
    "entry",
    [
        port(mode="srever"),
        port(mode=""),
        port(socket=""),
        port(socket="../../etc/x"),
        port(socket=".."),
        {"ifName": "net1"},
        {"ifName": "net1", "config": {"iftype": "tap"}},
        {"ifName": "net1", "config": {"iftype": "memif", "memif": {"role": "boss", "socketfile": "s"}}},
        {"ifName": "net1", "config": {"iftype": "memif", "memif": {"role": "slave", "mode": "x", "socketfile": "s"}}},
    ],
)
def test_a_port_that_cannot_be_used_is_invalid_and_has_no_device_information(pod, entry):
    pod.annotate(status=[ETH0, NET1], data=[entry], mapped="/s")
    assert pod.found()[1] == {"device-type": "invalid", "network-status": NET1}


def test_the_socket_s_folder_is_the_requested_one_or_the_annotation_s_or_the_plugin_s_default(pod):
    def path(shared_dir: str | None) -> str:
        (found,) = pod.found(shared_dir=shared_dir)
        return str(found["network-status"]["device-info"]["vhost-user"]["path"])

    pod.annotate(data=[port()], mapped="/annotated")
    assert path(str(pod.shared)) == f"{pod.shared}/037ecb6703b0-net1"
    assert path(None) == "/annotated/037ecb6703b0-net1"
    pod.annotate(data=[port()])
    assert path(None) == "/var/lib/cni/usrspcni/037ecb6703b0-net1"


def test_without_annotations_every_file_of_the_shared_directory_counts_and_the_newest_of_an_interface(pod):
    pod.write("configData-aaaaaaaaaaaa-net1.json", port(socket="new-net1"), 300)
    pod.write("configData-bbbbbbbbbbbb-net1.json", port(socket="old-net1"), 200)
    pod.write("configData-bbbbbbbbbbbb-net2.json", port("net2", "old-net2", "client"), 100)
    pod.write("configData-bbbbbbbbbbbb-net3.json.tmp", "half a fi", 400)
    found = pod.found(shared_dir=str(pod.shared))
    assert [one["network-status"]["device-info"] for one in found] == [
        vhost_user(f"{pod.shared}/old-net2", "client"),
        vhost_user(f"{pod.shared}/new-net1"),
    ]


def test_files_count_for_the_interfaces_of_the_network_status_only(pod):
    pod.annotate(status=[ETH0, NET1])
    pod.write("configData-aaaaaaaaaaaa-net1.json", port(socket="s1"), 1)
    pod.write("configData-cccccccccccc-net7.json", port("net7", "another pod's"), 2)
    pod.write("configData-dddddddddddd-net8.json", '{"ifNa', 3)
    assert pod.types() == {"eth0": "host", "net1": "vhost-user"}


def test_an_annotation_is_worth_more_than_a_file(pod):
    pod.annotate(status=[NET1], data=[port(socket="annotated")])
    pod.write("configData-aaaaaaaaaaaa-net1.json", port(socket="file"), 1)
    (found,) = pod.found(shared_dir=str(pod.shared))
    assert found["network-status"]["device-info"] == vhost_user(f"{pod.shared}/annotated")


@pytest.mark.parametrize("content", ["{", "[]", "7", '"x"'])
def test_a_file_that_is_no_entry_is_named(pod, content):
    pod.write("configData-aaaaaaaaaaaa-net1.json", content, 1)
    with pytest.raises(PodInfoError, match=r"configData-aaaaaaaaaaaa-net1\.json is not"):
        pod.found(shared_dir=str(pod.shared))


def test_a_folder_that_cannot_be_is_named(pod):
    for folder in ("/with\0nul", "/" + "x" * 300):
        pod.annotate(status=[NET1], mapped=folder)
        with pytest.raises(PodInfoError, match="cannot read /"):
            pod.found()


def test_a_device_of_the_environment_is_sr_iov_where_the_network_status_has_its_address(pod):
    status = [ETH0, {**NET1, "device-info": pci(VF.upper())}]
    pod.annotate(status=status)
    assert pod.types({"PCIDEVICE_INTEL_COM_VFS": VF}) == {"eth0": "host", "net1": "sr-iov"}
    assert pod.types() == {"eth0": "host", "net1": "pci"}


def test_a_device_with_a_pf_is_sr_iov_also_when_no_device_plugin_gave_it(pod):
    pod.annotate(status=[{**NET1, "device-info": pci(VF, **{"pf-pci-address": "0000:af:00.0"})}])
    assert pod.types() == {"net1": "sr-iov"}


def test_a_device_without_a_known_interface_is_listed_by_itself_and_never_guessed(pod):
    pod.annotate(status=[ETH0, NET1, {**NET1, "interface": "net2"}])
    found = pod.found({"PCIDEVICE_INTEL_COM_VFS": f"{VF},{OTHER_VF}"})
    assert [one["device-type"] for one in found] == ["host", "unknown", "unknown", "pci", "pci"]
    assert not any("device-info" in one["network-status"] for one in found[:3])
    assert [one["network-status"] for one in found[3:]] == [
        {"name": "", "dns": {}, "device-info": pci(VF)},
        {"name": "", "dns": {}, "device-info": pci(OTHER_VF)},
    ]


def test_a_vdpa_device_is_reported_once(pod):
    vdpa = {"parent-device": "vdpa0", "driver": "vhost", "path": "/dev/vhost-vdpa-0", "pci-address": VF}
    pod.annotate(status=[{**NET1, "device-info": {"type": "vdpa", "version": "1.1.0", "vdpa": vdpa}}])
    assert pod.types({"PCIDEVICE_INTEL_COM_VFS": VF}) == {"net1": "vdpa"}


def test_the_information_variable_holds_no_addresses_to_list_but_what_the_device_information_has_a_place_for(pod):
    told = {"generic": {"deviceID": VF}, "vhost": {"net-mount": "/dev/vhost-net"}, "rdma": {"rdma_dev": "mlx5_5"}}
    environment = {"PCIDEVICE_INTEL_COM_VFS": VF, "PCIDEVICE_INTEL_COM_VFS_INFO": json.dumps({VF: told})}
    expected = pci(VF, **{"vhost-net": "/dev/vhost-net", "rdma-device": "mlx5_5"})
    pod.annotate()
    assert [one["network-status"]["device-info"] for one in pod.found(environment)] == [expected]


def test_the_information_variable_alone_identifies_the_device(pod):
    pod.annotate()
    assert len(pod.found({"PCIDEVICE_INTEL_COM_VFS_INFO": json.dumps({VF: {}, "mlx5_core.sf.2": {}})})) == 1


def test_a_resource_that_is_itself_called_info_has_addresses(pod):
    pod.annotate()
    (found,) = pod.found({"PCIDEVICE_INTEL_COM_VF_INFO": "AF:06.0"})
    assert found["network-status"]["device-info"] == pci(VF)


def test_an_address_in_several_variables_is_one_device_and_what_is_no_pci_function_is_passed_by(pod):
    pod.annotate()
    environment = {"PCIDEVICE_A": f"{VF}, {OTHER_VF}", "PCIDEVICE_B": f"{VF},mlx5_core.sf.2,", "OTHER": "0000:00:00.0"}
    assert len(pod.found(environment)) == 2


def test_an_information_variable_that_is_not_json_is_named(pod):
    with pytest.raises(PodInfoError, match="PCIDEVICE_X_INFO is not JSON"):
        pod.found({"PCIDEVICE_X_INFO": '{"0000:af'})


@pytest.mark.parametrize(
    ("info", "device_type"),
    [
        ({"type": "vhost-user", "version": "1.1.0"}, "invalid"),
        ({"type": "pci", "pci": []}, "invalid"),
        ({"type": "laser", "laser": {"colour": "red"}}, "unknown"),
    ],
)
def test_device_information_that_says_nothing_is_invalid_and_a_new_type_is_unknown(pod, info, device_type):
    pod.annotate(status=[{**NET1, "device-info": info}])
    assert pod.found() == [{"device-type": device_type, "network-status": {**NET1, "device-info": info}}]


@pytest.mark.parametrize("key", [NETWORK_STATUS, CONFIGURATION_DATA])
@pytest.mark.parametrize("value", ["{}", "[1]", "[", "null", "[" * 100_000])
def test_an_annotation_that_is_no_list_of_objects_is_named(pod, key, value):
    (pod.folder / "annotations").write_text(f"{key}={quoted(value)}\n")
    with pytest.raises(PodInfoError, match=f"the annotation {key} is not"):
        pod.found()


def test_a_pod_without_any_source_gets_a_list_of_what_is_missing(pod):
    with pytest.raises(PodInfoError, match=r"there is no .*/podnetinfo/annotations, no PCIDEVICE_ variable"):
        pod.found()
    assert len(pod.found({"PCIDEVICE_A": VF})) == 1
    pod.annotate()
    assert pod.found() == []
