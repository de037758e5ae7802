"""Requests to a PF, their alternatives if its driver refuses them, and repetitions if its driver resets the VF."""

from __future__ import annotations

import errno

import pytest

from cni.errors import KernelRefused, TryAgainLater
from cni.host import netlink as nl
from cni.host.device import Device
from cni.host.kernel import HostKernel
from cni.host.resets import CALL_SECONDS, RESET_SECONDS, Resets
from cni.host.rtnetlink import NetlinkError
from cni.host.sysfs import Sysfs
from cni.host.vf_settings import SETTINGS, VfInfo, VfSettings
from cni.log import Log
from cni.pci import PciAddress
from tests.fakes import PF, FakeClock, ResettingPf

VF = Device(
    address=PciAddress("0000:01:10.0"),
    driver="igbvf",
    settings=VfInfo(index=3),
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
        if body == nl.vf_body(7, SETTINGS["vlan"].encode(3, 100, 2, "802.1q")) or b"\x88\xa8" in body:
            raise NetlinkError(self.number)


def kernel_with(socket, clock=None, sysfs=None):
    resets = Resets(clock, clock.sleep) if clock else None
    kernel = HostKernel(Log({}, level="panic"), sysfs, resets)
    kernel._sockets[""] = socket
    return kernel


def test_a_driver_without_tag_protocols_gets_the_plain_vlan_attribute():
    socket = OldDriver(errno.EPROTONOSUPPORT)
    kernel_with(socket).set_vf(VF, "vlan", VfSettings(vlan=100, qos=2, proto="802.1q"))
    assert socket.sent[1:] == [nl.vf_body(7, SETTINGS["vlan"].older(3, 100, 2, "802.1q"))]


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


# Drivers that reset the VF after each setting.

PASSING = [errno.EAGAIN, errno.EBUSY]


@pytest.mark.parametrize("number", PASSING)
def test_a_setting_is_sent_again_until_the_driver_has_finished_its_reset(number):
    clock = FakeClock()
    pf = ResettingPf(clock, 2.0, number=number)
    kernel = kernel_with(pf, clock)
    for setting, wanted in (("vlan", VfSettings(vlan=5)), ("trust", VfSettings(trust=True))):
        kernel.set_vf(VF, setting, wanted)
    assert len(pf.taken) == 2
    assert 2.0 <= clock.now < 2.2


@pytest.mark.parametrize("number", PASSING)
def test_a_reset_that_does_not_end_is_awaited_for_some_seconds_and_ends_as_try_again_later(number):
    clock = FakeClock()
    kernel = kernel_with(ResettingPf(clock, 1e9, number=number), clock)
    kernel.set_vf(VF, "trust", VfSettings(trust=True))
    with pytest.raises(
        TryAgainLater, match=r"trust on of VF 3: driver be2net of PF eth0 refused: E\w+.*still in reset"
    ):
        kernel.set_vf(VF, "trust", VfSettings(trust=True))
    assert RESET_SECONDS <= clock.now < RESET_SECONDS + 0.2


def test_a_network_device_whose_driver_is_busy_with_the_reset_is_set_up_after_it():
    clock = FakeClock()
    pf = ResettingPf(clock, 2.0, number=errno.EBUSY)
    kernel = kernel_with(pf, clock)
    kernel.set_vf(VF, "trust", VfSettings(trust=True))
    kernel.change(nl.Link(index=9, name="eth9", flags=0), None, up=True)
    assert len(pf.taken) == 2


def test_all_resets_of_a_call_together_have_a_bound():
    clock = FakeClock()
    kernel = kernel_with(ResettingPf(clock, 1e9), clock)
    kernel.set_vf(VF, "trust", VfSettings(trust=True))
    for _ in range(20):
        with pytest.raises(TryAgainLater):
            kernel.set_vf(VF, "trust", VfSettings(trust=True))
    assert clock.now < CALL_SECONDS + 0.2


@pytest.fixture
def sysfs(tmp_path):
    pf, vf = tmp_path / "bus/pci/devices" / PF, tmp_path / "bus/pci/devices" / VF.address
    (pf / "net/eth0").mkdir(parents=True)
    vf.mkdir()
    (pf / "virtfn0").symlink_to(vf)
    (vf / "physfn").symlink_to(pf)
    return Sysfs(str(tmp_path))


def test_a_vf_that_its_pf_does_not_report_during_a_reset_is_looked_at_again(sysfs):
    clock = FakeClock()
    pf = ResettingPf(clock, 2.0)
    kernel = kernel_with(pf, clock, sysfs)
    kernel.set_vf(VF, "trust", VfSettings(trust=True))
    assert kernel.device(VF.address).settings.vlan == 7
    assert 2.0 <= clock.now < 2.2


def test_a_vf_that_its_pf_never_reports_is_named_with_what_to_look_at(sysfs):
    clock = FakeClock()
    pf = ResettingPf(clock, 1e9)
    kernel = kernel_with(pf, clock, sysfs)
    kernel.set_vf(VF, "trust", VfSettings(trust=True))
    with pytest.raises(TryAgainLater, match=r"does not report VF 0") as caught:
        kernel.device(VF.address)
    assert "ip link show eth0" in caught.value.hint
