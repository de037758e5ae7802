"""`python -m tests.bench.kubernetes`: 128 pods with 16 interfaces each lease from one range kept in Kubernetes.

A large job starts as many pods at once. They are on 8 nodes, each a process. Each interface is leased as a plugin's
process does it: with a TLS connection of its own and an entry in the node's journal. The tests' API server waits 5 ms
before each response. It applies patches of a pool one after the other without a wait; an API server that commits each
patch to etcd in 1 ms, for example, needs 2 s for 2,048 of them.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipam.cluster.store import Journal, Journaled
from ipam.kubernetes import whereabouts
from ipam.kubernetes.whereabouts import PoolLocation
from tests.contract.ipam_cluster_contract import NETWORK, owner, range_of
from tests.kube.apiserver import ApiServer, Faults
from tests.kube.resources import POOLS
from tests.kube.routes import RIGHTS
from tests.trusting import opened_kubernetes

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

    from ipam.store import ClusterConf, Owner

NODES, PODS, INTERFACES = 8, 128, 16
LATENCY = 0.005
BOUND, WAIT = 10.0, 300.0
WIDE = range_of("10.9.0.0", 16, "10.9.0.1", "10.9.255.254")


def owners(node: int) -> list[Owner]:
    """The interfaces of the pods of a node."""
    pods = range(node, PODS, NODES)
    return [owner(f"pod{pod}", f"net{interface}") for pod in pods for interface in range(INTERFACES)]


def work(node: int, folder: Path, locks: str, cluster_conf: ClusterConf, barrier: Barrier, spent: Any) -> None:
    """Does the work of a node's plugins: all interfaces get their addresses, then release them. `spent` is in CPU
    seconds.
    """
    journal = Journal(str(folder / "journal"), f"{locks}/n{node}")
    stores = [
        (one, Journaled(journal, f"n{node}", NETWORK, cluster_conf, opened_kubernetes, seconds=60.0))
        for one in owners(node)
    ]
    barrier.wait(WAIT)
    began = time.process_time()
    for one, store in stores:
        store.allocate(one, ((WIDE,),), (None,))
    spent[node] = time.process_time() - began
    barrier.wait(WAIT)
    for one, store in stores:
        store.release(one)
    barrier.wait(WAIT)


def run(latency: float = LATENCY) -> str:
    """The report."""
    spawned = multiprocessing.get_context("spawn")
    # A node has its locks in /run, which is in memory; creating a file on a disk takes far longer.
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm") as locks,
        ApiServer() as api,
    ):
        api.rights = RIGHTS
        api.faults = Faults(delay=latency)
        place = PoolLocation(kubeconfig=str(api.kubeconfig(Path(folder) / "kubeconfig")), subnets=("10.9.0.0/16",))
        barrier = spawned.Barrier(NODES + 1)
        spent = spawned.Array("d", NODES)
        cluster_conf = whereabouts.cluster_conf(place)
        arguments = [(node, Path(folder) / f"n{node}", locks, cluster_conf, barrier, spent) for node in range(NODES)]
        processes = [spawned.Process(target=work, args=one) for one in arguments]
        for process in processes:
            process.start()
        barrier.wait(WAIT)
        began, mine = time.perf_counter(), time.process_time()
        barrier.wait(WAIT)
        mine, theirs = time.process_time() - mine, sum(spent[:])
        leased, asked = time.perf_counter() - began, len(api.requests)
        entries = len(api.resources.get(POOLS, "kube-system", "10.9.0.0-16")["spec"]["allocations"])
        began = time.perf_counter()
        barrier.wait(WAIT)
        freed = time.perf_counter() - began
        for process in processes:
            process.join(WAIT)
        refused = sum(request.status in (409, 422) for request in api.requests)
    count = PODS * INTERFACES
    assert entries == count, f"{entries} of {count} are leased"
    lines = (
        f"{PODS} pods x {INTERFACES} interfaces on {NODES} nodes, an answer takes {latency * 1000:.0f} ms at least",
        f"leased in {leased:6.2f} s, {leased / BOUND:.2f} of the bound; {count / leased:5.0f} a second, {asked} requests",
        f"CPU: {theirs:.1f} s of the nodes, {mine:.1f} s of the server, {(theirs + mine) / leased:.2f} cores of {os.cpu_count()}",
        f"freed in  {freed:6.2f} s; in both, {refused} requests met somebody else's lease",
    )
    return "\n".join(lines)


if __name__ == "__main__":
    print(run())
