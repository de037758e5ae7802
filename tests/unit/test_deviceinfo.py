"""The device-info file: the device plugin's entries about the same device stay, and all others are replaced."""

from __future__ import annotations

import json

import pytest

from cni.attachment import device_info

VF, PF = "0000:01:10.0", "0000:01:00.0"
DEVICE = {"pci-address": VF, "rdma-device": "mlx5_4", "vhost-net": "/dev/vhost-net", "representor-device": "eth4"}
PLUGINS = {"type": "pci", "version": "1.0.0", "pci": DEVICE}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "devinfo" / "net-1"


def written(path, before, document):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(before if isinstance(before, bytes) else json.dumps(before).encode())
    device_info.write(str(path), document)
    return json.loads(path.read_text())


def test_what_the_device_plugin_wrote_about_the_same_device_stays(path):
    found = written(path, PLUGINS, device_info.pci(VF, PF))
    assert found == {**PLUGINS, "version": "1.1.0", "pci": {**DEVICE, "pf-pci-address": PF}}


OTHERS = [
    {**PLUGINS, "pci": {**DEVICE, "pci-address": "0000:01:10.2"}},
    {"type": "vdpa", "version": "1.1.0", "vdpa": {"pci-address": VF}},
    {"type": "pci"},
    b"[1]",
    b"not JSON",
]


@pytest.mark.parametrize("before", OTHERS)
def test_what_is_about_something_else_gives_way(path, before):
    assert written(path, before, device_info.pci(VF, PF)) == device_info.pci(VF, PF)


def test_check_allows_what_others_have_added_and_reports_what_differs(path):
    document = device_info.pci(VF, PF)
    written(path, PLUGINS, document)
    assert device_info.difference(str(path), document) == []
    path.write_text(json.dumps({**PLUGINS, "pci": {"pci-address": VF, "pf-pci-address": "0000:02:00.0"}}))
    assert device_info.difference(str(path), document) == [f"the device-info file {path} was changed"]
    path.write_text("cut off")
    assert device_info.difference(str(path), document) == [f"the device-info file {path} was changed"]
    path.unlink()
    assert device_info.difference(str(path), document) == [f"the device-info file {path} is missing"]


def test_a_port_has_one_document(path):
    document = device_info.vhost_user("/run/a.sock")
    assert written(path, device_info.vhost_user("/run/b.sock"), document) == document
