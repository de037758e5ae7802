"""Pods move between our nodes and whereabouts', restart without a DEL, and are deleted late.

No pod gets an address in use, a pod keeps its own, and no lease remains after GC and `barewire-ipam reconcile`.

Whereabouts' steps are those of its allocation by pod and interface. Under one lock of all its writers it reads the
pool, takes over the entry of the same podref and ifname, or else takes the lowest address that neither the pool nor a
reservation has. It drops entries whose offsets are not signed 64-bit numbers. It patches with a test of the pool's
resourceVersion, and creates a reservation only where it has seen none. Its DEL goes by the container ID.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import random
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipam.address import Address, parse
from ipam.cluster.store import Journal, Journaled
from ipam.command.networks import Folders, Network
from ipam.command.reconcile import Reconciliation
from ipam.command.sandboxes import Sandboxes
from ipam.kubernetes import whereabouts
from ipam.kubernetes.cluster import open_kubernetes
from ipam.kubernetes.whereabouts import PoolLocation
from ipam.ranges import Range
from ipam.store import Claim, Owner
from tests.contract.ipam_cluster_contract import NETWORK, range_of
from tests.kube.apiserver import ApiServer
from tests.kube.resources import POOLS, RESERVATIONS, WHEREABOUTS
from tests.kube.routes import JSON_PATCH, RIGHTS
from tests.trusting import ACCESS, POLICY, opened_kubernetes

if TYPE_CHECKING:
    from ipam.store import ClusterConf

SECONDS = 120.0
SPACE = "kube-system"
FOLDER = f"{WHEREABOUTS}/namespaces/{SPACE}"
V4 = range_of("10.9.0.0", 26, "10.9.0.1", "10.9.0.62")
V6 = range_of("fd00:9::", 64, "fd00:9::1", "fd00:9::7fff:ffff:ffff:ffff")
WIDE = range_of("10.9.0.0", 24, "10.9.0.1", "10.9.0.62")
"""The range of another network, in another pool: only reservations protect the leases of V4 from it."""

WORKERS, PODS, TURNS = (4, 6, 850) if os.environ.get("BAREWIRE_MATRIX") else (4, 6, 30)
"""A turn is about three operations."""

MOST_OFFSET = (1 << 63) - 1


class Whereabouts:
    """A node of whereabouts'; all its processes share `lease`."""

    def __init__(self, api: ApiServer, lease: threading.Lock) -> None:
        self._port = api.port
        self._lease = lease
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def add(self, pod: str, container: str) -> list[Address]:
        with self._lease:
            return [self._added(one, pod, container) for one in (V4, V6)]

    def delete(self, container: str) -> None:
        with self._lease:
            for one in (V4, V6):
                self._deleted(one, container)

    def _added(self, one: Range, pod: str, container: str) -> Address:
        avoided: set[int] = set()
        while True:
            pool = self._pool(one)
            number, entry = self._chosen(pool, pod, avoided)
            text = str(one.address(one.subnet.number + number))
            name = whereabouts.reservation_name(parse(text, ""), "")
            status, found = self._ask("GET", f"overlappingrangeipreservations/{name}")
            if status == 200 and found["spec"]["podref"] != pod:
                avoided.add(number)
                continue
            new = {"id": container, "podref": pod, "ifname": "net1"}
            kind = "add" if entry is None else "replace"
            if not self._patched(one, pool, {"op": kind, "path": f"/spec/allocations/{number}", "value": new}):
                continue
            if status != 200:
                made = whereabouts.reservation(name, Owner(network="", container_id="", ifname="net1", pod=pod))
                if self._ask("POST", "overlappingrangeipreservations", made)[0] == 409:
                    # Another pool was faster. The real plugin's ADD fails, and is repeated.
                    self._removed(one, container)
                    avoided.add(number)
                    continue
            return parse(text, "")

    def _deleted(self, one: Range, container: str) -> None:
        number = self._removed(one, container)
        if number is not None:
            name = whereabouts.reservation_name(one.address(one.subnet.number + number), "")
            self._ask("DELETE", f"overlappingrangeipreservations/{name}")

    def _removed(self, one: Range, container: str) -> int | None:
        while True:
            pool = self._pool(one)
            mine = [key for key, entry in pool["spec"]["allocations"].items() if entry["id"] == container]
            if not mine:
                return None
            if self._patched(one, pool, {"op": "remove", "path": f"/spec/allocations/{mine[0]}"}):
                return int(mine[0])

    def _chosen(self, pool: Any, pod: str, avoided: set[int]) -> tuple[int, Any]:
        entries = pool["spec"]["allocations"]
        for key, entry in entries.items():
            if (entry["podref"], entry.get("ifname")) == (pod, "net1") and int(key) not in avoided:
                return int(key), entry
        taken = {int(key) for key in entries} | avoided
        return next(number for number in range(1, 63) if number not in taken), None

    def _patched(self, one: Range, pool: Any, operation: dict[str, Any]) -> bool:
        version = pool["metadata"]["resourceVersion"]
        unread = [key for key in pool["spec"]["allocations"] if int(key) > MOST_OFFSET]
        patch = [{"op": "test", "path": "/metadata/resourceVersion", "value": version}]
        patch += [{"op": "remove", "path": f"/spec/allocations/{key}"} for key in unread]
        status, answer = self._ask("PATCH", f"ippools/{_pool_name(one)}", [*patch, operation], JSON_PATCH)
        assert status in (200, 422), answer
        return status == 200

    def _pool(self, one: Range) -> Any:
        name = _pool_name(one)
        status, pool = self._ask("GET", f"ippools/{name}")
        if status == 404:
            self._ask("POST", "ippools", whereabouts.pool(name, whereabouts.subnet(one)))
            return self._pool(one)
        return pool

    def _ask(self, method: str, path: str, body: Any = None, media: str = "application/json") -> tuple[int, Any]:
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)
            self._connections.append(self._local.connection)
        text = None if body is None else json.dumps(body)
        self._local.connection.request(method, f"{FOLDER}/{path}", text, {"Content-Type": media})
        with self._local.connection.getresponse() as answer:
            return answer.status, json.loads(answer.read())


