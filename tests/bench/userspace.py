"""ADD and DEL of `userspace` on a real Open vSwitch, against the `ovs-vsctl` calls of its Go peer alone.

userspace-cni runs three programs in its ADD and two in its DEL, besides its own start, its two requests to the API
server and its files. The comparison leaves all of these out, so that it favours the peer.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cli.program import BUNDLE, Program, from_bundle
from tests.launched import Helper, entry
from tests.ovs.node import Node

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.ovs.node import Pod

    Calls = dict[str, Callable[[Pod], object]]

ROUNDS = 20
BRIDGE = "br0"
FIRST = "three ovs-vsctl, and two"


def run() -> str:
    """Measures and returns the report."""
    with tempfile.TemporaryDirectory() as folder, Node(from_bundle("userspace")) as node:
        socket = Path("/run/barewire/bench-helper.sock")
        launched = Program((str(entry(BUNDLE / "launcher", Path(folder) / "userspace", BUNDLE, "userspace", socket)),))
        with Helper(socket, [*node.within, str(BUNDLE / "barewire-helper")]):
            contenders = {
                FIRST: peer(node),
                "userspace, stand-alone": plugin(node, node.program),
                "userspace, with helper": plugin(node, launched),
            }
            return report(measure(node, contenders))


def plugin(node: Node, program: Program) -> Calls:
    def call(command: str) -> Callable[[Pod], object]:
        def made(pod: Pod) -> object:
            node.program = program
            return node.call(command, conf, pod).required()

        return made

    conf: dict[str, Any] = node.conf()
    conf["host"] = {**conf["host"], "bridge": {"bridgeName": BRIDGE}}
    return {command: call(command) for command in ("ADD", "DEL")}


def peer(node: Node) -> Calls:
    """The programs of userspace-cni, in the order in which it runs them."""

    def vsctl(*arguments: str) -> None:
        node.run("ovs-vsctl", f"--db=unix:{node.daemon.folder}/db.sock", *arguments)

    def add(pod: Pod) -> None:
        port = pod.container_id[:12] + "-p"
        vsctl("--bare", "--columns=name", "find", "bridge", f"name={BRIDGE}")
        kind = ["type=dpdkvhostuserclient", f"options:vhost-server-path=/run/{port}"]
        vsctl("add-port", BRIDGE, port, "--", "set", "Interface", port, *kind)
        vsctl("--bare", "--columns=mac", "find", "port", f"name={port}")

    def delete(pod: Pod) -> None:
        vsctl("--if-exists", "del-port", BRIDGE, pod.container_id[:12] + "-p")
        vsctl("list-ports", BRIDGE)

    return {"ADD": add, "DEL": delete}


def measure(node: Node, contenders: dict[str, Calls]) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of each call, by contender and command."""
    times: dict[str, dict[str, list[float]]] = {name: {"ADD": [], "DEL": []} for name in contenders}
    for _ in range(ROUNDS):
        for name in random.sample(sorted(contenders), len(contenders)):
            pod = node.pod()
            for command, call in contenders[name].items():
                start = time.perf_counter()
                call(pod)
                times[name][command].append((time.perf_counter() - start) * 1000)
            node.end(pod)
    return times


def report(times: dict[str, dict[str, list[float]]], first: str = FIRST, title: str = "") -> str:
    """Medians with quartiles, and the ratio to the first contender."""
    lines = [
        title or f"`userspace` on Open vSwitch, {ROUNDS} rounds, medians",
        f"{'':28}" + "".join(f"{command + ' ms':>12}{'quartiles':>16}{'ratio':>7}" for command in times[first]),
    ]
    for name, of in times.items():
        cells = []
        for command, rows in of.items():
            low, middle, high = statistics.quantiles(rows, n=4)
            spread, ratio = f"{low:.1f}-{high:.1f}", middle / statistics.median(times[first][command])
            cells.append(f"{middle:12.1f}{spread:>16}{ratio:7.2f}")
        lines.append(f"{name:28}{''.join(cells)}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(run())
