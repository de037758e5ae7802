"""A host in `/run`, for tests in their own mount namespace: a pod's directory, files outside it, and what a pod can do
to it.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cni.host import mounts
from cni.log import Log
from cni.userspace.sockets.directory import SocketDirectory
from cni.userspace.sockets.sockets import Sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PORT = "0123456789ab-net1"
SOCKET, CONFIG = PORT, f"configData-{PORT}.json"
NAMES = (SOCKET, CONFIG)

VHOST = Path("/run/barewire/vhost")
MOUNT = VHOST / PORT
VOLUMES = Path("/run/volumes")
OUTSIDE = Path("/run/outside")

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class Host:
    """An empty host: a volume of the pod in `VOLUMES`, and `OUTSIDE` with files that an attacker could aim at."""

    def __init__(self) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
        self.volume = VOLUMES / "pod" / "volume"
        self.volume.mkdir(parents=True)
        self.directory = SocketDirectory(root=str(VOLUMES), path=str(self.volume), mount=str(MOUNT))
        self.sockets = Sockets(Log({}, level="panic"))
        OUTSIDE.mkdir(mode=0o750)
        for folder in (OUTSIDE, OUTSIDE / "volume"):
            folder.mkdir(exist_ok=True)
            for name in NAMES:
                (folder / name).write_text("secret")
        self.listener = listening(OUTSIDE / "listener")

    def made(self) -> SocketDirectory:
        """A directory that we created in a folder that the pod may write to, as a shared directory is."""
        return self.directory.replace(path=str(self.volume / PORT), made=True)

    def older(self, directory: SocketDirectory) -> SocketDirectory:
        """The directory as a later ADD records it: everything in it existed before."""
        return directory.replace(since=self.sockets.now() + 3600)

    def prepared(self) -> SocketDirectory:
        """The pod's directory, ready for use."""
        self.sockets.prepare(self.directory)
        return self.directory


def listening(path: Path) -> socket.socket:
    """A listening socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(100)
    return listener


def connect(path: Path) -> None:
    """Connects as a vswitch does. Raises `OSError`."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def tree(*places: Path) -> dict[str, Any]:
    """Everything in the folders: types, permissions, owners, attributes, contents."""
    return {str(path): _described(path) for place in places for path in [place, *sorted(place.rglob("*"))]}


def _described(path: Path) -> tuple[Any, ...]:
    status = path.lstat()
    content: Any = None
    if stat.S_ISLNK(status.st_mode):
        content = path.readlink()
    elif stat.S_ISREG(status.st_mode):
        content = path.read_bytes()
    attributes = [(name, os.getxattr(path, name)) for name in sorted(os.listxattr(path, follow_symlinks=False))]
    return stat.filemode(status.st_mode), status.st_uid, status.st_gid, status.st_nlink, content, attributes


def mounted() -> list[tuple[str, str, str]]:
    """The mounts on our /run and below it: root in the file system, mount point, options."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    ours = {[fields[0] for fields in lines if fields[4] == "/run"][-1]}
    found = []
    # Mounts that our /run hides are listed too; only those that are attached to it count.
    for number, parent, _device, root, point, options, *_rest in lines:
        if parent in ours:
            ours.add(number)
            found.append((root, point, options))
    return found


def host_snapshot() -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """Everything on the host that a call could have changed."""
    return tree(Path("/run")), mounted()


def exchange(one: Path, other: Path) -> None:
    """Exchanges two names in one step."""
    mounts.call("renameat2", _AT_FDCWD, bytes(one), _AT_FDCWD, bytes(other), _RENAME_EXCHANGE)


@contextmanager
def child(action: Callable[[], object]) -> Iterator[int]:
    """Runs a process that repeats the action until the end of the context, when it is killed."""
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            action()
        os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def endlessly(action: Callable[[], object]) -> Callable[[], None]:
    """Repeats the action and ignores its errors: its names come and go while it runs."""

    def repeated() -> None:
        while True:
            with suppress(OSError):
                action()

    return repeated
