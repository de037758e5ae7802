"""The frozen sidecar and virt-launcher, over the hooks' own sockets."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import elf
import grpc
import pytest

from kubevirt.api import calls
from tests.kubevirt.conftest import BUNDLE, END_SECONDS
from tests.kubevirt_hooks.domains import DATAPLANE, bound, domain, machine, network
from tests.kubevirt_hooks.launcher import Launcher
from tests.kubevirt_hooks.schema import read_back
from tests.ovs.domain import as_user

NAMED = {"CONTAINER_NAME": "hook-sidecar-0", "NETWORK_BINDING_PLUGIN_NAME": "vhostuser"}


def launcher(folder: Path, count: int = 1, **options: Any) -> Launcher:
    found = Launcher(folder, **options)
    found.collect(count)
    return found


def interface(text: bytes, name: str = "dataplane") -> dict[str, dict[str, str]]:
    for each in ET.fromstring(text).iterfind("devices/interface"):
        if each.find(f"alias[@name='ua-{name}']") is not None:
            return {"interface": each.attrib, **{child.tag: child.attrib for child in each}}
    raise AssertionError(f"no interface {name}")


def properties(text: bytes) -> dict[str | None, ET.Element]:
    qemu = "{http://libvirt.org/schemas/domain/qemu/1.0}"
    devices = ET.fromstring(text).iterfind(f"{qemu}override/{qemu}device")
    return {device.get("alias"): device[0][0] for device in devices}


@pytest.mark.parametrize("which", ["program", "source"])
def test_a_machine_is_defined_twice_and_shut_down(request, which, start, hooks):
    process = start(request.getfixturevalue(which), hooks, **NAMED)
    virt = launcher(hooks)
    (sidecar,) = virt.sidecars
    assert (sidecar.socket.name, sidecar.version) == ("hook-sidecar-0-vhu.sock", "v1alpha3")
    first = virt.define(domain("plain"), machine())
    assert interface(first)["source"] == {
        "type": "unix", "path": f"/var/run/kubevirt/sockets/{DATAPLANE}", "mode": "server",
    }  # fmt: skip
    second = virt.define(read_back(first), machine())
    assert interface(second)["source"] == interface(first)["source"]
    assert interface(second)["driver"] == interface(first)["driver"]
    assert interface(second)["address"]["type"] == "pci"
    virt.shut_down()
    assert process.wait(END_SECONDS) == 0
    assert not sidecar.socket.exists()
    assert f"vhost-user interfaces dataplane on /var/run/kubevirt/sockets/{DATAPLANE}" in process.stderr.read()


@pytest.mark.parametrize("nested", [False, True])
def test_two_sidecars_of_one_pod_are_found_and_change_their_own_interfaces(program, start, hooks, nested):
    """An older KubeVirt has one folder for all sidecars, a newer one has one for each. The names must still differ."""
    folders = [hooks, hooks]
    if nested:
        folders = [hooks / "hook-sidecar-0", hooks / "hook-sidecar-1"]
        for folder in folders:
            (folder / "userdata").mkdir(parents=True)
    processes = [
        start(program, folder, CONTAINER_NAME=f"hook-sidecar-{index}", NETWORK_BINDING_PLUGIN_NAME=name)
        for index, (folder, name) in enumerate(zip(folders, ("vhostuser", "fast"), strict=True))
    ]
    virt = launcher(hooks, 2, nested=nested)
    vmi = machine(bound("one"), bound("two", binding={"name": "fast"}, macAddress="02:00:00:00:10:02"))
    defined = virt.define(domain("plain"), vmi)
    assert {interface(defined, name)["interface"]["type"] for name in ("one", "two")} == {"vhostuser"}
    assert virt.define(defined, vmi) == defined
    virt.shut_down()
    assert [process.wait(END_SECONDS) for process in processes] == [0, 0]


@pytest.mark.parametrize("names", [{}, {"NETWORK_BINDING_PLUGIN_NAME": "vhostuser"}])
def test_a_kubevirt_that_gives_no_names_gets_a_socket_and_the_usual_binding(program, start, hooks, names):
    start(program, hooks, **names)
    assert interface(launcher(hooks).define(domain("plain"), machine()))["interface"] == {"type": "vhostuser"}


@pytest.mark.parametrize("version", ["v1alpha1", "v1alpha2"])
def test_an_older_virt_launcher_is_served_by_its_version_and_a_signal_ends_the_sidecar(program, start, hooks, version):
    process = start(program, hooks, **NAMED)
    virt = launcher(hooks, known=(version, "v1alpha0"))
    assert [sidecar.version for sidecar in virt.sidecars] == [version]
    assert interface(virt.define(domain("plain"), machine()))["interface"] == {"type": "vhostuser"}
    process.send_signal(signal.SIGTERM)
    assert process.wait(END_SECONDS) == 0
    assert list(hooks.iterdir()) == []


def test_cloud_init_data_are_not_requested_and_go_back_as_they_came(program, start, hooks):
    start(program, hooks, **NAMED)
    for known in ("v1alpha3", "v1alpha2"):
        virt = launcher(hooks, known=(known,))
        assert sorted(hook.name for hook in virt.sidecars[0].hooks) == ["OnDefineDomain", "Shutdown"]
        assert virt.pre_cloud_init_iso(b'{"a": 1}', b'{"b": 2}') == (b'{"a": 1}', b'{"b": 2}')


def test_virt_launcher_sees_why_a_machine_cannot_work_and_the_sidecar_goes_on(program, start, hooks):
    start(program, hooks, **NAMED)
    virt = launcher(hooks)
    for name, vmi, reason in (
        (
            "plain",
            machine(bound(model="e1000")),
            "interface dataplane: a vhost-user interface cannot be a card of model",
        ),
        ("plain", {"spec": {"networks": 5}}, "the VirtualMachineInstance cannot be read: spec.networks"),
    ):
        with pytest.raises(grpc.RpcError, match=reason) as failed:
            virt.define(domain(name), vmi)
        assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(grpc.RpcError) as failed:
        virt.define(b"<domain>" + b" " * (10 << 20), machine())
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert virt.define(domain("plain"), machine()) != domain("plain")


def test_it_runs_as_virt_launchers_user_without_any_capability(program, start, hooks):
    os.chown(hooks, 107, 107)
    process = start([*as_user(107), *program], hooks, **NAMED)
    virt = launcher(hooks)
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")} == {0}
    assert status["Uid"].split() == ["107"] * 4
    assert interface(virt.define(domain("plain"), machine()))["interface"] == {"type": "vhostuser"}
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    assert int(status["RssAnon"].split()[0]) < 40_000, "KiB; KubeVirt's limit for a sidecar is 64 MB"


def test_a_sidecar_that_was_killed_serves_again_on_its_socket(program, start, hooks):
    first = start(program, hooks, **NAMED)
    launcher(hooks)
    first.kill()
    first.wait(END_SECONDS)
    start(program, hooks, **NAMED)
    assert launcher(hooks).define(domain("plain"), machine()) != domain("plain")


def test_a_definition_waits_for_what_kubevirt_and_the_driver_write_later(program, start, hooks, tmp_path):
    info, metadata = tmp_path / "network-info", tmp_path / "metadata"
    info.touch()
    start(program, hooks, **NAMED, BAREWIRE_NETWORK_INFO=str(info), BAREWIRE_DEVICE_METADATA=str(metadata))
    virt = launcher(hooks)
    claim = {"claimName": "c", "requestName": "port"}
    vmi = machine(bound("a"), bound("b"), networks=[network("a"), network("b", resourceClaim=claim)])
    answers: list[bytes] = []
    call = threading.Thread(target=lambda: answers.append(virt.define(domain("plain"), vmi)))
    call.start()
    written = tmp_path / "new"
    written.write_text(json.dumps({"interfaces": [{"network": "a", "mtu": 9000}]}))
    written.replace(info)
    folder = metadata / "resourceclaimtemplates/c/port"
    folder.mkdir(parents=True)
    attributes = {"vhost-user-path": {"string": "/var/run/ovsdpdk/c/port/vhost.sock"}, "mtu": {"int": 1400}}
    request = {"name": "port", "devices": [{"attributes": attributes}]}
    written.write_text(json.dumps({"apiVersion": "metadata.resource.k8s.io/v1alpha1", "requests": [request]}))
    written.replace(folder / "d.example.com-metadata.json")
    call.join(END_SECONDS)
    (answer,) = answers
    assert interface(answer, "b")["source"]["path"] == "/var/run/ovsdpdk/c/port/vhost.sock"
    assert {alias: property_.get("value") for alias, property_ in properties(answer).items()} == {
        "ua-a": "9000",
        "ua-b": "1400",
    }


def test_a_folder_that_is_not_there_ends_the_start_with_the_reason(program, start, hooks):
    process = start(program, hooks / "missing", **NAMED)
    assert process.wait(END_SECONDS) == 1
    assert "cannot listen on" in process.stderr.read()


def test_no_library_of_the_bundle_looks_for_others_where_the_build_machine_had_them(program):
    libraries = [path for path in BUNDLE.rglob("*") if path.is_file() and elf.is_elf(path)]
    assert {path.name: paths for path in libraries if (paths := elf.run_paths(path))} == {}


def test_every_call_of_the_protocol_has_a_message_of_its_version():
    assert {call.service for call in calls.ON_DEFINE_DOMAIN.values()} == {
        f"kubevirt.hooks.{version}.Callbacks" for version in calls.VERSIONS
    }
    params = calls.ON_DEFINE_DOMAIN["v1alpha3"].request(domainXML=b"<d/>", vmi=b"{}")
    assert params.SerializeToString() == b"\x0a\x04<d/>\x12\x02{}"
