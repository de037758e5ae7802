"""ADD and DEL on a real VF in the lab: the frozen plugin against Debian's Go `host-device`, with interleaved calls.

The lab emulates its processor in software, which slows down the interpreter but not the waits for the kernel; so the
ratios hold for that machine only.
"""

from __future__ import annotations

import json
import random
import statistics
from typing import Any

from tests.lab.cni import Pod, Runtime
from tests.lab.health import require_health
from tests.lab.session import install_bundle
from tests.lab.topology import pfs
from tests.lab.vm import Vm

ROUNDS = 12
BASE = {"cniVersion": "1.0.0", "name": "bench"}


def run() -> str:
    """Boots the lab, measures, and returns the report."""
    with Vm(pfs=1) as vm:
        require_health(vm)
        install_bundle(vm)
        return report(measure(vm))


def measure(vm: Vm) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of each call, by contender and command."""
    vf = pfs(vm)[0].vfs[0]
    contenders: dict[str, dict[str, Any]] = {
        "host-device (Go, Debian)": {**BASE, "type": "host-device", "pciBusID": vf.address},
        "sriov (frozen)": {**BASE, "type": "sriov", "deviceID": vf.address},
    }
    times: dict[str, dict[str, list[float]]] = {name: {"ADD": [], "DEL": []} for name in contenders}
    runtime = Runtime(vm)
    with Pod(vm) as pod:
        for _ in range(ROUNDS):
            for name in random.sample(sorted(contenders), len(contenders)):
                for command in ("ADD", "DEL"):
                    outcome = runtime.call(command, json.dumps(contenders[name]), pod).required()
                    times[name][command].append(outcome.seconds * 1000)
    return times


def report(times: dict[str, dict[str, list[float]]]) -> str:
    """Medians, and the ratio to the Go plugin."""
    medians = {name: {command: statistics.median(rows) for command, rows in of.items()} for name, of in times.items()}
    first = medians["host-device (Go, Debian)"]
    lines = [
        f"in the lab on a VF, {ROUNDS} rounds, medians",
        f"{'':28}{'ADD ms':>10}{'ratio':>8}{'DEL ms':>10}{'ratio':>8}",
    ]
    for name, of in medians.items():
        ratios = of["ADD"] / first["ADD"], of["DEL"] / first["DEL"]
        lines.append(f"{name:28}{of['ADD']:10.1f}{ratios[0]:8.2f}{of['DEL']:10.1f}{ratios[1]:8.2f}")
    return "\n".join(lines)
