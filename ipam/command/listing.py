"""Formats leases and utilisation, as text and as values for JSON. Pure."""

from __future__ import annotations

from cni.errors import CniError
from cni.value import Value
from ipam.address import Address, parse
from ipam.cluster.journal_entry import TOMBSTONE
from ipam.command.inventory import capacity, used
from ipam.command.networks import describe
from ipam.ranges import Range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal, NotRequired, TypedDict

    from cni.jsontext import JsonObject
    from ipam.cluster.journal_entry import Entry
    from ipam.command.fsck import Finding
    from ipam.command.inventory import Inventory, LocationLeases
    from ipam.command.networks import Network
    from ipam.command.sandboxes import Sandboxes
    from ipam.store import Lease, Owner

    class OwnerDict(TypedDict):
        container: str
        interface: str
        pod: str

    class LeaseDict(OwnerDict):
        address: str
        node: str

    class RangeDict(TypedDict):
        """`used` and `size` are numbers of addresses; without `configured` the range is known from the journal only."""

        range: str
        used: int
        size: int
        configured: bool

    class StoreDict(TypedDict):
        """`directory` of a local store, or `cluster` and `shared`, the network's name there."""

        backend: str
        directory: NotRequired[str]
        cluster: NotRequired[str]
        shared: NotRequired[str]

    class LocationDict(StoreDict):
        """A location. `failure` is the reason if it cannot be reached, `used` the number of `leases`."""

        names: list[str]
        failure: str
        ranges: list[RangeDict]
        used: int
        leases: list[LeaseDict]


class Match(Value):
    """The leases and the journal's entry of an interface in one location. `node` is the node of the leases."""

    network: Network
    owner: Owner
    addresses: tuple[Address, ...]
    entry: Entry | None = None
    node: str = ""


def matches(inventory: Inventory, subject: str) -> list[Match]:
    """The owners that match `subject` (an address, a container ID, or container ID/interface), in each location."""
    wanted = _parsed(subject)
    found: list[Match] = []
    for location in inventory.locations:
        entries = {_holder(entry.owner): entry for entry in inventory.entries_at(location.network)}
        owners = {_holder(lease.owner): lease for lease in location.leases if _matches_lease(wanted, lease)}
        meant = {key: lease.owner for key, lease in owners.items()}
        meant |= {key: entry.owner for key, entry in entries.items() if _matches_entry(wanted, entry)}
        found += [_match(location, meant[key], owners.get(key), entries.get(key)) for key in meant]
    return found


def listed(inventory: Inventory) -> list[LocationDict]:
    """Each location once, with the names, ranges and leases of its networks."""
    found: list[LocationDict] = []
    stores: list[tuple[object, LocationDict]] = []
    for location in inventory.locations:
        known = next((fields for store, fields in stores if store == location.network.store), None)
        if known is not None:
            known["names"].append(location.network.name)
            continue
        fields = _location_fields(location, inventory)
        stores.append((location.network.store, fields))
        found.append(fields)
    return found


def as_table(locations: list[LocationDict]) -> str:
    return "\n\n".join("\n".join(_lines(location)) for location in locations) or "no networks are known here"


def match_fields(match: Match, sandboxes: Sandboxes) -> JsonObject:
    """A match, and the reasons why its owner counts as alive."""
    alive = sandboxes.uses(match.owner.container_id, match.owner.ifname, match.addresses)
    return {
        "network": match.network.name,
        **_store_fields(match.network),
        "addresses": [str(address) for address in match.addresses],
        **_owner(match.owner),
        "node": match.node,
        "journal": match.entry.phase if match.entry else "",
        "inUse": alive,
    }


def finding_fields(finding: Finding) -> JsonObject:
    return {
        "kind": finding.kind,
        "text": finding.text,
        "network": finding.network.name if finding.network else "",
        "addresses": [str(address) for address in finding.addresses],
        **(_owner(finding.owner) if finding.owner else {}),
    }


def as_block(fields: JsonObject) -> str:
    """A match as text."""
    values = {key: ", ".join(value) if isinstance(value, list) else value for key, value in fields.items()}
    return "\n".join(f"{key + ':':12} {value or '-'}" for key, value in values.items())


def is_named(subject: str, owner: Owner) -> bool:
    """Whether `subject` (a container ID, or container ID/interface) matches the owner."""
    container_id, _, ifname = subject.partition("/")
    return _is_owner((container_id, ifname), owner)


