"""Writes to a file in sysfs within a time limit: a driver can block the write, and nothing else would end it."""

from __future__ import annotations

import errno
import os
import select
import time

from cni.errors import IoFailure, KernelRefused, TryAgainLater

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_SIGKILL = 9  # the module `signal` costs an import of `enum`


def write(path: str, text: str, deadline: float) -> None:
    """Writes in a child, until `deadline` (monotonic seconds).

    Raises `KernelRefused` with the kernel's errno, `TryAgainLater`, `IoFailure`.
    """
    try:
        child = os.fork()
    except OSError as error:
        raise IoFailure(f"cannot start a process to write {path}: {os.strerror(error.errno or 0)}") from error
    if child == 0:
        _write_and_exit(path, text)
    what = f"write of {text.strip()!r} to {path}"
    if not _ends(child, deadline):
        os.kill(child, _SIGKILL)
        raise TryAgainLater(f"{what}: the kernel did not finish it in time", hint="see dmesg")
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if number < 0:
        # The kernel kills a process in which a driver has crashed.
        raise KernelRefused(f"{what}: the writing process was killed by signal {-number}", hint="see dmesg for a crash")
    if number:
        refused = KernelRefused(f"{what}: the kernel refused: {os.strerror(number)}")
        refused.number = number
        raise refused


def _ends(child: int, deadline: float) -> bool:
    """Whether the child ends before the deadline (monotonic seconds)."""
    ended = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
    finally:
        os.close(ended)


def _write_and_exit(path: str, text: str) -> NoReturn:
    """The child process: writes, and exits with the errno, or 0.

    It keeps the descriptor of the lock, so that no other call starts with this device while a driver blocks the child.
    It does not keep the runtime's pipes, because the runtime waits for their end, and a child in the kernel cannot be
    killed.
    """
    number = errno.EIO
    try:
        nowhere = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nowhere, fd)
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, text.encode())
        number = 0
    except OSError as error:
        number = error.errno or errno.EIO
    finally:
        os._exit(number)
