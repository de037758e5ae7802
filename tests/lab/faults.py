"""Calls of a plugin that meet a fault at one chosen system call: killed there, refused it, or stopped after it.

strace does it. What was measured of strace 6.1 with `inject=...:when=n`, and is relied on here:

- n counts the calls of one system call of one process (thread), from its start, whatever became of them; a child
  starts at 1 again. Without `-f` only the plugin itself is traced: what it starts (host-local) meets no fault, and
  changes no number.
- `signal=KILL` ends the process before the call is carried out, `error=` takes the place of the call, and
  `signal=STOP` stops the process after the call.
- The numbers are the same from run to run as long as the state directories exist already. Only the messages after
  the addresses were set (announcements) come later by as many looks at the link as its carrier takes. So each fault
  is compared afterwards with the point that it was meant for (`Missed`).
"""

from __future__ import annotations

import errno
import os
import re
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from tests.lab.cni import CALL_S, Json, Outcome, Pod, outcome
from tests.lab.errors import LabError
from tests.lab.lab import Lab
from tests.lab.vm import Running

CHANGING = frozenset(
    "chmod fchmod fchmodat fdatasync fsync ftruncate link linkat mkdir mkdirat rename renameat renameat2 rmdir setns "
    "symlink symlinkat unlink unlinkat".split()
)
"""System calls that change something whatever their arguments are."""

LOOKED_AT = sorted({*CHANGING, *"openat pwrite64 sendmsg sendto write".split()})
STDERR = "2<"
TRACE = "/run/lab/fault.trace"
STOP_S = 60.0
AGAIN_S = 5.0

_CALL = re.compile(r"(\w+)\((.*)")
_MESSAGE = re.compile(r'nlmsg_type=(\w+).*?nlmsg_flags=(\S+), .*?\}, "((?:\\x[0-9a-f]{2})*)"')
_PATH = re.compile(r'"([^"]*)"')
_DESCRIPTOR = re.compile(r"\d+<([^>]*)>")
_GET, _EACH = 2, 4  # linux/rtnetlink.h numbers the messages in fours: RTM_NEW*, RTM_DEL*, RTM_GET*, RTM_SET*

_AWAIT_STOP = """
import os, time
from pathlib import Path
strace, trace, deadline = os.environ["STRACE"], Path(os.environ["TRACE"]), time.monotonic() + float(os.environ["STOP_S"])
def child():
    return Path(f"/proc/{strace}/task/{strace}/children").read_text().split()
def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
# Being traced, it is in state t at each system call for a moment; strace's own line tells that it stays there.
while not (trace.exists() and "--- stopped by SIGSTOP ---" in trace.read_text()):
    if not child() or time.monotonic() > deadline:
        raise SystemExit("it was not stopped")
    time.sleep(0.005)
(pid,) = child()
while state(pid) not in "Tt":
    time.sleep(0.005)
print(pid)
"""


class Missed(LabError):
    """The fault met another system call than the point's, or none."""


@dataclass(frozen=True)
class Point:
    """The n-th call of a system call in a process, and what it is there for."""

    syscall: str
    number: int
    what: str

    def __str__(self) -> str:
        return f"{self.syscall} {self.number} ({self.what})"


