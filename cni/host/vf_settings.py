"""The settings that a PF holds for each of its VFs, one row for each message that changes them. Pure.

Everything else about a setting follows from its row: the request to the kernel and the reading of its answer, the
changes that ADD makes, their restoration, the clean state, CHECK's comparison, the rule about `pfOnly`, and the page
`docs/reference/vf-settings.md`. To add one: docs/architecture.md, "To add a setting of a VF".
"""

from __future__ import annotations

from struct import Struct, error as struct_error

from cni.host.netlink import attribute, attributes, mac_text, nested, packed_mac
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from cni.host.netlink import Link

    Attributes = dict[int, bytes]

# Attributes of linux/if_link.h about one VF.
IFLA_VF_MAC, IFLA_VF_VLAN, IFLA_VF_SPOOFCHK, IFLA_VF_LINK_STATE, IFLA_VF_RATE = 1, 2, 4, 5, 6
IFLA_VF_RSS_QUERY_EN, IFLA_VF_TRUST, IFLA_VF_VLAN_LIST = 7, 9, 12
IFLA_VF_VLAN_INFO = 1

ETH_P_8021Q, ETH_P_8021AD = 0x8100, 0x88A8
VLAN_PROTOCOLS = {"802.1q": ETH_P_8021Q, "802.1ad": ETH_P_8021AD}
LINK_STATES = ("auto", "enable", "disable")  # index = IFLA_VF_LINK_STATE_*

_HEADER_BYTES = 4  # of an attribute
_U32 = Struct("=I")
_U32_2 = Struct("=II")
_U32_3 = Struct("=III")
_MAC = Struct("=I32s")
_VLAN = Struct("=III2s")  # vf, vlan, qos, protocol in network byte order; two bytes of padding follow


class VfSettings(Value):
    """Settings of a VF. None: it is not requested, or the driver does not report it. Rates in Mbit/s, 0 is no limit."""

    vlan: int | None = None
    qos: int | None = None
    proto: str | None = None
    mac: str | None = None
    spoofchk: bool | None = None
    trust: bool | None = None
    query_rss: bool | None = None
    min_tx_rate: int | None = None
    max_tx_rate: int | None = None
    link_state: str | None = None


class VfInfo(VfSettings):
    """The settings of one VF as its PF reports them."""

    index: int


class Field(Value):
    """One field of `VfSettings`.

    `key` is its key in a configuration, and `words` says which value each word there means; without an entry the
    configuration has the value itself. `default` is requested when only another field of the message is configured;
    None leaves the field as it is. `clean` is what a VF gets whose state before its attachment is not known any more,
    so that nothing of the pod's stays; None leaves it as it is.
    """

    name: str
    key: str
    clean: Any
    default: Any = None
    words: dict[str, Any] = {}  # noqa: RUF012 - values are never changed


def _no_older_form(_vf: int, *_values: Any) -> bytes:
    return b""


class Setting(Value):
    """What one message to the PF changes of a VF.

    `encode` makes the attribute from the VF's number and the values of all fields. `decode` finds these values among
    the attributes of a VF that the kernel reports. `older` makes the attribute for drivers that do not know the first
    one; empty when that cannot say the same. `of_netdev`: also a network device without a PF has such a setting of its
    own, so that it is not for VFs only, and its restoration is a matter of both sides (`cni/sriov/attach.py`).
    """

    name: str
    fields: tuple[Field, ...]
    encode: Callable[..., bytes]
    decode: Callable[[Attributes], Sequence[Any]]
    older: Callable[..., bytes] = _no_older_form
    of_netdev: bool = False


# Rows.


def _vlan(vf: int, vlan: int, qos: int, proto: str) -> bytes:
    entry = _VLAN.pack(vf, vlan, qos, VLAN_PROTOCOLS[proto].to_bytes(2, "big")) + bytes(2)
    return nested(IFLA_VF_VLAN_LIST, attribute(IFLA_VF_VLAN_INFO, entry))


def _plain_vlan(vf: int, vlan: int, qos: int, proto: str) -> bytes:
    return attribute(IFLA_VF_VLAN, _U32_3.pack(vf, vlan, qos)) if proto == "802.1q" else b""


def _vlan_of(attrs: Attributes) -> Sequence[Any]:
    _, vlan, qos = _U32_3.unpack_from(attrs[IFLA_VF_VLAN])
    proto = "802.1q"
    for kind, entry in attributes(attrs.get(IFLA_VF_VLAN_LIST, b"")):
        if kind == IFLA_VF_VLAN_INFO and _VLAN.unpack_from(entry)[3] == b"\x88\xa8":
            proto = "802.1ad"
    return vlan, qos, proto


def _rates(vf: int, minimum: int, maximum: int) -> bytes:
    return attribute(IFLA_VF_RATE, _U32_3.pack(vf, minimum, maximum))


