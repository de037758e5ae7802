"""The requests that real kernel drivers received, and what our decoder must read in their responses.

This also runs in the lab's guest, where the exchanges are recorded: only the product's codec is imported.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Any

from cni.host import links, netlink as nl
from cni.host.rtnetlink import NetlinkError, RouteSocket
from cni.host.vf_settings import LINK_STATES, SETTINGS, VfInfo, reported

VFS = 3


@dataclass(frozen=True)
class Case:
    """One setting of one VF: our request, its meaning in terms of our decoder, and the kernel's errno or 0."""

    asked: str
    vf: int
    setting: bytes
    asks: dict[str, Any]
    refused: int


@dataclass(frozen=True)
class Outcome:
    """The kernel's response, as our codec reads it."""

    refused: int
    words: str
    pf: nl.Link

    @property
    def vfs(self) -> list[VfInfo]:
        return list(reported(self.pf))


def perform(socket: RouteSocket, pf: int, case: Case) -> Outcome:
    """Requests the setting, then the PF and its VFs."""
    refused, words = 0, ""
    try:
        socket.change(nl.RTM_SETLINK, nl.vf_body(pf, case.setting))
    except NetlinkError as error:
        refused, words = error.errno or 0, error.words
    return Outcome(refused, words, look(socket, pf))


def look(socket: RouteSocket, pf: int) -> nl.Link:
    link = links.by_index(socket, pf, with_vfs=True)
    assert link is not None
    return link


def _case(vf: int, setting: bytes, refused: int, **asks: Any) -> Case:
    words = " ".join(f"{name} {value}" for name, value in asks.items())
    return Case(f"{words} of VF {vf}", vf, setting, asks, refused)


def _link_state(vf: int, state: str, refused: int = 0) -> Case:
    return _case(vf, SETTINGS["link_state"].encode(vf, state), refused, link_state=state)


def _vlan(vf: int, vlan: int, qos: int, proto: str, refused: int = 0) -> Case:
    return _case(vf, SETTINGS["vlan"].encode(vf, vlan, qos, proto), refused, vlan=vlan, qos=qos, proto=proto)


def _plain_vlan(vf: int, vlan: int, qos: int) -> Case:
    return _case(vf, SETTINGS["vlan"].older(vf, vlan, qos, "802.1q"), 0, vlan=vlan, qos=qos)


def _rate(vf: int, minimum: int, maximum: int, refused: int = 0) -> Case:
    return _case(vf, SETTINGS["rate"].encode(vf, minimum, maximum), refused, min_tx_rate=minimum, max_tx_rate=maximum)


def _trust(vf: int, enabled: bool) -> Case:
    return _case(vf, SETTINGS["trust"].encode(vf, enabled), 0, trust=enabled)


def _spoofchk(vf: int, enabled: bool) -> Case:
    return _case(vf, SETTINGS["spoofchk"].encode(vf, enabled), 0, spoofchk=enabled)


def _query_rss(vf: int, enabled: bool, refused: int = 0) -> Case:
    return _case(vf, SETTINGS["query_rss"].encode(vf, enabled), refused, query_rss=enabled)


def _mac(vf: int, mac: str, refused: int = 0) -> Case:
    return _case(vf, SETTINGS["mac"].encode(vf, mac), refused, mac=mac)


LEGACY = (
    *(_link_state(vf, state) for vf, state in ((0, "enable"), (1, "disable"), (0, "disable"), (0, "auto"))),
    *(_vlan(0, 100, 5, "802.1ad"), _vlan(1, 7, 0, "802.1q"), _vlan(2, 4094, 7, "802.1ad"), _vlan(0, 0, 0, "802.1q")),
    *(_plain_vlan(2, 9, 1), _plain_vlan(2, 0, 0)),
    # netdevsim keeps 16 bits of a rate.
    *(_rate(0, 100, 1000), _rate(1, 0, 500), _rate(2, 40000, 65535), _rate(0, 0, 0)),
    *(_trust(2, True), _trust(2, False), _spoofchk(1, True), _spoofchk(1, False)),
    *(_query_rss(1, True), _query_rss(1, False)),
    *(_mac(1, "02:00:00:00:00:07"), _mac(1, "00:00:00:00:00:00")),
    _mac(1, "01:00:5e:00:00:01", errno.EINVAL),
    _vlan(1, 4096, 0, "802.1q", errno.EINVAL),
    _rate(1, 1000, 100, errno.EINVAL),
    _link_state(VFS, "enable", errno.EINVAL),
    _rate(VFS, 0, 100, errno.EINVAL),
)
"""The settings that netdevsim accepts and refuses while its embedded switch is not visible."""

SWITCHDEV = (
    _link_state(0, "enable"),
    _vlan(1, 200, 3, "802.1ad"),
    _mac(2, "02:00:00:00:00:08"),
    _trust(0, True),
    _rate(1, 0, 100, errno.EOPNOTSUPP),
)
"""The same in switchdev mode, where rates belong to the representors."""

IGB = (
    _query_rss(0, True, errno.EOPNOTSUPP),
    *(_link_state(0, state, errno.EOPNOTSUPP) for state in LINK_STATES),
    _vlan(0, 100, 0, "802.1ad", errno.EPROTONOSUPPORT),
    _rate(0, 100, 1000, errno.EINVAL),
)
"""The settings that the lab's emulated igb refuses."""

ALTNAME = "another-name-of-the-pf"
MANY = (334, 335, 500, 1400)
"""Numbers of VFs: the length of a list of 335 wraps, and the response about 1400 is larger than a usual socket buffer.
"""


def mac_of(vf: int) -> str:
    """The MAC address that VF `vf` has before many VFs are read."""
    return bytes([2, 0xBB, *vf.to_bytes(4, "big")]).hex(":")


def mark_all(socket: RouteSocket, pf: int, number: int) -> None:
    """Sets each VF's MAC address, and its number as VLAN; and gives the PF a name that is reported after its VFs."""
    links.add_altnames(socket, pf, [ALTNAME])
    for vf in range(number):
        socket.change(nl.RTM_SETLINK, nl.vf_body(pf, SETTINGS["mac"].encode(vf, mac_of(vf))))
        socket.change(nl.RTM_SETLINK, nl.vf_body(pf, SETTINGS["vlan"].encode(vf, vf, vf % 8, "802.1q")))
