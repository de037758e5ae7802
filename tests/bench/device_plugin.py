"""The device plugin with 64 resources of 64 devices each, compared with one device: registration, change, memory,
start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.kubelet.kubelet import Kubelet
from tests.kubelet.node import until
from tests.kubelet.pcihost import PciHost, many, many_vf

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROUNDS = 8
"""An even number, because every second round makes the device healthy again."""
SIZES = {"1 x 1": (1, 1), "64 x 64": (64, 64)}
BOUNDS = {
    "all registered again, ms": 1000.0,
    "a change at its stream, ms": 100.0,
    "resident, MB": 100.0,
    "start with all held, ms": 0.0,
    "processor with all held, %": 0.0,
}
"""The limits of issue 13; 0 where it sets none."""
SECONDS = 600.0
QUIET_SECONDS = 12.0
"""A whole period of looks at the host without an event, and more."""


def run() -> str:
    """The report: medians, their ratio to those of one device, and their share of the limit."""
    measured = {name: asyncio.run(_measured(*size)) for name, size in SIZES.items()}
    lines = [
        "device plugin: resources x devices",
        f"{'':32}{'1 x 1':>10}{'64 x 64':>10}{'ratio':>8}{'of the bound':>14}",
    ]
    for name, bound in BOUNDS.items():
        one, all_ = (statistics.median(numbers[name]) for numbers in measured.values())
        share = f"{all_ / bound:.2f}" if bound else ""
        lines.append(f"{name:32}{one:10.1f}{all_:10.1f}{all_ / one:8.1f}{share:>14}")
    return "\n".join(lines)


async def _measured(cards: int, vfs: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in BOUNDS}
    with tempfile.TemporaryDirectory(prefix="bw", dir="/dev/shm") as folder:
        root = Path(folder)
        host, kubelet = PciHost(root / "host"), Kubelet(root / "kubelet")
        (root / "config.json").write_text(json.dumps({"resourceList": many(host, cards, vfs)}))
        await kubelet.start()
        async with _plugin(root) as plugin:
            await _listed(kubelet, cards)
            for number in range(ROUNDS):
                await kubelet.stop()
                kubelet.endpoints.clear()
                await kubelet.start()
                began = time.perf_counter()
                await _listed(kubelet, cards)
                times["all registered again, ms"].append((time.perf_counter() - began) * 1000)
                times["a change at its stream, ms"].append(await _change(plugin, host, kubelet, number))
            times["resident, MB"].append(_resident(plugin.pid))
            for number in range(cards):
                await kubelet.admit(f"pod{number}", f"intel.com/r{number}", vfs)
            times["processor with all held, %"].append(await _busy(plugin.pid))
        for _ in range(3):
            kubelet.endpoints.clear()
            began = time.perf_counter()
            async with _plugin(root):
                await _listed(kubelet, cards)
                times["start with all held, ms"].append((time.perf_counter() - began) * 1000)
        await kubelet.stop()
    return times


async def _listed(kubelet: Kubelet, cards: int) -> None:
    await until(
        "all lists",
        lambda: len(kubelet.endpoints) == cards and all(one.lists for one in kubelet.endpoints.values()),
        SECONDS,
    )


async def _change(plugin: asyncio.subprocess.Process, host: PciHost, kubelet: Kubelet, number: int) -> float:
    """Milliseconds from an event of a device until the kubelet has the new list."""
    device, state = many_vf(0, 0), ("Unhealthy", "Healthy")[number % 2]
    await asyncio.sleep(0.3)  # An event that follows another one waits a little, so that one scan serves many events.
    host.bind(device, ("", "vfio-pci")[number % 2])
    began = time.perf_counter()
    assert plugin.stdin
    plugin.stdin.write(f"change@/devices/pci0000:00/{device}\0".encode())
    await until("the change", lambda: kubelet.health("intel.com/r0").get(device) == state, SECONDS)
    return (time.perf_counter() - began) * 1000


@contextlib.asynccontextmanager
async def _plugin(root: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    arguments = [str(root / name) for name in ("host", "config.json", "kubelet", "state")]
    program = (sys.executable, "-m", "tests.bench.device_plugin_program", *arguments)
    process = await asyncio.create_subprocess_exec(*program, stdin=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        assert process.stdin
        process.stdin.close()
        await asyncio.wait_for(process.wait(), SECONDS)


async def _busy(pid: int) -> float:
    """Percent of one processor that a process uses while nothing happens."""
    began, used = time.perf_counter(), _processor_seconds(pid)
    await asyncio.sleep(QUIET_SECONDS)
    return 100 * (_processor_seconds(pid) - used) / (time.perf_counter() - began)


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


if __name__ == "__main__":
    print(run())
