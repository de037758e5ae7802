"""Runs plugins as a runtime does, and measures whole calls: wall time, CPU time and page faults."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cni.attachment.records import STATE_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COMMANDS = ("VERSION", "ADD", "DEL")
WAITING = 2
"""Children of a helper that wait for a call."""
SECONDS = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Used(NamedTuple):
    """CPU time in milliseconds, user and system together, and page faults that needed no disk."""

    cpu: float = 0.0
    faults: float = 0.0

    def plus(self, other: Used, times: float = 1.0) -> Used:
        return Used(self.cpu + times * other.cpu, self.faults + times * other.faults)


def by_ended_children() -> Used:
    """The use of all processes that this one has started and waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Used((usage.ru_utime + usage.ru_stime) * 1000, usage.ru_minflt)


def by_helper(pid: int) -> Used:
    """The use of a helper and its children. Waits until those that have ended are counted."""
    children, deadline = Path(f"/proc/{pid}/task/{pid}/children"), time.monotonic() + SECONDS
    while len(children.read_text().split()) > WAITING and time.monotonic() < deadline:
        time.sleep(0.05)  # The helper looks once per second; other processes get no event.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    faults, cpu = map(int, fields[7:9]), map(int, fields[11:15])
    return Used(sum(cpu) * 1000 / _TICKS, sum(faults))


@dataclass
class Contender:
    """A plugin with its configuration, the times of its calls, and its use of the processor and of memory.

    `helper` is the process of the helper that serves the calls, `environment` are further variables of a call, and
    `prefix` is a program that executes the plugin.
    """

    name: str
    program: str
    config: dict[str, Any]
    helper: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    times: dict[str, list[float]] = field(default_factory=dict)
    used: Used = field(default_factory=Used)

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
            **self.environment,
        }
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command_line = [*self.prefix, self.program]
        process: subprocess.Popen[bytes] = subprocess.Popen(command_line, env=environment, **pipes)  # type: ignore[call-overload]
        assert process.stdin
        with contextlib.suppress(BrokenPipeError):  # the Go plugins do not read it for VERSION
            process.stdin.write(json.dumps(config).encode())
            process.stdin.close()
        process.stdin = None
        return process

    def ended(self, process: subprocess.Popen[bytes], command: str) -> None:
        """Waits for a call. Raises `RuntimeError`."""
        before = by_ended_children()
        with process:
            out, err = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{self.name} {command}: {out.decode()}{err.decode()}")
        self.used = self.used.plus(by_ended_children()).plus(before, -1)

    def keep(self, command: str, start: float) -> None:
        self.times.setdefault(command, []).append((time.perf_counter() - start) * 1000)

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """All rounds. The use of the helper is added at the end, with the forks of its children."""
        before = by_helper(self.helper) if self.helper else Used()
        yield
        if self.helper:
            self.used = self.used.plus(by_helper(self.helper)).plus(before, -1)
        with contextlib.suppress(OSError):  # The Go plugins have none.
            os.rmdir(f"{STATE_DIRECTORY}/{self.config['name']}")

    def median(self, command: str) -> float:
        return statistics.median(self.times[command])

    def spread(self, command: str) -> str:
        """The quartiles of the times."""
        low, _, high = statistics.quantiles(self.times[command], n=4)
        return f"{low:.1f}-{high:.1f}"


def report(title: str, contenders: Sequence[Contender]) -> str:
    """A table of medians with their spread, and the ratio to the first contender.

    CPU time and page faults are those of all commands of a round together.
    """
    first = contenders[0]
    commands = list(first.times)
    heads = "".join(f"{command + ' ms':>12}{'quartiles':>14}{'ratio':>7}" for command in commands)
    lines = [title, f"{'':28}{heads}{'CPU ms':>10}{'faults':>8}"]
    for one in contenders:
        cells = (
            f"{one.median(command):12.1f}{one.spread(command):>14}{one.median(command) / first.median(command):7.2f}"
            for command in commands
        )
        rounds = len(one.times[commands[0]])
        lines.append(f"{one.name:28}{''.join(cells)}{one.used.cpu / rounds:10.1f}{one.used.faults / rounds:8.0f}")
    return "\n".join(lines)
