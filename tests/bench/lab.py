"""ADD and DEL on a real VF in the lab: the frozen plugin, alone and with its helper, against Debian's Go `host-device`.

The lab emulates its processor in software, which makes the interpreter's work expensive and does not change the
kernel's waits. The ratios are those of that machine. The calls are interleaved.
"""

from __future__ import annotations

import contextlib
import json
import random
from typing import TYPE_CHECKING, Any

from tests.bench.userspace import report
from tests.lab.cni import Pod, Runtime
from tests.lab.health import require_health
from tests.lab.launched import BIN_DIR as LAUNCHED, helper
from tests.lab.session import install_bundle
from tests.lab.topology import pfs
from tests.lab.vm import Vm

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 12
BASE = {"cniVersion": "1.0.0", "name": "bench"}
FIRST = "host-device (Go, Debian)"


def run() -> str:
    """Boots the lab, measures, and returns the report."""
    with lab() as vm, helper(vm):
        return report(measure(vm), FIRST, f"in the lab on a VF, {ROUNDS} rounds, medians")


@contextlib.contextmanager
def lab() -> Iterator[Vm]:
    with Vm(pfs=1) as vm:
        require_health(vm)
        install_bundle(vm)
        yield vm


def measure(vm: Vm) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of each call, by contender and command."""
    device = {**BASE, "type": "sriov", "deviceID": pfs(vm)[0].vfs[0].address}
    contenders: dict[str, tuple[Runtime, dict[str, Any]]] = {
        FIRST: (Runtime(vm), {**BASE, "type": "host-device", "pciBusID": device["deviceID"]}),
        "sriov, stand-alone": (Runtime(vm), device),
        "sriov, with helper": (Runtime(vm, LAUNCHED), device),
    }
    times: dict[str, dict[str, list[float]]] = {name: {"ADD": [], "DEL": []} for name in contenders}
    with Pod(vm) as pod:
        for _ in range(ROUNDS):
            for name in random.sample(sorted(contenders), len(contenders)):
                runtime, conf = contenders[name]
                for command in times[name]:
                    outcome = runtime.call(command, json.dumps(conf), pod).required()
                    times[name][command].append(outcome.seconds * 1000)
    return times


if __name__ == "__main__":
    print(run())
