"""ADD and DEL on a veth of this machine: the frozen plugin against Debian's Go `host-device`, calls interleaved."""

from __future__ import annotations

import random
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any

from cni.host.netns import open_netns
from tests.bench.measure import Contender, report
from tests.bench.veth_program import HOST_NAME

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 30


def common() -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": f"bench{uuid.uuid4().hex[:8]}"}


def ours(name: str, dist: Path = ROOT / "dist", **settings: Any) -> Contender:
    config = {**common(), "type": "sriov", "deviceID": "0000:ff:00.0", **settings}
    return Contender(name, str(dist / "bench/sriov-on-veth"), config)


def plain() -> list[Contender]:
    """The Go plugin first: ratios are to it."""
    go = {**common(), "type": "host-device", "device": HOST_NAME}
    return [
        Contender("host-device (Go, Debian)", "/usr/lib/cni/host-device", go),
        ours("sriov (frozen) on a veth"),
    ]


def with_addresses(folder: str) -> list[Contender]:
    """The same plugin with an address: of Go's host-local, which it runs, and of our own, which it has within itself."""
    ranges = {"subnet": "10.99.0.0/16", "dataDir": folder}
    return [
        ours("with host-local (Go)", ipam={"type": "host-local", **ranges}),
        ours("with barewire-ipam", ipam={"type": "barewire-ipam", **ranges}),
    ]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def run() -> str:
    """Measures and returns the reports."""
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        reports = [
            measured(f"natively on a veth, {ROUNDS} rounds, medians", plain()),
            measured(f"`sriov` on a veth with an address, {ROUNDS} rounds, medians", with_addresses(folder)),
        ]
    return "\n\n".join(reports)


def compared(before: Path) -> str:
    """The same plugin from another `dist` and from this one: what a change costs."""
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        ipam = {"type": "barewire-ipam", "subnet": "10.99.0.0/16", "dataDir": folder}
        reports = [
            measured(f"before and after on a veth, {ROUNDS} rounds, medians", [ours("before", before), ours("after")]),
            measured(
                f"the same with barewire-ipam, {ROUNDS} rounds, medians",
                [ours("before", before, ipam=ipam), ours("after", ipam=ipam)],
            ),
        ]
    return "\n\n".join(reports)


def measured(title: str, contenders: list[Contender]) -> str:
    pod, host = f"bwpod{uuid.uuid4().hex[:6]}", f"bwhost{uuid.uuid4().hex[:6]}"
    ip("netns", "add", pod)
    ip("netns", "add", host)
    try:
        ip("-n", host, "link", "add", HOST_NAME, "type", "veth", "peer", "name", "bwpeer0")
        # Without a carrier an ADD with an address would wait for one, to announce it.
        ip("-n", host, "link", "set", "bwpeer0", "up")
        # Inside a namespace of its own, so that the measurement sees none of this machine's devices and disturbs none.
        with open_netns(f"/run/netns/{host}") as netns, netns.entered():
            for turn in range(ROUNDS):
                for contender in random.sample(contenders, len(contenders)):
                    for command in ("ADD", "DEL"):
                        contender.call(command, f"/run/netns/{pod}", f"bench{turn}")
    finally:
        ip("netns", "del", host)
        ip("netns", "del", pod)
    return report(title, contenders)
