"""What is sent to a PF, and what is sent instead when its driver refuses."""

from __future__ import annotations

import errno

import pytest

from cni.device import Device, VfSettings
from cni.errors import KernelRefused
from cni.host import netlink as nl
from cni.host.kernel import HostKernel
from cni.host.rtnetlink import NetlinkError
from cni.log import Log
from cni.pci import PciAddress

VF = Device(
    address=PciAddress("0000:01:10.0"),
    driver="igbvf",
    settings=nl.VfInfo(index=3),
    link=None,
    index=3,
    pf="0000:01:00.0",
    pf_name="eth0",
    pf_index=7,
    pf_driver="be2net",
)


class OldDriver:
    """A PF whose driver refuses the list of VLANs with tag protocols, with the given errno."""

    def __init__(self, number):
        self.number = number
        self.sent = []

    def change(self, kind, body, flags=0):
        self.sent.append(body)
        if body == nl.vf_body(7, nl.vf_vlan(3, 100, 2, "802.1q")) or b"\x88\xa8" in body:
            raise NetlinkError(self.number)


def kernel_with(socket):
    kernel = HostKernel(Log({}, level="panic"))
    kernel._sockets[""] = socket
    return kernel


def test_a_driver_without_tag_protocols_gets_the_plain_vlan_attribute():
    socket = OldDriver(errno.EPROTONOSUPPORT)
    kernel_with(socket).set_vf(VF, "vlan", VfSettings(vlan=100, qos=2, proto="802.1q"))
    assert socket.sent[1:] == [nl.vf_body(7, nl.vf_plain_vlan(3, 100, 2))]


def test_a_tag_protocol_that_the_driver_does_not_know_is_refused():
    socket = OldDriver(errno.EPROTONOSUPPORT)
    with pytest.raises(KernelRefused, match=r"802\.1ad"):
        kernel_with(socket).set_vf(VF, "vlan", VfSettings(vlan=100, qos=2, proto="802.1ad"))
    assert len(socket.sent) == 1


def test_any_other_refusal_of_a_vlan_is_final():
    socket = OldDriver(errno.EINVAL)
    with pytest.raises(KernelRefused, match="EINVAL"):
        kernel_with(socket).set_vf(VF, "vlan", VfSettings(vlan=100, qos=2, proto="802.1q"))
    assert len(socket.sent) == 1
