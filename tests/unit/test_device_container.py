"""The environment and nodes that a container gets with its devices, and the conditions for an unhealthy device."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from cni.pci import PciAddress
from deviceplugin import cdi
from deviceplugin.container import Given, contents, info_document, info_file
from deviceplugin.function import Function, Inventory
from deviceplugin.offer import ailments
from deviceplugin.pool import Pool, Selector
from deviceplugin.server import socket_name

VF, MATE = "0000:01:10.0", "0000:01:10.1"
NODES = frozenset(("/dev/vfio/vfio", "/dev/vfio/7"))


def function(address=VF, **fields):
    described: Any = {
        "pci_class": "020000",
        "vendor": "8086",
        "device": "154c",
        "driver": "vfio-pci",
        "group": "7",
    } | fields
    return Function(address=PciAddress(address), **described)


def given(pool, nodes=NODES, **fields):
    one = function(**fields)
    return contents(pool, (Given(function=one, selector=pool.selectors[0]),), nodes)


def paths(found):
    return [(node.host, node.container) for node in found.nodes]


POOL = Pool(name="intel.com/sriov-a")


def test_vfio_users_get_the_container_and_the_group():
    assert paths(given(POOL)) == [("/dev/vfio/vfio", "/dev/vfio/vfio"), ("/dev/vfio/7", "/dev/vfio/7")]


def test_without_an_iommu_the_group_has_the_name_that_users_look_for():
    nodes = frozenset(("/dev/vfio/vfio", "/dev/vfio/noiommu-7"))
    assert paths(given(POOL, nodes))[1] == ("/dev/vfio/noiommu-7", "/dev/vfio/7")


def test_the_device_of_its_own_comes_with_iommufd_only():
    cdev = "/dev/vfio/devices/vfio3"
    assert len(given(POOL, NODES | {cdev}, vfio="vfio3").nodes) == 2
    assert paths(given(POOL, NODES | {cdev, "/dev/iommu"}, vfio="vfio3"))[2:] == [(cdev, cdev), ("/dev/iommu",) * 2]


def test_a_network_driver_has_no_device_nodes_and_uio_has_one():
    assert given(POOL, driver="iavf", group="").nodes == ()
    assert paths(given(POOL, driver="igb_uio", uio="uio2")) == [("/dev/uio2", "/dev/uio2")]


def test_rdma_and_vhost_nodes_come_with_the_selector_that_says_so():
    pool = Pool(name="intel.com/r", selectors=(Selector(rdma=True, vhost_net=True),))
    rdma = ("/dev/infiniband/uverbs2", "/dev/infiniband/umad2", "/dev/infiniband/rdma_cm")
    nodes = frozenset((*rdma, "/dev/vhost-net", "/dev/net/tun"))
    found = given(pool, nodes, driver="mlx5_core", rdma=("mlx5_2",), rdma_nodes=("uverbs2", "umad2", "issm2"))
    assert [host for host, _ in paths(found)] == [*rdma, "/dev/vhost-net", "/dev/net/tun"]
    assert json.loads(found.environment["PCIDEVICE_INTEL_COM_R_INFO"])[VF] == {
        "generic": {"deviceID": VF},
        "rdma": {"uverbs": rdma[0], "umad": rdma[1], "rdma_cm": rdma[2], "rdma_dev": "mlx5_2"},
        "vhost": {"net-mount": "/dev/vhost-net", "tun-mount": "/dev/net/tun"},
    }
    document = info_document(Given(function=function(pf="0000:01:00.0", rdma=("mlx5_2",)), selector=pool.selectors[0]))
    assert document["pci"] == {
        "pci-address": VF,
        "pf-pci-address": "0000:01:00.0",
        "rdma-device": "mlx5_2",
        "vhost-net": "/dev/vhost-net",
    }


def test_additional_information_of_a_device_beats_that_of_all():
    pool = Pool(name="intel.com/r", extra={"*": {"rack": "1", "token": "a"}, VF: {"token": "b"}})
    info = json.loads(given(pool).environment["PCIDEVICE_INTEL_COM_R_INFO"])
    assert info[VF]["extra"] == {"rack": "1", "token": "b"}


def test_a_cdi_file_has_a_version_that_allows_its_names_and_a_kind_that_no_other_resource_has():
    nodes = given(POOL, NODES - {"/dev/vfio/7"} | {"/dev/vfio/noiommu-7"}).nodes
    assert cdi.document(POOL.name, {VF: nodes}) == {
        "cdiVersion": "0.5.0",
        "kind": "node.barewire/barewire-intel-com-sriov-a-75dc046c",
        "devices": [
            {
                "name": VF,
                "containerEdits": {
                    "deviceNodes": [
                        {"path": "/dev/vfio/vfio", "hostPath": "/dev/vfio/vfio", "permissions": "rw"},
                        {"path": "/dev/vfio/7", "hostPath": "/dev/vfio/noiommu-7", "permissions": "rw"},
                    ]
                },
            }
        ],
    }
    kinds = {cdi.document(name, {})["kind"] for name in ("intel.com/a.b", "intel.com/a-b", "intel.com/" + "x" * 63)}
    assert len(kinds) == 3
    assert all(re.fullmatch("[a-z][a-z0-9.]*/[a-z][a-z0-9-]{0,61}[a-z0-9]", kind) for kind in kinds)
    assert cdi.qualified("a.b/c", VF) == f"{cdi.document('a.b/c', {})['kind']}={VF}"


def test_the_info_file_has_the_name_that_multus_makes():
    assert info_file("intel.com/sriov", VF) == f"intel.com-sriov-{VF}-device.json"


def test_names_of_sockets_are_short_and_differ_where_resources_do():
    long = ["intel.com/" + "x" * 60 + end for end in "ab"]
    names = {socket_name(resource) for resource in ("intel.com/a.b", "intel.com/a-b", "intel.com/A-b", *long)}
    assert len(names) == 5
    assert max(map(len, names)) < 60


def ailing(pool=POOL, held=None, nodes=NODES, mates=(), **fields):
    one = function(**fields)
    host = Inventory(functions={one.address: one, **{mate.address: mate for mate in mates}})
    return ailments(one, pool, host, held or {}, nodes)


@pytest.mark.parametrize(
    ("told", "case"),
    [
        ("it is in no IOMMU group: switch the IOMMU on", {"group": ""}),
        ("/dev/vfio/7 is missing", {"nodes": frozenset()}),
        ("it has no driver", {"driver": ""}),
        ("0000:01:10.1 of its IOMMU group is held (x.y/z)", {"mates": (function(MATE),), "held": {MATE: "x.y/z"}}),
        ("not viable: 0000:01:10.1 is bound to igbvf", {"mates": (function(MATE, driver="igbvf"),)}),
        ("its PF eth0 has no link", {"pool": Pool(name="a.b/c", needs_link=True), "pf": "p", "pf_name": "eth0", "carrier": False}),
        ("its driver is iavf, not vfio-pci", {"pool": Pool(name="a.b/c", driver="vfio-pci"), "driver": "iavf", "held": {VF: "a.b/c"}}),
    ],
)  # fmt: skip
def test_a_device_is_unhealthy_for_a_reason(told, case):
    assert told in "; ".join(ailing(**case))


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"mates": (function(MATE, driver=""), function("0000:00:1c.0", pci_class="060400", driver="pcieport"))},
        {"mates": (function(MATE, driver="igbvf"),), "pool": Pool(name="a.b/c", groups="single")},
        {"mates": (function(MATE),), "held": {MATE: "x.y/z"}, "pool": Pool(name="a.b/c", groups="single")},
        {"mates": (function(MATE),), "held": {VF: "x.y/z", MATE: "x.y/z"}},
        {"group": "", "pool": Pool(name="a.b/c", groups="unsafe")},
        {"driver": "iavf", "nodes": frozenset()},
        {"driver": "iavf", "pool": Pool(name="a.b/c", driver="vfio-pci"), "nodes": frozenset()},
        {"carrier": False},
    ],
)
def test_a_device_is_healthy_where_nothing_speaks_against_it(case):
    assert ailing(**case) == []
