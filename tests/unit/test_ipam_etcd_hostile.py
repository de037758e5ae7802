"""A server that is not an etcd, which a network's author may have named, and whose responses keep a caller busy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from cni.errors import NotAvailable, TryAgainLater
from ipam.address import parse
from ipam.etcd import cluster, dead_node, paging
from ipam.etcd.cluster import Etcd
from ipam.etcd.gateway import Gateway, from_base64, to_base64
from ipam.etcd.keys import Keys
from ipam.store import Owner, claim_on

KEYS = Keys(prefix="/barewire/ipam", network="net", node="node-a")
OWNER = Owner(network="net", container_id="a", ifname="net1")
LATEST = 3.0
"""Seconds after which a call with the limit `SHORT` has certainly exceeded it, even on a busy machine."""

SHORT = 0.2
AMPLE = 60.0
"""The limit of a call that ends for another reason."""


class Hostile(Gateway):
    """Responds to a request for the keys from `start` on with those that `answer` returns."""

    def __init__(self, answer: Callable[[bytes], Iterable[bytes]], seconds: float = AMPLE) -> None:
        super().__init__((), seconds)
        self._answers = answer

    def ask(self, path: str, question: Any) -> dict[str, Any]:
        if time.monotonic() >= self.latest:
            raise TryAgainLater("the time is over")
        if path != "/v3/kv/range":
            return {}
        return {"kvs": [{"key": to_base64(key)} for key in self._answers(from_base64(question["key"]))]}


def endless(start: bytes) -> Iterator[bytes]:
    """A page of keys of addresses, each greater than the one before."""
    top, _, last = start.rstrip(b"\0").rpartition(b"/")
    first = int(last[1:], 16) + 1 if last else 0
    return (top + b"/4%08x" % number for number in range(first, first + paging.PAGE))


def again(start: bytes) -> list[bytes]:
    """The same keys in each response, of which the first is the start of the walk."""
    prefix = start[: start.rindex(b"/") + 1]
    return [prefix + b"4%08x" % number for number in range(paging.PAGE)]


def elsewhere(_start: bytes) -> list[bytes]:
    return [b"/zzz/4%08x" % number for number in range(paging.PAGE)]


def backwards(start: bytes) -> list[bytes]:
    return list(endless(start))[::-1]


def too_many(start: bytes) -> list[bytes]:
    return [*endless(start), start + b"z"]


WALKS: dict[str, Callable[[Gateway, float], object]] = {
    "give_back_all": lambda gateway, seconds: Etcd(gateway, KEYS, seconds).give_back_all(OWNER),
    "leases_of_node": lambda gateway, seconds: list(Etcd(gateway, KEYS, seconds).leases_of_node()),
    "leases": lambda gateway, seconds: list(Etcd(gateway, KEYS, seconds).leases("net")),
    "dead": lambda gateway, _seconds: list(dead_node.leases(gateway, KEYS)),
    "freed": lambda gateway, seconds: list(dead_node.free(gateway, KEYS, seconds)),
}


@pytest.mark.parametrize("walk", WALKS)
def test_a_server_that_returns_ever_more_keys_is_left_within_the_callers_bound(walk, monkeypatch):
    for module in (cluster, dead_node):  # reading everything has a limit of a minute
        monkeypatch.setattr(module, "ALL_SECONDS", SHORT)
    answer = names if walk in ("dead", "freed") else endless
    started = time.monotonic()
    with pytest.raises((NotAvailable, TryAgainLater), match=r"etcd has more|time is over"):
        WALKS[walk](Hostile(answer, SHORT), SHORT)
    assert time.monotonic() - started < LATEST


def names(start: bytes) -> list[bytes]:
    """A key of another network each time."""
    number = int(start.removeprefix(b"/barewire/ipam/")[:8] or b"0")
    return [b"/barewire/ipam/%08d/x" % (number + 1)]


@pytest.mark.parametrize("answer", [again, elsewhere, backwards, too_many])
@pytest.mark.parametrize("walk", ["give_back_all", "leases_of_node", "leases"])
def test_unrequested_keys_end_the_walk_as_an_error_of_that_server(walk, answer):
    with pytest.raises(NotAvailable, match="requested"):
        WALKS[walk](Hostile(answer), AMPLE)


@pytest.mark.parametrize("walk", ["dead", "freed"])
@pytest.mark.parametrize("key", [b"/barewire/ipam/net/ip/4", b"/barewire/ipal/x", b"/zzz"])
def test_the_same_network_in_each_answer_ends_the_search_for_networks(walk, key):
    with pytest.raises(NotAvailable, match="requested"):
        WALKS[walk](Hostile(lambda _start: [key]), AMPLE)


def test_an_owner_has_no_more_leases_than_a_configuration_can_give_it():
    asked = []

    def answer(start: bytes) -> Iterator[bytes]:
        asked.append(start)
        return endless(start)

    with pytest.raises(NotAvailable, match=f"more than {paging.MOST_OF_OWNER} keys"):
        Etcd(Hostile(answer), KEYS, AMPLE).give_back_all(OWNER)
    assert len(asked) == 3


def test_a_nodes_leases_are_bounded_in_number(monkeypatch):
    monkeypatch.setattr(cluster, "MOST_OF_NODE", 1500)
    with pytest.raises(NotAvailable, match="more than 1500 keys"):
        list(Etcd(Hostile(endless), KEYS, AMPLE).leases_of_node())


def test_a_transaction_without_an_answer_to_each_step_is_refused():
    with pytest.raises(NotAvailable, match="lacks steps"):
        Etcd(Hostile(endless), KEYS, AMPLE).take((claim_on(parse("10.9.0.1", "test")),), OWNER)
