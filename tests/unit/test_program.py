"""Running a program: the parts that can be tested without one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from cni.host.program import Finished, Overdue, _Exchange, while_busy

if TYPE_CHECKING:
    from collections.abc import Iterator

CAPACITY = 1 << 20


@pytest.fixture
def child() -> Iterator[Any]:
    """A program as `_Exchange` sees it: `theirs` are the program's ends; writing to `ending` ends it."""
    with contextlib.ExitStack() as stack:

        def pipe() -> tuple[int, int]:
            ends = os.pipe()
            for fd in ends:
                stack.callback(_close_if_open, fd)
                os.set_blocking(fd, False)
            return ends

        their_stdin, stdin = pipe()
        stdout, their_stdout = pipe()
        pidfd, ending = pipe()
        fcntl.fcntl(stdout, fcntl.F_SETPIPE_SZ, CAPACITY)
        yield SimpleNamespace(
            stdin=stdin,
            stdout=stdout,
            pidfd=pidfd,
            close_fd=os.close,
            status=lambda: 0,
            theirs=(their_stdin, their_stdout),
            ending=ending,
        )


def _close_if_open(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)


def soon() -> float:
    return time.monotonic() + 5


def test_everything_that_a_program_wrote_before_it_ended_is_read(child: Any) -> None:
    """Its end can be seen before its last output: here more of it than one read returns."""
    os.write(child.theirs[1], b"x" * CAPACITY)
    os.write(child.ending, b"!")
    finished = _Exchange(child, b"").until(soon())
    assert finished == Finished(status=0, output=b"x" * CAPACITY)


def test_the_end_of_its_output_is_not_the_end_of_a_program(child: Any) -> None:
    os.close(child.theirs[1])
    with pytest.raises(Overdue):
        _Exchange(child, b"").until(time.monotonic() + 0.05)


def test_a_program_that_ends_without_reading_does_not_hold_the_exchange(child: Any) -> None:
    os.write(child.ending, b"!")
    assert _Exchange(child, b"x" * CAPACITY).until(soon()).status == 0


def test_stdin_is_closed_when_all_of_it_is_written(child: Any) -> None:
    os.write(child.ending, b"!")
    _Exchange(child, b"all").until(soon())
    assert os.read(child.theirs[0], 10) == b"all"
    assert os.read(child.theirs[0], 10) == b""


def test_an_exchange_whose_time_is_over_does_not_begin(child: Any) -> None:
    os.write(child.ending, b"!")
    with pytest.raises(Overdue):
        _Exchange(child, b"").until(time.monotonic() - 1)


@pytest.mark.parametrize(("status", "words"), ((0, "exit status 0"), (3, "exit status 3"), (-9, "killed by signal 9")))
def test_an_end_is_reported_in_words(status: int, words: str) -> None:
    assert Finished(status=status, output=b"").ending == words


def test_a_program_being_written_is_tried_again_until_it_is_there() -> None:
    outcomes = iter([errno.ETXTBSY, errno.ETXTBSY, None])

    def start() -> int:
        number = next(outcomes)
        if number is not None:
            raise OSError(number, "busy")
        return 17

    assert while_busy(start, time.monotonic() + 5, pauses=(0.0, 0.0, 0.0)) == 17


@pytest.mark.parametrize(
    ("number", "pauses", "seconds", "expected"),
    (
        (errno.ETXTBSY, (0.0, 0.0), 5, 3),
        (errno.ETXTBSY, (0.2, 0.2), 0.1, 1),
        (errno.EACCES, (0.0, 0.0), 5, 1),
    ),
)
def test_trying_again_ends_with_the_pauses_or_the_deadline_and_happens_for_nothing_else(
    number: int, pauses: tuple[float, ...], seconds: float, expected: int
) -> None:
    tries = 0

    def start() -> int:
        nonlocal tries
        tries += 1
        raise OSError(number, "no")

    with pytest.raises(OSError, match="no"):
        while_busy(start, time.monotonic() + seconds, pauses=pauses)
    assert tries == expected
