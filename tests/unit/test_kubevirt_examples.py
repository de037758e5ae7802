"""The examples for KubeVirt and the recipe of the image fit together."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

from kubevirt import domain as domains, machine as machines
from kubevirt.podnames import hashed
from kubevirt.port import SOCKETS, Sight
from tests.examples import EXAMPLES, manifest, network
from tests.kubevirt_hooks.domains import domain

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "build/kubevirt.Containerfile"


def test_the_registered_binding_is_the_one_that_the_example_of_a_machine_names():
    registered = manifest(EXAMPLES / "kubevirt-binding.yaml")["spec"]["configuration"]["network"]["binding"]
    vmi = manifest(EXAMPLES / "vmi-userspace.yaml")
    (interface,) = vmi["spec"]["domain"]["devices"]["interfaces"]
    assert [*registered] == [interface["binding"]["name"]]
    # Neither KubeVirt's own attachment, nor migration, which is not tested.
    assert [*registered[interface["binding"]["name"]]] == ["sidecarImage"]


def test_the_example_of_a_machine_gets_the_socket_that_the_example_of_its_network_makes():
    vmi = manifest(EXAMPLES / "vmi-userspace.yaml")
    (plugin,) = network(EXAMPLES / "nad-userspace-kubevirt.yaml")["plugins"]
    assert (plugin["volume"], plugin["socketNaming"]) == ("sockets", "interface")
    (wanted,) = vmi["spec"]["networks"]
    text = domains.change(
        domain("alone"), machines.parse(json.dumps(vmi).encode()), "vhostuser", Sight(info={}, claims={})
    )
    (source,) = ET.fromstring(text).findall("devices/interface/source")
    assert source.get("path") == f"{SOCKETS}/{hashed(wanted['name'])}"


def test_the_image_has_the_bundle_and_names_neither_a_base_nor_a_registry():
    steps = [line.split(None, 1) for line in RECIPE.read_text().splitlines() if line and not line.startswith("#")]
    assert steps == [
        ["ARG", "BASE"],
        ["FROM", "${BASE}"],
        ["COPY", "dist/barewire-kubevirt /opt/barewire-kubevirt"],
        ["USER", "107:107"],
        ["ENTRYPOINT", '["/opt/barewire-kubevirt/barewire-kubevirt"]'],
    ]
