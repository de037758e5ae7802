"""Calls of the plugin `userspace` with a fault at a chosen system call: killed there, or refused it.

The plugin starts no program here except its IPAM plugin, which is not traced.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests import strace
from tests.launched import SECONDS, Helper
from tests.ovs.node import Node, Outcome, Pod
from tests.strace import Missed, Point

KILLED = (-9, 128 + 9)


class Faults:
    """A node, and a file for strace."""

    one_of = 1
    """Outside `make matrix`, one point of so many is tested."""

    def __init__(self, node: Node, trace: Path) -> None:
        self._node = node
        self._trace = trace

    def points(self, command: str, conf: dict[str, Any], pod: Pod) -> list[Point]:
        """Makes the call, which must succeed, and returns its changing system calls in order."""
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


class HelperFaults(Faults):
    """The same for a node whose program is a launcher: the fault is in the helper's child that serves the call."""

    one_of = 16

    def __init__(self, node: Node, trace: Path, helper: Helper) -> None:
        super().__init__(node, trace)
        self._helper = helper

    def points(self, command: str, conf: dict[str, Any], pod: Pod) -> list[Point]:
        """Leaves out the message READY to the launcher: until then the launcher executes the plugin."""
        found = super().points(command, conf, pod)
        first = next(number for number, point in enumerate(found) if point.what == "frame")
        return found[first + 1 :]

    def killed_at(self, point: Point, command: str, conf: dict[str, Any], pod: Pod) -> None:
        done = self._call(command, conf, pod, point.syscall, strace.killed(point))
        if "killed by SIGKILL" not in self._lines()[-1]:
            raise Missed(f"not killed at {point}: {done}")
        # After its last message the child has nothing left to do, and the launcher has the output.
        assert done.code == 0 or (done.code == 1 and "was killed" in done.document["msg"]), done

    def _call(self, command: str, conf: dict[str, Any], pod: Pod, traced: str, fault: str = "") -> Outcome:
        self._trace.unlink(missing_ok=True)
        attached = (*strace.command(str(self._trace), traced, fault), "-p", str(self._helper.next_child()))
        with subprocess.Popen(attached, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr
            assert "attached" in tracer.stderr.readline()
            done = self._node.call(command, conf, pod, "net1")
            tracer.wait(SECONDS)
        return done
