"""Fault matrices: each point of a call with one fault and one recovery, after which the host must be as before.

A failure does not end its matrix: all failures are reported together. By default each point gets one of the recoveries,
in turn, and some faults only occur at every third or fourth point. With BAREWIRE_MATRIX=1 in the environment (`make
matrix`) each point gets all of them, in all rows.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, Self

from tests.lab.attaching import changes, conf
from tests.lab.cni import Outcome, Pod
from tests.lab.errors import LabError, VmGone
from tests.lab.faults import Call, LaunchedCall
from tests.lab.lab import Lab
from tests.lab.snapshot import Tree, host_snapshot
from tests.lab.topology import Vf
from tests.strace import Missed, Point

WHOLE = bool(os.environ.get("BAREWIRE_MATRIX"))
TRIES = 3
AGAIN_S = 20.0
TRY_AGAIN_LATER = 11
DAY = 86_400
TURN = int(os.environ.get("BAREWIRE_TURN", int(time.time()) // DAY))
"""Which points small parts of a matrix try. It changes each day, so that all points have their turn."""


def as_found(_lab: Lab, _vf: Vf) -> AbstractContextManager[None]:
    """The VF in its state after the boot."""
    return nullcontext()


@dataclass(frozen=True)
class Row:
    """A configuration. `settings` are the plugin's keys beside the device.

    `prepared` is a context that changes the VF as the row requires. With `always` the row is also tested outside `make
    matrix`. `without` are kinds of system calls that the row does not make.
    """

    settings: dict[str, Any]
    prepared: Callable[[Lab, Vf], AbstractContextManager[None]] = as_found
    always: bool = False
    without: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Known:
    """A known defect: the cases in which it occurs, and its cause. These cases must fail."""

    cause: str
    fault: str
    command: str
    syscall: str
    what: str = ""
    ways: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()

    def covers(self, case: Case) -> bool:
        return (
            (self.fault, self.command, self.syscall) == (case.fault, case.command, case.point.syscall)
            and self.what in case.point.what
            and case.way in (self.ways or (case.way,))
            and case.row in (self.rows or (case.row,))
        )


@dataclass(frozen=True)
class Case:
    """One case of a matrix."""

    row: str
    command: str
    fault: str
    point: Point
    way: str

    def __str__(self) -> str:
        return f"{self.row}: {self.command} {self.fault} at {self.point}, {self.way}"


@dataclass
class Stage:
    """One row on one VF of the machine, with a pod; each case must restore the state `before`."""

    lab: Lab
    row: Row
    helper: int = 0
    """The process of the helper that serves the calls with faults; 0: they are stand-alone."""
    vf: Vf = field(init=False)
    pod: Pod = field(init=False)
    document: dict[str, Any] = field(init=False)
    before: Tree = field(init=False)
    _pods: list[Pod] = field(default_factory=list)
    _prepared: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self._set()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._prepared.close()

    def _set(self) -> None:
        self.vf = self.lab.vfs[0]
        self._prepared.enter_context(self.row.prepared(self.lab, self.vf))
        self.document = conf(self.vf, **self.row.settings)
        self.new_pod()
        # The first attachment creates folders and is left out: later ones make the same system calls each time.
        self.lab.runtime.add(self.document, self.pod).required()
        self.lab.runtime.delete(self.document, self.pod).required()
        self.before = host_snapshot(self.lab.vm)

    def new_pod(self) -> Pod:
        self.pod = self.lab.pod()
        self._pods = [*self._pods[-1:], self.pod]  # a case has two at most
        return self.pod

    def call(self, command: str) -> Call:
        """A call with work to do: a DEL follows an ADD."""
        if command == "DEL":
            self.lab.runtime.add(self.document, self.pod).required()
        if self.helper:
            return LaunchedCall(self.lab, command, self.document, self.pod, self.helper)
        return Call(self.lab, command, self.document, self.pod)

    def points(self, command: str) -> list[Point]:
        found = self.call(command).points()
        if command == "ADD":
            self.lab.runtime.delete(self.document, self.pod).required()
        return found

    def until_done(self, command: str, pod: Pod) -> Outcome:
        """Calls again while the error is "try again later", as the kubelet does; at most 20 s. Raises LabError."""
        deadline = time.monotonic() + AGAIN_S
        while True:
            done = self.lab.runtime.call(command, self.document, pod)
            later = done.error is not None and done.error["code"] == TRY_AGAIN_LATER
            if not later or time.monotonic() > deadline:
                return done.required()

    def left(self) -> list[str]:
        """The differences from the state before, except that pods exist."""
        return changes(self.lab, self.before)

    def mend(self) -> None:
        """Makes the stage usable for the next case: by DEL if possible, otherwise by a boot."""
        for pod in self._pods:
            self.lab.runtime.delete(self.document, pod)
            pod.delete()
        self._pods.clear()
        self.lab.wait_until_home()
        if self.left():
            self._prepared.pop_all()  # the boot reverts what it would restore
            self.lab.start_over()
            self._set()
        else:
            self.new_pod()


Attempt = Callable[[Stage, Call, Point, str], None]
"""Makes one call with its fault, and recovers. Raises AssertionError or LabError if the host is not as before."""


@dataclass(frozen=True)
class Matrix:
    """One kind of fault at the points of one command of one row.

    `ways` are the recoveries at each point. Outside `make matrix`, one point of `one_of` is tested,
    beginning with number `turn`.
    """

    fault: str
    attempt: Attempt
    ways: Sequence[str]
    known: Sequence[Known] = ()
    one_of: int = 1
    turn: int = 0

    def failures(self, stage: Stage, row: str, command: str, points: Iterable[Point]) -> list[str]:
        """Tests the points; returns the failures, and known defects that did not occur."""
        started, told = time.monotonic(), []
        cases = list(self._cases(row, command, points))
        for case in cases:
            problem = self._problem(stage, case)
            known = next((one for one in self.known if one.covers(case)), None)
            if problem and known:
                print(f"known ({known.cause}): {case}")
            elif problem:
                told.append(f"{case}: {problem}")
            elif known:
                told.append(f"{case}: works, so take it off the known defects: {known.cause}")
            if problem:
                stage.mend()
        print(f"{row}: {command} {self.fault}: {len(cases)} cases in {time.monotonic() - started:.0f} s")
        return told

    def _cases(self, row: str, command: str, points: Iterable[Point]) -> Iterator[Case]:
        for number, point in enumerate(points):
            if (number - self.turn) % self.one_of and not WHOLE:
                continue
            for way in self.ways if WHOLE else [self.ways[number % len(self.ways)]]:
                yield Case(row, command, self.fault, point, way)

    def _problem(self, stage: Stage, case: Case) -> str:
        for tries_left in reversed(range(TRIES)):
            try:
                self.attempt(stage, stage.call(case.command), case.point, case.way)
            except VmGone:
                raise
            except Missed as missed:
                if not tries_left:
                    return str(missed)
                stage.mend()
            except (AssertionError, LabError) as failure:
                return f"{type(failure).__name__}: {failure}"
            else:
                break
        return ""


def counted(points: Iterable[Point]) -> Counter[str]:
    """The number of points of each kind."""
    return Counter(point.syscall for point in points)