class Ours:
    """One of our nodes, with its journal."""

    def __init__(self, name: str, folder: Path, cluster_conf: ClusterConf) -> None:
        self.name = name
        (folder / "run").mkdir(parents=True, mode=0o700)
        journal = Journal(str(folder / "journal"), str(folder / "run"))
        self.store = Journaled(journal, name, NETWORK, cluster_conf, opened_kubernetes, seconds=SECONDS)

    def add(self, pod: str, container: str) -> list[Address]:
        return [claim.address for claim in self.store.allocate(_owner(pod, container), ((V4,), (V6,)), (None, None))]

    def delete(self, container: str) -> None:
        self.store.release(_owner("", container))


class Held:
    """Which pod uses which address."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.pods: dict[Address, str] = {}

    def got(self, addresses: list[Address], pod: str) -> None:
        with self._lock:
            for address in addresses:
                assert self.pods.get(address) is None, f"{address} of {self.pods[address]} was leased to {pod}, too"
                self.pods[address] = pod

    def gives_back(self, addresses: list[Address]) -> None:
        with self._lock:
            for address in addresses:
                del self.pods[address]


class MovingPods:
    def __init__(self, api: ApiServer, folder: Path) -> None:
        self.api = api
        self.held = Held()
        self.late: queue.Queue[tuple[Any, str, str]] = queue.Queue()
        # Whereabouts' DEL removes the reservation by its name, regardless of its owner; so its DEL of a pod must not
        # coincide with the next ADD of the pod.
        self.locks = {
            f"default/sts{worker}-{pod}": threading.Lock() for worker in range(WORKERS) for pod in range(PODS)
        }
        kubeconfig = str(api.kubeconfig(folder / "kubeconfig"))
        self.cluster_conf = whereabouts.cluster_conf(
            PoolLocation(kubeconfig=kubeconfig, subnets=whereabouts.subnets_of([(V4,), (V6,)]))
        )
        self.wide = whereabouts.cluster_conf(
            PoolLocation(kubeconfig=kubeconfig, subnets=whereabouts.subnets_of([(WIDE,)]))
        )
        lease = threading.Lock()
        self.ours = [Ours(f"n{number}", folder / f"n{number}", self.cluster_conf) for number in range(3)]
        self.theirs = [Whereabouts(api, lease) for _ in range(2)]
        self.nodes = [*self.ours, *self.theirs]

    def run_pods(self, worker: int) -> dict[str, tuple[Any, str, list[Address]]]:
        """Starts, restarts, moves and stops the pods of a worker. Returns the running ones: node, container and
        addresses.
        """
        chance = random.Random(worker)
        running: dict[str, tuple[Any, str, list[Address]]] = {}
        for turn in range(TURNS):
            pod, container = f"default/sts{worker}-{chance.randrange(PODS)}", f"c{worker}-{turn}"
            node, container_before, addresses = running.pop(pod, (None, "", []))
            if node is not None and chance.random() < 0.5:
                # The sandbox is gone, and its DEL comes later: another sandbox, here or elsewhere, has the address.
                later = chance.choice(self.nodes)
                assert self.added(later, pod, container) == addresses, "a pod did not keep its address"
                # Not earlier, because it would free addresses that the pod does not use in between.
                self.late.put((node, container_before, pod))
                node = later
                running[pod] = node, container, addresses
            elif node is not None:
                self.held.gives_back(addresses)
                if chance.random() < 0.8:
                    node.delete(container_before)
                else:
                    self.late.put((node, container_before, pod))
            else:
                node = chance.choice(self.nodes)
                addresses = self.added(node, pod, container)
                self.held.got(addresses, pod)
                running[pod] = node, container, addresses
            if chance.random() < 0.4:
                self.end_one()
        return running

    def end_one(self) -> bool:
        """Makes a late DEL, if one is due; it may come twice."""
        try:
            node, container, pod = self.late.get_nowait()
        except queue.Empty:
            return False
        with self.locks[pod] if isinstance(node, Whereabouts) else contextlib.nullcontext():
            node.delete(container)
            node.delete(container)
        return True

    def added(self, node: Any, pod: str, container: str) -> list[Address]:
        with self.locks[pod]:
            addresses: list[Address] = node.add(pod, container)
            return addresses

    def run_others(self, worker: int) -> None:
        """Runs pods of the network with the wide pool, which must not get addresses of others."""
        chance = random.Random(f"wide {worker}")
        cluster = open_kubernetes(self.wide, NETWORK, SECONDS, ACCESS)
        for turn in range(TURNS):
            whose = _owner(f"default/wide{worker}-{turn}", f"w{worker}-{turn}")
            address = WIDE.address(WIDE.subnet.number + chance.randrange(1, 20))
            claim = Claim(range=WIDE, address=address)
            if cluster.take((claim,), whose):
                continue
            self.held.got([address], whose.pod)
            self.held.gives_back([address])
            cluster.give_back((claim,), whose)
        cluster.close()

    def believed(self) -> dict[str, str]:
        """The pod of each address, according to the pools."""
        found = {}
        for one in (V4, V6, WIDE):
            pool = self.api.resources.get(POOLS, SPACE, _pool_name(one))
            for key, entry in pool["spec"]["allocations"].items():
                found[str(one.address(one.subnet.number + int(key)))] = entry["podref"]
        return found


def test_pods_that_move_keep_their_addresses_for_themselves_and_nothing_leaks(tmp_path):
    with ApiServer(secure=False) as api:
        api.rights = RIGHTS | {("get", "pods")}
        moving = MovingPods(api, tmp_path)
        with ThreadPoolExecutor(WORKERS + 2) as pool:
            calls = [pool.submit(moving.run_pods, worker) for worker in range(WORKERS)]
            others = [pool.submit(moving.run_others, worker) for worker in range(2)]
            running = {pod: what for call in calls for pod, what in call.result(SECONDS * 10).items()}
            for call in others:
                call.result(SECONDS * 10)
        forget_half_of_the_late_ones(moving)
        for one in moving.theirs:
            one.close()
        # The last one was reinstalled, so no journal has its leases.
        for node in moving.ours[:-1]:
            node.store.gc({(container, "net1") for where, container, _ in running.values() if where is node})
        tell_of(api, running)
        reconciled(moving, tmp_path)
        expected = {str(address): pod for pod, (_, _, addresses) in running.items() for address in addresses}
        assert moving.believed() == expected == {str(key): pod for key, pod in moving.held.pods.items()}
        names = sorted(whereabouts.reservation_name(parse(text, ""), "") for text in expected)
        assert api.resources.names(RESERVATIONS, SPACE) == names
        assert expected


def forget_half_of_the_late_ones(moving: MovingPods) -> None:
    """Drops half of the late DELs."""
    while True:
        try:
            moving.late.get_nowait()
        except queue.Empty:
            return
        if not moving.end_one():
            return


def tell_of(api: ApiServer, running: dict[str, tuple[Any, str, list[Address]]]) -> None:
    """Writes Multus' annotation for the running pods; the others do not exist."""
    for pod, (_, _, addresses) in running.items():
        status = [{"name": "default/net", "interface": "net1", "ips": [str(one) for one in addresses]}]
        annotations = {"k8s.v1.cni.cncf.io/network-status": json.dumps(status)}
        api.add_pod("default", pod.partition("/")[2], uid=_uid(pod), annotations=annotations)


def reconciled(moving: MovingPods, folder: Path) -> None:
    """Reconciles on a node that had none of these pods."""
    folders = Folders(state=str(folder / "state"), run=str(folder / "run"), policy=POLICY)
    network = Network(
        name=NETWORK, backend="kubernetes", cluster_conf={**moving.cluster_conf, "node": "x"}, shared=NETWORK
    )
    nobody = Sandboxes(attached={}, namespaces={})
    found = Reconciliation(folders, [network], lambda: nobody, grace=0.0, seconds=SECONDS)
    for _ in found.free(found.scan().lost):
        pass


def _owner(pod: str, container: str) -> Owner:
    return Owner(network=NETWORK, container_id=container, ifname="net1", pod=pod, pod_uid=_uid(pod) if pod else "")


def _uid(pod: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, pod))


_pool_name = partial(lambda one: whereabouts.pool_name(whereabouts.subnet(one), ""))
