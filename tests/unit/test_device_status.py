"""Reports of `status` and `run --dry-run`: resources, held devices, and problems that need attention."""

from __future__ import annotations

import json
import socket

import pytest

from cni.pci import PciAddress
from deviceplugin.__main__ import main
from deviceplugin.conf import parse
from deviceplugin.function import Function, Inventory
from deviceplugin.holding import Holding
from deviceplugin.host import Sight
from deviceplugin.pool import short_name
from deviceplugin.status import answers, status, text
from tests.kubelet.pcihost import VFS, PciHost, card

RESOURCE = "intel.com/vfs"


def function(address, **fields):
    return Function(address=PciAddress(address), **{"pci_class": "020000", "vendor": "8086", "device": "154c", "driver": "iavf"} | fields)  # fmt: skip


SIGHT = Sight(
    inventory=Inventory(functions={one.address: one for one in map(function, VFS)}), used={}, nodes=frozenset()
)
HELD = {
    VFS[0]: Holding(device=VFS[0], resource=RESOURCE, driver="vfio-pci", found_driver="iavf"),
    VFS[1]: Holding(device=VFS[1], resource=RESOURCE, driver="vfio-pci", found_driver="snd", lead=VFS[0]),
    VFS[2]: Holding(device=VFS[2], resource="intel.com/former", found_driver="iavf"),
}
CONFIGURATION = parse(
    json.dumps(
        {
            "resourceList": [{"resourceName": "vfs", "selectors": {"pciAddresses": VFS[:2]}}, {"resourceName": "rest"}],
            "comment": "mine",
        }
    ).encode()
)


def test_resources_have_numbers_and_held_devices_their_pods_and_drivers():
    found = status(
        SIGHT,
        CONFIGURATION,
        HELD,
        is_served=lambda name: name == RESOURCE,
        owners={(RESOURCE, VFS[0]): "default/machine"},
    )
    first, rest = found.resources
    assert (first.devices, first.healthy, first.held, first.served) == (tuple(VFS[:2]), 2, 1, True)
    assert (rest.devices, rest.served) == ((VFS[3],), False)
    assert not found.is_served
    lead, companion, former = found.held
    assert (lead.pod, lead.found_driver, lead.driver) == ("default/machine", "iavf", "iavf")
    assert (companion.pod, companion.lead) == ("default/machine", VFS[0])
    assert (former.pod, former.found_driver) == ("", "")


def test_an_unhealthy_device_is_a_device_of_its_resource_but_no_healthy_one():
    functions = {**SIGHT.inventory.functions, VFS[1]: function(VFS[1], driver="")}
    found = status(SIGHT.replace(inventory=Inventory(functions=functions)), CONFIGURATION, {})
    assert (found.resources[0].devices, found.resources[0].healthy) == (tuple(VFS[:2]), 1)


def test_remarks_tell_of_second_claims_unknown_keys_and_what_a_pod_has_of_no_resource():
    found = status(SIGHT, CONFIGURATION, HELD)
    assert found.remarks == (
        "comment: unknown key, ignored",
        f"intel.com/rest selects as well what {RESOURCE} has: {VFS[0]}, {VFS[1]}",
        f"{VFS[2]} is held for intel.com/former, which the configuration does not have",
    )
    assert found.is_served, "nobody has looked"


def test_a_damaged_entry_of_the_journal_is_reported_as_what_it_is():
    damaged = {VFS[3]: Holding(device=VFS[3], resource="")}
    assert (
        f"{VFS[3]} counts as held: its file in the journal is damaged" in status(SIGHT, CONFIGURATION, damaged).remarks
    )


def test_a_kubelet_that_does_not_answer_is_no_evidence_that_no_pod_has_a_device():
    assert [one.pod for one in status(SIGHT, CONFIGURATION, HELD).held] == [None] * 3
    assert [one.pod for one in status(SIGHT, CONFIGURATION, HELD, owners={}).held] == [""] * 3


def test_it_is_a_table_for_people_and_json_for_programs():
    found = status(SIGHT, CONFIGURATION, HELD, is_served=lambda _name: True)
    lines = text(found, as_json=False).splitlines()
    assert lines[0].split() == ["RESOURCE", "DEVICES", "HEALTHY", "HELD", "GROUPS", "DRIVER", "SERVED"]
    assert lines[1].split() == [RESOURCE, "2", "2", "1", "exclusive", "-", "yes"]
    assert f"{VFS[1]}  {RESOURCE}     iavf    snd           unknown, with {VFS[0]}" in lines
    document = json.loads(text(found, as_json=True))
    assert document["resources"][0]["devices"] == VFS[:2]
    assert document["held"][0]["pod"] is None
    assert len(document["remarks"]) == 3


def test_a_socket_that_a_dead_process_left_is_not_served(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket has at most 107 characters
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{short_name(RESOURCE)}.sock")
        assert not answers(".", RESOURCE)
        server.listen()
        assert answers(".", RESOURCE)
    assert not answers(".", RESOURCE)
    assert not answers(".", "intel.com/other")


@pytest.fixture
def options(tmp_path):
    host = PciHost(tmp_path / "host")
    card(host, driver="vfio-pci")
    return [
        f"--config-file={tmp_path}/config.json",
        f"--state={tmp_path}/state",
        f"--sysfs={host.sys}",
        f"--dev={host.dev}",
    ]


def test_a_dry_run_reports_what_would_be_served_and_all_problems_of_a_bad_configuration(tmp_path, options, capsys):
    (tmp_path / "config.json").write_text('{"resourceList": [{"resourceName": "vfs"}]}')
    before = sorted(tmp_path.rglob("*"))
    assert main(["run", "--dry-run", "--json", *options]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert json.loads(capsys.readouterr().out)["resources"][0]["devices"] == VFS
    (tmp_path / "config.json").write_text('{"resourceList": [{"resourceName": "a b", "groups": "x"}]}')
    assert main(["run", "--dry-run", *options]) == 1
    told = capsys.readouterr().err
    assert "resourceList[0].resourceName" in told
    assert "resourceList[0].groups" in told
