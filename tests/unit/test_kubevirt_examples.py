"""The examples for KubeVirt and the recipe of the image fit together."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from cni.protocol.result import encode
from kubevirt import domain as domains, facts, machine as machines
from kubevirt.podnames import hashed
from kubevirt.port import SOCKETS, Sight
from tests.examples import EXAMPLES, manifest, network
from tests.kubevirt_hooks.domains import domain
from tests.kubevirt_hooks.network_info import NotMapped, network_info, network_status
from tests.ovs.launcher_pod import VOLUMES
from tests.port_node import port_node

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "build/kubevirt.Containerfile"


def test_the_registered_binding_is_the_one_that_the_example_of_a_machine_names():
    registered = manifest(EXAMPLES / "kubevirt-binding.yaml")["spec"]["configuration"]["network"]["binding"]
    vmi = manifest(EXAMPLES / "vmi-userspace.yaml")
    (interface,) = vmi["spec"]["domain"]["devices"]["interfaces"]
    assert [*registered] == [interface["binding"]["name"]]
    # Neither KubeVirt's own attachment, nor migration, which is not tested.
    assert [*registered[interface["binding"]["name"]]] == ["sidecarImage"]


def defined(name: str) -> ET.Element:
    """The domain of an example's machine."""
    vmi = json.dumps(manifest(EXAMPLES / name)).encode()
    return ET.fromstring(domains.change(domain("alone"), machines.parse(vmi), "vhostuser", Sight(info={}, claims={})))


@pytest.mark.parametrize(
    ("vmi", "nad"),
    [
        ("vmi-userspace.yaml", "nad-userspace-kubevirt.yaml"),
        ("vmi-userspace-ovs-net-1.yaml", "nad-userspace-ovs-net-1.yaml"),
    ],
)
def test_an_example_of_a_machine_gets_the_socket_that_the_example_of_its_network_makes(monkeypatch, vmi, nad):
    """The network contains no key for KubeVirt."""
    last = manifest(EXAMPLES / vmi)["spec"]["networks"][-1]
    metadata = manifest(EXAMPLES / nad)["metadata"]
    assert last["multus"]["networkName"] in (metadata["name"], f"{metadata['namespace']}/{metadata['name']}")
    (plugin,) = network(EXAMPLES / nad)["plugins"]
    assert not {"volume", "socketNaming", "socketDirectory", "capabilities"} & plugin.keys()
    (source,) = defined(vmi).findall("devices/interface/source")
    with port_node(monkeypatch) as node:
        pod = node.pod("vm", *VOLUMES)
        host = {**plugin["host"], "vhost": {"mode": "client"}}
        node.add(pod, hashed(last["name"]), host=host)
        (seen,) = node.vswitch.show()
    assert source.get("path") == f"{SOCKETS}/{seen.port.socket.rpartition('/')[2]}"
    assert seen.port.socket.startswith(node.volume("vm", "sockets"))


def test_kubevirts_file_about_the_networks_names_the_socket_that_the_sidecar_computes_anyway(monkeypatch):
    """With a resourceName and `CNIDeviceInfoFile`, Multus copies the plugin's file to network-status."""
    vmi = manifest(EXAMPLES / "vmi-userspace.yaml")
    ifname = hashed("dataplane")
    with port_node(monkeypatch) as node:
        told = f"{node.folder}/devinfo/info"
        result = node.add(node.pod("vm", *VOLUMES), ifname, runtimeConfig={"CNIDeviceInfoFile": told})
        device = json.loads(Path(told).read_text())
    status = network_status("default/vm-dataplane", ifname, encode(result, "1.0.0"), device)
    text = json.dumps(network_info(vmi, [status])).encode()
    assert facts.network_info(text, {"dataplane"}) == {"dataplane": facts.Fact(path=f"{SOCKETS}/{ifname}")}


def test_the_machine_for_a_high_packet_rate_has_a_pair_of_queues_for_each_cpu_and_shared_huge_pages():
    vmi = json.dumps(manifest(EXAMPLES / "vmi-userspace-pinned.yaml")).encode()
    text = domains.change(domain("hugepages"), machines.parse(vmi), "vhostuser", Sight(info={}, claims={}))
    found = ET.fromstring(text)
    assert [driver.get("queues") for driver in found.findall("devices/interface[@type='vhostuser']/driver")] == ["4"]
    backing = found.find("memoryBacking")
    assert backing is not None
    assert [(each.tag, *each.attrib.values()) for each in backing] == [
        ("access", "shared"),
        ("hugepages",),
        ("source", "memfd"),
    ]


def test_the_example_of_a_machine_with_a_vf_names_its_network_and_no_binding_plugin():
    vmi, nad = manifest(EXAMPLES / "vmi-sriov.yaml"), manifest(EXAMPLES / "nad-sriov-kubevirt.yaml")
    assert vmi["spec"]["networks"][-1]["multus"]["networkName"] == "default/" + nad["metadata"]["name"]
    assert vmi["spec"]["domain"]["devices"]["interfaces"][-1]["sriov"] == {}
    assert nad["metadata"]["annotations"]["k8s.v1.cni.cncf.io/resourceName"]
    (plugin,) = network(EXAMPLES / "nad-sriov-kubevirt.yaml")["plugins"]
    assert plugin["capabilities"] == {"mac": True, "CNIDeviceInfoFile": True}


@pytest.mark.parametrize("device", [None, {"type": "pci", "version": "1.1.0", "pci": {}}])
def test_kubevirt_refuses_a_vf_without_device_info(device):
    """The stand-in for KubeVirt refuses what KubeVirt refuses."""
    vmi = manifest(EXAMPLES / "vmi-sriov.yaml")
    result = {"interfaces": [{"name": hashed("fast"), "sandbox": "/run/netns/a"}]}
    with pytest.raises(NotMapped):
        network_info(vmi, [network_status("default/vm-sriov", hashed("fast"), result, device)])


def test_the_manifest_of_a_patched_kubevirt_differs_by_the_binding_only():
    found = manifest(EXAMPLES / "vmi-userspace-ovs-net-1.yaml")["spec"]["domain"]["devices"]["interfaces"]
    assert found == [
        {"name": "default", "masquerade": {}},
        {"name": "vhost-net-1", "binding": {"name": "vhostuser"}},  # there: "vhostuser": {}
    ]


def test_the_image_has_the_bundle_and_names_neither_a_base_nor_a_registry():
    steps = [line.split(None, 1) for line in RECIPE.read_text().splitlines() if line and not line.startswith("#")]
    assert steps == [
        ["ARG", "BASE"],
        ["FROM", "${BASE}"],
        ["COPY", "dist/barewire-kubevirt /opt/barewire-kubevirt"],
        ["USER", "107:107"],
        ["ENTRYPOINT", '["/opt/barewire-kubevirt/barewire-kubevirt"]'],
    ]
