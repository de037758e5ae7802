"""What a configuration of `barewire-ipam` asks for: sets of ranges, and the rules about several fields. Pure.

The pydantic model and the fast path's table call the same functions, so the rules stand once.
"""

from __future__ import annotations

from cni.errors import CniError
from cni.result import decode
from ipam import spans
from ipam.address import parse_cidr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from cni.result import Result
    from ipam.ranges import Range, RangeSet

    Problems = list[tuple[str, str]]

_SINGLE = ("subnet", "rangeStart", "rangeEnd")
_SCHEMES = ("http://", "https://")


def cross_check(conf: Mapping[str, Any], refused: frozenset[str] = frozenset()) -> Problems:
    """Problems, as (JSON path, text), of what the fields say together; nothing where one is `refused` by itself."""
    if any(path.startswith(("ipam", "runtimeConfig")) for path in refused) or not isinstance(conf.get("ipam"), dict):
        return []
    section = conf["ipam"]
    problems: Problems = []
    sets = range_sets(conf, problems)
    problems += _overlaps(sets)
    _fixed(section, problems)
    problems += _passed_on(section)
    problems += _backend(section)
    for key in ("dataDir", "resolvConf"):
        if section.get(key) and not is_plain_path(section[key]):
            problems.append((f"ipam.{key}", f"{section[key]!r} is not an absolute path without . and .."))
    if section.get("node_slice_size"):
        problems.append(
            ("ipam.node_slice_size", "not supported: a node's addresses are not a part of the range of its own")
        )
    return problems


def range_sets(conf: Mapping[str, Any], problems: Problems) -> tuple[RangeSet, ...]:
    """The sets, in the order in which a result has their addresses: the runtime's, host-local's, whereabouts'."""
    section, runtime = conf["ipam"], conf.get("runtimeConfig") or {}
    sets = [
        *_host_local_sets(runtime.get("ipRanges"), "runtimeConfig.ipRanges", problems),
        *_single(section, problems),
        *_host_local_sets(section.get("ranges"), "ipam.ranges", problems),
        *_whereabouts(section, problems),
    ]
    return tuple(tuple(_with_exclusions(one, section, problems) for one in ranges) for ranges in sets)


