"""The file in `logFile`: below a directory of logs, and one of ours.

The author of a configuration chooses where root writes. So a file is appended to only if it is new or one of our logs:
otherwise a network's author could write to the audit log, or forge the log of another pod.
"""

from __future__ import annotations

import os
import stat

from cni.jsontext import shown
from cni.paths import is_below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_OTHERS = ("/var/log/audit", "/var/log/containers", "/var/log/journal", "/var/log/pods", "/var/log/private")
"""Directories whose readers treat every file as one of their logs."""

_NAMES = ("barewire", "sriov", "userspace")
"""Name prefixes of predecessors' logs, whose first line has another format."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: no type of file can block the call.
_APPEND = os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o600


class Refused(Exception):
    """The reason why a file cannot be the log."""


def open_below(roots: tuple[str, ...], path: object) -> int:
    """Opens a log file below one of the directories for appending. Raises `Refused`.

    The path is resolved first and then walked without following a symlink, so that a symlink created in
    between (some directories in /var/log belong to services) has no effect. One missing directory is created.
    """
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path or path.endswith("/"):
        raise Refused(f"{shown(path)} is not the absolute path of a file")
    resolved = os.path.realpath(path)
    top = next((top for top in map(os.path.realpath, roots) if resolved.startswith(f"{top.rstrip('/')}/")), None)
    if top is None:
        raise Refused(
            f"{shown(path)} is not below {', '.join(roots) or 'a directory that the node configuration allows'}"
        )
    if is_below(resolved, _OTHERS):
        raise Refused(f"{shown(path)} is among other programs' logs")
    *folders, name = resolved.removeprefix(top).strip("/").split("/")
    try:
        return _open_file(_Walk(top).into(folders), name)
    except OSError as error:
        raise Refused(f"{shown(path)}: {os.strerror(error.errno) if error.errno else error}") from error


class _Walk:
    """Goes down a directory tree by descriptors, without following symlinks."""

    def __init__(self, top: str) -> None:
        self._fd = os.open(top, _DIRECTORY)
        self._may_make = True

    def into(self, folders: list[str]) -> int:
        """The descriptor of the last directory, which the caller closes. Raises `OSError`."""
        try:
            for folder in folders:
                below = self._step(folder)
                os.close(self._fd)
                self._fd = below
        except OSError:
            os.close(self._fd)
            raise
        return self._fd

    def _step(self, folder: str) -> int:
        try:
            return os.open(folder, _DIRECTORY, dir_fd=self._fd)
        except FileNotFoundError:
            if not self._may_make:
                raise
        self._may_make = False
        _ensure_directory(folder, self._fd)
        return os.open(folder, _DIRECTORY, dir_fd=self._fd)


def _ensure_directory(name: str, parent: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return  # Another call has just created it.


def _open_file(folder: int, name: str) -> int:
    try:
        return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _APPEND, _MODE, dir_fd=folder)
    except FileExistsError:
        return _open_present(folder, name)
    finally:
        os.close(folder)


def _open_present(folder: int, name: str) -> int:
    look = os.open(name, _LOOK, dir_fd=folder)
    try:
        found = os.fstat(look)
        _require_plain(found, name)
        fd = os.open(f"/proc/self/fd/{look}", (os.O_RDWR | _APPEND) & ~os.O_NOFOLLOW)
    finally:
        os.close(look)
    try:
        if not _is_ours(fd, found, name):
            _refuse(name, "exists, and is no log of ours: it begins with another program's text")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _require_plain(found: os.stat_result, name: str) -> None:
    # A second name can be a hard link, placed by a directory's owner, to a file elsewhere.
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        _refuse(name, "is not a regular file with one name")
    if found.st_uid not in (0, os.geteuid()):
        _refuse(name, f"belongs to user {found.st_uid}")


def _is_ours(fd: int, found: os.stat_result, name: str) -> bool:
    """Whether the file is one of our logs: by its first line, its name, or, while it is empty, its permissions.

    An empty file has just been created by another call, or by a rotation of logs.
    """
    if name.startswith(_NAMES):
        return True
    if not found.st_size:
        return stat.S_IMODE(found.st_mode) == _MODE
    return _begins_as_ours(os.pread(fd, 64, 0))


def _begins_as_ours(text: bytes) -> bool:
    """Whether a text begins in the format of `cni.log`: time, level, plugin."""
    time, _, rest = text.partition(b" ")
    level, _, plugin = rest.partition(b" ")
    return len(time) == 24 and time.endswith(b"Z") and level.startswith(b"level=") and plugin.startswith(b"plugin=")


def _refuse(name: str, reason: str) -> NoReturn:
    raise Refused(f"{name!r} {reason}")
