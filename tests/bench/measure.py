"""Runs plugins as a runtime does and measures whole calls, from start to exit, in milliseconds."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Contender:
    """A plugin with its configuration, and the times of its calls."""

    name: str
    program: str
    config: dict[str, Any]
    times: dict[str, list[float]] = field(default_factory=lambda: {"ADD": [], "DEL": []})

    def call(self, command: str, netns: str, container: str) -> None:
        """One call; its time is kept. Raises `RuntimeError` with what the plugin printed when it fails."""
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "net1",
            "CNI_PATH": "/usr/lib/cni",
            "PATH": os.environ.get("PATH", ""),
        }
        start = time.perf_counter()
        done = subprocess.run(
            [self.program], input=json.dumps(self.config).encode(), env=environment, capture_output=True, check=False
        )
        self.times[command].append((time.perf_counter() - start) * 1000)
        if done.returncode:
            raise RuntimeError(f"{self.name} {command}: {done.stdout.decode()}{done.stderr.decode()}")

    def median(self, command: str) -> float:
        return statistics.median(self.times[command])


def report(title: str, contenders: list[Contender]) -> str:
    """A table of medians, and the ratio to the first contender."""
    lines = [title, f"{'':28}{'ADD ms':>10}{'ratio':>8}{'DEL ms':>10}{'ratio':>8}"]
    first = contenders[0]
    for one in contenders:
        add, delete = one.median("ADD"), one.median("DEL")
        ratios = add / first.median("ADD"), delete / first.median("DEL")
        lines.append(f"{one.name:28}{add:10.1f}{ratios[0]:8.2f}{delete:10.1f}{ratios[1]:8.2f}")
    return "\n".join(lines)