def fixed_addresses(section: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The fixed addresses (CIDR, gateway or empty) of a section that has no problems."""
    return _fixed(section, [])


def passed_on(section: Mapping[str, Any]) -> Result:
    """Routes and name service, as they are. Raises `InvalidConfig`."""
    return decode({key: section[key] for key in ("routes", "dns") if section.get(key) is not None}, "1.0.0")


def _single(section: Mapping[str, Any], problems: Problems) -> list[RangeSet]:
    told = {key: section[key] for key in _SINGLE if section.get(key)}
    if not told:
        return []
    found = spans.host_local({**told, "gateway": section.get("gateway")}, "ipam", problems)
    return [] if found is None else [(found,)]


def _host_local_sets(told: Any, path: str, problems: Problems) -> list[RangeSet]:
    if told is None:
        return []
    if not isinstance(told, list):
        problems.append((path, "is not a list of lists of ranges"))
        return []
    return [found for place, one in enumerate(told) if (found := _set(one, f"{path}[{place}]", problems))]


def _set(told: Any, path: str, problems: Problems) -> RangeSet:
    if not isinstance(told, list) or not told:
        problems.append(
            (path, "is not a list of ranges" if not isinstance(told, list) else "is an empty set of ranges")
        )
        return ()
    found = [spans.host_local(one, f"{path}[{place}]", problems) for place, one in enumerate(told)]
    ranges = tuple(one for one in found if one is not None)
    if len({one.subnet.version for one in ranges}) > 1:
        problems.append((path, "has both IPv4 and IPv6: an interface gets one address of each set"))
    return ranges


def _whereabouts(section: Mapping[str, Any], problems: Problems) -> list[RangeSet]:
    told = []
    if section.get("range") or section.get("range_start") or section.get("range_end"):
        own = {key: section.get(key) for key in ("range", "range_start", "range_end")}
        told.append((own, "ipam"))
    more = section.get("ipRanges")
    if more is not None and not isinstance(more, list):
        problems.append(("ipam.ipRanges", "is not a list of ranges"))
    told += [(one, f"ipam.ipRanges[{place}]") for place, one in enumerate(more if isinstance(more, list) else ())]
    found = [spans.whereabouts(one, path, problems) for one, path in told]
    return [(_with_gateway(one, section, problems),) for one in found if one is not None]


def _with_gateway(one: Range, section: Mapping[str, Any], problems: Problems) -> Range:
    """Whereabouts has one gateway for all ranges: it is that of the range whose subnet it is in."""
    text = section.get("gateway")
    if not text or section.get("subnet"):
        return one
    ours: Problems = []
    number = spans.gateway(text, "ipam.gateway", one.subnet, ours)
    if ours and "another IP version" not in ours[0][1]:
        problems += ours
    return one if number is None else one.replace(gateway=number)


def _with_exclusions(one: Range, section: Mapping[str, Any], problems: Problems) -> Range:
    told = section.get("exclude")
    if not told:
        return one
    more = spans.excluded(told, one, "ipam.exclude", problems)
    return one.replace(excluded=spans.joined([*one.excluded, *more]))


def _overlaps(sets: tuple[RangeSet, ...]) -> Problems:
    flat = [(place, one) for place, ranges in enumerate(sets) for one in ranges]
    return [
        ("ipam", f"ranges {one} and {other} overlap" if place == there else f"range set {place} overlaps with {there}")
        for i, (place, one) in enumerate(flat)
        for there, other in flat[i + 1 :]
        if spans.overlap(one, other)
    ]


def _fixed(section: Mapping[str, Any], problems: Problems) -> list[tuple[str, str]]:
    told = section.get("addresses")
    if told is not None and not isinstance(told, list):
        problems.append(("ipam.addresses", "is not a list of addresses"))
    found = []
    for place, entry in enumerate(told if isinstance(told, list) else ()):
        path = f"ipam.addresses[{place}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("address"), str):
            problems.append((path, "is not an object with an address"))
            continue
        found.append(_fixed_one(entry["address"], entry.get("gateway"), path, problems))
    return found


def _fixed_one(text: str, gateway: Any, path: str, problems: Problems) -> tuple[str, str]:
    try:
        address, prefix = parse_cidr(text, path)
    except CniError:
        problems.append((f"{path}.address", f"{text!r} is not in CIDR notation"))
        return "", ""
    if not gateway:
        return f"{address}/{prefix}", ""
    if not isinstance(gateway, str):
        problems.append((f"{path}.gateway", "is not a string"))
        return "", ""
    spans.gateway(gateway, f"{path}.gateway", address, problems)
    return f"{address}/{prefix}", gateway


def _passed_on(section: Mapping[str, Any]) -> Problems:
    try:
        routes = passed_on(section).routes
    except CniError as error:
        return [("ipam.routes or ipam.dns", error.msg)]
    return [problem for place, route in enumerate(routes) for problem in _route(route.dst, f"ipam.routes[{place}].dst")]


def _route(text: str, path: str) -> Problems:
    try:
        parse_cidr(text, path)
    except CniError:
        return [(path, f"{text!r} is not an address with a prefix length")]
    return []


def _backend(section: Mapping[str, Any]) -> Problems:
    backend = section.get("backend") or "local"
    problems = []
    if backend == "etcd":
        endpoints = (section.get("etcd") or {}).get("endpoints") or []
        problems += [] if endpoints else [("ipam.etcd.endpoints", "missing")]
        problems += [
            (f"ipam.etcd.endpoints[{place}]", f"{one!r} is neither http:// nor https://")
            for place, one in enumerate(endpoints)
            if not one.startswith(_SCHEMES)
        ]
    for name in ("etcd", "kubernetes"):
        # whereabouts' configurations have the section that says where its resources are.
        if section.get(name) and backend != name:
            problems.append((f"ipam.{name}", f"is for backend {name}, and the backend is {backend}"))
    return problems


def is_plain_path(text: str) -> bool:
    return text.startswith("/") and "\0" not in text and not {".", ".."} & set(text.split("/"))