def _rates_of(attrs: Attributes) -> Sequence[Any]:
    return _U32_3.unpack_from(attrs[IFLA_VF_RATE])[1:] if IFLA_VF_RATE in attrs else (None, None)


def _mac(vf: int, mac: str) -> bytes:
    return attribute(IFLA_VF_MAC, _MAC.pack(vf, packed_mac(mac)))


def _mac_of(attrs: Attributes) -> Sequence[Any]:
    return (mac_text(attrs[IFLA_VF_MAC][4:10]),)


def _choice(
    name: str, kind: int, values: tuple[Any, ...], *, clean: Any, words: dict[str, Any] | None = None
) -> Setting:
    """A setting of one field, for which the kernel has the number of a value among `values`."""

    def encode(vf: int, value: Any) -> bytes:
        return attribute(kind, _U32_2.pack(vf, values.index(value)))

    def decode(attrs: Attributes) -> Sequence[Any]:
        number = _U32_2.unpack_from(attrs[kind])[1] if kind in attrs else len(values)
        # The kernel sends 0xffffffff where the driver does not report the setting.
        return (values[number] if number < len(values) else None,)

    return Setting(
        name=name, fields=(Field(name=name, key=name, clean=clean, words=words or {}),), encode=encode, decode=decode
    )


def _switch(name: str, kind: int, *, clean: bool | None) -> Setting:
    return _choice(name, kind, (False, True), clean=clean, words={"off": False, "on": True})


SETTINGS = {
    row.name: row
    for row in (
        Setting(
            name="vlan",
            fields=(
                Field(name="vlan", key="vlan", clean=0),
                Field(name="qos", key="vlanQoS", clean=0, default=0),
                Field(name="proto", key="vlanProto", clean="802.1q", default="802.1q"),
            ),
            encode=_vlan,
            older=_plain_vlan,
            decode=_vlan_of,
        ),
        Setting(
            name="rate",
            fields=(
                Field(name="min_tx_rate", key="min_tx_rate", clean=0),
                Field(name="max_tx_rate", key="max_tx_rate", clean=0),
            ),
            encode=_rates,
            decode=_rates_of,
        ),
        # Drivers have different defaults, and on mlx5 a VF whose address the PF does not know is mute with spoof check.
        _switch("spoofchk", IFLA_VF_SPOOFCHK, clean=None),
        _switch("trust", IFLA_VF_TRUST, clean=False),
        _switch("query_rss", IFLA_VF_RSS_QUERY_EN, clean=False),
        _choice("link_state", IFLA_VF_LINK_STATE, LINK_STATES, clean="auto"),
        # After trust: some drivers take a MAC address from trusted VFs only.
        Setting(
            name="mac",
            fields=(Field(name="mac", key="mac", clean=None),),
            encode=_mac,
            decode=_mac_of,
            of_netdev=True,
        ),
    )
}
"""By their names, in the order in which they are sent."""


# What follows from the rows for the kernel.


def request(name: str, vf: int, wanted: VfSettings, present: VfSettings) -> tuple[str, bytes, bytes]:
    """(keys and values for messages, attribute, older attribute or empty) of the request for one setting of a VF.

    A field that is not wanted is sent as it is at present, since a message changes all of its fields.
    """
    row = SETTINGS[name]
    values = [_first(getattr(wanted, field.name), getattr(present, field.name), field.clean) for field in row.fields]
    asked = [(field.key, getattr(wanted, field.name)) for field in row.fields]
    what = ", ".join(f"{key} {shown(value)}" for key, value in asked if value is not None)
    return what, row.encode(vf, *values), row.older(vf, *values)


def reported(link: Link) -> Iterator[VfInfo]:
    """The VFs that a PF reports, in the kernel's order. Raises `ValueError` when its answer is malformed."""
    return map(_decoded, link.vfs)


def report_of(link: Link, vf: int) -> VfInfo | None:
    """The VF of that number, if the PF reports it. Raises `ValueError` when its answer is malformed."""
    # Each attribute of a report begins with the number of the VF. Decoding all reports of 256 VFs would take 5 ms.
    number = _U32.pack(vf)
    likely = [entry for entry in link.vfs if entry[_HEADER_BYTES : _HEADER_BYTES + len(number)] == number]
    return next((info for info in map(_decoded, [*likely, *link.vfs]) if info.index == vf), None)


def _decoded(entry: bytes) -> VfInfo:
    try:
        return _info(entry)
    except (struct_error, LookupError) as error:
        raise ValueError(f"malformed report of a VF: {error}") from error


def _info(entry: bytes) -> VfInfo:
    attrs = dict(attributes(entry))
    values: dict[str, Any] = {}
    for row in SETTINGS.values():
        for field, value in zip(row.fields, row.decode(attrs), strict=True):
            values[field.name] = value
    return VfInfo(index=_U32_3.unpack_from(attrs[IFLA_VF_VLAN])[0], **values)


def shown(value: object) -> str:
    """A value as messages write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "not reported" if value is None else str(value)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
