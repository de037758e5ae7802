"""Parses ranges: host-local's objects, whereabouts' strings, exclusions. Pure.

Every function appends errors to `problems`, as (JSON path, text), and then returns None, so that all errors are
reported at once.
"""

from __future__ import annotations

from cni.errors import InvalidConfig
from ipam.address import BITS, Address, parse, parse_cidr
from ipam.ranges import Range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ipam.config.conf_sections import StretchDict, SubnetDict

    Problems = list[tuple[str, str]]
    Pair = tuple[int, int]

KEYS = ("subnet", "rangeStart", "rangeEnd", "gateway", "exclude")
WHEREABOUTS_KEYS = ("range", "range_start", "range_end", "exclude")
_HOSTS_BITS = 2
"""A subnet with fewer host bits is a point-to-point link, which has neither a network nor a broadcast address."""

MOST_OFFSET = (1 << 63) - 1
"""whereabouts stores an address as its offset from the subnet in a signed 64-bit number, and drops larger offsets."""


def host_local(section: object, path: str, problems: Problems) -> Range | None:
    """Parses {subnet, rangeStart, rangeEnd, gateway}, and our exclude. The default gateway is the first host."""
    fields: SubnetDict | None = _texts(section, path, KEYS, problems)
    network = None if fields is None else _network(fields.get("subnet"), f"{path}.subnet", problems)
    if fields is None or network is None:
        return None
    subnet, prefix = network
    range_ = _range(
        subnet,
        prefix,
        fields.get("rangeStart"),
        fields.get("rangeEnd"),
        (f"{path}.rangeStart", f"{path}.rangeEnd"),
        problems,
    )
    gateway = _gateway(fields.get("gateway"), f"{path}.gateway", subnet, prefix, problems)
    return (
        None
        if range_ is None
        else range_.replace(
            gateway=gateway, excluded=excluded(fields.get("exclude"), range_, f"{path}.exclude", problems)
        )
    )


def whereabouts(section: object, path: str, problems: Problems) -> Range | None:
    """Parses {range, range_start, range_end, exclude}; `range` is a CIDR, or first-last/prefix length.

    As in whereabouts, a first or last address that is not a host of the subnet counts as missing.
    """
    fields: StretchDict | None = _texts(section, path, WHEREABOUTS_KEYS, problems)
    if fields is None:
        return None
    text = fields.get("range") or ""
    ends, slash, length = text.rpartition("/")
    first, dash, last = ends.partition("-")
    cidr = _cidr(f"{first.strip()}{slash}{length}" if dash else text, f"{path}.range", problems)
    if dash and not last.strip():
        problems.append((f"{path}.range", f"{text!r} is not first-last/prefix length"))
    if cidr is None:
        return None
    subnet, prefix = _masked(*cidr), cidr[1]
    start, end = (
        fields.get("range_start") or (first.strip() if dash else None),
        fields.get("range_end") or (last.strip() if dash else None),
    )
    names = tuple(f"{path}.{key if fields.get(key) else 'range'}" for key in ("range_start", "range_end"))
    range_ = _range(subnet, prefix, start, end, (names[0], names[1]), problems, only_hosts=True)
    return (
        None
        if range_ is None
        else range_.replace(excluded=excluded(fields.get("exclude"), range_, f"{path}.exclude", problems))
    )


def within_pool(range_: Range, path: str, problems: Problems) -> Range:
    """The part of the range that the whereabouts pool of its subnet can hold."""
    most = range_.subnet.number + MOST_OFFSET
    if range_.first > most:
        text = f"{range_} is outside the first 2**63 addresses of its subnet, the limit of whereabouts' pools"
        problems.append((path, text))
        return range_
    return range_ if range_.last <= most else range_.replace(last=most)


def excluded(texts: Iterable[str] | None, range_: Range, path: str, problems: Problems) -> tuple[Pair, ...]:
    """The parts of the range that are never leased, sorted and merged."""
    return clipped(stretches(texts, path, problems), range_)


def stretches(texts: Iterable[str] | None, path: str, problems: Problems) -> dict[int, tuple[Pair, ...]]:
    """The stretches covered by addresses and CIDRs, by IP version, sorted and merged."""
    pairs: dict[int, list[Pair]] = {}
    for i, text in enumerate(texts or ()):
        cidr = _cidr(text if "/" in text else f"{text}/{BITS[6 if ':' in text else 4]}", f"{path}[{i}]", problems)
        if cidr is not None:
            pairs.setdefault(cidr[0].version, []).append((_masked(*cidr).number, _last(*cidr)))
    return {version: joined(of_version) for version, of_version in pairs.items()}


