"""Calls of the plugin `userspace` that meet a fault at one chosen system call: killed there, or refused it, by strace.

`inject=...:when=n` counts the calls of one system call of one process from its start; tests/lab/faults.py tells what else
was measured of it. The plugin starts no program here but its IPAM plugin, which is not traced.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from tests.ovs.node import Node, Outcome, Pod

CHANGING = frozenset(
    "chmod fchmod fchmodat fchown fsetxattr fsync link linkat mkdir mkdirat mount_setattr move_mount open_tree rename"
    " renameat renameat2 rmdir sendto setxattr symlink symlinkat umount2 unlink unlinkat".split()
)
LOOKED_AT = ",".join(sorted({*CHANGING, "openat", "write"}))
KILLED = -9
_CALL = re.compile(r"(\w+)\((.*)")


class Missed(AssertionError):
    """The fault met another system call than the point's, or none."""


class Point(NamedTuple):
    """The n-th call of a system call in a process, with its arguments as strace shows them."""

    syscall: str
    number: int
    what: str

    def __str__(self) -> str:
        return f"{self.syscall} {self.number} ({self.what[:90]})"


class Faults:
    """A node, and a file for strace."""

    def __init__(self, node: Node, trace: Path) -> None:
        self._node = node
        self._trace = trace

    def points(self, command: str, conf: dict[str, Any], pod: Pod) -> list[Point]:
        """Makes the call, which must succeed, and tells its system calls that change something, in their order."""
        self._call(command, conf, pod, LOOKED_AT).required()
        numbers: dict[str, int] = {}
        found = []
        for call in filter(None, map(_CALL.match, self._trace.read_text(errors="replace").splitlines())):
            syscall, arguments = call.groups()
            numbers[syscall] = numbers.get(syscall, 0) + 1
            if _changes(syscall, arguments):
                found.append(Point(syscall, numbers[syscall], arguments))
        return found

    def killed_at(self, point: Point, command: str, conf: dict[str, Any], pod: Pod) -> None:
        """Makes the call and kills it with signal 9 before the point. Raises Missed."""
        done = self._call(command, conf, pod, point.syscall, f"{point.syscall}:signal=KILL:when={point.number}")
        if done.code not in (KILLED, 128 + 9):
            raise Missed(f"not killed at {point}: {done}")

    def refused_at(self, point: Point, error: str, command: str, conf: dict[str, Any], pod: Pod) -> Outcome:
        """Makes the call with an error (EIO) instead of the point's system call."""
        return self._call(command, conf, pod, point.syscall, f"{point.syscall}:error={error}:when={point.number}")

    def _call(self, command: str, conf: dict[str, Any], pod: Pod, traced: str, fault: str = "") -> Outcome:
        inject = ("-e", f"inject={fault}") if fault else ()
        prefix = ("strace", "-y", "-s", "200", "-o", str(self._trace), "-e", f"trace={traced}", *inject)
        self._trace.unlink(missing_ok=True)
        return self._node.call(command, conf, pod, "net1", *prefix)


def _changes(syscall: str, arguments: str) -> bool:
    if syscall == "write":
        return not arguments.startswith("2<")
    return syscall in CHANGING or "O_CREAT" in arguments
