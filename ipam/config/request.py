"""Parses a request to the plugin: ranges and addresses. Reads nothing of the host."""

from __future__ import annotations

from cni.config import validation as configuration
from cni.errors import AddressTaken, InvalidConfig
from cni.protocol.cni_args import cni_arguments
from cni.protocol.result import LEGACY_VERSIONS, IpConfig, Result
from cni.value import Value
from ipam.address import Address, parse, parse_cidr
from ipam.config.conf_table import REQUIRED, TABLE
from ipam.config.location import NONE
from ipam.config.rules import cross_check, fixed_addresses, passed_on, range_sets
from ipam.ranges import range_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.jsontext import JsonObject
    from cni.log import Log
    from cni.protocol.request import Request
    from ipam.config.conf_sections import IpamConfDict
    from ipam.config.location import Defaults
    from ipam.ranges import RangeSet


class ParsedRequest(Value):
    """A validated request.

    `requested` has an address or None for each of `sets`; the addresses in `fixed` are not stored.
    """

    sets: tuple[RangeSet, ...]
    requested: tuple[Address | None, ...]
    fixed: tuple[IpConfig, ...]
    passed_on: Result
    resolv_conf: str


def parse_request(request: Request, log: Log, defaults: Defaults = NONE) -> ParsedRequest:
    """Parses and validates the request. Raises `InvalidConfig` with every problem at once, and `AddressTaken`."""
    conf = _validated(request, log, defaults)
    section, arguments = conf["ipam"], cni_arguments(request.args)
    sets = range_sets(conf, [])
    invocation = ((conf.get("args") or {}).get("cni") or {}).get("ips") or []
    runtime = (conf.get("runtimeConfig") or {}).get("ips") or []
    by_arguments = [text.strip() for text in arguments.get("IP", "").split(",") if text.strip()]
    fixed = fixed_addresses(section)
    requested: tuple[Address | None, ...] = ()
    if sets:
        requested = _requested(sets, [*by_arguments, *invocation, *runtime])
    else:
        # As in static: CNI_ARGS adds to the configured addresses, and a later source replaces all earlier ones.
        later = runtime or invocation
        gateways = "" if later else arguments.get("GATEWAY", "")
        fixed = _fixed(later or by_arguments, gateways, [] if later else fixed)
        # The runtime passes addresses to ADD, not to STATUS.
        if not fixed and section.get("addresses") is None and request.command != "STATUS":
            raise InvalidConfig("ipam: no IP ranges specified", hint="set subnet, ranges, range or addresses")
    _require_expressible(request.cni_version, sets, fixed)
    return ParsedRequest(
        sets=sets,
        requested=requested,
        fixed=tuple(IpConfig(address=text, gateway=gateway) for text, gateway in fixed),
        passed_on=passed_on(section),
        resolv_conf="" if section.get("dns") else section.get("resolvConf") or "",
    )


def _validated(request: Request, log: Log, defaults: Defaults) -> IpamConfDict:
    """The valid configuration with the node's defaults. Raises `InvalidConfig`; logs warnings."""
    own = own_keys(request)
    unchecked: Any = own.get("ipam")
    is_section = isinstance(unchecked, dict)
    whole = {**own, "ipam": defaults.applied(unchecked)} if is_section else own

    def rules(values: Any, refused: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
        return cross_check(values, refused) + defaults.problems(unchecked)

    parsed = configuration.parse(TABLE, REQUIRED, whole, rules)
    for warning in parsed.warnings:
        log.warning(warning)
    values: Any = parsed.values
    conf: IpamConfDict = values
    return conf


def own_keys(request: Request) -> JsonObject:
    """The keys of the configuration that this plugin reads; the others belong to the main plugin."""
    named = configuration.canonical(TABLE, request.config)
    return {key: named[key] for key in TABLE if key in named}


def _requested(sets: tuple[RangeSet, ...], texts: list[str]) -> tuple[Address | None, ...]:
    """Returns the requested address of each set, or None.

    Raises `AddressTaken` for a requested address that no set can supply.
    """
    requested: list[Address | None] = [None] * len(sets)
    left = []
    for text in texts:
        address = parse_cidr(text, "the requested address")[0] if "/" in text else parse(text, "the requested address")
        matching = [i for i, ranges in enumerate(sets) if requested[i] in (None, address) and range_of(ranges, address)]
        if matching:
            _require_leasable(sets[matching[0]], address)
            requested[matching[0]] = address
        else:
            left.append(str(address))
    if left:
        raise AddressTaken(
            f"failed to allocate all requested IPs: {', '.join(left)}",
            hint="request at most one address of each range set; the sets are "
            + "; ".join(", ".join(map(str, ranges)) for ranges in sets),
        )
    return tuple(requested)


def _require_leasable(ranges: RangeSet, address: Address) -> None:
    home = range_of(ranges, address)
    if home is not None and not home.leases(address):
        role = "the gateway" if home.gateway == address.number else "excluded"
        raise AddressTaken(f"the requested address {address} is {role} of {home}", hint="request another one")


def _fixed(texts: list[str], gateways: str, configured: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The configured and requested fixed addresses, each with the gateway of CNI_ARGS in its subnet."""
    reachable = [parse(text.strip(), "CNI_ARGS GATEWAY") for text in gateways.split(",") if text.strip()]
    addresses = list(configured)
    for text in texts:
        if "/" not in text:
            raise InvalidConfig(
                f"the requested address {text} is not in CIDR notation",
                hint="without ranges the prefix length must be given",
            )
        addresses.append((text, ""))
    return [(_normal(text), gateway or _reachable(text, reachable)) for text, gateway in addresses]


def _normal(text: str) -> str:
    address, prefix = parse_cidr(text, "the requested address")
    return f"{address}/{prefix}"


def _reachable(text: str, gateways: list[Address]) -> str:
    address, prefix = parse_cidr(text, "the requested address")
    bits = (32 if address.version == 4 else 128) - prefix
    near = [
        gateway
        for gateway in gateways
        if gateway.version == address.version and gateway.number >> bits == address.number >> bits
    ]
    return str(near[0]) if near else ""


def _require_expressible(version: str, sets: tuple[RangeSet, ...], fixed: list[tuple[str, str]]) -> None:
    if version not in LEGACY_VERSIONS:
        return
    versions = [ranges[0].subnet.version for ranges in sets] + [6 if ":" in text else 4 for text, _gateway in fixed]
    if len(versions) != len(set(versions)):
        raise InvalidConfig(
            f"CNI version {version} does not support more than 1 address per family",
            hint="use cniVersion 0.3.0 or newer",
        )
