"""Range sets of a configuration, and rules that involve several keys. Pure.

The pydantic model and the fast path's table share these functions, so each rule exists once.
"""

from __future__ import annotations

from cni.errors import CniError
from cni.names import is_identifier
from cni.paths import is_plain_path
from cni.protocol.result import decode
from ipam.address import parse, parse_cidr
from ipam.config import range_parsing
from ipam.etcd.key_prefix import problem_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.protocol.result import Result
    from ipam.config.conf_sections import FixedAddressDict, IpamConfDict, IpamDict, RouteEntryDict, RuntimeConfigDict
    from ipam.ranges import Range, RangeSet

    Problems = list[tuple[str, str]]

_SCHEMES = ("http://", "https://")

MOST_SETS, MOST_RANGES, MOST_EXCLUSIONS = 32, 1000, 10_000
"""etcd accepts 128 operations in a transaction, of which each address of an interface needs three."""

TOLD_OVERLAPS = 3


def cross_check(values: Any, refused: frozenset[str] = frozenset()) -> Problems:
    """Problems that involve several keys, as (JSON path, text). Rules that read a `refused` key are skipped."""
    conf: IpamConfDict = values
    problems: Problems = []
    for keys, rule in _RULES:
        if not _touched(refused, keys):
            problems += rule(conf.get("ipam") or {}, conf)
    return problems


def _touched(refused: frozenset[str], keys: tuple[str, ...]) -> bool:
    """Whether one of the keys, or a key below it, is refused by itself."""
    return any(path == key or path.startswith((f"{key}.", f"{key}[")) for path in refused for key in keys)


def _ranges(section: IpamDict, conf: IpamConfDict) -> Problems:
    problems: Problems = []
    sets = range_sets(conf, problems)
    problems += [] if problems else _common_gateway(section, sets)
    return problems + _overlaps(sets)


def _common_gateway(section: IpamDict, sets: tuple[RangeSet, ...]) -> Problems:
    """Checks the gateway of whereabouts' ranges, which is used without `subnet`.

    With `ranges` alone host-local ignores it.
    """
    text = section.get("gateway")
    if not text or section.get("subnet"):
        return []
    try:
        version = parse(text, "ipam.gateway").version
    except CniError:
        return [("ipam.gateway", f"{text!r} is not an IP address")]
    is_used = section.get("range") or section.get("ipRanges")
    if is_used and all(range_.subnet.version != version for ranges in sets for range_ in ranges):
        return [("ipam.gateway", f"{text} has another IP version than all ranges")]
    return []


def _addresses(section: IpamDict, _conf: IpamConfDict) -> Problems:
    problems: Problems = []
    _fixed(section, problems)
    return problems


def _places(section: IpamDict, _conf: IpamConfDict) -> Problems:
    etcd, kubernetes = section.get("etcd") or {}, section.get("kubernetes") or {}
    paths = (
        ("ipam.dataDir", section.get("dataDir")),
        ("ipam.resolvConf", section.get("resolvConf")),
        ("ipam.etcd.caFile", etcd.get("caFile")),
        ("ipam.etcd.certFile", etcd.get("certFile")),
        ("ipam.etcd.keyFile", etcd.get("keyFile")),
        ("ipam.kubernetes.kubeconfig", kubernetes.get("kubeconfig")),
    )
    return [
        (path, f"{text!r} is not an absolute path without . and ..")
        for path, text in paths
        if text and not is_plain_path(text)
    ]


def _slices(section: IpamDict, _conf: IpamConfDict) -> Problems:
    if not section.get("node_slice_size"):
        return []
    text = "not supported: nodes share the whole range; remove it"
    return [("ipam.node_slice_size", text)]


