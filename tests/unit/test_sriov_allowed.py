"""A network gets only what the node configuration permits, and all violations are reported at once."""

from __future__ import annotations

import pytest

from cni.errors import InvalidConfig
from cni.node.node import DevicePolicy
from tests.fakes import NIC
from tests.node import VF0, Node

STRICT = DevicePolicy(drivers=("vfio-pci",), pfs=("eth0",), pf_only=False, by_pf=False, promisc=False)
MINE = {"driver": "vfio-pci", "vlan": 7}


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


@pytest.mark.parametrize(
    ("policy", "conf", "reported"),
    [
        ({"drivers": ()}, {"driver": "vfio-pci"}, 'driver: the node configuration does not allow "vfio-pci"'),
        ({"drivers": ("vfio-pci",)}, {"dpdk": {"dpdk_driver": "igb_uio"}}, "dpdk.dpdk_driver: the node conf"),
        (
            {"drivers": ("vfio-pci",)},
            {"dpdk": {"dpdk_driver": "vfio-pci", "kernel_driver": "sfc"}},
            "dpdk.kernel_driver: the node conf",
        ),
        ({"pf_only": False}, {"pfOnly": True}, "pfOnly: the node configuration does not allow to attach a whole PF"),
        ({"by_pf": False}, {"device": None, "master": "eth0"}, "master: the node configuration does not allow"),
        ({"by_pf": False}, {"device": None, "if0": "eth0", "vf": 1}, "if0: the node configuration does not allow"),
        ({"promisc": False}, {"promisc": "on", "trust": "on"}, "promisc: the node configuration does not allow it"),
        ({"promisc": False}, {"allmulticast": "on", "trust": "on"}, "allmulticast: the node configuration does not"),
        ({"pfs": ("eth1",)}, {}, "the node configuration does not allow VF 0000:01:10.0 (PF eth0, 0000:01:00.0)"),
        ({"pfs": ()}, {"device": None, "master": "eth0"}, "the node configuration does not allow PF 0000:01:00.0"),
        ({"pfs": ("eth0",)}, {"device": NIC}, "the node configuration does not allow device 0000:03:00.0 (PF nic0"),
    ],
)
def test_a_request_beyond_the_limits_of_the_node_is_refused_and_names_the_file_of_the_limits(
    node, policy, conf, reported
):
    node.policy = DevicePolicy(**policy)
    with pytest.raises(InvalidConfig) as refused:
        node.add(**conf)
    assert reported in refused.value.msg
    assert "/etc/barewire/node.json" in refused.value.hint
    node.assert_as_before()
    assert node.kernel.changes == 0


def test_all_requests_beyond_the_limits_are_reported_at_once_with_every_other_problem(node):
    node.policy = STRICT
    with pytest.raises(InvalidConfig) as refused:
        node.add(device=None, master="eth0", driver="igbvf", pfOnly=True, promisc="on", vlan=4095, mtu="big")
    for path in ("master", "driver", "pfOnly", "promisc", "vlan", "mtu"):
        assert f"{path}: " in refused.value.msg, path


@pytest.mark.parametrize("pf", ["eth0", "0000:01:00.0"])
def test_what_the_node_allows_is_attached(node, pf):
    node.policy = STRICT.replace(pfs=(pf,))
    node.add(**MINE)
    node.delete(**MINE)
    assert node.files() == []
    node.policy = STRICT.replace(pfs=(pf,), by_pf=True)
    node.add(device=None, master="eth0")


def test_a_device_of_the_runtime_may_come_with_the_name_of_its_pf(node):
    """Controllers write both; the device plugin has chosen."""
    node.policy = STRICT
    node.add(device=VF0, master="eth0")


def test_an_attachment_from_before_the_limits_is_checked_and_deleted(node):
    conf = {"driver": "vfio-pci", "trust": "on"}
    node.add(**conf)
    node.policy = DevicePolicy(drivers=(), pfs=(), pf_only=False, by_pf=False, promisc=False)
    node.plugin().check(node.request("CHECK", prevResult={"cniVersion": "1.0.0", "interfaces": []}, **conf))
    node.delete(**conf)
    assert node.files() == []


def test_gc_collects_attachments_from_before_the_limits(node):
    node.add(promisc="on", trust="on")
    node.policy = DevicePolicy(drivers=(), pfs=(), promisc=False)
    node.plugin().gc(node.request("GC", version="1.1.0", **{"cni.dev/valid-attachments": []}))
    node.assert_as_before()