@dataclass
class Stopped:
    """A call that has been stopped; `outcome` is there when it has gone on and ended."""

    pid: int
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Call:
    """One call of a plugin: what it changes, and what becomes of it when a change does not happen."""

    lab: Lab
    command: str
    document: Json
    pod: Pod

    def points(self) -> list[Point]:
        """Makes the call, which must succeed, and tells its system calls that change something, in their order."""
        self._completed(self._start(",".join(LOOKED_AT))).required()
        return points(self._trace())

    def killed_at(self, point: Point) -> None:
        """Makes the call and kills it with signal 9 before the point. Raises Missed."""
        done = self._start(point.syscall, f"{point.syscall}:signal=KILL:when={point.number}").wait(CALL_S)
        self._require_hit(point, done.rc == -signal.SIGKILL)

    def refused_at(self, point: Point, error: str) -> Outcome:
        """Makes the call with an error (EIO) instead of the point's system call. Raises Missed."""
        done = self._completed(self._start(point.syscall, f"{point.syscall}:error={error}:when={point.number}"))
        self._require_hit(point, done.rc in {0, 1})
        return done

    @contextmanager
    def stopped_at(self, point: Point) -> Iterator[Stopped]:
        """Makes the call; within the context it is stopped after the point, then it goes on to its end. Raises Missed."""
        running = self._start(point.syscall, f"{point.syscall}:signal=STOP:when={point.number}")
        env = {"STRACE": str(running.pid), "TRACE": TRACE, "STOP_S": str(STOP_S)}
        stopped = self.lab.vm.python(_AWAIT_STOP, env=env, timeout=STOP_S + 10, check=False)
        if stopped.rc:
            running.wait(CALL_S)
            raise Missed(f"not stopped at {point}: {stopped.err}")
        call = Stopped(int(stopped.out))
        try:
            yield call
        finally:
            call.outcome = self._continued(running, call.pid)
        self._require_hit(point, True)

    def _continued(self, running: Running, pid: int) -> Outcome:
        """Lets a stopped call go on to its end. Seen once in some hundreds: strace, about to report the stop, missed the
        first SIGCONT; another one is harmless."""
        deadline = time.monotonic() + CALL_S
        while time.monotonic() < deadline:
            self.lab.vm.run("kill", "-CONT", str(pid), check=False)
            done = running.ended(AGAIN_S)
            if done is not None:
                return outcome(done)
        return self._completed(running)

    def _start(self, traced: str, fault: str = "") -> Running:
        inject = ("-e", f"inject={fault}") if fault else ()
        strace = ("strace", "-y", "-s", "1000", "-o", TRACE, "-e", f"trace={traced}", *inject)
        self.lab.vm.run("rm", "-f", TRACE)
        return self.lab.runtime.start(self.command, self.document, self.pod, prefix=strace)

    @staticmethod
    def _completed(running: Running) -> Outcome:
        return outcome(running.wait(CALL_S))

    def _trace(self) -> list[str]:
        return self.lab.vm.get(TRACE).decode(errors="replace").splitlines()

    def _require_hit(self, point: Point, ended_so: bool) -> None:
        trace = [call for call in map(_CALL.match, self._trace()) if call and call[1] == point.syscall]
        found = described(point.syscall, trace[point.number - 1][2]) if len(trace) >= point.number else "nothing"
        if not ended_so or found != point.what:
            raise Missed(f"{point.syscall} {point.number} was {found}, not {point.what}")


def points(trace: list[str]) -> list[Point]:
    """The changing calls in strace's lines about one process. Numbers count all calls, also those that change nothing."""
    numbers: dict[str, int] = {}
    found = []
    for call in filter(None, map(_CALL.match, trace)):
        syscall, arguments = call.groups()
        numbers[syscall] = numbers.get(syscall, 0) + 1
        if is_change(syscall, arguments):
            found.append(Point(syscall, numbers[syscall], described(syscall, arguments)))
    return found


def is_change(syscall: str, arguments: str) -> bool:
    """Whether that call, with its arguments as strace shows them, changes something."""
    if syscall in CHANGING:
        return True
    if syscall in {"write", "pwrite64"}:
        return not arguments.startswith(STDERR)
    if syscall == "openat":
        return "O_CREAT" in arguments
    message = _MESSAGE.search(arguments)
    return message is None or int(message[1], 0) % _EACH != _GET


def described(syscall: str, arguments: str) -> str:
    """What a call is there for, without numbers that differ from run to run."""
    if syscall in {"sendto", "sendmsg"}:
        return _message(arguments)
    paths = [] if syscall == "setns" else _PATH.findall(arguments.partition(" = ")[0])
    descriptor = _DESCRIPTOR.match(arguments)
    name = descriptor[1] if descriptor else paths[-1] if paths else arguments
    name = re.sub(r"\[\d+\]", "", name)
    name = re.sub(r"\.\d+\.tmp$", ".tmp", name)
    return re.sub(r"pod\d+(-[0-9a-f]{12})?", "POD", name)


def _message(arguments: str) -> str:
    """A netlink message by its type and attributes; another one by its socket's family."""
    message = _MESSAGE.search(arguments)
    if message is None:
        family = re.search(r"sa_family=(\w+)", arguments)
        return f"frame, {family[1]}" if family else "frame"
    body = bytes.fromhex(message[3].replace("\\x", ""))
    data = struct.pack("=IHHII", 16 + len(body), int(message[1], 0), 1, 1, 0) + body
    (decoded,) = MarshalRtnl().parse(data)
    flags = f"flags {decoded['flags']:#x}/{decoded['change']:#x}" if decoded.get("change") else ""
    return " ".join(filter(None, [decoded["event"], ", ".join(_names(decoded["attrs"])), flags]))


def _names(attributes: list[tuple[str, object]]) -> Iterator[str]:
    for name, value, *_ in attributes:
        inner = value.get("attrs") if isinstance(value, dict) else None
        yield from _names(inner) if inner else [name]


def named(error: str, text: str) -> bool:
    """Whether a text names that error (EIO), by its symbol or in the C library's words."""
    return error in text or os.strerror(getattr(errno, error)) in text