def _names(section: IpamDict, _conf: IpamConfDict) -> Problems:
    """Checks names that become parts of keys and of object names: a slash would lead to another node or network."""
    names = [(f"ipam.{key}", section[key]) for key in ("nodeName", "network_name") if section.get(key)]
    return [
        (path, f"{text!r} is not a name of letters, digits, _, . and -")
        for path, text in names
        if not is_identifier(text)
    ]


def range_sets(values: Any, problems: Problems) -> tuple[RangeSet, ...]:
    """The range sets, in the order of their addresses in a result: the runtime's, host-local's, whereabouts'.

    For DEL the values need not be valid: then the sets can be incomplete.
    """
    conf: IpamConfDict = values
    section, runtime = conf.get("ipam") or {}, conf.get("runtimeConfig") or {}
    if _too_many(section, runtime, problems):
        return ()
    sets = [
        *_host_local_sets(runtime.get("ipRanges"), "runtimeConfig.ipRanges", problems),
        *_single(section, problems),
        *_host_local_sets(section.get("ranges"), "ipam.ranges", problems),
        *_whereabouts(section, problems),
    ]
    if section.get("backend") == "kubernetes":
        sets = [tuple(range_parsing.within_pool(range_, "ipam", problems) for range_ in ranges) for ranges in sets]
    held_back = range_parsing.stretches(
        [*(section.get("exclude") or ()), *_fixed_texts(section)], "ipam.exclude", problems
    )
    return tuple(tuple(_without(range_, held_back) for range_ in ranges) for ranges in sets)


def _fixed_texts(section: IpamDict) -> list[str]:
    """The fixed addresses. Every pod of the network uses them, so they are never leased."""
    return [text.partition("/")[0] for text, _gateway in _fixed(section, []) if text]


def _too_many(section: IpamDict, runtime: RuntimeConfigDict, problems: Problems) -> bool:
    """Limits the size of a configuration before it is evaluated, because its author may be untrusted."""
    lists = [value for value in (section.get("ranges"), runtime.get("ipRanges")) if isinstance(value, list)]
    more = section.get("ipRanges")
    others = more if isinstance(more, list) else []
    exclusions = [
        section,
        *others,
        *(range_ for sets in lists for ranges in sets if isinstance(ranges, list) for range_ in ranges),
    ]
    counts = (
        ("sets of ranges", sum(map(len, lists)) + len(others), MOST_SETS),
        (
            "ranges",
            sum(len(ranges) for sets in lists for ranges in sets if isinstance(ranges, list)) + len(others),
            MOST_RANGES,
        ),
        (
            "exclusions",
            sum(len(holder.get("exclude") or ()) for holder in exclusions if isinstance(holder, dict)),
            MOST_EXCLUSIONS,
        ),
    )
    excesses = [
        ("ipam", f"has {count} {what}, more than the limit of {most}") for what, count, most in counts if count > most
    ]
    problems += excesses
    return bool(excesses)


def fixed_addresses(section: IpamDict) -> list[tuple[str, str]]:
    """The fixed addresses (CIDR, gateway or empty) of a section without problems."""
    return _fixed(section, [])


def passed_on(section: IpamDict) -> Result:
    """Routes and name service, unchanged. Raises `InvalidConfig`."""
    return decode({key: section[key] for key in ("routes", "dns") if section.get(key) is not None}, "1.0.0")


def _single(section: IpamDict, problems: Problems) -> list[RangeSet]:
    subnet, start, end = section.get("subnet"), section.get("rangeStart"), section.get("rangeEnd")
    if not (subnet or start or end):
        return []
    fields = {"subnet": subnet or None, "rangeStart": start or None, "rangeEnd": end or None}
    range_ = range_parsing.host_local({**fields, "gateway": section.get("gateway")}, "ipam", problems)
    return [] if range_ is None else [(range_,)]


def _host_local_sets(value: object, path: str, problems: Problems) -> list[RangeSet]:
    if value is None:
        return []
    if not isinstance(value, list):
        problems.append((path, "is not a list of lists of ranges"))
        return []
    return [parsed for i, ranges in enumerate(value) if (parsed := _set(ranges, f"{path}[{i}]", problems))]


