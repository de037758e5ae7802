"""Plugin, sidecar, libvirt and vswitch together: guests in the layout of virt-launcher pods reach each other.

The machine and its network are examples for users. The frozen plugin makes the port before the pod's containers start,
the frozen sidecar changes the domain twice, and libvirt starts it as the pod's user. Two CPUs without KVM take 20 s for
a test.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import Any

import pytest

from kubevirt.podnames import hashed
from tests.cli.program import from_bundle
from tests.examples import EXAMPLES, manifest, network
from tests.ovs.domain import Domain, Interface
from tests.ovs.launcher_pod import SOCKETS, USER, LauncherPod
from tests.ovs.node import Node

VMI, NETWORK = EXAMPLES / "vmi-userspace-ovs-net-1.yaml", EXAMPLES / "nad-userspace-ovs-net-1.yaml"
IFNAME = hashed("vhost-net-1")
"""The name in the pod of the machine's second interface."""
ADDRESSES = ("10.9.0.1", "10.9.0.2", "10.9.0.3")
VLANS = (100, 100, 200)
VSWITCH_USER = 991
QUEUES = list(product((1, 2), repeat=3)) if os.environ.get("BAREWIRE_MATRIX") else [(1, 2, 1)]
"""Pairs of queues of the three guests."""


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """An ovs-vswitchd that is not root needs the access that the plugin gives to it; one that is root needs less."""
    with Node(from_bundle("userspace"), vswitch_user=VSWITCH_USER) as node:
        yield node


def conf(vlan: int) -> dict[str, Any]:
    """The example's network, in a VLAN."""
    conflist = network(NETWORK)
    (plugin,) = conflist["plugins"]
    return {**plugin, "cniVersion": conflist["cniVersion"], "name": conflist["name"], "vlan": vlan}


def machine(number: int, queues: int) -> tuple[dict[str, Any], str]:
    """The example's machine, as one of several, and the name of its second interface."""
    vmi = manifest(VMI)
    vmi["metadata"]["name"] = f"vm-{number}"
    vmi["spec"]["domain"]["cpu"]["cores"] = queues
    vmi["spec"]["domain"]["devices"]["networkInterfaceMultiqueue"] = queues > 1
    _default, dataplane = vmi["spec"]["domain"]["devices"]["interfaces"]
    return vmi, dataplane["name"]


@contextmanager
def guest(node: Node, program: list[str], number: int, queues: int) -> Iterator[tuple[Domain, LauncherPod]]:
    """A running machine, from its pod's start to its end."""
    vmi, name = machine(number, queues)
    address = f"{ADDRESSES[number]}/24"
    interface = Interface("", f"{SOCKETS}/{IFNAME}", IFNAME, name, queues=queues, address=address)
    with LauncherPod(node) as pod:
        node.add(conf(VLANS[number]), pod.pod, IFNAME)
        pod.start(program, CONTAINER_NAME="hook-sidecar-0", NETWORK_BINDING_PLUGIN_NAME="vhostuser")
        with Domain(f"vm{number}", [interface], within=pod.within, hook=pod.hook(vmi), user=USER) as domain:
            assert pod.seen(f"{SOCKETS}/{IFNAME}").stat().st_uid == USER, "QEMU has made it"
            yield domain, pod
    node.delete(conf(VLANS[number]), pod.pod, IFNAME)


@pytest.mark.parametrize("queues", QUEUES)
def test_guests_of_one_vlan_reach_each_other_also_after_the_vswitch_or_a_guest_was_started_again(node, program, queues):
    with ExitStack() as stack:
        pairs = [stack.enter_context(guest(node, program, number, count)) for number, count in enumerate(queues)]
        (one, _pod), (two, pod), (other, others_pod) = pairs
        other.await_link()
        assert [each.link().queues for each, _pod in pairs] == list(queues)
        assert one.reaches(ADDRESSES[1])
        assert one.ping(ADDRESSES[1]) == 3
        assert (one.ping(ADDRESSES[2], 1), other.ping(ADDRESSES[0], 1)) == (0, 0)
        node.daemon.kill("ovs-vswitchd")
        one.await_link(up=False)
        node.daemon.start_vswitchd()
        assert one.reaches(ADDRESSES[1], seconds=30)
        two.reset()
        assert one.reaches(ADDRESSES[1], seconds=30)
        assert two.link().queues == queues[1]
        assert (one.ping(ADDRESSES[2], 1), other.ping(ADDRESSES[0], 1)) == (0, 0)
        # Only the VLAN separates the third guest, whose network works.
        node.daemon.vsctl("set", "Port", others_pod.port(IFNAME), f"tag={VLANS[0]}")
        assert other.reaches(ADDRESSES[0])
        # As Multus removes an interface from a running pod.
        node.delete(conf(VLANS[1]), pod.pod, IFNAME)
        two.await_link(up=False)
        assert not pod.seen(f"{SOCKETS}/{IFNAME}").exists()
        assert one.link().up
