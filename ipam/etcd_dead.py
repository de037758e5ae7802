"""A dead node's leases in etcd, of all networks below the prefix, freed as long as it leaves no sign of life."""

from __future__ import annotations

import time

from cni.errors import TryAgainLater
from ipam.etcd_alive import Alive, left, sign_of
from ipam.etcd_gateway import from_base64, to_base64
from ipam.etcd_keys import after, found

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ipam.etcd_gateway import Gateway
    from ipam.etcd_keys import Found, Keys
    from ipam.store import Lease

PAGE = 32
"""Leases of a transaction: each has two keys, and etcd takes 128 steps."""


def leases(gateway: Gateway, keys: Keys) -> Iterator[Lease]:
    """Those of the node that `keys` names."""
    for network in networks(gateway, keys):
        ours = keys.replace(network=network)
        for one in _all(gateway, ours.node_indexes()):
            if one.lease is not None:
                yield one.lease


def free(gateway: Gateway, keys: Keys, seconds: float) -> Iterator[Lease]:
    """Frees them, and gives each that is free. Raises `Alive` as soon as there is a sign of life."""
    for network in networks(gateway, keys):
        ours = keys.replace(network=network)
        indexed = [one.lease for one in _all(gateway, ours.node_indexes()) if one.lease is not None]
        for place in range(0, len(indexed), PAGE):
            some = indexed[place : place + PAGE]
            _free(gateway, ours, some, seconds)
            yield from some


def require_dead(gateway: Gateway, keys: Keys) -> None:
    """Raises `Alive` when there is a sign of life."""
    seconds = left(gateway, keys)
    if seconds is not None:
        hint = f"power it off, and repeat this when the sign has expired, in {seconds} s"
        raise Alive(f"{keys.node} is alive: it has left a sign of life in etcd", hint=hint)


def networks(gateway: Gateway, keys: Keys) -> Iterator[str]:
    """The networks below the prefix, by a look at one key of each."""
    top = f"{keys.prefix}/".encode()
    key, end = top, to_base64(after(top))
    while True:
        question = {"key": to_base64(key), "range_end": end, "keys_only": True, "limit": 1}
        entries = gateway.ask("/v3/kv/range", question).get("kvs", [])
        if not entries:
            return
        name = from_base64(entries[0]["key"]).removeprefix(top).partition(b"/")[0]
        yield name.decode(errors="replace")
        key = after(top + name + b"/")


def _free(gateway: Gateway, keys: Keys, some: list[Lease], seconds: float) -> None:
    """Removes them, with their indexes, in a transaction that fails when the node lives."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        held = _held(gateway, keys, some)
        compare = [{"key": to_base64(sign_of(keys)), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}]
        compare += [_unchanged(keys, one) for one in held]
        gone = [keys.ip(one.address) for one in held] + [keys.index(one.owner, one.address) for one in some]
        steps = [{"request_delete_range": {"key": to_base64(key)}} for key in gone]
        if gateway.ask("/v3/kv/txn", {"compare": compare, "success": steps, "failure": []}).get("succeeded"):
            return
        require_dead(gateway, keys)
    raise TryAgainLater("the addresses change hands all the time")


def _held(gateway: Gateway, keys: Keys, some: list[Lease]) -> list[Found]:
    """Those that are the owners' as the indexes say: an index may be left over, and the address another node's."""
    steps = [{"request_range": {"key": to_base64(keys.ip(one.address))}} for one in some]
    answer = gateway.ask("/v3/kv/txn", {"compare": [], "success": steps, "failure": []})
    owners = {one.address: one.owner for one in some}
    seen = [found(entry) for one in answer.get("responses", []) for entry in one["response_range"].get("kvs", [])]
    return [one for one in seen if one is not None and keys.is_of(one.lease, owners[one.address])]


def _unchanged(keys: Keys, one: Found) -> dict[str, Any]:
    key = to_base64(keys.ip(one.address))
    return {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": one.revision}


def _all(gateway: Gateway, prefix: bytes) -> list[Found]:
    """What the keys with this prefix hold, read page by page."""
    entries: list[Found] = []
    key, end = prefix, to_base64(after(prefix))
    while True:
        question = {"key": to_base64(key), "range_end": end, "limit": 1000}
        page = gateway.ask("/v3/kv/range", question).get("kvs", [])
        entries += [one for one in map(found, page) if one is not None]
        if len(page) < 1000:
            return entries
        key = from_base64(page[-1]["key"]) + b"\0"
