"""Three nodes with one etcd: processes are killed anywhere, etcd is killed and restarted; no address has two owners.

It makes a few hundred ADDs, and for each point of a kill one recovery; BAREWIRE_MATRIX=1 makes ten times as many, and
all recoveries.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.etcd.program import IFNAME, NETWORK, SETS
from tests.etcd.server import EtcdServer
from tests.ovs.daemon import LEASH, until

ROOT = Path(__file__).parents[2]
WHOLE = bool(os.environ.get("BAREWIRE_MATRIX"))
ADDS, EVENTS = (4000, 120) if WHOLE else (500, 20)
SECONDS = 60
NODES = ("node-a", "node-b", "node-c")
CHANGING = "connect sendto recvfrom mkdir rename unlink write fsync fdatasync".split()
"""The system calls of a call on files and sockets. A process that is killed in `recvfrom` has sent a request whose
outcome it does not know.
"""

STRANGERS = {"/barewire/ipa": "1", "/barewire/ipam0": "2", "/registry/pods/a": "3", "a": "4"}


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        for key, value in STRANGERS.items():
            server.ctl("put", key, value)
        yield server


class Cluster:
    """The nodes' folders, and the part of etcd below one prefix."""

    def __init__(self, folder: Path, etcd: EtcdServer, prefix: str) -> None:
        self.folder = folder
        self.etcd = etcd
        self.prefix = prefix
        self.log = folder / "log"
        folder.chmod(0o700)
        for node in NODES:
            (folder / node).mkdir(mode=0o700)

    def command(self, node: str, *arguments: str) -> list[str]:
        cluster_conf = json.dumps(self.etcd.cluster_conf(prefix=self.prefix))
        program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport runpy\n"
        program += "runpy.run_module('tests.etcd.program', run_name='__main__')"
        return [sys.executable, "-I", "-S", "-B", "-c", program, str(self.folder), node, cluster_conf, *arguments]

    def call(self, node: str, *arguments: str) -> Any:
        done = subprocess.run(
            self.command(node, *arguments), capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def owners(self) -> dict[str, tuple[str, str]]:
        """The node and container of each address according to etcd. The index must agree."""
        content = self.etcd.values(self.prefix)
        leases, index = {}, {}
        for key, value in content.items():
            kind, *rest = key.removeprefix(f"{self.prefix}/{NETWORK}/").split("/")
            if kind == "ip":
                leases[rest[0]] = value["node"], value["container"]
            else:
                assert rest[2] == IFNAME
                index[rest[3]] = rest[0], rest[1]
        assert leases == index
        return leases

    def journal(self) -> list[str]:
        """The entries and marks. Temporary files of a killed call are removed by a GC: see `swept`."""
        return [name for name in self.files() if not name.endswith(".tmp")]

    def files(self) -> list[str]:
        found = self.folder.glob("*/journal/**/*")
        return sorted(path.name for path in found if path.is_file() and path.parent.name != ".clusters")

    def swept(self) -> bool:
        """Whether a GC leaves the journal of node-a empty."""
        self.call("node-a", "gc")
        return self.files() == []


@pytest.fixture
def cluster(tmp_path, etcd, request) -> Cluster:
    return Cluster(tmp_path, etcd, f"/barewire/ipam/{request.node.name.partition('[')[0]}")


def place(address: str) -> str:
    """The last part of the address's key."""
    import ipaddress

    one = ipaddress.ip_address(address)
    return f"{one.version}{one.packed.hex()}"


# A kill at every step


class Point(NamedTuple):
    syscall: str
    number: int


def traced(cluster: Cluster, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *("strace", "-o", str(cluster.folder / "trace"), "-e", f"trace={','.join(CHANGING)}", *options),
            *cluster.command("node-a", *arguments),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def points(cluster: Cluster, *arguments: str) -> list[Point]:
    """Every step of the call, which is executed. Python's writes at its exit do not count."""
    done = traced(cluster, *arguments)
    assert done.returncode == 0, done.stderr
    lines = (cluster.folder / "trace").read_text().splitlines()
    count: Counter[str] = Counter()
    found = []
    for line in lines:
        name = line.partition("(")[0]
        if name in CHANGING and not line.startswith("write(1,"):
            count[name] += 1
            found.append(Point(name, count[name]))
    return found


def kill_at(cluster: Cluster, point: Point, *arguments: str) -> None:
    """Runs the call up to that step, which is not executed."""
    done = traced(cluster, *arguments, options=("-e", f"inject={point.syscall}:signal=KILL:when={point.number}"))
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), (point, done.stderr)


def by_del(cluster: Cluster) -> None:
    cluster.call("node-a", "del", "c")


def by_gc(cluster: Cluster) -> None:
    cluster.call("node-a", "gc")


def by_add_and_del(cluster: Cluster) -> None:
    found = cluster.call("node-a", "add", "c")
    assert cluster.owners() == {place(address): ("node-a", "c") for address in found}
    cluster.call("node-a", "del", "c")


WAYS = [by_del, by_gc, by_add_and_del]


def ways_at(place: int) -> list[Any]:
    return WAYS if WHOLE else [WAYS[place % len(WAYS)]]


def test_after_a_kill_at_any_step_of_an_add_nothing_is_lost(cluster):
    cluster.call("node-a", "add", "c")  # creates directories that later calls find
    cluster.call("node-a", "del", "c")
    killed = points(cluster, "add", "c")
    cluster.call("node-a", "del", "c")
    assert {point.syscall for point in killed} >= {"connect", "sendto", "recvfrom", "rename", "write", "fsync"}
    for number, point in enumerate(killed):
        for way in ways_at(number):
            kill_at(cluster, point, "add", "c")
            assert len(cluster.owners()) in (0, 2)
            way(cluster)
            assert (cluster.owners(), cluster.journal()) == ({}, []), (point, way.__name__)
    assert cluster.swept()


@pytest.mark.parametrize("command", ["del", "gc"])
def test_after_a_kill_at_any_step_of_a_release_nothing_is_lost(cluster, command):
    arguments = ["del", "c"] if command == "del" else ["gc", "other"]
    cluster.call("node-a", "add", "c")
    killed = points(cluster, *arguments)
    assert cluster.owners() == {}
    assert {point.syscall for point in killed} >= {"connect", "sendto", "recvfrom", "unlink"}
    for number, point in enumerate(killed):
        for way in ways_at(number):
            cluster.call("node-a", "add", "c")
            kill_at(cluster, point, *arguments)
            assert len(cluster.owners()) in (0, 2)
            way(cluster)
            assert (cluster.owners(), cluster.journal()) == ({}, []), (point, way.__name__)
    assert cluster.swept()


def test_after_a_kill_at_any_step_of_an_add_with_conflicts_nothing_is_lost(cluster):
    # The owner's first addresses belong to others, so it must note other ones.
    add = ("add", "c", "large")
    first = cluster.call("node-a", *add)
    cluster.call("node-a", "del", "c")
    value = json.dumps({"container": "z", "ifname": IFNAME, "network": NETWORK, "node": "node-z"})
    for name in map(place, first):
        for where in (f"ip/{name}", f"node/node-z/z/{IFNAME}/{name}"):
            cluster.etcd.ctl("put", f"{cluster.prefix}/{NETWORK}/{where}", value)
    before = cluster.owners()
    killed = points(cluster, *add)
    cluster.call("node-a", "del", "c")
    assert "fdatasync" in {point.syscall for point in killed}
    for number, point in enumerate(killed):
        kill_at(cluster, point, *add)
        [by_del, by_gc][number % 2](cluster)
        assert (cluster.owners(), cluster.journal()) == (before, []), point
    assert cluster.swept()


# Three nodes


class Event(NamedTuple):
    time: float
    what: str
    name: str
    addresses: tuple[str, ...]


class Nodes:
    """Workers of three nodes, two each. Their view is in the log; the leases of a killed worker still belong to its
    node.
    """

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.chance = random.Random(seed)
        self.started = 0
        self.alive: dict[tuple[str, int], int] = {}
        self.workers: dict[tuple[str, int], subprocess.Popen[bytes]] = {}

    def start(self, node: str, place: int) -> None:
        self.started += 1
        self.alive[node, place] = self.started
        command = self.cluster.command(node, "work", str(self.started), str(self.cluster.log))
        self.workers[node, place] = subprocess.Popen([*LEASH, *command], stdout=subprocess.DEVNULL)

    def kill(self, node: str, place: int) -> None:
        worker = self.workers.pop((node, place))
        assert worker.poll() is None, "a worker ended by itself"
        worker.kill()
        worker.wait(SECONDS)

    def events(self) -> list[Event]:
        text = self.cluster.log.read_text() if self.cluster.log.exists() else ""
        lines = [json.loads(line) for line in text.splitlines()]
        return [Event(when, what, name, tuple(rest)) for when, what, name, *rest in lines]

    def adds(self) -> int:
        return sum(event.what == "has" for event in self.events())

    def progress(self, adds: int) -> None:
        """Returns after that many more ADDs."""
        wanted = self.adds() + adds
        until(f"{adds} more ADDs", lambda: self.adds() >= wanted, SECONDS * 2)

    def has(self, node: str = "") -> dict[str, tuple[str, ...]]:
        """The addresses of each container, as the workers believe."""
        found: dict[str, tuple[str, ...]] = {}
        for event in self.events():
            if event.what == "has":
                found[event.name] = event.addresses
            elif event.what == "leaves":
                found.pop(event.name, None)
        return {name: some for name, some in found.items() if name.startswith(node)}

    def orphans(self, node: str) -> list[str]:
        """The containers of killed workers."""
        return [name for name in self.has(node) if int(name.split("-")[2]) not in self.alive.values()]

    def gc(self, node: str) -> None:
        """Runs the GC of a node whose runtime was restarted, and still knows some of the workers' containers."""
        for place in (0, 1):
            self.kill(node, place)
        valid = [name for name in self.has(node) if self.chance.random() < 0.3]
        self.forget(name for name in self.has(node) if name not in valid)
        answer = self.cluster.call(node, "gc", *valid)
        assert answer is None or answer["code"] == 11, answer
        for place in (0, 1):
            self.start(node, place)

    def forget(self, names: Iterator[str]) -> None:
        with self.cluster.log.open("a", encoding="ascii") as log:
            for name in tuple(names):
                log.write(json.dumps([0.0, "leaves", name]) + "\n")
                log.flush()

    def misfortune(self) -> None:
        """Inflicts one of the failures that nodes suffer."""
        node = self.chance.choice(NODES)
        what = self.chance.choice(("kill", "kill", "etcd", "pause", "gc"))
        crowded = [one for one in NODES if len(self.orphans(one)) > 3]
        if crowded:  # Without a GC now and then, the containers of killed workers fill the pool.
            node, what = crowded[0], "gc"
        if what == "kill":
            place = self.chance.randrange(2)
            self.kill(node, place)
            self.start(node, place)
        elif what == "etcd":
            self.cluster.etcd.kill()
            self.cluster.etcd.start(wait=False)
        elif what == "pause":
            self.cluster.etcd.pause()
            self.kill(node, 0)
            self.cluster.etcd.resume()
            self.start(node, 0)
        else:
            self.gc(node)


def duplicates(events: list[Event]) -> list[tuple[str, str, str]]:
    """Each address with two containers that believed they had it at the same time. The log is in the order of these
    beliefs.
    """
    holder: dict[str, str] = {}
    has: dict[str, tuple[str, ...]] = {}
    found = []
    for event in events:
        if event.what == "leaves":
            for address in has.pop(event.name, ()):
                holder.pop(address, None)
        elif event.what == "has":
            found += [(one, holder[one], event.name) for one in event.addresses if one in holder]
            holder |= dict.fromkeys(event.addresses, event.name)
            has[event.name] = event.addresses
    return found


def test_three_nodes_with_killed_processes_and_a_killed_etcd_share_no_address_and_lose_none(cluster):
    nodes = Nodes(cluster, seed=5)
    try:
        for node in NODES:
            for number in (0, 1):
                nodes.start(node, number)
        for _ in range(EVENTS):
            nodes.progress(ADDS // EVENTS)
            nodes.misfortune()
        nodes.progress(ADDS // EVENTS)
    finally:
        for worker in nodes.workers.values():
            worker.kill()
            worker.wait(SECONDS)
    cluster.etcd.await_answer()
    events = nodes.events()
    assert duplicates(events) == []
    print(Counter(event.what for event in events))
    believed = nodes.has()
    owners = cluster.owners()
    for name, addresses in believed.items():
        assert [owners[place(address)] for address in addresses] == [(name[:6], name)] * len(SETS)
    for node in NODES:
        assert cluster.call(node, "gc", *nodes.has(node)) is None
    wanted = {place(address): (name[:6], name) for name, some in believed.items() for address in some}
    assert cluster.owners() == wanted
    assert cluster.files() == sorted(f"{name}:{IFNAME}.json" for name in believed)
    assert nodes.adds() >= ADDS


def test_the_check_finds_an_address_that_two_have():
    events = [Event(1.0, "has", "a", ("x",)), Event(2.0, "leaves", "a", ()), Event(3.0, "has", "b", ("x",))]
    assert duplicates(events) == []
    assert duplicates([*events, Event(4.0, "has", "c", ("x", "y"))]) == [("x", "b", "c")]


def test_what_others_have_in_etcd_is_untouched(cluster):
    cluster.call("node-a", "add", "c")
    cluster.call("node-a", "gc")
    keys = [key for key in cluster.etcd.all_keys() if not key.startswith("/barewire/ipam/")]
    assert sorted(keys) == sorted(STRANGERS)
    assert [cluster.etcd.ctl("get", key, "--print-value-only").strip() for key in STRANGERS] == list(STRANGERS.values())
