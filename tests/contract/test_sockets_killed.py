"""A call is killed, or refused, at any of its changes to socket directories, and the next call repairs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.alone import alone
from tests.contract.pod_directory import CONFIG, NAMES, SOCKET, VHOST, Host, host_snapshot, listening, mounted

if TYPE_CHECKING:
    from cni.userspace.sockets.directory import SocketDirectory

ROOT = Path(__file__).parents[2]
SECONDS = 30

CHANGING = (
    "chmod fchmod fchown mkdir mkdirat mount_setattr move_mount open_tree rename renameat renameat2 rmdir setxattr"
    " fsetxattr symlinkat umount2 unlink unlinkat"
).split()
"""All system calls of the life cycle that change something; the file that `write` creates is between two of them."""

PROGRAM = """
import sys
from cni.errors import CniError
from cni.log import Log
from cni.userspace.sockets.directory import SocketDirectory
from cni.userspace.sockets.sockets import Sockets
sockets, directory = Sockets(Log({})), SocketDirectory.from_document(eval(sys.argv[1]))
try:
    if "prepare" in sys.argv:
        sockets.prepare(directory)
        sockets.write(directory, sys.argv[2], b"{}")
    if "remove" in sys.argv:
        sockets.remove(directory, sys.argv[3], sys.argv[2])
except CniError as error:
    print(error.code, error.msg, error.hint, sep="; ")
"""


def traced(directory: SocketDirectory, step: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs the step in a process under strace, whose lines about changing calls are on its stderr."""
    return subprocess.run(
        [
            *("strace", "-e", f"trace={','.join(CHANGING)}", *options),
            *(sys.executable, "-I", "-S", "-B", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{PROGRAM}"),
            *(repr(directory.as_dict()), CONFIG, SOCKET, step),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def points(directory: SocketDirectory, step: str) -> list[tuple[str, int]]:
    """Each changing call of the step: its name, and its number among the calls of that name."""
    done = traced(directory, step)
    assert done.returncode == 0, done.stderr
    count: Counter[str] = Counter()
    found = []
    for line in done.stderr.splitlines():
        name = line.partition("(")[0]
        if name in CHANGING:
            count[name] += 1
            found.append((name, count[name]))
    return found


def kill_at(directory: SocketDirectory, step: str, point: tuple[str, int]) -> None:
    """Runs the step up to that call, which is not executed."""
    name, number = point
    done = traced(directory, step, "-e", f"inject={name}:signal=KILL:when={number}")
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), (point, done.stderr)


def kinds(found: list[tuple[str, int]]) -> set[str]:
    """The kinds of the calls, regardless of their names on different processors and C libraries."""
    return {name.removesuffix("at").removesuffix("at2") for name, _number in found}


def wanted(host: Host, kind: str) -> SocketDirectory:
    directory = host.directory if kind == "the pod's" else host.made()
    return directory.replace(owner=107, group="42", mode=0o2750, acl=("user:107:rwx",), selinux_label="u:r:t:s0")


@pytest.mark.parametrize("kind", ["the pod's", "ours"])
@alone
def test_after_a_kill_at_any_change_of_prepare_remove_leaves_the_host_as_before(kind):
    host = Host()
    # Owner and permissions of a pod's own directory stay: another attachment may need them, and they go with the pod.
    directory = wanted(host, kind) if kind == "ours" else host.directory
    host.sockets.prepare(directory)
    host.sockets.remove(directory, *NAMES)
    before = host_snapshot()
    killed = points(directory, "prepare")
    host.sockets.remove(directory, *NAMES)
    assert kinds(killed) >= {"mkdir", "open_tree", "mount_setattr", "move_mount", "rename"}
    assert kind == "the pod's" or kinds(killed) >= {"fchown", "fchmod", "fsetxattr"}
    for point in killed:
        kill_at(directory, "prepare", point)
        host.sockets.remove(directory, *NAMES)
        assert host_snapshot() == before, point


@pytest.mark.parametrize("kind", ["the pod's", "ours"])
@alone
def test_after_a_kill_at_any_change_of_the_first_prepare_the_next_one_does_all_of_it(kind):
    host = Host()
    killed = points(wanted(host, kind), "prepare")
    goal = host_snapshot()
    for point in killed:
        host = Host()
        kill_at(wanted(host, kind), "prepare", point)
        host.sockets.prepare(wanted(host, kind))
        host.sockets.write(wanted(host, kind), CONFIG, b"{}")
        assert host_snapshot() == goal, point


@pytest.mark.parametrize("kind", ["the pod's", "ours"])
@alone
def test_after_a_kill_at_any_change_of_remove_the_next_one_finishes_it(kind):
    host = Host()
    directory = wanted(host, kind)

    def fill() -> None:
        host.sockets.prepare(directory)
        host.sockets.write(directory, CONFIG, b"{}")
        listening(Path(directory.path) / SOCKET).close()

    fill()
    killed = points(directory, "remove")
    goal = host_snapshot()
    assert goal[1] == []
    assert kinds(killed) >= {"unlink", "umount2"}
    for point in killed:
        fill()
        kill_at(directory, "remove", point)
        host.sockets.remove(directory, *NAMES)
        assert host_snapshot() == goal, point


def refuse(directory: SocketDirectory, step: str, point: tuple[str, int], error: str) -> str:
    """Runs the step with a failure of that call, and returns the step's output."""
    name, number = point
    done = traced(directory, step, "-e", f"inject={name}:error={error}:when={number}")
    assert done.returncode == 0, (point, done.stderr)
    return done.stdout


@pytest.mark.parametrize("step", ["prepare", "remove"])
@alone
def test_a_refused_change_is_reported_with_its_reason_and_remove_leaves_the_host_as_before(step):
    host = Host()
    directory = wanted(host, "ours")
    host.sockets.prepare(directory)
    host.sockets.remove(directory, *NAMES)
    before = host_snapshot()
    if step == "remove":
        host.sockets.prepare(directory)
    refused = points(directory, step)
    for point in refused:
        host.sockets.remove(directory, *NAMES)
        if step == "remove":
            host.sockets.prepare(directory)
        said = refuse(directory, step, point, "EIO")
        assert said.partition(";")[0] in ("5", "115"), (point, said)
        assert "Input/output error" in said, point
        host.sockets.remove(directory, *NAMES)
        assert host_snapshot() == before, point


@alone
def test_a_kernel_without_mounts_that_follow_no_symlinks_is_reported():
    host = Host()
    for call, error in (("open_tree", "ENOSYS"), ("mount_setattr", "ENOSYS"), ("mount_setattr", "EINVAL")):
        assert "Linux 5.14" in refuse(host.directory, "prepare", (call, 1), error)
        assert mounted() == []


@alone
def test_a_file_system_without_labels_takes_none():
    host = Host()
    directory = wanted(host, "the pod's")
    label = next(point for point in points(directory, "prepare") if point[0] == "fsetxattr" and point[1] == 3)
    assert refuse(directory, "prepare", label, "EOPNOTSUPP") == ""
    assert host.sockets.differences(directory) == []


@alone
def test_calls_that_are_killed_again_and_again_leave_nothing_on_one_another():
    host = Host()
    before_the_file_has_its_name = points(wanted(host, "ours"), "prepare")[-1]
    for _ in range(5):
        kill_at(wanted(host, "ours"), "prepare", before_the_file_has_its_name)
    assert len(mounted()) == 1
    host.sockets.remove(wanted(host, "ours"), *NAMES)
    assert mounted() == []
    assert os.listdir(host.volume) == []
    assert list(VHOST.iterdir()) == []
