"""Addresses in etcd: the start of a whole cluster, and a large pool that is nearly full."""

from __future__ import annotations

import multiprocessing
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from ipam.cluster.store import Journal, Journaled
from ipam.etcd.cluster import open_etcd
from ipam.ranges import Range
from ipam.store import Owner
from tests.contract.ipam_cluster_contract import NETWORK, range_of
from tests.etcd.filling import fill
from tests.etcd.proxy import Proxy
from tests.etcd.server import EtcdServer
from tests.trusting import ROOTS, opened_etcd

PODS, INTERFACES, PROCESSES = 128, 16, 16
LATENCY = 0.005
LIMIT = 10.0
IN_USE, ROUNDS = 60_000, 60
SECONDS = 120.0
LARGE = range_of("10.8.0.0", 16, "10.8.0.1", "10.8.255.254")


def run() -> str:
    """The report."""
    return f"{_start()}\n\n{_large()}"


def _store(folder: Path, node: str, cluster_conf: Any) -> Journaled:
    journal = Journal(str(folder / node), str(folder / f"{node}-run"))
    return Journaled(journal, node, NETWORK, cluster_conf, opened_etcd, seconds=SECONDS)


def _allocate(store: Journaled, name: str, ifname: str, one: Range) -> str:
    who = Owner(network=NETWORK, container_id=name, ifname=ifname, pod=f"default/{name}")
    (claim,) = store.allocate(who, ((one,),), (None,))
    return str(claim.address)


def _start() -> str:
    """Measures many processes, each of which is a node that starts its share of the pods, interface by interface."""
    with EtcdServer() as server, Proxy(server.port, LATENCY) as proxy, tempfile.TemporaryDirectory() as folder:
        cluster_conf: dict[str, Any] = server.cluster_conf(endpoints=[proxy.endpoint], prefix="/bench")
        with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
            pool.map(_warm, range(PROCESSES), chunksize=1)
            started = time.monotonic()
            found = pool.starmap(_pods, [(folder, number, cluster_conf) for number in range(PROCESSES)], chunksize=1)
            seconds = time.monotonic() - started
        addresses = [address for some in found for address in some]
    assert len(set(addresses)) == PODS * INTERFACES
    return (
        f"{PODS} pods x {INTERFACES} interfaces, one network in etcd, {LATENCY * 1000:g} ms latency,"
        f" {PROCESSES} processes: {seconds:.1f} s (limit {LIMIT:g} s: {'held' if seconds < LIMIT else 'EXCEEDED'}),"
        f" {proxy.questions} questions, {proxy.questions / len(addresses):.2f} for an address"
    )


def _warm(number: int) -> int:
    time.sleep(0.2)  # so that every process of the pool gets one, and has imported this module
    return number


def _pods(folder: str, number: int, cluster_conf: Any) -> list[str]:
    node = f"node-{number}"
    names = [f"{pod:064x}" for pod in range(number, PODS, PROCESSES)]
    return [
        _allocate(_store(Path(folder), node, cluster_conf), name, f"net{interface}", LARGE)
        for name in names
        for interface in range(INTERFACES)
    ]


def _large() -> str:
    """Queries the pools in turn, so that other load of the machine affects all of them equally."""
    numbers = range(LARGE.first, LARGE.last + 1)
    scattered = random.Random(1).sample(numbers, IN_USE)
    pools = {"empty": [], f"{IN_USE} scattered": scattered, f"{IN_USE} in one block": list(numbers[:IN_USE])}
    times: dict[str, list[float]] = {name: [] for name in pools}
    with EtcdServer() as server, tempfile.TemporaryDirectory() as folder:
        stores = {name: _filled(Path(folder), name, server, used) for name, used in pools.items()}
        for number in range(ROUNDS):
            for name, store in stores.items():
                started = time.perf_counter()
                _allocate(store, f"{number:064x}", "net1", LARGE)
                times[name].append((time.perf_counter() - started) * 1000)
    medians = {name: statistics.median(some) for name, some in times.items()}
    lines = [f"{name:44}{median:10.1f}{median / medians['empty']:8.2f}" for name, median in medians.items()]
    return "\n".join([f"{f'an allocation from {LARGE}':44}{'median ms':>10}{'ratio':>8}", *lines])


def _filled(folder: Path, name: str, server: EtcdServer, used: list[int]) -> Journaled:
    place = name.replace(" ", "-")
    cluster_conf: dict[str, Any] = server.cluster_conf(prefix=f"/bench/{place}")
    others: Any = {**cluster_conf, "node": "others"}
    fill(open_etcd(others, NETWORK, SECONDS, ROOTS), LARGE, used)
    return _store(folder, place, cluster_conf)


if __name__ == "__main__":
    print(run())
