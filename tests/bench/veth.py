"""Calls on a veth of this machine: the frozen plugin, alone and with its helper, against the Go plugin `host-device`.

The calls are interleaved.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cni.host.netns import open_netns
from tests.bench.measure import Contender, report
from tests.bench.veth_program import NAME, host_name
from tests.launched import Helper, entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"
ROUNDS = 30
AT_A_TIME = 10
GO = "/usr/lib/cni/host-device"
PEER = os.environ.get("BENCH_PEER", "")
"""Another `host-device` to compare with, such as that of Debian's newest package."""


def address(number: int) -> str:
    return f"0000:ff:{number // 8:02x}.{number % 8}"


def common() -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": f"bench{uuid.uuid4().hex[:8]}"}


def ours(name: str, program: Path | None = None, **settings: Any) -> Contender:
    config = {**common(), "type": "sriov", "deviceID": address(0), **settings}
    return Contender(name, str(program or DIST / "bench" / NAME), config)


def plain(launcher: Path) -> list[Contender]:
    """The plugins without addresses. The Go plugin comes first, so ratios are relative to it."""
    programs = {"host-device (Go, Debian)": GO, **({f"host-device {PEER[:14]}..": PEER} if PEER else {})}
    go = [
        Contender(name, program, {**common(), "type": "host-device", "device": host_name(address(0))})
        for name, program in reversed(programs.items())
    ]
    return [*go, ours("sriov, stand-alone"), ours("sriov, with helper", launcher)]


def with_addresses(folder: str, launcher: Path) -> list[Contender]:
    """The same plugin with an address from Go's host-local, which runs as a process, and from our own IPAM plugin."""
    ranges = {"subnet": "10.99.0.0/16", "dataDir": folder}
    own = {"type": "barewire-ipam", **ranges}
    return [
        ours("with host-local (Go)", ipam={"type": "host-local", **ranges}),
        ours("with barewire-ipam", ipam=own),
        ours("the same, with helper", launcher, ipam=own),
    ]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def run() -> str:
    """Measures and returns the reports."""
    with tempfile.TemporaryDirectory(dir="/run") as folder, helper(Path(folder)) as launcher:
        reports = [
            measured(f"natively on a veth, {ROUNDS} rounds, medians", plain(launcher)),
            parallel(f"{AT_A_TIME} calls at a time, until the last has ended, {ROUNDS // 2} rounds", plain(launcher)),
            measured(f"`sriov` on a veth with an address, {ROUNDS} rounds", with_addresses(folder, launcher)),
        ]
    return "\n\n".join(reports)


@contextlib.contextmanager
def helper(folder: Path) -> Iterator[Path]:
    """Runs a helper that serves the plugin on a veth, and yields its launcher."""
    socket = folder / "helper.sock"
    with Helper(socket, [str(DIST / "bench" / NAME)]):
        yield entry(DIST / "barewire/launcher", folder / NAME, DIST / "bench", NAME, socket)


def compared(before: Path) -> str:
    """Compares the same plugin from another `dist` and from this one, to show the cost of a change."""
    old = before / "bench" / NAME
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        ipam = {"type": "barewire-ipam", "subnet": "10.99.0.0/16", "dataDir": folder}
        reports = [
            measured(f"before and after on a veth, {ROUNDS} rounds, medians", [ours("before", old), ours("after")]),
            measured(
                f"the same with barewire-ipam, {ROUNDS} rounds, medians",
                [ours("before", old, ipam=ipam), ours("after", ipam=ipam)],
            ),
        ]
    return "\n\n".join(reports)


@contextlib.contextmanager
def stage(count: int) -> Iterator[list[str]]:
    """Yields the paths of pods' network namespaces. Meanwhile the process is in a namespace of its own with a link for
    each.

    So the measurement is independent of this machine's devices and does not disturb them.
    """
    mark = uuid.uuid4().hex[:6]
    host, pods = f"bwhost{mark}", [f"bwpod{number}-{mark}" for number in range(count)]
    for name in (host, *pods):
        ip("netns", "add", name)
    try:
        for number in range(count):
            link, peer = host_name(address(number)), f"bwpeer{number}"
            ip("-n", host, "link", "add", link, "type", "veth", "peer", "name", peer)
            # Without a carrier, an ADD with an address would wait for one before it announces the address.
            ip("-n", host, "link", "set", peer, "up")
        with open_netns(f"/run/netns/{host}") as netns, netns.entered():
            yield [f"/run/netns/{pod}" for pod in pods]
    finally:
        for name in (host, *pods):
            ip("netns", "del", name)


def measured(title: str, contenders: Sequence[Contender]) -> str:
    with stage(1) as (pod,):
        for turn in range(ROUNDS):
            for contender in random.sample(contenders, len(contenders)):
                for command in ("VERSION", "ADD", "DEL"):
                    contender.call(command, pod, f"bench{turn}")
    return report(title, contenders)


def parallel(title: str, contenders: Sequence[Contender]) -> str:
    with stage(AT_A_TIME) as pods:
        for turn in range(ROUNDS // 2):
            for contender in random.sample(contenders, len(contenders)):
                for command in ("ADD", "DEL"):
                    together(contender, command, pods, turn)
    return report(title, contenders)


def together(contender: Contender, command: str, pods: Sequence[str], turn: int) -> None:
    start = time.perf_counter()
    calls = []
    for number, pod in enumerate(pods):
        device = (
            {"device": host_name(address(number))} if "device" in contender.config else {"deviceID": address(number)}
        )
        calls.append(contender.start(command, pod, f"bench{turn}-{number}", {**contender.config, **device}))
    for call in calls:
        contender.ended(call, command)
    contender.keep(command, start)
