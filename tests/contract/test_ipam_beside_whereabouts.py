"""Ours and whereabouts lease from the same pools at the same time: no address is leased twice, and no entry is lost.

`Whereabouts` in this file follows whereabouts' algorithm: under one lock of all its writers (its Lease in the cluster),
it reads the pool, takes the lowest address that neither the pool nor a reservation has, patches the pool with a test of
its resourceVersion, repeats this if the test fails, and creates the reservation last.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ipam.kubernetes import whereabouts
from ipam.kubernetes.cluster import open_kubernetes
from ipam.kubernetes.whereabouts import PoolLocation
from ipam.ranges import walk
from ipam.store import Claim
from tests.contract.ipam_cluster_contract import NETWORK, V4, owner
from tests.kube.apiserver import ApiServer
from tests.kube.resources import POOLS, RESERVATIONS, WHEREABOUTS
from tests.kube.routes import JSON_PATCH, RIGHTS
from tests.trusting import ACCESS

SECONDS = 60.0
THREADS = 3
TURNS = 40
KEPT = 4
FOLDER = f"{WHEREABOUTS}/namespaces/kube-system"
POOL, SUBNET = "10.9.0.0-24", "10.9.0.0/24"
START = V4.subnet.number


class Whereabouts:
    """One of whereabouts' processes; all of them share `lease`."""

    def __init__(self, api: ApiServer, lease: threading.Lock, name: str) -> None:
        self._api = api
        self._lease = lease
        self._name = name
        self._connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=SECONDS)
        self.retried = 0

    def ask(self, method, path, body=None, media="application/json"):
        headers = {"Content-Type": media}
        self._connection.request(method, f"{FOLDER}/{path}", None if body is None else json.dumps(body), headers)
        with self._connection.getresponse() as answer:
            return answer.status, json.loads(answer.read())

    def add(self, pod: str) -> int:
        with self._lease:
            avoided: set[int] = set()
            while True:
                pool = self._pool()
                taken = {int(key) for key in pool["spec"]["allocations"]} | avoided
                number = next(one for one in range(1, 255) if one not in taken)
                if self.ask("GET", f"overlappingrangeipreservations/{self._text(number)}")[0] == 200:
                    avoided.add(number)
                elif self._patched(
                    pool, "add", number, {"id": f"id-{pod}", "podref": f"default/{pod}", "ifname": "net1"}
                ):
                    spec = {"podref": f"default/{pod}", "ifname": "net1"}
                    found = {**whereabouts.reservation(self._text(number), owner(pod)), "spec": spec}
                    assert self.ask("POST", "overlappingrangeipreservations", found)[0] == 201
                    return number

    def delete(self, pod: str) -> None:
        with self._lease:
            while True:
                pool = self._pool()
                entries = pool["spec"]["allocations"]
                key = next(key for key, entry in entries.items() if entry["podref"] == f"default/{pod}")
                if self._patched(pool, "remove", int(key)):
                    self.ask("DELETE", f"overlappingrangeipreservations/{self._text(int(key))}")
                    return

    def close(self) -> None:
        self._connection.close()

    def _pool(self):
        status, pool = self.ask("GET", f"ippools/{POOL}")
        if status == 404:
            self.ask("POST", "ippools", whereabouts.pool(POOL, SUBNET))
            return self._pool()
        return pool

    def _patched(self, pool, kind, number, *value):
        path, version = f"/spec/allocations/{number}", pool["metadata"]["resourceVersion"]
        patch = [{"op": "test", "path": "/metadata/resourceVersion", "value": version}]
        if kind == "add":
            patch.append({"op": "test", "path": path, "value": None})
        patch.append({"op": kind, "path": path, **({"value": value[0]} if value else {})})
        status, answer = self.ask("PATCH", f"ippools/{POOL}", patch, JSON_PATCH)
        assert status in (200, 422), answer
        self.retried += status == 422
        return status == 200

    @staticmethod
    def _text(number: int) -> str:
        return str(V4.address(START + number))


