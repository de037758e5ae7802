"""Writes to a file of sysfs within a bound, from a process with threads.

`cni.host.sysfs_write` does it in a forked child, which a process with gRPC's threads must not do.
"""

from __future__ import annotations

import os
import threading
import time

from cni.errors import KernelRefused, TryAgainLater


def write(path: str, text: str, deadline: float) -> None:
    """Writes in a thread, until `deadline` (monotonic seconds). Raises `KernelRefused` with the kernel's errno, `TryAgainLater`.

    After the deadline the thread waits on in the kernel, which nothing can end.
    """
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
    what = f"write of {text.strip()!r} to {path}"
    if not outcome:
        raise TryAgainLater(f"{what}: the kernel does not finish it in time", hint="see dmesg")
    if error := outcome[0]:
        refused = KernelRefused(f"{what}: the kernel refused: {os.strerror(error.errno or 0)}")
        refused.number = error.errno or 0
        raise refused
