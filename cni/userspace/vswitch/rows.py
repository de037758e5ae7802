"""A port as rows of Open vSwitch's tables, and back. No I/O."""

from __future__ import annotations

from cni.userspace.vswitch.model import SOCKET, Port, PortStatus, Rate, external_ids, owner_of
from cni.userspace.vswitch.operations import from_map, from_set, named, to_map, to_set

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.jsontext import JsonObject

    Row = JsonObject

INTERFACE_TYPE = "dpdkvhostuserclient"
"""OVS connects to a socket on which the application listens. OVS has deprecated the other direction."""

QOS_TYPE = "egress-policer"
"""The userspace datapath supports no kernel discipline such as linux-htb, and reports that only in its log."""

PATH, RETRIES, STEERING = "vhost-server-path", "tx-retries-max", "tx-steering"
BYTES_PER_KBIT = 125

PORT_COLUMNS = ("_uuid", "name", "vlan_mode", "tag", "trunks", "qos", "external_ids")
INTERFACE_COLUMNS = (
    "name", "type", "options", "other_config", "mtu_request", "ingress_policing_rate", "ingress_policing_burst",
    "ofport", "error", "link_state", "mtu",
)  # fmt: skip
QOS_COLUMNS = ("_uuid", "type", "other_config")


def interface_row(port: Port) -> Row:
    row: Row = {
        "name": port.name,
        "type": INTERFACE_TYPE,
        "options": to_map(_options(port)),
        "external_ids": to_map(external_ids(port.owner, port.socket)),
    }
    if port.tx_steering:
        row["other_config"] = to_map({STEERING: port.tx_steering})
    if port.mtu is not None:
        row["mtu_request"] = port.mtu
    if port.from_pod is not None:
        row["ingress_policing_rate"] = port.from_pod.kbit
        row["ingress_policing_burst"] = port.from_pod.burst_kbit
    return row


def port_row(port: Port, interface: str, qos: str) -> Row:
    """The Port row. It refers to the interface, and to the QoS if there is one, by their names in the transaction."""
    row: Row = {
        "name": port.name,
        "interfaces": named(interface),
        "external_ids": to_map(external_ids(port.owner, port.socket)),
        "trunks": to_set(port.trunks),
    }
    if port.vlan_mode:
        row["vlan_mode"] = port.vlan_mode
    if port.tag is not None:
        row["tag"] = port.tag
    if port.to_pod is not None:
        row["qos"] = named(qos)
    return row


def qos_row(port: Port, rate: Rate) -> Row:
    """`cir` is in bytes per second, `cbs` in bytes. An egress policer has no queues, so there are no Queue rows."""
    limits = {"cir": str(rate.kbit * BYTES_PER_KBIT), "cbs": str(rate.burst_kbit * BYTES_PER_KBIT)}
    return {
        "type": QOS_TYPE,
        "other_config": to_map(limits),
        "external_ids": to_map({**external_ids(port.owner), "port": port.name}),
    }


def seen(row: Row, interface: Row | None, bridge: str, qos: Row | None) -> PortStatus:
    """The port in these rows. `interface` is None for a port without an interface of its name, such as a bond."""
    mode, tag = from_set(row["vlan_mode"]), from_set(row["tag"])
    port = Port(
        name=_text(row["name"]),
        bridge=bridge,
        path="",
        owner=owner_of(from_map(row["external_ids"])),
        socket=_text(from_map(row["external_ids"]).get(SOCKET, "")),
        vlan_mode=mode[0] if mode else "",
        tag=tag[0] if tag else None,
        trunks=tuple(from_set(row["trunks"])),
        to_pod=_egress(qos),
    )
    if interface is None:
        return PortStatus(port=port, type="", ofport=None, error="", link_state="")
    return PortStatus(
        port=port.replace(**_interface_settings(interface)),
        type=interface["type"],
        ofport=_only(interface["ofport"]),
        error=_only(interface["error"]) or "",
        link_state=_only(interface["link_state"]) or "",
        mtu=_only(interface["mtu"]),
    )


def _options(port: Port) -> dict[str, str]:
    retries = {} if port.tx_retries is None else {RETRIES: str(port.tx_retries)}
    return {PATH: port.path, **retries}


def _interface_settings(row: Row) -> JsonObject:
    options, rate = from_map(row["options"]), row["ingress_policing_rate"]
    return {
        "path": _text(options.get(PATH, "")),
        "tx_retries": _number(options.get(RETRIES)),
        "tx_steering": from_map(row["other_config"]).get(STEERING, ""),
        "mtu": _only(row["mtu_request"]),
        "from_pod": Rate(kbit=rate, burst_kbit=row["ingress_policing_burst"]) if rate else None,
    }


def _egress(row: Row | None) -> Rate | None:
    if row is None or row["type"] != QOS_TYPE:
        return None
    limits = from_map(row["other_config"])
    kbit, burst = (_number(limits.get(name)) or 0 for name in ("cir", "cbs"))
    return Rate(kbit=kbit // BYTES_PER_KBIT, burst_kbit=burst // BYTES_PER_KBIT)


def _text(value: Any) -> str:
    """The text. Raises `TypeError` for another value: a server that is not Open vSwitch's can send anything."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in the place of a text")
    return value


def _only(value: Any) -> Any:
    """The element of an optional column, or None."""
    elements = from_set(value)
    return elements[0] if elements else None


def _number(text: str | None) -> int | None:
    """The number; None if an administrator wrote another text into the option."""
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None
