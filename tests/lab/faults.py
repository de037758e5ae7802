"""Calls of a plugin in the lab with a fault at a chosen system call: killed there, refused it, or stopped after it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests import strace
from tests.lab.cni import CALL_S, Json, Outcome, Pod, Runtime, outcome
from tests.lab.lab import Lab
from tests.lab.launched import BIN_DIR as LAUNCHED
from tests.lab.vm import Completed, Running
from tests.launched import RECVMSG
from tests.strace import Missed, Point

TRACE = "/run/lab/fault.trace"
STOP_S = 60.0
AGAIN_S = 5.0

_AWAIT_STOP = """
import os, time
from pathlib import Path
strace, trace, deadline = os.environ["STRACE"], Path(os.environ["TRACE"]), time.monotonic() + float(os.environ["STOP_S"])
def child():
    return Path(f"/proc/{strace}/task/{strace}/children").read_text().split()
def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
def ended():
    # Without a child it may also not have started one yet.
    try:
        return state(strace) == "Z"
    except OSError:
        return True
# Being traced, it is in state t at each system call for a moment; strace's own line tells that it stays there.
while not (trace.exists() and "--- stopped by SIGSTOP ---" in trace.read_text()):
    if ended() or time.monotonic() > deadline:
        raise SystemExit("it was not stopped")
    time.sleep(0.005)
(pid,) = child()
while state(pid) not in "Tt":
    time.sleep(0.005)
print(pid)
"""


_NEXT_CHILD = """
import os, time
from pathlib import Path
helper, deadline = os.environ["HELPER"], time.monotonic() + 60
def waiting():
    for pid in Path(f"/proc/{helper}/task/{helper}/children").read_text().split():
        try:
            if Path(f"/proc/{pid}/syscall").read_text().split()[0] == os.environ["RECVMSG"]:
                yield pid
        except OSError:
            continue
while len(found := list(waiting())) != 2:
    if time.monotonic() > deadline:
        raise SystemExit(f"the children of the helper do not come to rest: {found}")
    time.sleep(0.01)
print(found[0])
"""
"""The child that has waited longest: only a child that waits for a connection is in recvmsg."""

_AWAIT_TRACER = """
import os, time
from pathlib import Path
status, deadline = Path(f"/proc/{os.environ['CHILD']}/status"), time.monotonic() + 60
while "\\nTracerPid:\\t0\\n" in status.read_text():
    if time.monotonic() > deadline:
        raise SystemExit("strace does not attach")
    time.sleep(0.01)
"""


@dataclass
class Stopped:
    """A call that has been stopped; `outcome` is set when it has continued and ended."""

    pid: int
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Call:
    """One call of a plugin: its changes, and its outcome if one of them fails."""

    lab: Lab
    command: str
    document: Json
    pod: Pod

    def points(self) -> list[Point]:
        """Makes the call, which must succeed, and returns its changing system calls in order."""
        self._completed(self._start(",".join(strace.LOOKED_AT))).required()
        return strace.points(self._trace())

    def killed_at(self, point: Point) -> None:
        """Makes the call and kills it with signal 9 before the point. Raises Missed."""
        done = self._start(point.syscall, strace.killed(point)).wait(CALL_S)
        self._require_hit(point, done.rc == -signal.SIGKILL)

    def refused_at(self, point: Point, error: str) -> Outcome:
        """Makes the call with an error (EIO) instead of the point's system call. Raises Missed."""
        done = self._completed(self._start(point.syscall, strace.refused(point, error)))
        self._require_hit(point, done.rc in {0, 1})
        return done

    @contextmanager
    def stopped_at(self, point: Point) -> Iterator[Stopped]:
        """Makes the call; within the context it is stopped after the point, then it continues to its end. Raises
        Missed.
        """
        running = self._start(point.syscall, strace.stopped(point))
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
        """Lets a stopped call continue to its end.

        In one of some hundred cases strace, about to report the stop, missed the first SIGCONT; a second one is
        harmless.
        """
        deadline = time.monotonic() + CALL_S
        while time.monotonic() < deadline:
            self.lab.vm.run("kill", "-CONT", str(pid), check=False)
            done = running.ended(AGAIN_S)
            if done is not None:
                return outcome(done)
        return self._completed(running)

    def _start(self, traced: str, fault: str = "") -> Running:
        self.lab.vm.put(TRACE, "")
        prefix = strace.command(TRACE, traced, fault)
        return self.lab.runtime.start(self.command, self.document, self.pod, prefix=prefix)

    @staticmethod
    def _completed(running: Running) -> Outcome:
        return outcome(running.wait(CALL_S))

    def _trace(self) -> list[str]:
        return self.lab.vm.get(TRACE).decode(errors="replace").splitlines()

    def _require_hit(self, point: Point, ended_so: bool) -> None:
        if not ended_so:
            raise Missed(f"{point} did not end the call as it should")
        strace.require_hit(self._trace(), point)


class _Launched:
    """A running call, and strace at the child of the helper that serves it."""

    def __init__(self, launcher: Running, tracer: Running) -> None:
        self._launcher = launcher
        self._tracer = tracer

    def wait(self, seconds: float) -> Completed:
        done = self._launcher.wait(seconds)
        self._tracer.wait(seconds, check=False)
        return done


@dataclass(frozen=True)
class LaunchedCall(Call):
    """The same for a launcher: the fault is in the child of the helper that serves the call."""

    helper: int

    def points(self) -> list[Point]:
        """Without those before the child is ready: until then the launcher executes the plugin itself."""
        found = super().points()
        ready = next(number for number, point in enumerate(found) if point.what == "frame")
        return found[ready + 1 :]

    def killed_at(self, point: Point) -> None:
        """The launcher reports the death of the child, unless the result is out already. Raises Missed."""
        done = self._completed(self._start(point.syscall, strace.killed(point)))
        self._require_hit(point, "killed by SIGKILL" in self._trace()[-1])
        assert done.rc == 0 or (done.error is not None and "was killed" in done.error["msg"]), done.stdout

    def _start(self, traced: str, fault: str = "") -> Any:
        vm = self.lab.vm
        vm.put(TRACE, "")
        child = vm.python(
            _NEXT_CHILD, env={"HELPER": str(self.helper), "RECVMSG": RECVMSG}, timeout=STOP_S + 10
        ).out.strip()
        tracer = vm.start(*strace.command(TRACE, traced, fault), "-p", child)
        vm.python(_AWAIT_TRACER, env={"CHILD": child}, timeout=STOP_S + 10)
        launched = Runtime(vm, LAUNCHED)
        return _Launched(launched.start(self.command, self.document, self.pod), tracer)