class Held:
    """The owners' view of who has which address. A lease is entered after it was made, and deleted before it is
    released.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.owners: dict[int, str] = {}
        self.most = 0

    def got(self, number: int, pod: str) -> None:
        with self._lock:
            assert number not in self.owners, f"{number} of {self.owners[number]} was leased to {pod}, too"
            self.owners[number] = pod
            self.most = max(self.most, len(self.owners))

    def gives_back(self, number: int) -> None:
        with self._lock:
            del self.owners[number]


def churn(add, delete, held, name):
    """Leases and frees in turn, and keeps a few."""
    kept: list[tuple[int, str]] = []
    for turn in range(TURNS):
        pod = f"{name}-{turn}"
        number = add(pod)
        held.got(number, pod)
        kept.append((number, pod))
        while len(kept) > KEPT:
            oldest, old_pod = kept.pop(0)
            held.gives_back(oldest)
            delete(old_pod, oldest)


def run_theirs(api, lease, held, name):
    one = Whereabouts(api, lease, name)
    try:
        churn(one.add, lambda pod, _number: one.delete(pod), held, name)
    finally:
        one.close()
    return one.retried


def run_ours(cluster_conf, held, name):
    cluster = open_kubernetes(cluster_conf, NETWORK, SECONDS, ACCESS)

    def add(pod):
        # From the lowest address on, like whereabouts, so that both want the same addresses.
        start = V4.address(START + random.randrange(1, 20))
        for one, address in walk((V4,), start):
            if not cluster.take((Claim(range=one, address=address),), owner(pod)):
                return address.number - START
        raise AssertionError("all are in use")

    def delete(pod, number):
        cluster.give_back((Claim(range=V4, address=V4.address(START + number)),), owner(pod))

    churn(add, delete, held, name)
    return 0


def test_they_share_pools_without_a_duplicate_and_without_a_loss(tmp_path):
    held, lease = Held(), threading.Lock()
    with ApiServer(secure=False) as api:
        api.rights = RIGHTS
        place = PoolLocation(kubeconfig=str(api.kubeconfig(tmp_path / "kubeconfig")), subnets=(SUBNET,))
        cluster_conf = whereabouts.cluster_conf(place)
        with ThreadPoolExecutor(2 * THREADS) as pool:
            theirs = [pool.submit(run_theirs, api, lease, held, f"theirs{n}") for n in range(THREADS)]
            ours = [pool.submit(run_ours, cluster_conf, held, f"ours{n}") for n in range(THREADS)]
            retried = sum(one.result(SECONDS) for one in theirs)
            assert [one.result(SECONDS) for one in ours] == [0] * THREADS
        entries = api.resources.get(POOLS, "kube-system", POOL)["spec"]["allocations"]
        assert {int(key): entry["podref"].removeprefix("default/") for key, entry in entries.items()} == held.owners
        reserved = [f"10.9.0.{number}" for number in held.owners]
        assert api.resources.names(RESERVATIONS, "kube-system") == sorted(reserved)
    assert len(held.owners) == 2 * THREADS * KEPT
    assert retried, "they have not met"


@pytest.mark.parametrize("pod", ("default/moved", ""))
def test_ours_frees_all_that_theirs_leased_and_theirs_gets_it_again(tmp_path, pod):
    with ApiServer(secure=False) as api:
        api.rights = RIGHTS
        place = PoolLocation(kubeconfig=str(api.kubeconfig(tmp_path / "kubeconfig")), subnets=(SUBNET,))
        theirs = Whereabouts(api, threading.Lock(), "theirs")
        number = theirs.add("moved")
        moved = owner("id-moved").replace(pod=pod)
        # We have no record of the lease: whereabouts was the plugin when the pod started.
        open_kubernetes(whereabouts.cluster_conf(place), NETWORK, SECONDS, ACCESS).give_back_all(moved)
        assert api.resources.get(POOLS, "kube-system", POOL)["spec"]["allocations"] == {}
        assert api.resources.names(RESERVATIONS, "kube-system") == []
        assert theirs.add("next") == number
        theirs.close()
