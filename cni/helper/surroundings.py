"""What a process inherits from the one that starts it: the child takes it from the launcher, so that it is as if started by it.

Network and mount namespace, root and working directory, umask, environment, stdin and stderr are the launcher's. The PID and
the user namespace cannot be taken: a launcher in others executes the plugin itself.
"""

from __future__ import annotations

import os

from cni.helper.protocol import INHERITED, STANDARD
from cni.host.netns import CLONE_NEWNET, setns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cni.helper.protocol import Call

_CLONE_NEWNS = 0x20000
_KINDS = ("mnt", "net", "pid", "user")
_CAPABILITIES = b"\nCapEff:\t"


class Unfit(Exception):
    """Why the launcher has to execute the plugin itself."""


def own() -> dict[str, tuple[int, int]]:
    """What the namespaces of this process are known by."""
    return {kind: _identity(os.stat(f"/proc/self/ns/{kind}")) for kind in _KINDS}


def take(call: Call, descriptors: Sequence[int], pid: int, ours: Mapping[str, tuple[int, int]]) -> None:
    """Raises `Unfit`, and `OSError`; the process can only end then."""
    if len(descriptors) != len(INHERITED):
        raise Unfit("descriptors are missing")
    fds = dict(zip(INHERITED, descriptors, strict=True))
    theirs = {kind: _identity(os.fstat(fds[kind])) for kind in _KINDS}
    if (theirs["pid"], theirs["user"]) != (ours["pid"], ours["user"]):
        raise Unfit("the launcher is in another PID or user namespace")
    _require_capabilities(pid)
    if theirs["net"] != ours["net"]:
        setns(fds["net"], CLONE_NEWNET)
    if theirs["mnt"] != ours["mnt"]:
        setns(fds["mnt"], _CLONE_NEWNS)
    # A container that calls a plugin of its node has changed its root before, as thick Multus does.
    os.fchdir(fds["root"])
    os.chroot(".")
    os.fchdir(fds["directory"])
    os.umask(call.umask)
    _take_environment(call.environment)
    for fd in descriptors:
        os.close(fd)


def take_standard(descriptors: Sequence[int]) -> None:
    """Puts the launcher's stdin and stderr into their places. Raises `ValueError` when one is missing."""
    silence()
    for fd, standard in zip(descriptors, STANDARD, strict=True):
        os.dup2(fd, standard)
        os.close(fd)


def silence() -> None:
    """Nothing is read or written by the standard descriptors any more."""
    fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for standard in range(3):
        os.dup2(fd, standard)
    os.close(fd)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _require_capabilities(pid: int) -> None:
    """A root without rights, as in most containers, gets none from the helper."""
    lacking = _capabilities("self") & ~_capabilities(str(pid))
    if lacking:
        raise Unfit(f"the launcher lacks the capabilities {lacking:x}")


def _capabilities(pid: str) -> int:
    fd = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.read(fd, 8192)
    finally:
        os.close(fd)
    return int(status.partition(_CAPABILITIES)[2].partition(b"\n")[0], 16)


def _take_environment(environment: Mapping[str, str]) -> None:
    # The libraries read the process's own variables, not the interpreter's copy.
    for name in [*os.environ]:
        os.unsetenv(name)
    os.environ.clear()
    for name, value in environment.items():
        os.putenv(name, value)
        os.environ[name] = value
