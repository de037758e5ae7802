"""The examples for KubeVirt and the recipe of the image fit together."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from kubevirt import domain as domains, machine as machines
from kubevirt.podnames import hashed
from kubevirt.port import SOCKETS, Sight
from tests.examples import EXAMPLES, manifest, network
from tests.kubevirt_hooks.domains import domain
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
