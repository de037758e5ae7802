"""The host's processes and their descriptors, from /proc."""

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
    """The device numbers whose nodes a process has open. All descriptors are searched once.

    Raises `IoFailure` if the descriptors of a process cannot be read: it may have any of them open.
    """
    found: set[int] = set()
    # In some containers root cannot read process 1, which has no devices open.
    for pid in set(pids()) - {"1"} if numbers else ():
        for path in _of_process(pid, "fd", strict=True):
            try:
                # Only paths below /dev are checked further: other files can be on a file system that does not respond.
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