def tombstone(entry: Entry) -> str:
    """A tombstone on one line: the addresses, their owner and their cluster."""
    texts = ", ".join(str(claim.address) for claim in entry.claims or ()) or "unknown addresses"
    owner = entry.owner
    return f"{texts}  {owner.network}/{owner.container_id}/{owner.ifname}  {describe(entry.cluster_conf)}"


def printable(text: str) -> str:
    """The text without control characters: names come from pods and clusters, and must not steer a terminal."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)


def _location_fields(location: LocationLeases, inventory: Inventory) -> LocationDict:
    network = location.network
    return {
        "names": [network.name],
        **_store_fields(network),
        "failure": location.failure,
        "ranges": [
            {
                "range": str(range_),
                "used": used(range_, location.leases),
                "size": capacity(range_),
                "configured": bool(network.sets),
            }
            for range_ in _ranges(network, inventory)
        ],
        "used": len(location.leases),
        "leases": [
            {"address": str(lease.address), **_owner(lease.owner), "node": lease.node} for lease in location.leases
        ],
    }


def _ranges(network: Network, inventory: Inventory) -> list[Range]:
    """The configured ranges; otherwise those in the journal, without gateway and exclusions."""
    if network.sets:
        return [range_ for ranges in network.sets for range_ in ranges]
    journalled = (claim.range for entry in inventory.entries_at(network) for claim in entry.claims or ())
    return list(dict.fromkeys(range_ for range_ in journalled if range_.first != range_.last))


def _lines(fields: LocationDict) -> Iterator[str]:
    store = (
        f"local {fields['directory']}" if "directory" in fields else f"{fields['cluster']}, network {fields['shared']}"
    )
    yield f"{', '.join(fields['names'])}: {store}"
    if fields["failure"]:
        yield f"  cannot be reached: {fields['failure']}"
        return
    for range_ in fields["ranges"]:
        yield f"  {range_['range']}: {range_['used']} of {range_['size']} in use ({_percent(range_['used'], range_['size'])})"
    if not fields["ranges"]:
        yield f"  {fields['used']} in use"
    rows: list[tuple[str, ...]] = [tuple(column.upper() for column in _COLUMNS)]
    rows += [tuple(lease[column] or "-" for column in _COLUMNS) for lease in fields["leases"]]
    if len(rows) > 1:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            yield ("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()


_COLUMNS: tuple[Literal["address", "container", "interface", "pod", "node"], ...] = (
    "address",
    "container",
    "interface",
    "pod",
    "node",
)


def _percent(part: int, whole: int) -> str:
    return f"{part * 100 // whole if whole else 100}%"


def _store_fields(network: Network) -> StoreDict:
    if network.cluster_conf is None:
        return {"backend": network.backend, "directory": network.directory}
    return {"backend": network.backend, "cluster": describe(network.cluster_conf), "shared": network.shared}


def _owner(owner: Owner) -> OwnerDict:
    return {"container": owner.container_id, "interface": owner.ifname, "pod": owner.pod}


def _match(location: LocationLeases, owner: Owner, lease: Lease | None, entry: Entry | None) -> Match:
    leased = location.of(owner.container_id, owner.ifname)
    journalled = tuple(claim.address for claim in entry.claims or ()) if entry else ()
    node = entry.node if entry else lease.node if lease else ""
    addresses = tuple(dict.fromkeys([*leased, *journalled]))
    return Match(network=location.network, owner=owner, addresses=addresses, entry=entry, node=node)


def _parsed(subject: str) -> Address | tuple[str, str]:
    try:
        return parse(subject, "")
    except CniError:
        container_id, _, ifname = subject.partition("/")
        return container_id, ifname


def _matches_lease(wanted: Address | tuple[str, str], lease: Lease) -> bool:
    return lease.address == wanted if isinstance(wanted, Address) else _is_owner(wanted, lease.owner)


def _matches_entry(wanted: Address | tuple[str, str], entry: Entry) -> bool:
    if isinstance(wanted, Address):
        return entry.phase != TOMBSTONE and any(claim.address == wanted for claim in entry.claims or ())
    return _is_owner(wanted, entry.owner)


def _is_owner(wanted: tuple[str, str], owner: Owner) -> bool:
    container_id, ifname = wanted
    return bool(container_id) and owner.container_id == container_id and ifname in ("", owner.ifname)


def _holder(owner: Owner) -> tuple[str, str]:
    return owner.container_id, owner.ifname
