"""The host's processes, and the descriptors that they hold, as /proc tells."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PROC = "/proc"


def pids() -> list[str]:
    """The numbers of all processes."""
    return [name for name in os.listdir(PROC) if name.isdigit()]


def descriptors(kind: str) -> Iterator[str]:
    """The paths of all open descriptors in /proc: `kind` is "fd" (links) or "fdinfo" (text)."""
    for pid in pids():
        folder = f"{PROC}/{pid}/{kind}"
        try:
            names = os.listdir(folder)
        except OSError:
            continue  # the process has ended
        yield from (f"{folder}/{name}" for name in names)


def has_open(numbers: set[int]) -> bool:
    """Whether a process has a device node with one of these device numbers open."""
    for path in descriptors("fd"):
        try:
            # Only what is below /dev is looked at further: a file elsewhere can be on a file system that does not answer.
            if os.readlink(path).startswith("/dev/") and os.stat(path).st_rdev in numbers:
                return True
        except OSError:
            continue
    return False
