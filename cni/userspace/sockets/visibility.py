"""Checks that ovs-vswitchd reaches our directory at the same path; its mounts, root and user may differ from ours."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from cni.errors import SocketDirUnfit
from cni.host import hostmounts, mounts
from cni.host.files import peek, read_small
from cni.host.processes import pids
from cni.host.trusted import Closing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_VSWITCHD = b"ovs-vswitchd"
_PIDFILE = "ovs-vswitchd.pid"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FLOCK = "hhqqi"
"""`struct flock`: type, whence, start, length, process."""

_CAP_DAC_OVERRIDE = 1
"""Number of the capability in <linux/capability.h>: file permissions do not apply to a process that has it."""


def require_visible(folder: str, remote: str) -> None:
    """Proves that a daemon of this database has the same mount in the folder. Raises `SocketDirUnfit`.

    Reading the root of another process requires CAP_SYS_PTRACE.
    """
    try:
        here = hostmounts.identity(folder)
    except OSError as error:
        raise SocketDirUnfit(f"cannot look at {folder}: {os.strerror(error.errno or 0)}") from error
    reasons = []
    for pid in _vswitchds(remote):
        try:
            if _seen_by(pid, folder) == here:
                return
            reasons.append(f"process {pid} has something else there")
        except OSError as error:
            reasons.append(f"process {pid}: {os.strerror(error.errno or 0)}")
    raise SocketDirUnfit(
        f"ovs-vswitchd does not see {folder}: {'; '.join(reasons) or 'no such process is seen here'}",
        hint="let ovs-vswitchd and the plugin share /run (a container: mountPropagation HostToContainer), or set "
        "vhostDir; allowUnsafeSocketDir gives it the pod's directory itself, in which it follows symlinks",
    )


def restricted_user(remote: str) -> int | None:
    """The user ID of the database's ovs-vswitchd, if file permissions apply to it; otherwise None.

    The daemon is the process that has locked the pidfile beside the database's socket, as every ovs-vswitchd does. Any
    process can have the daemon's name, and the number in a file can be out of date, or that of a container; a foreign
    user must not get access to a pod's directory. Raises `SocketDirUnfit` if the daemon is not found.
    """
    path = f"{os.path.dirname(remote.partition(':')[2])}/{_PIDFILE}"
    if not remote.startswith("unix:"):
        raise _unknown(f"{remote} is no socket with a pidfile beside it")
    try:
        with Closing(os.open(os.path.dirname(path), _FOLDER)) as folder, _pidfile(folder) as file:
            pid = _holder(file)
            fields = _status(pid)
            user, group = int(fields[b"Uid"][1]), int(fields[b"Gid"][1])  # the effective ones
            is_whole = _has_host_capabilities(pid) and bool(int(fields[b"CapEff"][0], 16) >> _CAP_DAC_OVERRIDE & 1)
            if not all(_belongs(os.fstat(fd), user, group) for fd in (folder, file)):
                raise _unknown(f"users other than root and {user} may write to {path}, or to its directory")
            if _holder(file) != pid or not fields[b"Name"][0].startswith(_VSWITCHD):
                raise _unknown(f"process {pid}, which has locked {path}, is no ovs-vswitchd")
    except OSError as error:
        raise _unknown(f"{path}: {os.strerror(error.errno or 0)}") from error
    except LookupError as error:
        raise _unknown(f"no process here has locked {path}") from error
    return None if is_whole else user


def _unknown(reason: str) -> SocketDirUnfit:
    return SocketDirUnfit(f"cannot determine the user of ovs-vswitchd: {reason}")


def _pidfile(folder: int) -> Closing:
    look = os.stat(_PIDFILE, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(look.st_mode):
        raise OSError(errno.EINVAL, "")
    return Closing(os.open(_PIDFILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder))


def _holder(file: int) -> int:
    """The process that has locked the file for writing. Raises `LookupError` if there is none in this PID namespace."""
    asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    kind, _whence, _start, _length, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    if kind != fcntl.F_WRLCK or pid <= 0:
        raise LookupError
    return int(pid)


def _status(pid: int) -> dict[bytes, list[bytes]]:
    """The fields of the process, all of the same moment."""
    lines = [line.partition(b":") for line in read_small(f"/proc/{pid}/status").splitlines()]
    return {name: value.split() for name, _colon, value in lines}


def _has_host_capabilities(pid: int) -> bool:
    """Whether the capabilities of the process are valid for the host's files: it is in our user namespace."""
    return os.path.samestat(os.stat(f"/proc/{pid}/ns/user"), os.stat("/proc/self/ns/user"))


def _belongs(look: os.stat_result, user: int, group: int) -> bool:
    """Whether only root and the user with this group can write to the file."""
    is_of_group = look.st_gid in (0, group) or not look.st_mode & stat.S_IWGRP
    return look.st_uid in (0, user) and is_of_group and not look.st_mode & stat.S_IWOTH


def _seen_by(pid: str, folder: str) -> str:
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        there = mounts.open_in_root(root, folder)
    finally:
        os.close(root)
    try:
        return mounts.described(os.fstat(there), os.fstatvfs(there).f_flag)
    finally:
        os.close(there)


def _vswitchds(remote: str) -> Iterator[str]:
    """The process of the pidfile beside the database's socket, otherwise all with the daemon's name."""
    found = _by_pidfile(remote)
    yield from [found] if found else (pid for pid in pids() if _is_vswitchd(pid))


def _by_pidfile(remote: str) -> str:
    beside = peek(f"{os.path.dirname(remote.partition(':')[2])}/{_PIDFILE}") if remote.startswith("unix:") else b""
    # In a container the daemon writes its number there, which can be any other process here.
    return str(int(beside)) if beside.strip().isdigit() and _is_vswitchd(str(int(beside))) else ""


def _is_vswitchd(pid: str) -> bool:
    return read_small(f"/proc/{pid}/comm").startswith(_VSWITCHD)
