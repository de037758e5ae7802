"""The description of a port for its pod: annotations, a file beside the socket, the device-info file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cni.errors import InvalidConfig, KubeRefused, PodNotFound, TryAgainLater
from tests.port_node import KUBECONFIG, Pod, PortNode, port, port_node

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA, FOLDER = "userspace/configuration-data", "userspace/mapped-dir"
ANNOTATED = {"kubeconfig": KUBECONFIG}
SPEC = {"containers": [{"name": "app", "volumeMounts": [{"name": "shared-dir", "mountPath": "/sockets"}]}]}


@pytest.fixture
def node(monkeypatch) -> Iterator[PortNode]:
    with port_node(monkeypatch) as node:
        yield node


@pytest.fixture
def pod(node: PortNode) -> Pod:
    return node.pod("a", "shared-dir", **SPEC)


def elements(node: PortNode) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(node.pods.annotations("default", "a")[DATA])
    return found


def test_the_annotations_come_with_add_and_go_with_del(node, pod):
    node.pods.annotations("default", "a")["theirs"] = "1"
    before = node.snapshot()
    node.add(pod, ipam={"type": "fake"}, container={"engine": "testpmd", "vhost": {"mode": "server"}}, **ANNOTATED)
    (element,) = elements(node)
    assert (element["containerId"], element["ifName"], element["name"]) == (pod.container_id, "net1", "net")
    assert element["config"]["vhost"] == {"mode": "server", "socketfile": port(pod)}
    assert (element["config"]["engine"], element["config"]["iftype"]) == ("testpmd", "vhostuser")
    # app-netutil requires the family beside the address, which version 0.4.0 contains.
    assert [(ip["version"], ip["address"]) for ip in element["ipResult"]["ips"]] == [("4", "10.0.0.2/24")]
    assert node.pods.annotations("default", "a")[FOLDER] == "/sockets/"
    # Then there is no file beside the socket.
    assert os.listdir(node.volume("a", "shared-dir")) == []
    node.delete(pod)
    assert node.snapshot() == before


def test_each_interface_has_its_element_and_those_of_an_earlier_sandbox_are_dropped(node, pod):
    node.pods.annotations("default", "a")[DATA] = json.dumps([{"containerId": "gone", "ifName": "net7"}])
    for ifname in ("net1", "net2"):
        node.add(pod, ifname, **ANNOTATED)
    assert [element["ifName"] for element in elements(node)] == ["net1", "net2"]
    node.delete(pod, "net1")
    assert [element["ifName"] for element in elements(node)] == ["net2"]
    node.delete(pod, "net2")
    assert node.pods.annotations("default", "a") == {}


def test_another_folder_for_a_second_interface_is_refused_and_the_first_keeps_its_own(node, pod):
    node.add(pod, **ANNOTATED)
    before = node.snapshot()
    with pytest.raises(InvalidConfig, match="has its socket in /sockets/, not in /other/") as refused:
        node.add(pod, "net2", containerDir="/other", **ANNOTATED)
    assert "one folder" in refused.value.hint
    assert node.snapshot() == before


def test_without_a_kubeconfig_a_file_beside_the_socket_describes_the_port(node, pod):
    node.add(pod, ipam={"type": "fake"})
    (name,) = os.listdir(node.volume("a", "shared-dir"))
    assert name == f"configData-{port(pod)}.json"
    path = Path(node.volume("a", "shared-dir"), name)
    assert json.loads(path.read_text())["config"]["vhost"]["socketfile"] == port(pod)
    assert path.stat().st_mode & 0o777 == 0o644
    assert node.pods.calls == []


@pytest.mark.parametrize("annotations", [False, True])
def test_whether_the_pod_is_annotated_is_the_networks_choice(node, pod, annotations):
    node.add(pod, annotations=annotations, **({} if annotations else ANNOTATED))
    assert (DATA in node.pods.annotations("default", "a")) == annotations
    assert bool(os.listdir(node.volume("a", "shared-dir"))) != annotations


def test_annotations_for_a_pod_that_the_runtime_does_not_name_are_refused(node, pod):
    with pytest.raises(InvalidConfig, match="do not tell which pod to annotate") as refused:
        node.add(pod._replace(args=f"K8S_POD_UID={pod.uid}"), annotations=True, **ANNOTATED)
    assert "a file in the pod contains the information" in refused.value.hint
    # If annotations are not required, a file suffices.
    node.add(pod._replace(args=f"K8S_POD_UID={pod.uid}"), **ANNOTATED)
    assert os.listdir(node.volume("a", "shared-dir")) == [f"configData-{port(pod)}.json"]


def test_a_pod_that_was_created_again_is_not_annotated_for_the_old_ones_sandbox(node, pod):
    node.pods.add_pod("default", "a", "another")
    before = node.snapshot()
    with pytest.raises(PodNotFound, match="its UID is another, not uid-of-a"):
        node.add(pod, **ANNOTATED)
    assert node.snapshot() == before


def test_a_static_pod_is_known_by_the_hash_that_its_mirror_notes(node, pod):
    node.pods.add_pod("default", "a", "of-the-mirror")
    node.pods.annotations("default", "a")["kubernetes.io/config.mirror"] = pod.uid
    node.add(pod, **ANNOTATED)
    assert len(elements(node)) == 1
    node.delete(pod)
    assert node.pods.annotations("default", "a") == {"kubernetes.io/config.mirror": pod.uid}


@pytest.mark.parametrize("change", ["gone", "another"])
def test_del_succeeds_when_the_pod_is_gone_or_another_has_its_name(node, pod, change):
    node.add(pod, **ANNOTATED)
    del node.pods.objects["default", "a"]
    if change == "another":
        node.pods.add_pod("default", "a", "another")
        node.pods.annotations("default", "a")[DATA] = "theirs"
    node.delete(pod)
    assert node.pending() == []
    assert node.vswitch.ports == {}
    assert change == "gone" or node.pods.annotations("default", "a") == {DATA: "theirs"}


def test_an_annotation_that_cannot_be_read_is_left_by_del(node, pod):
    node.add(pod, **ANNOTATED)
    node.pods.annotations("default", "a")[DATA] = "{"
    node.delete(pod)
    assert node.pods.annotations("default", "a")[DATA] == "{"
    assert node.pending() == []


def test_del_does_not_wait_for_a_silent_api_server_and_a_later_call_finishes_it(node, pod):
    node.add(pod, **ANNOTATED)
    node.pods.refusal = TryAgainLater("the API server does not answer")
    node.pods.refuse("get")
    node.delete(pod)
    assert node.record(pod).left == ("pod",)
    assert node.vswitch.ports == {}
    assert len(elements(node)) == 1
    node.pods.refuse()
    node.delete(node.pod("b"))
    assert node.pods.annotations("default", "a") == {}
    assert node.pending() == []


@pytest.mark.parametrize("error", [KubeRefused("no right"), InvalidConfig("no credentials")])
def test_annotations_whose_credentials_are_gone_are_given_up_with_the_pod_and_not_before(node, pod, error):
    node.add(pod, **ANNOTATED)
    node.pods.refusal = error
    node.pods.refuse("get")
    for caller in (pod, node.pod("b")):
        node.delete(caller)
        assert node.pending() == [pod.container_id]
    shutil.rmtree(f"{node.kubelet}/pods/{pod.uid}")
    node.delete(node.pod("c"))
    assert node.pending() == []
    assert any("its annotations are not looked after" in text for text in node.log.messages)


def test_the_device_info_file_names_the_socket_as_the_container_sees_it(node, pod):
    info = f"{node.folder}/devinfo/net-info"
    before = node.snapshot()
    node.add(pod, runtimeConfig={"CNIDeviceInfoFile": info})
    document = json.loads(Path(info).read_text())
    assert document["vhost-user"] == {"mode": "server", "path": f"/var/lib/cni/usrspcni/{port(pod)}"}
    node.delete(pod)
    assert node.snapshot() == before


def test_a_device_info_file_in_another_folder_is_refused(node, pod):
    with pytest.raises(InvalidConfig, match="CNIDeviceInfoFile: '/etc/passwd'"):
        node.add(pod, runtimeConfig={"CNIDeviceInfoFile": "/etc/passwd"})


def test_a_damaged_record_removes_no_other_file_for_the_device_info(node, pod):
    info = f"{node.folder}/devinfo/net-info"
    node.add(pod, runtimeConfig={"CNIDeviceInfoFile": info})
    victim = node.folder / "victim"
    victim.write_text("stays")
    node.attachments().save(node.record(pod).replace(device_info=str(victim)))
    node.delete(pod)
    assert victim.read_text() == "stays"
    assert any("is damaged, nothing is removed" in text for text in node.log.messages)


def test_an_add_reads_the_pod_once_if_it_needs_its_volumes(node, pod):
    node.add(pod, **ANNOTATED)
    assert node.pods.calls == ["get", "get", "change"]
