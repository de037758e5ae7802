"""Runs plugins as a runtime does and measures whole calls, from start to exit, in milliseconds."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = ("VERSION", "ADD", "DEL")


@dataclass
class Contender:
    """A plugin with its configuration, and the times of its calls."""

    name: str
    program: str
    config: dict[str, Any]
    times: dict[str, list[float]] = field(default_factory=dict)

    def call(self, command: str, netns: str, container: str) -> None:
        """Makes one call and keeps its time. Raises `RuntimeError` with the plugin's output if it fails."""
        start = time.perf_counter()
        process = self.start(command, netns, container, self.config)
        self.ended(process, command)
        self.keep(command, start)

    def start(self, command: str, netns: str, container: str, config: dict[str, Any]) -> subprocess.Popen[bytes]:
        """Starts a call, and writes all of its stdin."""
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "net1",
            "CNI_PATH": "/usr/lib/cni",
            "PATH": os.environ.get("PATH", ""),
        }
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process: subprocess.Popen[bytes] = subprocess.Popen([self.program], env=environment, **pipes)  # type: ignore[call-overload]
        assert process.stdin
        with contextlib.suppress(BrokenPipeError):  # the Go plugins do not read it for VERSION
            process.stdin.write(json.dumps(config).encode())
            process.stdin.close()
        process.stdin = None
        return process

    def ended(self, process: subprocess.Popen[bytes], command: str) -> None:
        """Waits for a call. Raises `RuntimeError`."""
        with process:
            out, err = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{self.name} {command}: {out.decode()}{err.decode()}")

    def keep(self, command: str, start: float) -> None:
        self.times.setdefault(command, []).append((time.perf_counter() - start) * 1000)

    def median(self, command: str) -> float:
        return statistics.median(self.times[command])

    def spread(self, command: str) -> str:
        """The quartiles of the times."""
        low, _, high = statistics.quantiles(self.times[command], n=4)
        return f"{low:.1f}-{high:.1f}"


def report(title: str, contenders: Sequence[Contender]) -> str:
    """A table of medians with their spread, and the ratio to the first contender."""
    first = contenders[0]
    commands = list(first.times)
    lines = [title, f"{'':28}" + "".join(f"{command + ' ms':>12}{'quartiles':>14}{'ratio':>7}" for command in commands)]
    for one in contenders:
        cells = (
            f"{one.median(command):12.1f}{one.spread(command):>14}{one.median(command) / first.median(command):7.2f}"
            for command in commands
        )
        lines.append(f"{one.name:28}" + "".join(cells))
    return "\n".join(lines)
