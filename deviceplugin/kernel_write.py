"""Writes to a file of sysfs with a time limit, from a process with threads.

`cni.host.sysfs_write` forks a child for it. A process with threads of gRPC must not fork.
"""

from __future__ import annotations

import os
import threading
import time

from cni.errors import KernelRefused, TryAgainLater

_hanging: dict[tuple[str, str], threading.Thread] = {}
"""The threads that did not end in time, by path and text: in files of the bus, the text names the device."""


def write(path: str, text: str, deadline: float) -> None:
    """Writes in a thread, until `deadline` (monotonic seconds).

    Raises `KernelRefused` with the kernel's errno, and `TryAgainLater`. After the deadline the thread still waits in
    the kernel and cannot be ended. Until it returns, the same write is refused immediately, because every attempt would
    leave one more thread.
    """
    what = f"write of {text.strip()!r} to {path}"
    last = _hanging.get((path, text))
    if last and last.is_alive():
        raise TryAgainLater(f"{what}: the kernel has not finished the last one yet", hint="see dmesg")
    outcome: list[OSError | None] = []

    def attempt() -> None:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            outcome.append(error)
        else:
            outcome.append(None)

    thread = threading.Thread(target=attempt, daemon=True, name=f"write {path}")
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if not outcome:
        _hanging[path, text] = thread
        raise TryAgainLater(f"{what}: the kernel does not finish it in time", hint="see dmesg")
    if error := outcome[0]:
        refused = KernelRefused(f"{what}: the kernel refused: {os.strerror(error.errno or 0)}")
        refused.number = error.errno or 0
        raise refused