def clipped(covered: dict[int, tuple[Pair, ...]], range_: Range) -> tuple[Pair, ...]:
    """The stretches that touch the range.

    They are found by bisection, because a configuration may have thousands of both.
    """
    pairs = covered.get(range_.subnet.version, ())
    low, high = 0, len(pairs)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if pairs[middle][1] >= range_.first else (middle + 1, high)
    end = low
    while end < len(pairs) and pairs[end][0] <= range_.last:
        end += 1
    return pairs[low:end]


def joined(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """The stretches sorted, with adjacent and overlapping ones merged."""
    merged: list[Pair] = []
    for first, last in sorted(pairs):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return tuple(merged)


def _network(text: str | None, path: str, problems: Problems) -> tuple[Address, int] | None:
    if not text:
        problems.append((path, "missing"))
        return None
    cidr = _cidr(text, path, problems)
    if cidr is not None and _masked(*cidr) != cidr[0]:
        problems.append((path, f"{text} has host bits set: the network is {_masked(*cidr)}/{cidr[1]}"))
        return None
    if cidr is not None and cidr[1] == 0:
        problems.append((path, f"{text} contains every address; use a smaller subnet"))
        return None
    return cidr


def _range(
    subnet: Address,
    prefix: int,
    start: str | None,
    end: str | None,
    paths: tuple[str, str],
    problems: Problems,
    *,
    only_hosts: bool = False,
) -> Range | None:
    """The hosts of the subnet, or the configured part of them.

    With `only_hosts` the network address and the last address are always excluded.
    """
    last = _last(subnet, prefix)
    small = BITS[subnet.version] - prefix < _HOSTS_BITS
    # The last address of an IPv6 subnet is not a broadcast address: host-local leases it as well. whereabouts does not.
    usual = (subnet.number + (not small), last - (not small and (subnet.version == 4 or only_hosts)))
    ends = [
        _inside(text, path, subnet, prefix, usual[i], problems)
        for i, (text, path) in enumerate(zip((start, end), paths, strict=True))
    ]
    if ends[0] is None or ends[1] is None:
        return None
    bounds = [
        number if usual[0] <= number <= usual[1] or not only_hosts else usual[i]
        for i, number in enumerate((ends[0], ends[1]))
    ]
    if bounds[0] > bounds[1]:
        problems.append((paths[1], f"{end or 'the last address'} comes before the first address"))
        return None
    return Range(subnet=subnet, prefix=prefix, first=bounds[0], last=bounds[1])


def _inside(text: str | None, path: str, subnet: Address, prefix: int, usual: int, problems: Problems) -> int | None:
    if not text:
        return usual
    try:
        address = parse(text, path)
    except InvalidConfig:
        problems.append((path, f"{text!r} is not an IP address"))
        return None
    if address.version != subnet.version or not subnet.number <= address.number <= _last(subnet, prefix):
        problems.append((path, f"{address} is not in network {subnet}/{prefix}"))
        return None
    return address.number


def _gateway(text: str | None, path: str, subnet: Address, prefix: int, problems: Problems) -> int | None:
    if not text:
        return subnet.number + 1 if BITS[subnet.version] - prefix >= _HOSTS_BITS else None
    return gateway(text, path, subnet, problems)


def gateway(text: str, path: str, subnet: Address, problems: Problems) -> int | None:
    """The number of a gateway. It may be outside the subnet, but must have the same IP version."""
    try:
        address = parse(text, path)
    except InvalidConfig:
        problems.append((path, f"{text!r} is not an IP address"))
        return None
    if address.version != subnet.version:
        problems.append((path, f"{address} has another IP version than {subnet}"))
        return None
    return address.number


def _cidr(text: str, path: str, problems: Problems) -> tuple[Address, int] | None:
    try:
        return parse_cidr(text, path)
    except InvalidConfig:
        problems.append((path, f"{text!r} is not an address with a prefix length"))
        return None


def _texts(section: object, path: str, keys: tuple[str, ...], problems: Problems) -> Any:
    """Returns the object if its values are strings, or lists of them for exclude; otherwise None.

    DEL has not validated them. The caller assigns the type of the section.
    """
    if not isinstance(section, dict):
        problems.append((path, "is not an object"))
        return None
    before = len(problems)
    for key, value in section.items():
        if key in keys and value is not None and not (_is_texts(value) if key == "exclude" else isinstance(value, str)):
            problems.append((f"{path}.{key}", f"is not a {'list of strings' if key == 'exclude' else 'string'}"))
    return section if len(problems) == before else None


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _masked(address: Address, prefix: int) -> Address:
    bits = BITS[address.version] - prefix
    return Address(version=address.version, number=address.number >> bits << bits)


def _last(address: Address, prefix: int) -> int:
    return _masked(address, prefix).number | (1 << (BITS[address.version] - prefix)) - 1
