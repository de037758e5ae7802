"""Calls of the plugin `userspace` that meet a fault at one chosen system call: killed there, or refused it.

The plugin starts no program here but its IPAM plugin, which is not traced.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import strace
from tests.ovs.node import Node, Outcome, Pod
from tests.strace import Missed, Point

KILLED = (-9, 128 + 9)


class Faults:
    """A node, and a file for strace."""

    def __init__(self, node: Node, trace: Path) -> None:
        self._node = node
        self._trace = trace

    def points(self, command: str, conf: dict[str, Any], pod: Pod) -> list[Point]:
        """Makes the call, which must succeed, and tells its system calls that change something, in their order."""
        self._call(command, conf, pod, ",".join(strace.LOOKED_AT)).required()
        return strace.points(self._lines())

    def killed_at(self, point: Point, command: str, conf: dict[str, Any], pod: Pod) -> None:
        """Makes the call and kills it with signal 9 before the point. Raises Missed."""
        done = self._call(command, conf, pod, point.syscall, strace.killed(point))
        if done.code not in KILLED:
            raise Missed(f"not killed at {point}: {done}")

    def refused_at(self, point: Point, error: str, command: str, conf: dict[str, Any], pod: Pod) -> Outcome:
        """Makes the call with an error (EIO) instead of the point's system call."""
        return self._call(command, conf, pod, point.syscall, strace.refused(point, error))

    def _call(self, command: str, conf: dict[str, Any], pod: Pod, traced: str, fault: str = "") -> Outcome:
        self._trace.unlink(missing_ok=True)
        return self._node.call(command, conf, pod, "net1", *strace.command(str(self._trace), traced, fault))

    def _lines(self) -> list[str]:
        return self._trace.read_text(errors="replace").splitlines()