def _set(value: object, path: str, problems: Problems) -> RangeSet:
    if not isinstance(value, list) or not value:
        problems.append(
            (path, "is not a list of ranges" if not isinstance(value, list) else "is an empty set of ranges")
        )
        return ()
    parsed = [range_parsing.host_local(section, f"{path}[{i}]", problems) for i, section in enumerate(value)]
    ranges = tuple(range_ for range_ in parsed if range_ is not None)
    if len({range_.subnet.version for range_ in ranges}) > 1:
        problems.append((path, "mixes IPv4 and IPv6: an interface gets one address of each set"))
    return ranges


def _whereabouts(section: IpamDict, problems: Problems) -> list[RangeSet]:
    sections: list[tuple[object, str]] = []
    if section.get("range") or section.get("range_start") or section.get("range_end"):
        own = {
            "range": section.get("range"),
            "range_start": section.get("range_start"),
            "range_end": section.get("range_end"),
        }
        sections.append((own, "ipam"))
    more: object = section.get("ipRanges")
    if more is not None and not isinstance(more, list):
        problems.append(("ipam.ipRanges", "is not a list of ranges"))
    sections += [(section, f"ipam.ipRanges[{i}]") for i, section in enumerate(more if isinstance(more, list) else ())]
    parsed = [range_parsing.whereabouts(own, path, problems) for own, path in sections]
    return [(_with_gateway(range_, section, problems),) for range_ in parsed if range_ is not None]


def _with_gateway(range_: Range, section: IpamDict, problems: Problems) -> Range:
    """Sets the gateway if it is in the range's subnet: whereabouts has one gateway for all ranges."""
    text = section.get("gateway")
    if not text or section.get("subnet"):
        return range_
    ours: Problems = []
    number = range_parsing.gateway(text, "ipam.gateway", range_.subnet, ours)
    if ours and "another IP version" not in ours[0][1]:
        problems += ours
    return range_ if number is None else range_.replace(gateway=number)


def _without(range_: Range, held_back: dict[int, tuple[tuple[int, int], ...]]) -> Range:
    more = range_parsing.clipped(held_back, range_)
    return range_.replace(excluded=range_parsing.joined([*range_.excluded, *more])) if more else range_


def _overlaps(sets: tuple[RangeSet, ...]) -> Problems:
    """The first few overlaps, each between a range and the preceding range that reaches furthest."""
    flat = [(range_.subnet.version, range_.first, i, range_) for i, ranges in enumerate(sets) for range_ in ranges]
    flat.sort(key=lambda entry: entry[:3])
    problems: Problems = []
    reaching: tuple[int, Range] | None = None
    for version, first, i, range_ in flat:
        if reaching is not None and reaching[1].subnet.version == version and first <= reaching[1].last:
            problems.append(("ipam", _overlap(*reaching, i, range_)))
            if len(problems) == TOLD_OVERLAPS:
                break
        if reaching is None or reaching[1].subnet.version != version or range_.last > reaching[1].last:
            reaching = i, range_
    return problems


def _overlap(i: int, range_: Range, there: int, other: Range) -> str:
    if i == there:
        return f"ranges {range_} and {other} overlap"
    return f"range set {min(i, there)} overlaps with {max(i, there)}"


def _fixed(section: IpamDict, problems: Problems) -> list[tuple[str, str]]:
    return [
        _fixed_one(entry, f"ipam.addresses[{i}]", problems) for i, entry in enumerate(section.get("addresses") or ())
    ]


