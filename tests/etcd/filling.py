"""A pool with many addresses in use."""

from __future__ import annotations

from collections.abc import Iterable

from ipam.etcd.cluster import Etcd
from ipam.ranges import Range
from ipam.store import Claim, Owner
from tests.contract.ipam_cluster_contract import NETWORK

AT_ONCE = 60


def fill(cluster: Etcd, one: Range, numbers: Iterable[int]) -> int:
    """Leases these numbers, each to another owner, and returns their count."""
    chosen = list(numbers)
    keys = cluster._keys
    for place in range(0, len(chosen), AT_ONCE):
        puts = []
        for number in chosen[place : place + AT_ONCE]:
            who = Owner(network=NETWORK, container_id=f"{number:064x}", ifname="net1", pod=f"default/pod-{number}")
            puts += list(cluster._puts(Claim(range=one, address=one.address(number)), who))
        cluster._transaction([], puts, [])
    assert keys.network == NETWORK
    return len(chosen)
