"""The devices that a configuration of sriov-network-device-plugin selects, on a simulated host."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cni.errors import InvalidConfig
from cni.pci import PciAddress
from deviceplugin.assignment import Selection, assign
from deviceplugin.conf import parse
from deviceplugin.function import Function, Inventory
from deviceplugin.preference import preferred

PF, OTHER_PF = "0000:01:00.0", "0000:01:00.1"
PLAIN, GPU, BRIDGE = "0000:03:00.0", "0000:02:00.0", "0000:00:1c.0"


def function(address, **fields):
    described: Any = {"pci_class": "020000", "vendor": "8086", "device": "154c", "driver": "iavf", "numa": 0} | fields
    return Function(address=PciAddress(address), **described)


def vf(address, number, pf=PF, name="eth0", **fields):
    return function(address, pf=pf, pf_name=name, vf_index=number, netdevs=(f"{name}v{number}",), **fields)


VFS = [f"0000:01:10.{number}" for number in range(4)]
OTHER_VFS = [f"0000:01:11.{number}" for number in range(2)]
HOST = Inventory(
    functions={
        one.address: one
        for one in (
            function(BRIDGE, pci_class="060400", driver="pcieport"),
            function(PF, device="1572", driver="i40e", netdevs=("eth0",), vfs=tuple(map(PciAddress, VFS))),
            function(OTHER_PF, device="1572", driver="i40e", netdevs=("eth1",), vfs=tuple(map(PciAddress, OTHER_VFS))),
            *(vf(address, number, link_type="ether") for number, address in enumerate(VFS[:2])),
            *(vf(address, number, driver="vfio-pci") for number, address in enumerate(VFS[2:], 2)),
            *(
                vf(
                    address,
                    number,
                    OTHER_PF,
                    "eth1",
                    vendor="15b3",
                    device="1018",
                    driver="mlx5_core",
                    numa=1,
                    rdma=("mlx5_2",),
                )
                for number, address in enumerate(OTHER_VFS)
            ),
            function(PLAIN, device="10d3", driver="e1000e", netdevs=("eth10",), acpi_index="101"),
            function(GPU, pci_class="030200", vendor="10de", device="1bb3", driver="vfio-pci", group="20", numa=1),
        )
    }
)


def configured(document, used=None, held=None):
    return assign(HOST, Selection(parse(json.dumps(document).encode())), used or {}, held or {})


def selected(selectors, **resource):
    found = configured({"resourceList": [{"resourceName": "r", "selectors": selectors, **resource}]})
    return list(found.members(f"{resource.get('resourcePrefix', 'intel.com')}/r"))


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        ({}, [*VFS, *OTHER_VFS, PLAIN]),
        ({"vendors": ["15b3"]}, OTHER_VFS),
        ({"vendors": ["8086"], "devices": ["154c", "10ed"], "drivers": ["iavf", "ixgbevf"]}, VFS[:2]),
        ({"vendors": ["8086"], "devices": ["154C"], "drivers": ["vfio-pci"], "pfNames": ["eth0", "eth1"]}, VFS[2:]),
        ({"pciAddresses": ["01:10.1", VFS[3]]}, [VFS[1], VFS[3]]),
        ({"pfNames": ["eth0#0,2-3"]}, [VFS[0], *VFS[2:]]),
        ({"pfNames": ["eth1"]}, OTHER_VFS),  # as a part of a name it would also match eth10
        ({"pfNames": ["eth[01]#1"]}, [VFS[1], OTHER_VFS[1]]),
        ({"pfNames": ["ETH0#0", "eth0"]}, [VFS[0]]),  # the first matching name decides
        ({"pfNames": ["eth10"]}, [PLAIN]),
        ({"rootDevices": [f"{PF}#0-1", OTHER_PF]}, [*VFS[:2], *OTHER_VFS]),
        ({"linkTypes": ["ether"]}, VFS[:2]),
        ({"linkTypes": ["infiniband"]}, []),
        ({"isRdma": True}, OTHER_VFS),
        ({"IsRdma": True, "NeedVhostNet": True, "SelectorObj": None}, OTHER_VFS),
        ({"acpiIndexes": ["101"]}, [PLAIN]),
        ([{"vendors": ["15b3"]}, {"pfNames": ["eth0#0"]}], [VFS[0], *OTHER_VFS]),
    ],
)
def test_selectors_select_the_devices_that_they_describe(selectors, expected):
    assert selected(selectors) == sorted(expected)


def test_other_classes_than_network_are_selected_by_their_type_only():
    assert selected({"vendors": ["10de"]}) == []
    assert selected({"vendors": ["10de"]}, deviceType="accelerator") == []
    assert selected({"vendors": ["10de"]}, deviceType="pci") == [GPU]


def test_bridges_and_pfs_that_have_vfs_are_never_offered():
    found = configured({"resourceList": [{"resourceName": "all", "deviceType": "pci"}]})
    assert found.kept_out == {
        BRIDGE: "it is a bridge",
        PF: "it is a PF and has 4 VFs",
        OTHER_PF: "it is a PF and has 2 VFs",
    }


def test_a_device_that_the_host_uses_is_never_offered_and_the_reason_is_reported():
    found = configured({"resourceList": [{"resourceName": "all"}]}, used={PLAIN: "a route goes through it"})
    assert found.kept_out[PLAIN] == "a route goes through it"
    assert PLAIN not in found.pool_of


def test_a_device_is_in_the_first_pool_that_selects_it_and_the_second_claim_is_reported():
    found = configured(
        {
            "resourceList": [{"resourceName": "a", "selectors": {"pfNames": ["eth0#0"]}}, {"resourceName": "b"}],
            "auto": {"classes": ["02"]},
        }
    )
    assert found.pool_of[VFS[0]].name == "intel.com/a"
    assert found.claims[VFS[0]] == ("intel.com/b", "devices.kubevirt.io/8086_154c")
    assert found.pool_of[VFS[1]].name == "intel.com/b"


def test_automatic_pools_are_named_by_vendor_and_device_of_the_listed_classes_and_ids():
    found = configured({"auto": {"classes": ["0302"], "ids": ["15B3:1018"]}})
    assert {address: pool.name for address, pool in found.pool_of.items()} == {
        GPU: "devices.kubevirt.io/10de_1bb3",
        **dict.fromkeys(OTHER_VFS, "devices.kubevirt.io/15b3_1018"),
    }


def test_a_held_device_stays_in_its_pool_whatever_became_of_it():
    document = {"resourceList": [{"resourceName": "a", "selectors": {"drivers": ["igbvf"]}}]}
    found = configured(document, used={VFS[0]: "it has an address"}, held={VFS[0]: "intel.com/a"})
    assert found.members("intel.com/a") == (VFS[0],)


def test_why_a_device_is_in_no_pool_is_reported_by_condition():
    found = configured({"resourceList": [{"resourceName": "a", "selectors": {"pfNames": ["eth0#0"]}}]})
    assert found.kept_out[VFS[1]] == "no pool selects it (intel.com/a: pfNames has no 'eth0#1')"
    assert found.kept_out[GPU] == "no pool selects it (intel.com/a: its class 03 is not 02)"


def test_every_problem_of_a_configuration_is_reported_with_its_path():
    document = {
        "resourceList": [
            {"resourceName": "two words", "selectors": {"vendors": ["80"], "pfNames": ["eth0#3-1", "#1"]}},
            {"resourceName": "ok", "resourcePrefix": "kubernetes.io", "driver": "e1000e", "groups": "some"},
            {"resourceName": "ok", "selectors": [{"pKeys": ["0x1"]}, {"pfName": ["eth0"]}], "comment": "mine"},
            {"deviceType": "auxNetDevice"},
            {"ResourceName": "ok"},
        ],
        "auto": {"classes": ["0604"], "ids": ["10de"]},
    }
    with pytest.raises(InvalidConfig) as caught:
        parse(json.dumps(document).encode())
    told = str(caught.value)
    for path in (
        "resourceList[0].resourceName: 'two words' is not the name",
        "resourceList[0].selectors[0].vendors[0]: '80' is not",
        "resourceList[0].selectors[0].pfNames[0]: '3-1': the range ends before it begins",
        "resourceList[0].selectors[0].pfNames[1]: '#1' names no PF",
        "resourceList[1].resourcePrefix: 'kubernetes.io': the kubelet refuses",
        "resourceList[1].driver: 'e1000e': only vfio-pci",
        "resourceList[1].groups: ",
        "resourceList[2].selectors[0].pKeys: not supported yet",
        "resourceList[2].selectors[1].pfName: unknown key; is pfNames meant?",
        "resourceList[3].resourceName: ",
        "resourceList[3].deviceType: ",
        "resourceList[4].resourceName: intel.com/ok is there already",
        "auto.classes[0]: '0604' is the class of bridges",
        "auto.ids[0]: '10de' is not vendor and device",
    ):
        assert path in told


def test_two_resources_of_one_name_are_refused():
    document = {"resourceList": [{"resourceName": "a"}, {"resourceName": "a", "resourcePrefix": "intel.com"}]}
    with pytest.raises(InvalidConfig, match=r"resourceList\[1\].resourceName: intel.com/a is there already"):
        parse(json.dumps(document).encode())


def test_a_key_that_the_peer_ignores_too_is_a_warning():
    assert parse(b'{"resourceList": [], "comment": "mine"}').warnings == ("comment: unknown key, ignored",)


@pytest.mark.parametrize("key", ["pfNames", "rootDevices"])
@pytest.mark.parametrize("pattern", ["eth[0", "eth{99999999999}", "(" * 50000 + ")" * 50000])
def test_a_broken_pattern_is_a_problem_with_its_path(key, pattern):
    """The second and the third ended the process during a comparison, and the first silently selected nothing."""
    document = {"resourceList": [{"resourceName": "a", "selectors": {key: ["eth0", f"{pattern}#0-3"]}}]}
    with pytest.raises(InvalidConfig, match=rf"resourceList\[0\].selectors\[0\].{key}\[1\]: .*is not a regular expr"):
        parse(json.dumps(document).encode())


@pytest.mark.parametrize("content", [b"", b"[]", b'{"resourceList": {}}', b'"text"', b"{", b"[" * 200000])
def test_what_is_no_configuration_is_refused(content):
    with pytest.raises(InvalidConfig):
        parse(content)


def test_preferred_devices_are_of_one_pf_and_the_smaller_rest_first():
    assert preferred(HOST, [*VFS[:3], *OTHER_VFS], [], 2) == OTHER_VFS
    assert preferred(HOST, [*VFS, *OTHER_VFS], [VFS[3]], 3) == [VFS[3], VFS[0], VFS[1]]


def test_devices_that_spread_are_on_as_many_pfs_as_there_are():
    assert preferred(HOST, [*VFS, *OTHER_VFS], [], 2, spread=True) == [VFS[0], OTHER_VFS[0]]
    assert preferred(HOST, [*VFS, *OTHER_VFS], [VFS[3]], 4, spread=True) == [
        VFS[3],
        *OTHER_VFS[:1],
        VFS[0],
        OTHER_VFS[1],
    ]


def test_a_whole_iommu_group_comes_before_another_pf_and_the_pf_before_the_numa_node():
    functions = {
        "0000:05:00.0": vf("0000:05:00.0", 0, pf="a", group="1", numa=0),
        "0000:05:00.1": vf("0000:05:00.1", 1, pf="a", group="1", numa=0),
        "0000:06:00.0": vf("0000:06:00.0", 0, pf="b", group="2", numa=0),
        "0000:06:00.1": vf("0000:06:00.1", 1, pf="b", group="3", numa=1),
    }
    host = Inventory(functions=functions)
    assert preferred(host, functions, ["0000:05:00.0"], 2, spread=True) == ["0000:05:00.0", "0000:05:00.1"]
    assert preferred(host, functions, ["0000:06:00.1"], 2) == ["0000:06:00.1", "0000:06:00.0"]


def test_preferred_devices_complete_an_iommu_group_before_they_begin_another():
    functions = {
        address: function(address, group=group)
        for address, group in (("0000:05:00.0", "1"), ("0000:05:00.1", "1"), ("0000:06:00.0", "2"))
    }
    host = Inventory(functions=functions)
    assert preferred(host, functions, [], 1) == ["0000:06:00.0"]
    assert preferred(host, functions, ["0000:05:00.1"], 2) == ["0000:05:00.1", "0000:05:00.0"]
    assert preferred(host, functions, [], 2) == ["0000:05:00.0", "0000:05:00.1"]


def test_the_rest_of_a_begun_iommu_group_comes_before_a_group_that_fits():
    functions = {
        address: function(address, group=group)
        for address, group in (
            ("0000:05:00.0", "1"),
            ("0000:05:00.1", "1"),
            ("0000:05:00.2", "1"),
            ("0000:04:00.0", "2"),
        )
    }
    assert preferred(Inventory(functions), functions, ["0000:05:00.0"], 2) == ["0000:05:00.0", "0000:05:00.1"]


def test_the_numa_node_comes_before_a_pf_with_fewer_free_vfs():
    functions = {
        "0000:05:00.0": vf("0000:05:00.0", 0, pf="a", numa=0),
        "0000:06:00.0": vf("0000:06:00.0", 0, pf="b", numa=1),
        "0000:06:00.1": vf("0000:06:00.1", 1, pf="b", numa=1),
        "0000:07:00.0": vf("0000:07:00.0", 0, pf="c", numa=1),
    }
    assert preferred(Inventory(functions), functions, ["0000:07:00.0"], 2) == ["0000:07:00.0", "0000:06:00.0"]


def test_devices_that_spread_begin_with_the_pf_that_has_most():
    functions = {
        "0000:05:00.0": vf("0000:05:00.0", 0, pf="a"),
        "0000:06:00.0": vf("0000:06:00.0", 0, pf="b"),
        "0000:06:00.1": vf("0000:06:00.1", 1, pf="b"),
    }
    assert preferred(Inventory(functions), functions, [], 1, spread=True) == ["0000:06:00.0"]
