"""Nodes share pools in Kubernetes while the API server misbehaves and processes are killed: no duplicates, no leaks."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ipam.kubernetes import whereabouts
from ipam.kubernetes.whereabouts import PoolLocation
from tests.contract.ipam_cluster_contract import V4, V6
from tests.kube.apiserver import ApiServer, Faults
from tests.kube.node import Node
from tests.kube.resources import POOLS, RESERVATIONS
from tests.kube.routes import RIGHTS

ROOT = str(Path(__file__).parents[2])
SECONDS = 20.0
WAIT = 120.0
NAMES = ("n1", "n2", "n3")
RANGES = {"10.9.0.0-24": V4, "fd00-9---64": V6}
KILLS, TURNS = (60, 200) if os.environ.get("BAREWIRE_MATRIX") else (10, 40)
STORMS = (
    Faults(),
    Faults(loses_answer=True, every=7),
    Faults(status=503, every=5),
    Faults(late=True, status=504, every=6),
    Faults(hangs_up=True, every=4),
)


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.rights = RIGHTS
        yield api


@pytest.fixture
def nodes(api, tmp_path) -> list[Node]:
    kubeconfig = str(api.kubeconfig(tmp_path / "kubeconfig"))
    place = PoolLocation(kubeconfig=kubeconfig, subnets=whereabouts.subnets_of([(V4,), (V6,)]))
    cluster_conf = whereabouts.cluster_conf(place)
    return [Node(name, tmp_path / name, tmp_path / "held", cluster_conf, SECONDS) for name in NAMES]


def start(node: Node, *command: str) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "tests.kube.node", str(node.describe()), *command]
    return subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE)


def end(process: subprocess.Popen[bytes]) -> None:
    """Requires that the process was killed, or ended without an error."""
    _, words = process.communicate(timeout=WAIT)
    assert process.returncode in (0, -signal.SIGKILL), words.decode()


def allocated(api) -> dict[str, str]:
    """The addresses in the pools, by the names of their reservations."""
    found = {}
    for name in api.resources.names(POOLS, "kube-system"):
        one = RANGES[name]
        for key in api.resources.get(POOLS, "kube-system", name)["spec"]["allocations"]:
            address = one.address(one.subnet.number + int(key))
            found[whereabouts.reservation_name(address, "")] = str(address)
    return found


def in_use(api) -> set[str]:
    """The same, where nothing is half done: each allocated address is reserved."""
    found = allocated(api)
    assert api.resources.names(RESERVATIONS, "kube-system") == sorted(found)
    return set(found.values())


def collect(node: Node) -> None:
    """Runs a GC as the node's runtime does: an attachment whose ADD or DEL was interrupted is not valid."""
    node.forget_halves()
    node.store.gc({(container, "net1") for container in node.attachments()})


def believed(nodes: list[Node]) -> list[str]:
    return [path.name for node in nodes for paths in node.attachments().values() for path in paths]


def test_nodes_that_are_killed_under_a_misbehaving_server_make_no_duplicate_and_leave_no_leak(api, nodes):
    chance = random.Random(1)
    seeds = iter(range(1000))
    running = {node.name: start(node, "churn", str(next(seeds)), str(TURNS)) for node in nodes}
    for turn in range(KILLS):
        api.faults = STORMS[turn % len(STORMS)]
        asked = len(api.requests) + chance.randrange(20, 80)
        await_requests(api, asked)
        node = chance.choice(nodes)
        running[node.name].kill()
        end(running[node.name])
        running[node.name] = start(node, "churn", str(next(seeds)), str(TURNS))
    for process in running.values():
        end(process)
    api.faults = Faults()
    api.wait_until_quiet()
    assert len(believed(nodes)) == len(set(believed(nodes)))
    assert set(believed(nodes)) <= set(allocated(api).values()), "an address in use was freed"
    for node in nodes:
        collect(node)
    assert in_use(api) == set(believed(nodes))
    assert believed(nodes)


def await_requests(api, number: int) -> None:
    end_of_patience = time.monotonic() + WAIT
    while len(api.requests) < number:
        assert time.monotonic() < end_of_patience, "the nodes ask nothing"
        api.closing.wait(0.01)


@pytest.mark.parametrize("done", (False, True))
@pytest.mark.parametrize("command", ("add", "del"))
def test_an_add_and_a_del_may_be_killed_at_each_request_before_and_after_it_is_done(api, nodes, command, done):
    node = nodes[0]
    for number in range(1, 20):
        if command == "del":
            node.add("c1")
        assert in_use(api) == set(believed(nodes))
        node.store.drain()
        process = start(node, command, "c1")
        # The request of a killed process takes effect or not; only the server can tell.
        api.faults = replace(Faults(only=frozenset({number}), met=process.kill), loses_answer=done, hangs_up=not done)
        end(process)
        killed = process.returncode != 0
        api.faults = Faults()
        collect(node)
        if not killed:
            assert number > 4
            return
        assert in_use(api) == set()
    raise AssertionError("it never came to its end")
