"""ADD and DEL on a veth of this machine: the frozen plugin against Debian's Go `host-device`, calls interleaved."""

from __future__ import annotations

import random
import subprocess
import uuid
from pathlib import Path

from cni.host.netns import open_netns
from tests.bench.measure import Contender, report
from tests.bench.veth_program import HOST_NAME

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 30


def contenders() -> list[Contender]:
    """The Go plugin first: ratios are to it."""
    common = {"cniVersion": "1.0.0", "name": f"bench{uuid.uuid4().hex[:8]}"}
    return [
        Contender(
            "host-device (Go, Debian)",
            "/usr/lib/cni/host-device",
            {**common, "type": "host-device", "device": HOST_NAME},
        ),
        Contender(
            "sriov (frozen) on a veth",
            str(ROOT / "dist/bench/sriov-on-veth"),
            {**common, "type": "sriov", "deviceID": "0000:ff:00.0"},
        ),
    ]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def run() -> str:
    """Measures and returns the report."""
    pod, host = f"bwpod{uuid.uuid4().hex[:6]}", f"bwhost{uuid.uuid4().hex[:6]}"
    ours = contenders()
    ip("netns", "add", pod)
    ip("netns", "add", host)
    try:
        ip("-n", host, "link", "add", HOST_NAME, "type", "veth", "peer", "name", "bwpeer0")
        # Inside a namespace of its own, so that the measurement sees none of this machine's devices and disturbs none.
        with open_netns(f"/run/netns/{host}") as netns, netns.entered():
            for turn in range(ROUNDS):
                for contender in random.sample(ours, len(ours)):
                    for command in ("ADD", "DEL"):
                        contender.call(command, f"/run/netns/{pod}", f"bench{turn}")
    finally:
        ip("netns", "del", host)
        ip("netns", "del", pod)
    return report(f"natively on a veth, {ROUNDS} rounds, medians", ours)
