"""Each setting of a VF, from its row in `cni/host/vf_settings.py`: applied, checked, restored, and handled everywhere
else.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cni import jsontext
from cni.attachment.record import Key
from cni.errors import CheckFailed, InvalidConfig, IoFailure
from cni.host.vf_settings import SETTINGS, VfInfo, VfSettings
from cni.pci import PciAddress
from cni.protocol import result
from cni.sriov import model, plan
from cni.sriov.conf import SriovConf
from tests.lab import test_sriov_check as lab_check, test_sriov_settings as lab
from tests.node import EVERYTHING, VF0, Node
from tests.vf_samples import FIELDS, REFUSED_BY_IGB, ROWS, conf, meant, words

ROOT = Path(__file__).parents[2]
KEYS = {field.key for field in FIELDS.values()}
OF_VFS_ONLY = [name for name, row in ROWS.items() if not row.of_netdev]

NO_SETTINGS = set(
    "cniVersion name type deviceID master vf pfOnly driver mtu promisc allmulticast ipam logLevel logFile strictConfig"
    " runtimeConfig args capabilities dns ipMasq prevResult disableCheck disableGC pciBusID if0 if0name l2enable dpdk cniDir"
    " deviceinfo pci_addr resourceName".split()
)
"""The keys of the configuration that the PF does not store for a VF."""

each_field = pytest.mark.parametrize("name", FIELDS)


@pytest.fixture
def node(tmp_path):
    """A node with a card that accepts every setting."""
    found = Node(tmp_path)
    found.kernel.takes_all_settings = True
    return found


def info(node: Node) -> VfInfo:
    found = node.kernel.functions[VF0].info
    assert found is not None
    return found


def found_as(node: Node, values: VfSettings) -> None:
    """The administrator has configured the VF in this way before any pod has it."""
    for name, row in SETTINGS.items():
        if any(getattr(values, field.name) is not None for field in row.fields):
            node.kernel.set_vf(node.kernel.device(PciAddress(VF0)), name, values)
    node.before = node.kernel.snapshot()


def sampled(choice: int) -> VfSettings:
    """Every setting that applies only to VFs, with its first or second sample."""
    return VfSettings(**{name: meant(FIELDS[name], words(FIELDS[name])[choice]) for name in OF_VFS_ONLY})


@pytest.mark.parametrize(("found", "wanted"), [(1, 0), (0, 1), (0, 0)])
@each_field
def test_a_setting_is_applied_by_add_and_restored_by_del_with_all_else(node, name, found, wanted):
    found_as(node, sampled(found))
    field, request = FIELDS[name], conf(FIELDS[name], wanted)
    node.add(**request)
    assert getattr(info(node), name) == meant(field, request[field.key])
    node.delete(**request)
    node.assert_as_before()


@pytest.mark.parametrize("found", [0, 1])
def test_all_settings_together_are_applied_and_restored(node, found):
    found_as(node, sampled(found))
    request = {field.key: words(field)[1 - found] for field in FIELDS.values()}
    node.add(**request)
    assert all(getattr(info(node), name) == meant(field, request[field.key]) for name, field in FIELDS.items())
    node.delete(**request)
    node.assert_as_before()


@each_field
def test_a_setting_that_is_not_configured_is_left_as_it_is(node, name):
    found_as(node, sampled(0))
    before = getattr(info(node), name)
    node.add()
    assert getattr(info(node), name) == before
    node.delete()
    node.assert_as_before()


@each_field
def test_check_names_a_setting_that_was_changed(node, name):
    field = FIELDS[name]
    previous = result.encode(node.add(**conf(field)), "1.0.0")
    request = node.request("CHECK", prevResult=previous, **conf(field))
    node.plugin().check(request)
    vf = node.kernel.functions[VF0]
    vf.info = vf.info.replace(**{name: meant(field, words(field)[1])})
    with pytest.raises(CheckFailed) as caught:
        node.plugin().check(request)
    assert f"{_shown(name)} is " in caught.value.msg


def _shown(name: str) -> str:
    """The setting's name in CHECK's report."""
    return "the MAC address at the PF" if name == "mac" else FIELDS[name].key


@each_field
def test_without_its_record_a_vf_gets_the_clean_value_of_the_setting(node, name):
    field = FIELDS[name]
    was = getattr(info(node), name)
    node.add(**conf(field))
    for path in node.files():
        os.unlink(path)
    node.delete(**conf(field))
    if name == "mac":
        assert info(node).mac != conf(field)["mac"]
    else:
        assert getattr(info(node), name) == (was if field.clean is None else field.clean)


@pytest.mark.parametrize("name", OF_VFS_ONLY)
def test_a_setting_of_vfs_is_refused_with_pf_only(node, name):
    field = FIELDS[name]
    with pytest.raises(InvalidConfig, match=f"{field.key}: is for VFs, and with pfOnly there is none"):
        node.add(pfOnly=True, **conf(field))
    node.assert_as_before()


def test_every_key_of_the_configuration_that_names_a_vf_setting_has_a_row():
    assert set(SriovConf.model_fields) == KEYS | NO_SETTINGS
    assert not KEYS & NO_SETTINGS


def test_every_field_of_the_settings_is_in_one_row():
    names = [field.name for row in SETTINGS.values() for field in row.fields]
    assert sorted(names) == sorted(VfSettings.kinds())
    assert plan.clean_settings(None).as_dict().keys() == VfSettings().as_dict().keys()


def test_the_tests_lists_of_all_settings_have_them_all():
    taken = KEYS - set(REFUSED_BY_IGB)
    assert taken <= set(EVERYTHING)
    assert taken <= set(lab.ALL)
    example = jsontext.loads((ROOT / "conf-examples/sriov-all-settings.conf").read_bytes())
    assert taken <= set(example)


@pytest.mark.parametrize("page", ["docs/features.md", "CHANGELOG.md"])
def test_the_documents_name_each_setting(page):
    text = (ROOT / page).read_text()
    assert [key for key in KEYS if f"`{key}`" not in text] == []


def test_the_lab_applies_each_setting_or_shows_its_refusal():
    applied = {key for settings, _ in lab.ALONE.values() for key in settings}
    refused = {key for settings, *_ in lab.REFUSED.values() for key in settings}
    assert applied | refused >= KEYS
    assert applied >= KEYS - set(REFUSED_BY_IGB)
    reasons = {key: reason for settings, _, reason in lab.REFUSED.values() for key in settings}
    assert {key: reasons.get(key) for key in REFUSED_BY_IGB} == REFUSED_BY_IGB


def test_the_labs_check_changes_each_setting_that_igb_takes():
    reported = [text for *_, texts in lab_check.DRIFTS for text in texts]
    for name, field in FIELDS.items():
        if field.key not in REFUSED_BY_IGB:
            assert any(text.startswith(f"{_shown(name)} is ") for text in reported), field.key


@pytest.mark.parametrize("part", ["found", "wanted"])
@each_field
def test_a_record_whose_setting_is_of_another_kind_is_damaged(node, name, part):
    node.add()
    record = node.plugin()._attachments.find(Key(network="net", container_id="a", ifname="net1"))
    document = getattr(record, part)
    damaged = {**document, "settings": {**document["settings"], name: {}}}
    with pytest.raises(IoFailure, match=f"{name} is"):
        model.from_record(record.replace(**{part: damaged}))
