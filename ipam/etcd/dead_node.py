"""Frees a dead node's leases in etcd, in all networks below the prefix, unless it shows a sign of life.

Everything is read before anything is freed, and both are bounded, because a network's author may have named the server.
"""

from __future__ import annotations

import time

from cni.errors import TryAgainLater
from ipam.etcd.gateway import to_base64
from ipam.etcd.heartbeat import Alive, seconds_left, sign_of
from ipam.etcd.keys import after, stored_lease
from ipam.etcd.paging import ALL_SECONDS, MOST_OF_NODE, networks, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cni.jsontext import JsonObject
    from ipam.etcd.gateway import Gateway
    from ipam.etcd.keys import Keys, StoredLease
    from ipam.store import Lease

PAGE = 32
"""Leases per transaction: each has two keys, and etcd accepts 128 operations."""

FREE_SECONDS = 600.0
"""Time limit for freeing them; a transaction takes milliseconds."""


def leases(gateway: Gateway, keys: Keys) -> Iterator[Lease]:
    """The leases of the node that `keys` names, or of its machine if they name one.

    Raises `TryAgainLater`, and `NotAvailable` for a server that is not an etcd.
    """
    for _ours, of_network in _indexed(gateway, keys):
        yield from of_network


def free(gateway: Gateway, keys: Keys, seconds: float) -> Iterator[Lease]:
    """Frees the leases, and yields each after it is free. Raises `Alive` as soon as there is a sign of life."""
    result = _indexed(gateway, keys)
    latest = time.monotonic() + FREE_SECONDS
    for ours, indexed in result:
        for i in range(0, len(indexed), PAGE):
            page = indexed[i : i + PAGE]
            with gateway.until(latest):
                _free(gateway, ours, page, min(seconds, latest - time.monotonic()))
            yield from page
        with gateway.until(latest):
            _forget(gateway, ours)


def require_dead(gateway: Gateway, keys: Keys) -> None:
    """Raises `Alive` if there is a sign of life."""
    seconds = seconds_left(gateway, keys)
    if seconds is not None:
        hint = f"power it off, and repeat this after the sign has expired, in {seconds} s"
        raise Alive(f"{keys.node} is alive: it has a sign of life in etcd", hint=hint)


def _indexed(gateway: Gateway, keys: Keys) -> list[tuple[Keys, list[Lease]]]:
    """The node's leases in each network."""
    deadline, most = time.monotonic() + ALL_SECONDS, MOST_OF_NODE
    result = []
    for network in networks(gateway, f"{keys.prefix}/".encode(), deadline):
        ours = keys.replace(network=network)
        whole = [
            stored.lease for stored in walk(gateway, ours.node_indexes(), deadline, most) if stored.lease is not None
        ]
        most -= len(whole)
        indexed = [lease for lease in whole if keys.machine in ("", lease.machine)]
        if indexed:
            result.append((ours, indexed))
    return result


def _free(gateway: Gateway, keys: Keys, indexed: list[Lease], seconds: float) -> None:
    """Deletes leases and their indexes in a transaction that fails if the node is alive."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        held = _held(gateway, keys, indexed)
        compare = [{"key": to_base64(sign_of(keys)), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}]
        compare += [_unchanged(keys, stored) for stored in held]
        gone = [keys.ip(stored.address) for stored in held] + [
            keys.index(lease.owner, lease.address) for lease in indexed
        ]
        steps = [{"request_delete_range": {"key": to_base64(key)}} for key in gone]
        if gateway.ask("/v3/kv/txn", {"compare": compare, "success": steps, "failure": []}).get("succeeded"):
            return
        require_dead(gateway, keys)
    raise TryAgainLater("other calls keep changing the addresses")


def _forget(gateway: Gateway, keys: Keys) -> None:
    """Deletes the node's witnesses. If the node returns, it takes its journal's leases again."""
    start = keys.witnesses()
    gateway.ask("/v3/kv/deleterange", {"key": to_base64(start), "range_end": to_base64(after(start))})


def _held(gateway: Gateway, keys: Keys, indexed: list[Lease]) -> list[StoredLease]:
    """The leases that belong to the owners that the indexes name.

    An index may be stale, and the address another node's.
    """
    steps = [{"request_range": {"key": to_base64(keys.ip(lease.address))}} for lease in indexed]
    answer = gateway.ask("/v3/kv/txn", {"compare": [], "success": steps, "failure": []})
    owners = {lease.address: lease.owner for lease in indexed}
    entries = [entry for part in answer.get("responses", []) for entry in part.get("response_range", {}).get("kvs", [])]
    leased = [stored for stored in map(stored_lease, entries) if stored is not None and stored.address in owners]
    ours = [stored for stored in leased if keys.is_of(stored.lease, owners[stored.address])]
    return [stored for stored in ours if stored.lease is not None and keys.machine in ("", stored.lease.machine)]


def _unchanged(keys: Keys, stored: StoredLease) -> JsonObject:
    key = to_base64(keys.ip(stored.address))
    return {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": stored.revision}
