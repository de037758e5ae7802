"""The example configurations of sriov-network-device-plugin select the same devices here, on a simulated host.

The devices that the peer selects follow from its documentation and its issues. Unsupported keys are refused with their
paths.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from cni.errors import InvalidConfig
from cni.pci import PciAddress
from deviceplugin.assignment import Selection, assign
from deviceplugin.conf import Selectors, parse
from deviceplugin.function import Function, Inventory

INTEL, MELLANOX, BLUEFIELD = "0000:18:00.0", "0000:3b:00.0", "0000:5e:00.0"
DRIVERS = ("iavf", "iavf", "vfio-pci", "igb_uio")
FEC_PF, FEC_VF, PLAIN, UNBOUND = "0000:af:00.0", "0000:b0:00.0", "0000:04:00.0", "0000:06:00.0"


def vfs(pf, name, bus, drivers, **fields):
    return [
        function(f"0000:{bus}:02.{number}", pf=pf, pf_name=name, vf_index=number, driver=driver, **fields)
        for number, driver in enumerate(drivers)
    ]


def function(address, **fields):
    described: Any = {"pci_class": "020000", "vendor": "8086"} | fields
    return Function(address=PciAddress(address), **described)


XL710 = vfs(INTEL, "enp24s0f0", "18", DRIVERS, device="154c")
CX5 = vfs(
    MELLANOX, "enp59s0", "3b", ["mlx5_core"] * 3, vendor="15b3", device="1018", rdma=("mlx5_2",), link_type="ether"
)
IB = vfs(
    BLUEFIELD, "ibp94s0", "5e", ["mlx5_core"], vendor="15b3", device="101c", rdma=("mlx5_9",), link_type="infiniband"
)
FUNCTIONS = [
    function(INTEL, device="1572", driver="i40e", netdevs=("enp24s0f0",), vfs=tuple(one.address for one in XL710)),
    function(MELLANOX, vendor="15b3", device="1017", netdevs=("enp59s0",), vfs=tuple(one.address for one in CX5)),
    function(BLUEFIELD, vendor="15b3", device="101b", netdevs=("ibp94s0",), vfs=tuple(one.address for one in IB)),
    *XL710,
    *CX5,
    *IB,
    function(PLAIN, device="10d3", driver="e1000e", netdevs=("eno1",), acpi_index="3", link_type="ether"),
    function(UNBOUND, device="154c"),
    function(FEC_PF, pci_class="120000", device="0d5c", driver="igb_uio", vfs=(PciAddress(FEC_VF),)),
    function(FEC_VF, pci_class="120000", device="0d5d", driver="vfio-pci", pf=FEC_PF, vf_index=0),
]
HOST = Inventory(functions={one.address: one for one in FUNCTIONS})


def names(functions):
    return [one.address for one in functions]


def selected(resources):
    document = json.dumps({"resourceList": resources}).encode()
    found = assign(HOST, Selection(parse(document)), {}, {})
    return [list(found.members(pool.name)) for pool in found.pools.values()]


def resource(name="r", **keys):
    return {"resourceName": name, **keys}


def test_its_example_of_three_resources_for_two_cards():
    intel = {"vendors": ["8086"], "devices": ["154c", "10ed"]}
    assert selected(
        [
            resource("netdevice", selectors={**intel, "drivers": ["iavf", "ixgbevf"]}),
            resource("dpdk", selectors={**intel, "drivers": ["vfio-pci"], "pfNames": ["enp24s0f0", "enp2s2f1"]}),
            resource("rdma", selectors={"vendors": ["15b3"], "devices": ["1018"], "drivers": ["mlx5_core"], "isRdma": True}),
        ]
    ) == [names(XL710[:2]), names(XL710[2:3]), names(CX5)]  # fmt: skip


def test_its_example_of_one_resource_of_all_cards_for_dpdk():
    mellanox = {"vendors": ["15b3"], "drivers": ["mlx5_core"], "isRdma": True}
    selectors = [
        {**mellanox, "devices": ["1016"]},
        {**mellanox, "devices": ["1018"]},
        {"vendors": ["8086"], "devices": ["154c"], "drivers": ["vfio-pci"]},
    ]
    assert selected([resource("nic", resourcePrefix="dpdk.org", selectors=selectors)]) == [names([XL710[2], *CX5])]


def test_its_examples_for_rdma_with_the_key_of_the_resource_and_that_of_the_selector():
    old = {"vendors": ["15b3"], "devices": ["1016", "1018"], "drivers": ["mlx5_ib", "mlx5_core"]}
    assert selected([resource("rdma", isRdma=True, selectors=old)]) == [names(CX5)]
    assert selected([resource("ib", isRdma=True, selectors={"linkTypes": ["infiniband"]})]) == [names(IB)]
    assert selected([resource("none", selectors={**old, "drivers": ["mlx5_ib"]})]) == [[]], (
        "no PCI driver has that name"
    )


def test_its_example_for_one_node_as_its_operator_writes_it():
    selectors = {"pfNames": ["enp24s0f0#0-1", "enp59s0#1-9"], "IsRdma": False, "NeedVhostNet": False}
    assert selected([resource("nics", selectors=selectors, SelectorObj=None)]) == [names([*XL710[:2], *CX5[1:]])]


def test_its_example_of_an_accelerator():
    selectors = {"vendors": ["8086"], "devices": ["0d5d"], "drivers": ["vfio-pci"], "pciAddresses": [FEC_VF]}
    assert selected([resource("fec", deviceType="accelerator", selectors=selectors)]) == [[FEC_VF]]
    assert selected([resource("fec", deviceType="accelerator")]) == [[FEC_VF]], "no network device, and no PF with VFs"


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("vendors", ["15b3"], names([*CX5, *IB])),
        ("devices", ["154c"], [UNBOUND, *names(XL710)]),
        ("drivers", ["igb_uio", "vfio-pci"], names(XL710[2:])),
        ("pciAddresses", [XL710[3].address, PLAIN], [PLAIN, XL710[3].address]),
        ("acpiIndexes", ["3"], [PLAIN]),
        ("pfNames", ["enp59s0#0,2"], [CX5[0].address, CX5[2].address]),
        ("rootDevices", [f"{MELLANOX}#2", BLUEFIELD], names([CX5[2], *IB])),
        ("linkTypes", ["ether"], [PLAIN, *names(CX5)]),
        ("isRdma", True, names([*CX5, *IB])),
        ("needVhostNet", True, [PLAIN, UNBOUND, *names([*XL710, *CX5, *IB])]),
    ],
)
def test_each_selector_that_it_documents_selects_the_same_devices(key, values, expected):
    assert selected([resource(selectors={key: values})]) == [sorted(expected)]


REFUSED = {"ddpProfiles": ["GTPv1-C/U IPv4/IPv6 payload"], "auxTypes": ["sf"], "pKeys": ["0x1"], "vdpaType": "virtio"}


@pytest.mark.parametrize("key", REFUSED)
def test_a_selector_that_is_not_supported_is_refused_and_not_passed_over(key):
    with pytest.raises(InvalidConfig, match=rf"resourceList\[0\].selectors\[0\].{key}: not supported yet"):
        selected([resource(selectors={key: REFUSED[key]})])


def test_subfunctions_are_refused_by_their_device_type_too():
    with pytest.raises(InvalidConfig, match=r"resourceList\[0\].deviceType: not supported yet: .* subfunctions"):
        selected([resource(deviceType="auxNetDevice", selectors={"vendors": ["15b3"]})])


def test_no_selector_that_can_be_written_is_without_a_case_here():
    cases = {mark.args[1][number][0] for mark in test_each_selector_that_it_documents_selects_the_same_devices.pytestmark for number in range(len(mark.args[1]))}  # fmt: skip
    assert cases | {*REFUSED} == {*Selectors.model_fields}
