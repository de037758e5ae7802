"""The state of the guest's host before and after a test, read without product code, and the differences.

Devices are identified by PCI address if they have one, so that a lost name shows up as a changed `ifname`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.lab.topology import GUEST_STATE
from tests.lab.vm import Vm

Tree = dict[str, Any]

LEFT_OUT = {
    "links.*.ifindex": "the kernel may give another one when a device comes back from a namespace",
    "links.*.link_index": "an ifindex",
    "links.*.operstate": "follows the carrier, which follows the PF, in its own time; `flags` has UP",
    "links.*.flags: LOWER_UP, NO-CARRIER, DORMANT": "the carrier again",
    "links.*.qdisc": "the kernel makes one when a link comes up first, and drops it when the device changes its namespace",
    "addresses.*.{tentative,optimistic}": "duplicate address detection goes on in its own time",
    "addresses.*.{valid_life_time,preferred_life_time}": "count down",
    "routes.*.expires": "counts down",
    "sysctls: stable_secret": "cannot be read before it is set",
    "files: /run/barewire/lock*": "lock files stay, so that two holders never lock different files",
    "files: /run/barewire/collected-*": "for which boot earlier ones have been put away: once in a boot",
    "files: /run/barewire/ipam/*": "an index of host-local's directories, which stays as they do, and may vanish any time",
    "files: host-local's last_reserved_ip.* and lock": "host-local keeps them, to give addresses in turn",
    "empty folders": "say nothing; records and leases are files",
    "sysfs name_assign_type, addr_assign_type": "say that a name or MAC was ever set; nothing can take that back",
    "counters": "frames were sent",
    "neighbours": "expire in their own time, or go with the addresses",
    "ethtool RSS, flow rules, and queues behind the first": "the card has one queue, and no such rules",
}
"""The attributes that a snapshot omits, with the reasons."""

_CARRIER_FLAGS = frozenset({"LOWER_UP", "NO-CARRIER", "DORMANT"})
_LINK_NOISE = frozenset({"ifindex", "link_index", "operstate", "qdisc"})
_ADDRESS_NOISE = frozenset({"tentative", "optimistic", "valid_life_time", "preferred_life_time"})
_FILE_NOISE = re.compile(
    r"/run/barewire/(lock|ipam/|collected-).*|/var/lib/cni/networks/[^/]+/(last_reserved_ip\..*|lock)"
)


def host_snapshot(vm: Vm) -> Tree:
    """The state of the root namespace, read in one request.

    It contains links (with XDP, link mode and limits of offloads, and with the settings of a PF's VFs), their values in
    ethtool, addresses, routes, rules, sysctls of interfaces, PCI drivers and VF counts, named namespaces, the files of
    CNI plugins, and the links of all namespaces that are stacked on another one's.
    """
    seen = json.loads(vm.python(GUEST_STATE.read_text()).out)
    links, addresses, routes = _lists(seen["ip"])
    names = {link["ifname"]: link.get("parentdev") or link["ifname"] for link in links}
    return {
        "pci": seen["pci"],
        "links": {names[link["ifname"]]: _link(link) for link in links},
        "addresses": {names[entry["ifname"]]: [_address(one) for one in entry["addr_info"]] for entry in addresses},
        "routes": _by_text(map(_route, routes)),
        "rules": {family: dict.fromkeys(rules, "present") for family, rules in seen["rules"].items()},
        "sysctls": {
            f"{folder.removeprefix('/proc/sys/').replace('/', '.')}.{file}": value
            for folder, values in seen["sysctls"].items()
            for file, value in values.items()
            if file != "stable_secret"
        },
        "ethtool": {names[name]: settings for name, settings in seen["ethtool"].items()},
        "stacked": dict.fromkeys(seen["stacked"], "present"),
        "netns": dict.fromkeys(seen["netns"], "present"),
        "files": {path: text for path, text in seen["files"].items() if not _FILE_NOISE.fullmatch(path)},
    }


def _lists(text: str) -> list[list[Tree]]:
    """JSON lists that follow one another. `ip` leaves an empty object for each link that it omits."""
    found, rest = [], text.strip()
    while rest:
        entries, end = json.JSONDecoder().raw_decode(rest)
        found.append([entry for entry in entries if entry])
        rest = rest[end:].lstrip()
    return found


def difference(before: Tree, after: Tree) -> list[str]:
    """One line for each different attribute: `links.0000:01:10.0.mtu: 1500 -> 1400`."""
    return list(_differences("", before, after))


def _link(link: Tree) -> Tree:
    kept = {key: value for key, value in link.items() if key not in _LINK_NOISE}
    kept["flags"] = sorted(set(link["flags"]) - _CARRIER_FLAGS)
    kept["altnames"] = sorted(link.get("altnames", []))
    if "vfinfo_list" in link:
        kept["vfinfo_list"] = {f"vf {vf['vf']}": vf for vf in link["vfinfo_list"]}
    return kept


def _address(address: Tree) -> Tree:
    return {key: value for key, value in address.items() if key not in _ADDRESS_NOISE}


def _route(route: Tree) -> Tree:
    return {key: value for key, value in route.items() if key != "expires"}


def _by_text(entries: Any) -> Tree:
    """Keyed by their text, because their order does not matter."""
    return {json.dumps(entry, sort_keys=True): "present" for entry in entries}


_ABSENT = object()


def _differences(path: str, before: Any, after: Any) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            inner = f"{path}.{key}" if path else str(key)
            yield from _differences(inner, before.get(key, _ABSENT), after.get(key, _ABSENT))
    elif (type(before), before) != (type(after), after):
        yield f"{path}: {_shown(before)} -> {_shown(after)}"


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else json.dumps(value)
