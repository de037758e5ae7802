"""The surroundings of a process, which it inherits from the process that starts it.

The child takes over network, UTS and mount namespace, root and working directory, umask, environment, stdin and stderr
of the launcher, as if the launcher had started it. It cannot take over PID and user namespace: a launcher in another
one executes the plugin itself.
"""

from __future__ import annotations

import os

from cni.helper.protocol import INHERITED, STANDARD
from cni.host.netns import CLONE_NEWNET, setns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cni.helper.protocol import Call

# The mount namespace comes last, because it changes the meaning of paths.
_TAKEN = {"net": CLONE_NEWNET, "uts": 0x04000000, "mnt": 0x00020000}
_KINDS = (*_TAKEN, "pid", "user")
_LARGEST_STATUS = 1 << 16


class Unfit(Exception):
    """The reason why the launcher has to execute the plugin itself."""


def own() -> dict[str, tuple[int, int]]:
    """The identities of the namespaces of this process, by kind: (device, inode)."""
    return {kind: _identity(os.stat(f"/proc/self/ns/{kind}")) for kind in _KINDS}


def take(call: Call, descriptors: Sequence[int], pid: int, ours: Mapping[str, tuple[int, int]]) -> None:
    """Takes over the surroundings of the launcher with process number `pid`; `ours` is the result of `own`.

    Raises `Unfit`, and `OSError`. The process is unusable then, because it may have taken over a part.
    """
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
    # A caller in a container may have changed its root to that of the node, as thick Multus does.
    os.fchdir(fds["root"])
    os.chroot(".")
    os.fchdir(fds["directory"])
    os.umask(call.umask)
    _take_environment(call.environment)
    for fd in descriptors:
        os.close(fd)


def rehearse(pid: int) -> None:
    """The parts of `take` that leave a process as it is. Raises `Unfit`, and `OSError`."""
    _require_same_rights(pid)
    _take_environment(dict(os.environ))


def take_standard(descriptors: Sequence[int], null: int) -> None:
    """Makes the descriptors stdin and stderr, and `null` stdout. Raises `Unfit`, and `OSError`."""
    if len(descriptors) != len(STANDARD):
        raise Unfit("stdin or stderr is missing")
    for fd, standard in zip((*descriptors, null), (*STANDARD, 1), strict=True):
        os.dup2(fd, standard)
        os.close(fd)


def silence() -> None:
    """Closes the launcher's stdin and stderr: both become copies of stdout, which is /dev/null."""
    for standard in STANDARD:
        os.dup2(1, standard)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _require_same_rights(pid: int) -> None:
    """Raises `Unfit` if the launcher has other rights than the helper: a call must neither gain nor lose any."""
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
    # C libraries read the variables of the process, and not the copy of the interpreter.
    for name in [*os.environ]:
        os.unsetenv(name)
    os.environ.clear()
    if "LD_LIBRARY_PATH" in environment:
        # PyInstaller's bootloader keeps it there for the programs that a plugin starts.
        environment = {**environment, "LD_LIBRARY_PATH_ORIG": environment["LD_LIBRARY_PATH"]}
    for name, value in environment.items():
        os.putenv(name, value)
        os.environ[name] = value
