"""Settings that igb refuses, tested on exchanges recorded from real kernel drivers (`tests/contract/exchanges`).

The lab's card is an emulated igb, which has no link states, no 802.1ad, no minimum rates and no switchdev mode.
netdevsim, the kernel's simulated card, has all of them. It is not a PCI device, so the plugin cannot find it by an
address; these tests are at the level of the codec and `RouteSocket`: the requests of `HostKernel.set_vf`, and the
values read back. `tests/lab/test_netdevsim.py` requires that a live kernel still responds as recorded.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from pyroute2.netlink import nlmsgerr
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from cni.host import links, netlink as nl
from cni.host.vf_settings import LINK_STATES, VLAN_PROTOCOLS, reported
from tests.contract.exchanges import cases, tape
from tests.contract.exchanges.cases import Case, Outcome
from tests.contract.exchanges.tape import Recording

GROUPS = {"netdevsim-legacy": cases.LEGACY, "netdevsim-switchdev": cases.SWITCHDEV, "igb": cases.IGB}
RECORDED = {name: tape.load(name) for name in GROUPS}
MANY = tape.load("netdevsim-many")
# netdevsim reports 0 for a VF that never had a VLAN.
PROTOCOLS = {0: "802.1q"} | {number: name for name, number in VLAN_PROTOCOLS.items()}


def each(wanted: Callable[[Case], bool] = lambda _case: True) -> Any:
    """Runs a test for each case, named after the driver from which it was recorded."""
    named = [
        pytest.param(RECORDED[name], case, id=f"{name}: {case.asked}")
        for name, group in GROUPS.items()
        for case in group
        if wanted(case)
    ]
    return pytest.mark.parametrize(("recording", "case"), named)


def play(recording: Recording, case: Case) -> Outcome:
    """Fails if our requests are not, byte for byte, those that the kernel received."""
    with tape.played(recording.exchanges[case.asked]) as socket:
        return cases.perform(socket, recording.pf, case)


def decoded(kind: type, message: bytes) -> Any:
    """The message as pyroute2 reads it."""
    read = kind(message)
    read.decode()
    return read


SWITCHES = (
    ("spoofchk", "IFLA_VF_SPOOFCHK", "spoofchk"),
    ("trust", "IFLA_VF_TRUST", "trust"),
    ("query_rss", "IFLA_VF_RSS_QUERY_EN", "rss_query_en"),
)
"""(Our name, pyroute2's name of the attribute, and of its value)."""


def said_by_pyroute2(info: Any) -> dict[str, Any]:
    """The values of one IFLA_VF_INFO, in the terms of our decoder."""
    said: dict[str, Any] = {}
    if mac := info.get_attr("IFLA_VF_MAC"):
        said["mac"] = mac["mac"][:17]
    if vlan := info.get_attr("IFLA_VF_VLAN"):
        said |= {"vlan": vlan["vlan"], "qos": vlan["qos"]}
    if vlans := info.get_attr("IFLA_VF_VLAN_LIST"):
        vlan = vlans.get_attr("IFLA_VF_VLAN_INFO")
        said |= {"vlan": vlan["vlan"], "qos": vlan["qos"], "proto": PROTOCOLS[vlan["proto"]]}
    if rate := info.get_attr("IFLA_VF_RATE"):
        said |= {"min_tx_rate": rate["min_tx_rate"], "max_tx_rate": rate["max_tx_rate"]}
    if state := info.get_attr("IFLA_VF_LINK_STATE"):
        said["link_state"] = LINK_STATES[state["link_state"]]
    for name, kind, field in SWITCHES:
        if setting := info.get_attr(kind):
            said[name] = bool(setting[field]) if setting[field] <= 1 else None
    return said


def vf_infos(message: Any) -> list[Any]:
    return [info for kind, info in message.get_attr("IFLA_VFINFO_LIST")["attrs"] if kind == "IFLA_VF_INFO"]


@each()
def test_recorded_settings_are_requested_in_our_bytes_and_answered_as_expected(recording, case):
    assert play(recording, case).refused == case.refused


@each(lambda case: not case.refused)
def test_recorded_answers_read_as_what_was_set(recording, case):
    (vf,) = [vf for vf in play(recording, case).vfs if vf.index == case.vf]
    assert {name: getattr(vf, name) for name in case.asks} == case.asks


@pytest.mark.parametrize("name", GROUPS)
def test_recorded_refusals_leave_every_vf_as_it_was(name):
    outcomes = [play(RECORDED[name], case) for case in GROUPS[name]]
    refused = [(before, after) for before, after in pairwise(outcomes) if after.refused]
    assert refused
    assert all(before.vfs == after.vfs for before, after in refused)


@each()
def test_recorded_requests_mean_the_same_to_pyroute2(recording, case):
    request = decoded(ifinfmsg, recording.exchanges[case.asked][0].request)
    (info,) = vf_infos(request)
    assert (request["header"]["type"], request["index"]) == (nl.RTM_SETLINK, recording.pf)
    assert said_by_pyroute2(info) == case.asks
    assert {setting["vf"] for setting in _settings(info)} == {case.vf}


def _settings(info: Any) -> list[Any]:
    vlans = info.get_attr("IFLA_VF_VLAN_LIST")
    return [setting for _, setting in (vlans or info)["attrs"]]


@each()
def test_recorded_answers_mean_the_same_to_pyroute2(recording, case):
    changed, looked = recording.exchanges[case.asked]
    acknowledgement = decoded(nlmsgerr, changed.replies[0])
    assert (acknowledgement["header"]["type"], -acknowledgement["error"]) == (nl.NLMSG_ERROR, case.refused)
    link = decoded(ifinfmsg, looked.replies[0])
    ours = play(recording, case).pf
    assert (link["index"], link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_MTU")) == (ours.index, ours.name, ours.mtu)
    fields = said_by_pyroute2(vf_infos(link)[0])
    assert [said_by_pyroute2(info) for info in vf_infos(link)] == [
        {name: getattr(vf, name) for name in fields} for vf in reported(ours)
    ]


def test_the_recordings_hold_what_igb_refuses_and_netdevsim_takes():
    """Without such cases the parametrized tests would prove nothing."""
    refused = {next(iter(case.asks)): case.refused for case in cases.IGB}
    assert refused == {
        "query_rss": errno.EOPNOTSUPP,
        "link_state": errno.EOPNOTSUPP,
        "vlan": errno.EPROTONOSUPPORT,
        "min_tx_rate": errno.EINVAL,
    }
    taken = [case.asks for case in cases.LEGACY if not case.refused]
    assert {asks["link_state"] for asks in taken if "link_state" in asks} == set(LINK_STATES)
    assert {asks["proto"] for asks in taken if "proto" in asks} == set(VLAN_PROTOCOLS)
    assert any(asks.get("min_tx_rate") for asks in taken)


@pytest.mark.parametrize("number", cases.MANY)
def test_lists_of_many_vfs_recorded_from_netdevsim_are_read_whole(number):
    with tape.played(MANY.exchanges[f"{number} VFs"]) as socket:
        link = links.by_index(socket, MANY.pf, with_vfs=True)
    assert link is not None
    assert [(vf.index, vf.mac, vf.vlan, vf.qos) for vf in reported(link)] == [
        (vf, cases.mac_of(vf), vf, vf % 8) for vf in range(number)
    ]
    assert link.altnames == (cases.ALTNAME,)
    assert (link.mtu, link.flags & nl.IFF_UP) == (1500, 0)


@pytest.mark.parametrize("number", cases.MANY)
def test_lists_of_many_vfs_recorded_from_netdevsim_declare_a_wrapped_length(number):
    """This shows that the tests above cover it: a VF of netdevsim takes 196 bytes, so 16 bits suffice for 334 VFs."""
    (answer,) = nl.messages(MANY.exchanges[f"{number} VFs"][0].replies[0])
    start = answer.body.index(nl.u32(nl.IFLA_NUM_VF, number)) + 8
    declared, kind = struct.unpack_from("=HH", answer.body, start)
    assert kind == nl.IFLA_VFINFO_LIST
    assert declared == (4 + 196 * number) & 0xFFFF
    assert (declared < 4 + 196 * number) == (number >= 335)
