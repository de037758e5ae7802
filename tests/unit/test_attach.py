"""Attach and detach on a host that behaves like igb: with any settings and any failure, the VF returns to the host."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, strategies as st

from cni.attachment.record import Key
from cni.errors import CniError, DeviceBusy, KernelRefused, TryAgainLater
from cni.host.vf_settings import VfSettings
from cni.log import Log
from cni.pci import PciAddress
from cni.sriov import plan
from cni.sriov.attach import attach, detach
from tests import node
from tests.fakes import HOST, FakeKernel

DEVICE = PciAddress("0000:01:10.0")
POD = "/run/netns/pod"
KEY = Key(network="net", container_id="c1", ifname="net1")
MAC = "02:00:00:00:00:42"
EVERYTHING = {key: value for key, value in node.EVERYTHING.items() if key not in ("mac", "ipam")}
SILENT = Log(level="panic", context={})


@pytest.fixture
def kernel():
    host = FakeKernel()
    host.add_netns(POD)
    return host


def planned(kernel, conf, mac):
    wanted: Any = {**conf, "mac": mac}
    return plan.plan(KEY, wanted, kernel.device(DEVICE))


def attached(kernel, conf, mac=None):
    attachment = planned(kernel, conf, mac)
    link = attach(kernel, attachment, kernel.device(DEVICE), kernel.netns(POD))
    return attachment, link


def detached(kernel, attachment):
    detach(kernel, attachment, kernel.find_netns(POD), SILENT)


def test_attach_applies_every_setting(kernel):
    _, link = attached(kernel, EVERYTHING, MAC)
    info = kernel.device(DEVICE).settings
    assert (info.vlan, info.qos, info.spoofchk, info.trust, info.max_tx_rate) == (100, 3, False, True, 500)
    assert (info.mac, link.mac, link.mtu, link.name, link.up) == (MAC, MAC, 1400, "net1", True)
    assert link.alias == "barewire 0000:01:10.0 eth1 net/c1/net1"


def test_the_mac_is_set_although_the_driver_refuses_the_vfs_own_change(kernel):
    _, link = attached(kernel, {}, MAC)
    assert link.mac == MAC
    assert kernel.devices[DEVICE].mac_set_by_pf


def test_the_pf_sets_the_mac_that_the_vf_has_already_so_that_the_pod_cannot_change_it(kernel):
    _, link = attached(kernel, {}, kernel.device(DEVICE).settings.mac)
    with pytest.raises(KernelRefused):
        kernel.change(link, kernel.netns(POD), mac="02:00:00:00:00:99")


def test_settings_that_are_so_already_are_not_sent(kernel):
    before = kernel.changes
    attached(kernel, {"vlan": 0, "spoofchk": "on", "trust": "off"})
    assert kernel.changes - before == 2  # the move and the link up


@pytest.mark.parametrize("mac", [None, MAC])
@pytest.mark.parametrize("conf", [{}, EVERYTHING, {"vlan": 5, "trust": "on"}], ids=["nothing", "everything", "trust"])
def test_detach_restores_everything(kernel, conf, mac):
    before = kernel.snapshot()
    attachment, _ = attached(kernel, conf, mac)
    detached(kernel, attachment)
    assert kernel.snapshot() == before


@pytest.mark.parametrize("mac", [None, MAC])
def test_detach_restores_what_the_pod_changed(kernel, mac):
    before = kernel.snapshot()
    attachment, link = attached(kernel, {"trust": "on"}, mac)
    pod = kernel.netns(POD)
    kernel.change(link, pod, up=False, mac="02:00:00:00:00:99", mtu=1300, alias="mine now", name="other")
    detached(kernel, attachment)
    assert kernel.snapshot() == before


def test_detach_repairs_a_vf_whose_namespace_died(kernel):
    before = kernel.snapshot()
    attachment, _ = attached(kernel, EVERYTHING, MAC)
    kernel.delete_netns(POD)
    assert kernel.link(DEVICE, None).name == "net1"
    detached(kernel, attachment)
    assert kernel.snapshot() == before


def test_detach_can_be_repeated(kernel):
    before = kernel.snapshot()
    attachment, _ = attached(kernel, EVERYTHING, MAC)
    detached(kernel, attachment)
    detached(kernel, attachment)
    assert kernel.snapshot() == before


@pytest.mark.parametrize(
    ("conf", "field"),
    [
        ({"vlan": 5, "vlanProto": "802.1ad"}, "vlan"),
        ({"vlan": 5, "link_state": "enable"}, "link_state"),
        ({"vlan": 5, "min_tx_rate": 5}, "rate"),
    ],
)
def test_a_driver_refusal_names_the_field_and_detach_undoes_what_came_before(kernel, conf, field):
    before = kernel.snapshot()
    attachment = planned(kernel, conf, MAC)
    with pytest.raises(KernelRefused, match=f"{field}.*igb.*E[A-Z]+"):
        attach(kernel, attachment, kernel.device(DEVICE), kernel.netns(POD))
    detached(kernel, attachment)
    assert kernel.snapshot() == before


def test_a_refused_mtu_is_named_although_the_link_has_moved(kernel):
    before = kernel.snapshot()
    attachment = plan.plan(KEY, {"mtu": 20_000}, kernel.device(DEVICE))
    with pytest.raises(KernelRefused, match=r"mtu 20000.*greater than device maximum"):
        attach(kernel, attachment, kernel.device(DEVICE), kernel.netns(POD))
    detached(kernel, attachment)
    assert kernel.snapshot() == before


# The order of the removal.


def info(kernel):
    return kernel.device(DEVICE).settings


@pytest.mark.parametrize("mac", [None, MAC])
def test_a_vf_that_the_pod_has_hidden_keeps_everything_that_isolates_it_until_it_is_back(kernel, mac):
    before = kernel.snapshot()
    attachment, _ = attached(kernel, EVERYTHING, mac)
    inside, pinned = info(kernel), kernel.devices[DEVICE].mac_set_by_pf
    kernel.hide(DEVICE)
    for _ in range(2):
        with pytest.raises(TryAgainLater, match="is not back on the host; its settings at the PF stay") as caught:
            detached(kernel, attachment)
        assert type(caught.value) is TryAgainLater
        assert (info(kernel), kernel.devices[DEVICE].mac_set_by_pf) == (inside, pinned)
    kernel.reveal(DEVICE)
    detached(kernel, attachment)
    assert kernel.snapshot() == before


def test_the_settings_are_those_of_the_pod_as_long_as_the_vf_is_in_it(kernel):
    """Even at each moment of a successful removal."""
    attachment, _ = attached(kernel, EVERYTHING, MAC)
    inside, seen = info(kernel), []
    for change in range(1, 30):
        kernel.refuse_from(change)
        with contextlib.suppress(CniError):
            detached(kernel, attachment)
        seen.append(kernel.devices[DEVICE].place != HOST)
        assert not seen[-1] or info(kernel) == inside, f"change {change}"
    assert seen[0]
    assert not seen[-1]


def test_a_vf_whose_driver_could_not_be_given_back_keeps_its_settings(kernel):
    before = kernel.snapshot()
    attachment, _ = attached(kernel, {"driver": "vfio-pci", "vlan": 100})
    kernel.loaded.remove("igbvf")
    with pytest.raises(TryAgainLater, match="still bound to vfio-pci; its settings at the PF stay"):
        detached(kernel, attachment)
    assert info(kernel).vlan == 100
    kernel.loaded.add("igbvf")
    with contextlib.suppress(CniError):  # a new network device has a new address
        detached(kernel, attachment)
    assert kernel.device(DEVICE).settings.vlan == before[DEVICE][0].vlan


def test_the_mark_stays_on_the_vf_while_the_pf_has_settings_of_the_pods(kernel):
    attachment, _ = attached(kernel, EVERYTHING, MAC)
    for change in range(1, 30):
        kernel.refuse_from(change)
        with contextlib.suppress(CniError):
            detached(kernel, attachment)
        marked = (kernel.devices[DEVICE].home.alias or "").startswith("barewire")
        assert marked or info(kernel).vlan == 0, f"change {change}"


@pytest.mark.parametrize("mac", [None, MAC])
@pytest.mark.parametrize("trust", ["on", "off"])
def test_a_vf_that_a_bond_of_the_pod_has_comes_back_as_it_was(kernel, mac, trust):
    before = kernel.snapshot()
    attachment, link = attached(kernel, {"trust": trust}, mac)
    kernel.enslave(link, kernel.netns(POD))
    detached(kernel, attachment)
    assert kernel.snapshot() == before


def test_a_vf_that_the_host_keeps_up_is_clean_after_the_first_removal_when_its_namespace_is_gone(kernel):
    kernel.change(kernel.link(DEVICE, None), None, up=True)
    before = kernel.snapshot()
    attachment, _ = attached(kernel, EVERYTHING, MAC)
    kernel.delete_netns(POD)
    detached(kernel, attachment)
    assert kernel.snapshot() == before


# The PF's pin of a MAC address.


def pin(kernel):
    kernel.set_vf(kernel.device(DEVICE), "mac", VfSettings(mac=info(kernel).mac))


@pytest.mark.parametrize("own", [None, "02:00:00:00:00:99"], ids=["as it was", "the pod's own"])
@pytest.mark.parametrize("mac", [None, MAC, "aa:00:00:00:00:00"], ids=["none", "another", "the same"])
def test_a_vf_that_its_pf_pinned_is_pinned_after_every_attachment(kernel, mac, own):
    pin(kernel)
    before = kernel.snapshot()
    attachment, link = attached(kernel, {"trust": "on"}, mac)
    if own:
        kernel.change(link, kernel.netns(POD), mac=own)
    detached(kernel, attachment)
    assert kernel.snapshot() == before
    with pytest.raises(KernelRefused):
        kernel.change(kernel.link(DEVICE, None), None, mac="02:00:00:00:00:98")


@pytest.mark.parametrize("own", [None, "02:00:00:00:00:99"], ids=["as it was", "the pod's own"])
def test_a_vf_that_no_pf_pinned_is_free_after_an_attachment_without_mac(kernel, own):
    attachment, link = attached(kernel, {"trust": "on"})
    if own:
        kernel.change(link, kernel.netns(POD), mac=own)
    detached(kernel, attachment)
    kernel.change(kernel.link(DEVICE, None), None, mac="02:00:00:00:00:98")


def changes_of(action) -> int:
    kernel = FakeKernel()
    kernel.add_netns(POD)
    start = kernel.changes
    action(kernel)
    return kernel.changes - start


@pytest.mark.parametrize("mac", [None, MAC])
def test_after_a_failure_at_any_change_of_attach_detach_restores_the_host(mac):
    total = changes_of(lambda kernel: attached(kernel, EVERYTHING, mac))
    for change in range(1, total + 1):
        kernel = FakeKernel()
        kernel.add_netns(POD)
        before = kernel.snapshot()
        attachment = planned(kernel, EVERYTHING, mac)
        kernel.refuse_from(change)
        with pytest.raises(CniError):
            attach(kernel, attachment, kernel.device(DEVICE), kernel.netns(POD))
        kernel.refuse_nothing()
        detached(kernel, attachment)
        assert kernel.snapshot() == before, f"change {change} of {total}"


def test_after_a_failure_at_any_change_of_detach_the_next_detach_finishes():
    def whole(kernel):
        detached(kernel, attached(kernel, EVERYTHING, MAC)[0])

    for change in range(1, changes_of(whole) + 1):
        kernel = FakeKernel()
        kernel.add_netns(POD)
        pin(kernel)
        before = kernel.snapshot()
        attachment, _ = attached(kernel, EVERYTHING, MAC)
        kernel.refuse_from(change)
        try:
            detached(kernel, attachment)
        except CniError:
            kernel.refuse_nothing()
            detached(kernel, attachment)
        assert kernel.snapshot() == before, f"change {change}"
        assert kernel.devices[DEVICE].mac_set_by_pf, f"change {change}"


CONFS = st.fixed_dictionaries(
    {},
    optional={
        "vlan": st.integers(0, 4094),
        "spoofchk": st.sampled_from(["on", "off"]),
        "trust": st.sampled_from(["on", "off"]),
        "max_tx_rate": st.integers(0, 1000),
        "mtu": st.integers(68, 9216),
    },
)


@given(conf=CONFS, mac=st.sampled_from([None, MAC]), refused=st.integers(1, 24), pinned=st.booleans())
def test_any_configuration_and_any_single_refusal_leave_the_host_as_before(conf, mac, refused, pinned):
    kernel = FakeKernel()
    kernel.add_netns(POD)
    if pinned:
        pin(kernel)
    before = kernel.snapshot()
    attachment = planned(kernel, conf, mac)
    kernel.refuse(refused)
    with contextlib.suppress(CniError):
        attach(kernel, attachment, kernel.device(DEVICE), kernel.netns(POD))
    with contextlib.suppress(CniError):
        detached(kernel, attachment)
    kernel.refuse_nothing()
    detached(kernel, attachment)
    assert kernel.snapshot() == before
    assert kernel.devices[DEVICE].mac_set_by_pf or not pinned


def test_a_vf_that_the_host_uses_is_refused(kernel):
    fake = kernel.devices[DEVICE]
    fake.link = fake.link.replace(master=7)
    with pytest.raises(DeviceBusy, match=r"eth1 of VF .* is enslaved"):
        plan.plan(KEY, {}, kernel.device(DEVICE))


def test_a_name_that_is_taken_on_the_host_meanwhile_does_not_keep_the_vf_in_the_pod(kernel):
    attachment, _ = attached(kernel, {})
    second = kernel.devices["0000:01:10.2"]
    second.link = second.link.replace(name="eth1")
    detached(kernel, attachment)
    assert kernel.link(DEVICE, None).name.startswith("dev")
