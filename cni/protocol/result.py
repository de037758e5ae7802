"""Results of CNI plugins: one value for all versions of the specification."""

from __future__ import annotations

from cni.errors import InvalidConfig
from cni.jsontext import shown
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cni.jsontext import JsonObject

LEGACY_VERSIONS = ("0.1.0", "0.2.0")
"""Versions whose results are `ip4` and `ip6`, one address each, without interfaces."""

_WITH_IP_VERSION = ("0.3.0", "0.3.1", "0.4.0")
"""Versions that say "version": "4" or "6" with each address, and always have `dns`."""


class Interface(Value):
    """A network device. `sandbox` is CNI_NETNS in the container, empty on the host; `mtu` 0 is unknown."""

    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""
    socket_path: str = ""
    pci_id: str = ""


class IpConfig(Value):
    """An address in CIDR form; `interface` is an index into `Result.interfaces`, or None."""

    address: str
    gateway: str = ""
    interface: int | None = None


class Route(Value):
    """A route; None leaves a detail to the kernel's default."""

    dst: str
    gw: str = ""
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


class Dns(Value):
    """Name service, as the runtime passes it on."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Result(Value):
    """The result of an ADD."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IpConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()

    def extended(self, interface: Interface, leased: Result) -> Result:
        """The result of earlier plugins, with our interface and its addresses appended."""
        index = len(self.interfaces)
        return leased.replace(
            interfaces=(*self.interfaces, interface),
            ips=(*self.ips, *(ip.replace(interface=index) for ip in leased.ips)),
            routes=(*self.routes, *leased.routes),
        )


_INTERFACE_KEYS = (
    ("name", "name"),
    ("mac", "mac"),
    ("mtu", "mtu"),
    ("sandbox", "sandbox"),
    ("socketPath", "socket_path"),
    ("pciID", "pci_id"),
)
_ROUTE_KEYS = tuple((name, name) for name in ("dst", "gw", "mtu", "advmss", "priority", "table", "scope"))
_DNS_KEYS = tuple((name, name) for name in ("nameservers", "domain", "search", "options"))
_IP_KEYS = (("interface", "interface"), ("address", "address"), ("gateway", "gateway"))
_LEGACY_IP_KEYS = (("ip", "address"), ("gateway", "gateway"))


def decode(document: JsonObject, default_version: str) -> Result:
    """Reads a result of any version (its own cniVersion, else `default_version`). Raises `InvalidConfig`."""
    version = document.get("cniVersion") or default_version
    try:
        return _decode_legacy(document) if version in LEGACY_VERSIONS else _decode_current(document)
    except (TypeError, AttributeError, ValueError, LookupError) as error:
        raise InvalidConfig(f"a CNI result of version {version} is malformed: {error}") from error


def encode(result: Result, version: str) -> JsonObject:
    """The result in the format of a version. Raises `InvalidConfig` if the version cannot express it."""
    if version in LEGACY_VERSIONS:
        return _encode_legacy(result, version)
    document: JsonObject = {"cniVersion": version}
    if result.interfaces:
        document["interfaces"] = [_written(interface, _INTERFACE_KEYS) for interface in result.interfaces]
    if result.ips:
        document["ips"] = [_encode_ip(ip, version) for ip in result.ips]
    if result.routes:
        document["routes"] = [_written(route, _ROUTE_KEYS) for route in result.routes]
    dns = _written(result.dns, _DNS_KEYS)
    if dns or version in _WITH_IP_VERSION:
        document["dns"] = dns
    return document


def _decode_current(document: JsonObject) -> Result:
    return Result(
        interfaces=_listed(document, "interfaces", lambda entry: Interface(**_read(entry, _INTERFACE_KEYS))),
        ips=_listed(document, "ips", lambda entry: IpConfig(**_read(entry, _IP_KEYS))),
        routes=_listed(document, "routes", _decode_route),
        dns=_decode_dns(document),
    )


def _decode_legacy(document: JsonObject) -> Result:
    ips, routes = [], []
    for key in ("ip4", "ip6"):
        part = document.get(key)
        if part:
            ips.append(IpConfig(**_read(part, _LEGACY_IP_KEYS)))
            routes += [_decode_route(entry) for entry in part.get("routes") or ()]
    return Result(ips=tuple(ips), routes=tuple(routes), dns=_decode_dns(document))


def _encode_legacy(result: Result, version: str) -> JsonObject:
    document: JsonObject = {"cniVersion": version}
    for key, colon in (("ip4", False), ("ip6", True)):
        ip = next((ip for ip in result.ips if (":" in ip.address) == colon), None)
        if ip is None:
            continue
        part: JsonObject = {"ip": ip.address}
        if ip.gateway:
            part["gateway"] = ip.gateway
        routes = [_written(route, _ROUTE_KEYS[:2]) for route in result.routes if (":" in route.dst) == colon]
        if routes:
            part["routes"] = routes
        document[key] = part
    if len(document) == 1:
        raise inexpressible(version)
    document["dns"] = _written(result.dns, _DNS_KEYS)
    return document


def inexpressible(version: str) -> InvalidConfig:
    """The error for an attachment without addresses in a version whose results are addresses only."""
    return InvalidConfig(
        f"cniVersion {version} cannot express an attachment without addresses",
        hint="use cniVersion 0.3.0 or newer, or give the network an ipam section",
    )


def _encode_ip(ip: IpConfig, version: str) -> JsonObject:
    document: JsonObject = {}
    if version in _WITH_IP_VERSION:
        document["version"] = "6" if ":" in ip.address else "4"
    return {**document, **_written(ip, _IP_KEYS)}


def _decode_route(entry: JsonObject) -> Route:
    return Route(**_read(entry, _ROUTE_KEYS))


def _decode_dns(document: JsonObject) -> Dns:
    return Dns(**_read(document.get("dns") or {}, _DNS_KEYS))


def _listed(document: JsonObject, key: str, decode_entry: Callable[[JsonObject], Any]) -> tuple[Any, ...]:
    entries = document.get(key) or []
    if not isinstance(entries, list):
        raise TypeError(f"{key} is not a list")
    return tuple(decode_entry(entry) for entry in entries)


_TEXTS = frozenset(("name", "mac", "sandbox", "socket_path", "pci_id", "address", "gateway", "dst", "gw", "domain"))
_LISTS = frozenset(("nameservers", "search", "options"))


def _read(entry: JsonObject, keys: tuple[tuple[str, str], ...]) -> JsonObject:
    """The known keys of a JSON object with our field names.

    As in Go, null, an empty text and an MTU of 0 count as absent.
    """
    fields = {}
    for key, field in keys:
        value = entry.get(key)
        if value is None or value == "":
            continue
        expected = str if field in _TEXTS else list if field in _LISTS else int
        if not isinstance(value, expected) or isinstance(value, bool):
            raise TypeError(f"{key} is {shown(value)}")
        if field == "mtu" and value == 0:
            continue
        fields[field] = tuple(map(_text, value)) if isinstance(value, list) else value
    return fields


def _written(value: Value, keys: tuple[tuple[str, str], ...]) -> JsonObject:
    """The fields with a value. Index 0 and priority 0 are values; an empty text or list and an unknown MTU are not."""
    document = {}
    for key, field in keys:
        content = getattr(value, field)
        if content in (None, "", ()) or (field == "mtu" and content == 0):
            continue
        document[key] = list(content) if isinstance(content, tuple) else content
    return document


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{shown(value)} is not text")
    return value
