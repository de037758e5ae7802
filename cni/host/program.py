"""Runs another program with a time limit: writes bytes to its stdin, reads its stdout, and leaves no process behind.

`subprocess` would need ten imports, and has no time limit for a program that never reads.
"""

from __future__ import annotations

import errno
import os
import select
import time

from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OUTPUT_BYTES = 4 << 20
"""Maximum output of a program; a CNI result has a few hundred bytes."""

BUSY_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds between tries while the program's file is being written; an installer finishes within their sum."""

_REAP_SECONDS = 5.0
_CHUNK = 1 << 16
# Named here because the `signal` module costs an `enum` import.
_SIGKILL, _SIGPIPE, _SIGXFSZ = 9, 13, 25


class Overdue(Exception):
    """The program was still running, or still writing, at the deadline; it has been killed."""


class TooMuchOutput(Exception):
    """The program printed more than `OUTPUT_BYTES`; it has been killed."""


class Finished(Value):
    """How a program ended: its stdout, and `status` as in `os.waitstatus_to_exitcode` (negative: a signal)."""

    status: int
    output: bytes

    @property
    def ending(self) -> str:
        """A description of the end."""
        return f"exit status {self.status}" if self.status >= 0 else f"killed by signal {-self.status}"


def run(program: str, environment: Mapping[str, str], stdin: bytes, deadline: float) -> Finished:
    """Runs `program` (a path) without arguments, with our stderr, until it ends; `deadline` is a `time.monotonic` time.

    Raises `Overdue`, `TooMuchOutput`, and `OSError` if it cannot be started. In each case no process is left: the
    program gets its own process group, so that its children are killed with it.
    """
    child = _Child(program, environment, deadline)
    try:
        return _Exchange(child, stdin).until(deadline)
    finally:
        child.close()


class _Child:
    """A started program and our ends of its pipes, which do not block."""

    def __init__(self, program: str, environment: Mapping[str, str], deadline: float) -> None:
        self._open: list[int] = []
        self.pid = self.pidfd = -1
        self._reaped = False
        try:
            their_stdin, self.stdin = self._pipe()
            self.stdout, their_stdout = self._pipe()
            os.set_blocking(self.stdin, False)
            os.set_blocking(self.stdout, False)
            self.pid = _spawn(program, environment, their_stdin, their_stdout, deadline)
            self.close_fd(their_stdin)
            self.close_fd(their_stdout)
            self.pidfd = self._keep(os.pidfd_open(self.pid))
        except BaseException:
            self.close()
            raise

    def status(self) -> int:
        """Reaps the ended program."""
        self._reaped = True
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close_fd(self, fd: int) -> None:
        """Closes one of our descriptors before the others."""
        self._open.remove(fd)
        os.close(fd)

    def close(self) -> None:
        """Closes all descriptors; a program that still runs is killed, with its group, and reaped."""
        if self.pid >= 0 and not self._reaped:
            self._kill()
        while self._open:
            os.close(self._open.pop())

    def _kill(self) -> None:
        # The program is not reaped yet, so its number cannot be another process' or group's by now.
        os.kill(self.pid, _SIGKILL)
        _kill_group(self.pid)
        if self.pidfd >= 0 and _readable(self.pidfd, _REAP_SECONDS):
            self.status()
        # else: it hangs in the kernel (usually because of a dead disk); init reaps it after our exit.

    def _pipe(self) -> tuple[int, int]:
        reader, writer = os.pipe()
        return self._keep(reader), self._keep(writer)

    def _keep(self, fd: int) -> int:
        self._open.append(fd)
        return fd


def _spawn(program: str, environment: Mapping[str, str], stdin: int, stdout: int, deadline: float) -> int:
    def start() -> int:
        return os.posix_spawn(
            program,
            [program],
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)],
            setpgroup=0,
            # Python ignores these two, and an ignored signal stays ignored across exec.
            setsigdef=[_SIGPIPE, _SIGXFSZ],
        )

    return while_busy(start, deadline)


def while_busy(start: Callable[[], int], deadline: float, pauses: tuple[float, ...] = BUSY_PAUSES) -> int:
    """Calls `start` until it does not fail with "text file busy", within `pauses` and the deadline.

    There is no event to await: the file is busy until the installer closes it.
    """
    for pause in pauses:
        try:
            return start()
        except OSError as error:
            if error.errno != errno.ETXTBSY or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
    return start()


class _Exchange:
    """Writes to a program and reads from it, as it becomes ready, until it has ended."""

    def __init__(self, child: _Child, stdin: bytes) -> None:
        self._child = child
        self._unwritten = memoryview(stdin)
        self._output = bytearray()
        self._ended = False
        self._poll = select.poll()
        self._actions = {child.stdin: self._write, child.stdout: self._read, child.pidfd: self._end}
        for fd in self._actions:
            self._poll.register(fd, select.POLLOUT if fd == child.stdin else select.POLLIN)

    def until(self, deadline: float) -> Finished:
        """Runs the exchange; `deadline` is in `time.monotonic` seconds."""
        while not self._ended:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise Overdue
            for fd, _events in self._poll.poll(int(remaining * 1000) + 1):
                self._actions[fd]()
        # Not until the end of the stream: a daemon that the program left behind may keep it open.
        while self._read():
            pass
        return Finished(status=self._child.status(), output=bytes(self._output))

    def _write(self) -> bool:
        try:
            self._unwritten = self._unwritten[os.write(self._child.stdin, self._unwritten) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            # A program need not read its configuration.
            self._unwritten = self._unwritten[:0]
        if not self._unwritten:
            self._poll.unregister(self._child.stdin)
            self._child.close_fd(self._child.stdin)
        return True

    def _read(self) -> bool:
        """Whether there was something to read."""
        try:
            chunk = os.read(self._child.stdout, _CHUNK)
        except BlockingIOError:
            return False
        self._output += chunk
        if len(self._output) > OUTPUT_BYTES:
            raise TooMuchOutput
        if not chunk and not self._ended:
            self._poll.unregister(self._child.stdout)
        return bool(chunk)

    def _end(self) -> bool:
        self._ended = True
        return True


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, _SIGKILL)
    except ProcessLookupError:
        return  # It has moved to another group, which is not ours to kill.


def _readable(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(int(seconds * 1000)))