def _fixed_one(entry: FixedAddressDict, path: str, problems: Problems) -> tuple[str, str]:
    text, gateway = entry.get("address"), entry.get("gateway") or ""
    if not text:
        problems.append((f"{path}.address", "missing"))
        return "", ""
    try:
        address, prefix = parse_cidr(text, path)
    except CniError:
        problems.append((f"{path}.address", f"{text!r} is not in CIDR notation"))
        return "", ""
    number = range_parsing.gateway(gateway, f"{path}.gateway", address, problems) if gateway else None
    return f"{address}/{prefix}", "" if number is None else str(address.replace(number=number))


def _routes(section: IpamDict, _conf: IpamConfDict) -> Problems:
    routes = enumerate(section.get("routes") or ())
    return [problem for i, route in routes for problem in _route(route, f"ipam.routes[{i}]")]


def _route(route: RouteEntryDict, path: str) -> Problems:
    """Checks a route here, because the main plugin would find an invalid gateway only after the address is leased."""
    problems = [] if route.get("dst") else [(f"{path}.dst", "missing")]
    for key, text, read, form in (
        ("dst", route.get("dst"), parse_cidr, "an address with a prefix length"),
        ("gw", route.get("gw"), parse, "an IP address"),
    ):
        try:
            if text:
                read(text, path)
        except CniError:
            problems.append((f"{path}.{key}", f"{text!r} is not {form}"))
    return problems


def _backend(section: IpamDict, _conf: IpamConfDict) -> Problems:
    backend = section.get("backend") or "local"
    problems = []
    if not section.get("backend") and (section.get("range") or section.get("ipRanges")):
        # whereabouts' addresses are unique in the cluster. Leases on the node would not be, so the choice must be
        # explicit.
        problems.append(("ipam.backend", "missing: whereabouts' ranges need it to be set to local, etcd or kubernetes"))
    if backend == "etcd":
        endpoints = (section.get("etcd") or {}).get("endpoints") or []
        problems += [] if endpoints else [("ipam.etcd.endpoints", "missing")]
        problems += [
            (f"ipam.etcd.endpoints[{i}]", f"{endpoint!r} is neither http:// nor https://")
            for i, endpoint in enumerate(endpoints)
            if not endpoint.startswith(_SCHEMES)
        ]
        access = section.get("etcd") or {}
        problem = problem_of(access["prefix"]) if access.get("prefix") else ""
        problems += [("ipam.etcd.prefix", f"{access['prefix']!r} {problem}")] if problem else []
        if bool(access.get("certFile")) != bool(access.get("keyFile")):
            problems.append(("ipam.etcd.certFile", "must be set together with keyFile"))
    for name in ("etcd", "kubernetes"):
        # whereabouts' configurations have a section kubernetes, which must not be ignored in favour of another backend.
        if section.get(name) and backend != name:
            problems.append((f"ipam.{name}", f"applies to backend {name}, but the backend is {backend}"))
    return problems


def _objects(section: IpamDict, conf: IpamConfDict) -> Problems:
    if section.get("backend") != "kubernetes":
        return []
    from ipam.kubernetes import names  # noqa: PLC0415 - other backends have no objects to name

    return names.problems(section.get("network_name") or "", range_sets(conf, []))


_OF_RANGES = (
    *(f"ipam.{key}" for key in ("subnet", "rangeStart", "rangeEnd", "gateway", "exclude", "ranges", "ipRanges")),
    *(f"ipam.{key}" for key in ("range", "range_start", "range_end")),
    "runtimeConfig.ipRanges",
)

_RULES = (
    (_OF_RANGES, _ranges),
    (("ipam.addresses",), _addresses),
    (("ipam.routes",), _routes),
    (("ipam.backend", "ipam.etcd", "ipam.kubernetes"), _backend),
    (("ipam.dataDir", "ipam.resolvConf", "ipam.etcd", "ipam.kubernetes"), _places),
    (("ipam.nodeName", "ipam.network_name"), _names),
    (("ipam.backend", "ipam.network_name", *_OF_RANGES), _objects),
    (("ipam.node_slice_size",), _slices),
)
"""Each rule with the keys that it reads."""
