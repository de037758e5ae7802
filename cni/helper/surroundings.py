"""What a process inherits from the one that starts it: the child takes it from the launcher, so that it is as if started by it.

Network, UTS and mount namespace, root and working directory, umask, environment, stdin and stderr are the launcher's. The PID and
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

# The mount namespace is the last one: it changes what a path means.
_TAKEN = {"net": CLONE_NEWNET, "uts": 0x04000000, "mnt": 0x00020000}
_KINDS = (*_TAKEN, "pid", "user")


_LARGEST_STATUS = 1 << 16


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
    _require_same_rights(pid)
    for kind, flag in _TAKEN.items():
        if theirs[kind] != ours[kind]:
            setns(fds[kind], flag)
    # A container that calls a plugin of its node has changed its root before, as thick Multus does.
    os.fchdir(fds["root"])
    os.chroot(".")
    os.fchdir(fds["directory"])
    os.umask(call.umask)
    _take_environment(call.environment)
    for fd in descriptors:
        os.close(fd)


def take_standard(descriptors: Sequence[int], null: int) -> None:
    """Puts the launcher's stdin and stderr into their places, and `null` into that of stdout. Raises `Unfit`, and `OSError`."""
    if len(descriptors) != len(STANDARD):
        raise Unfit("stdin or stderr is missing")
    for fd, standard in zip((*descriptors, null), (*STANDARD, 1), strict=True):
        os.dup2(fd, standard)
        os.close(fd)


def silence() -> None:
    """Nothing is read or written by the standard descriptors any more: stdin and stderr become what stdout is, /dev/null."""
    for standard in STANDARD:
        os.dup2(1, standard)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _require_same_rights(pid: int) -> None:
    """A root without rights, as in most containers, gets none from the helper, and none is lost in one that has fewer."""
    ours, theirs = _status("self"), _status(str(pid))
    if ours["CapEff"] != theirs["CapEff"]:
        raise Unfit(f"the launcher has the capabilities {theirs['CapEff']}, the helper {ours['CapEff']}")
    if _groups(ours) != _groups(theirs):
        raise Unfit(f"the launcher has the groups {_groups(theirs)}, the helper {_groups(ours)}")


def _groups(status: Mapping[str, str]) -> list[int]:
    return sorted(set(map(int, f"{status['Gid']} {status['Groups']}".split())))


def _status(pid: str) -> dict[str, str]:
    fd = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, _LARGEST_STATUS).decode(errors="replace")
    finally:
        os.close(fd)
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.split("\n"))}


def _take_environment(environment: Mapping[str, str]) -> None:
    # The libraries read the process's own variables, not the interpreter's copy.
    for name in [*os.environ]:
        os.unsetenv(name)
    os.environ.clear()
    if "LD_LIBRARY_PATH" in environment:
        # As PyInstaller's bootloader keeps it for the programs that a plugin starts.
        environment = {**environment, "LD_LIBRARY_PATH_ORIG": environment["LD_LIBRARY_PATH"]}
    for name, value in environment.items():
        os.putenv(name, value)
        os.environ[name] = value
