"""The host's processes, and the descriptors that they hold, as /proc tells."""

from __future__ import annotations

import os

from cni.errors import IoFailure
from cni.host.files import refuse_shortage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PROC = "/proc"


def pids() -> list[str]:
    """The numbers of all processes. Raises `IoFailure`."""
    try:
        return [name for name in os.listdir(PROC) if name.isdigit()]
    except OSError as error:
        raise IoFailure(f"cannot look at {PROC}: {os.strerror(error.errno or 0)}", hint="mount /proc") from error


def descriptors(kind: str) -> Iterator[str]:
    """The paths of all open descriptors in /proc: `kind` is "fd" (links) or "fdinfo" (text).

    Raises `IoFailure` where this process can open no more files.
    """
    for pid in pids():
        yield from _of_process(pid, kind)


def opened(numbers: set[int]) -> set[int]:
    """Those of the device numbers whose nodes a process has open. It looks at all descriptors once, however many numbers.

    Raises `IoFailure` where a process does not let its descriptors be seen: it may have any of them open.
    """
    found: set[int] = set()
    # Not everywhere may root look at the first process, and that one has no devices open.
    for pid in set(pids()) - {"1"} if numbers else ():
        for path in _of_process(pid, "fd", strict=True):
            try:
                # Only what is below /dev is looked at further: a file elsewhere can be on a file system that does not answer.
                if os.readlink(path).startswith("/dev/"):
                    found.add(os.stat(path).st_rdev)
            except OSError as error:
                _refuse(path, error, strict=True)
    return found & numbers


def _of_process(pid: str, kind: str, *, strict: bool = False) -> list[str]:
    folder = f"{PROC}/{pid}/{kind}"
    try:
        return [f"{folder}/{name}" for name in os.listdir(folder)]
    except OSError as error:
        _refuse(folder, error, strict=strict)
        return []  # the process has ended


def _refuse(path: str, error: OSError, *, strict: bool) -> None:
    refuse_shortage(path, error)
    if strict and isinstance(error, PermissionError):
        raise IoFailure(f"cannot look at {path}: {os.strerror(error.errno or 0)}", hint="run it as root") from error
