"""Checks that ovs-vswitchd reaches our directory at the same path; its mounts, root and user may differ from ours."""

from __future__ import annotations

import os

from cni.errors import SocketDirUnfit
from cni.host import hostmounts, mounts
from cni.host.files import peek, read_small
from cni.host.processes import pids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_VSWITCHD = b"ovs-vswitchd"
_PIDFILE = "ovs-vswitchd.pid"
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
    """The user ID of the ovs-vswitchd that keeps its pidfile beside the database's socket, if permissions apply to it.

    None if they do not, or if there is no such pidfile: any process can have the daemon's name, and a foreign user must
    not get access to a pod's directory.
    """
    pid = _by_pidfile(remote)
    lines = [line.partition(b":") for line in read_small(f"/proc/{pid}/status").splitlines()] if pid else []
    fields = {name: value.split() for name, _colon, value in lines}
    if not fields.get(b"Uid") or not fields.get(b"CapEff") or int(fields[b"CapEff"][0], 16) >> _CAP_DAC_OVERRIDE & 1:
        return None
    return int(fields[b"Uid"][1])  # the effective one


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
