"""Reads all keys with a prefix, page by page, from a server that a network's author may have named.

Every response is checked: keys outside the prefix, or in the wrong order, could prolong the walk forever.
"""

from __future__ import annotations

import time

from cni.errors import NotAvailable, TryAgainLater
from ipam.etcd.gateway import FOREIGN, from_base64, to_base64
from ipam.etcd.keys import after, stored_lease

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from cni.jsontext import JsonObject
    from ipam.etcd.gateway import Gateway
    from ipam.etcd.keys import StoredLease

PAGE = 1000
"""Keys per request; one with its lease takes about 400 bytes."""

ALL_SECONDS = 60.0
"""Time limit for reading the leases of all nodes while an operator waits. A million of them take a tenth of it."""

MOST_OF_OWNER = 32 * 64
"""The most leases that one interface can have: a configuration has at most 32 range sets (ipam.config.rules)."""

MOST_OF_NODE = 100_000
"""The most leases of all nodes with one name; machines made from one image may all be called "localhost"."""

LONGEST_NAME = 1024
"""Bytes of a network's name."""


def walk(gateway: Gateway, prefix: bytes, deadline: float, most: int | None = None) -> Iterator[StoredLease]:
    """The leases in the keys with this prefix, in the order of the keys.

    Raises `TryAgainLater` at the deadline, in monotonic seconds, and `NotAvailable` for a server that is not an etcd or
    has more than `most` keys.
    """
    start, count = prefix, 0
    while True:
        page = _page(gateway, prefix, start, deadline, limit=PAGE)
        count += len(page)
        if most is not None and count > most:
            raise NotAvailable(f"etcd has more than {most} keys below {_shown(prefix)}", hint=FOREIGN)
        yield from (stored for stored in map(stored_lease, page) if stored is not None)
        if len(page) < PAGE:
            return
        start = from_base64(page[-1]["key"]) + b"\0"


def networks(gateway: Gateway, top: bytes, deadline: float) -> list[str]:
    """The first components of the keys below `top`, from one key of each. Raises the same errors as `walk`."""
    names: list[str] = []
    start = top
    while True:
        page = _page(gateway, top, start, deadline, limit=1, keys_only=True)
        if not page:
            return names
        name = from_base64(page[0]["key"]).removeprefix(top).partition(b"/")[0]
        if len(name) > LONGEST_NAME or len(names) >= MOST_OF_NODE:
            raise NotAvailable(f"etcd has names below {_shown(top)} that cannot be networks'", hint=FOREIGN)
        names.append(name.decode(errors="replace"))
        start = after(top + name + b"/")


def _page(gateway: Gateway, prefix: bytes, start: bytes, deadline: float, **how: Any) -> list[JsonObject]:
    """A page of entries from `start` on."""
    if time.monotonic() >= deadline:
        raise TryAgainLater(f"etcd has more keys below {_shown(prefix)} than can be read in time")
    question = {"key": to_base64(start), "range_end": to_base64(after(prefix)), **how}
    with gateway.until(deadline):
        entries: list[JsonObject] = gateway.ask("/v3/kv/range", question).get("kvs", [])
    least = start
    for entry in entries[: how["limit"] + 1]:
        key = from_base64(entry["key"])
        if key < least or not key.startswith(prefix):
            raise NotAvailable(f"etcd returned keys that were not requested, below {_shown(prefix)}", hint=FOREIGN)
        least = key + b"\0"
    if len(entries) > how["limit"]:
        raise NotAvailable(f"etcd returned more keys than requested, below {_shown(prefix)}", hint=FOREIGN)
    return entries


def _shown(prefix: bytes) -> str:
    return prefix.decode(errors="replace")
