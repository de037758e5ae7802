"""Checks the names of Kubernetes objects for a network's pools and addresses, which are more restricted than CNI's.

Pure.
"""

from __future__ import annotations

from cni.kube.answers import is_name
from ipam.kubernetes.whereabouts import pool_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipam.ranges import RangeSet

KEY = "ipam.network_name"
_LONGEST_CIDR = {4: "255.255.255.255/32", 6: f"{':'.join(['ffff'] * 8)}/128"}
"""No name of a pool or reservation is longer than that of these pools."""


def problems(network_name: str, sets: Iterable[RangeSet]) -> list[tuple[str, str]]:
    """Problems with the names of objects, as (JSON path, text)."""
    ranges = [range_ for ranges in sets for range_ in ranges]
    if network_name:
        longest = _LONGEST_CIDR[max((range_.subnet.version for range_ in ranges), default=4)]
        fits = is_name(pool_name(longest, network_name))
        text = f"{network_name!r} cannot be part of the name of a Kubernetes object: "
        rule = "it is too long, or contains characters other than lower-case letters, digits, - and ."
        return [] if fits else [(KEY, text + rule)]
    # The text of such an address can begin with "::", and then the name of its object begins with "--".
    bad = [range_ for range_ in ranges if range_.subnet.version == 6 and not range_.subnet.number >> 96]
    text = "missing: without it the name of a Kubernetes object for {} would begin with -"
    return [(KEY, text.format(bad[0]))] if bad else []
