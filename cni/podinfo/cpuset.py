"""The CPUs that the process may run on, from its control group."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import TYPE_CHECKING

from .reading import PodInfoError, read

if TYPE_CHECKING:
    from collections.abc import Iterator

PROCESS = "/proc/self"
CGROUPS = "/sys/fs/cgroup"


def cpus(process: str = PROCESS, *, cgroups: str = CGROUPS) -> dict[str, str]:
    """The CPUs in the kernel's list format: `{"cpuset": "0-3,8"}`.

    `process` is the directory of the process in /proc, `cgroups` the mount point of control groups of version 1 or 2.
    Raises `PodInfoError`.
    """
    membership = Path(process) / "cgroup"
    content = read(membership)
    if content is None:
        raise PodInfoError(f"there is no {membership}")
    for path in _files(content, cgroups):
        if found := (read(path) or "").strip():
            return {"cpuset": found}
    raise PodInfoError(f"there is no cpuset of {membership} in {cgroups}")


def _files(membership: str, cgroups: str) -> Iterator[Path]:
    """The possible paths of the cpuset, in search order.

    Lines are `ID:controllers:path`, version 2 has no controllers.
    """
    lines = [line.split(":", 2) for line in membership.split("\n") if line.count(":") >= 2]
    for _, controllers, group in lines:
        if "cpuset" in controllers.split(","):
            yield from (Path(f"{cgroups}/cpuset{up}/cpuset.cpus") for up in _upwards(group))
    for _, controllers, group in lines:
        if not controllers:
            yield from (Path(f"{cgroups}{up}/cpuset.cpus.effective") for up in _upwards(group))


def _upwards(group: str) -> Iterator[str]:
    """The group and its ancestors: a group without the cpuset controller has the CPUs of the next ancestor with it.

    The last one is the mount point, which is the container's own group if the path is that of the host.
    """
    # In a cgroup namespace, the path of a group outside is `/../...`.
    path = posixpath.normpath(f"/{group.lstrip('/')}")
    while path != "/":
        yield path
        path = posixpath.dirname(path)
    yield ""
