"""The directories of sockets on the host: made, given to the vswitch by a mount that follows no symlinks, taken back.

A pod owns its directory and is not trusted: what is below the directory's root is opened name by name without following
links, and then used through its descriptor. All steps can be repeated, after a kill at any point, too.
"""

from __future__ import annotations

import errno
import os

from cni.attachments import RUN_DIRECTORY
from cni.errors import SocketDirUnfit
from cni.host import mounts
from cni.host.files import make_directory, require_private
from cni.rollback import on_failure, run_all
from cni.userspace import ownership, sight
from cni.userspace.directory import OWN_DIRECTORIES, entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cni.log import Log
    from cni.userspace.directory import SocketDirectory

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_STACKED_MOUNTS = 16
"""More than killed calls can have put on one another; the next one begins by taking off what is there."""

_PASSABLE = 0o711
"""Of folders that lead to sockets: the vswitch may run as somebody else, and needs no list of them."""

_SHORT_FOLDER = 0o700
"""Of the folders that are mounted on."""

_MOST_FILES = 10_000
"""That are removed from a directory of ours: a pod must not make a DEL last for ever."""

_HINT = "look at its file system, and at what the pod has put there"
_MOUNT_HINT = (
    "it needs CAP_SYS_ADMIN, and Linux 5.14 for mounts that follow no symlinks; with allowUnsafeSocketDir there is none"
)

_NOT_OURS = (errno.EBUSY, errno.ENOTDIR, errno.ENOTEMPTY)
"""Why a folder is not removed that somebody else has put something in, or in the place of."""


class Sockets:
    """The socket directories of this node."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def found(self, directory: SocketDirectory) -> dict[str, Any]:
        """Whose the directory is before `prepare`, for `remove`; empty where nothing of that is going to change."""
        if directory.made or directory.absent or not ownership.is_wanted(directory):
            return {}
        with _Closing(_opened(directory)) as fd, _telling(directory.path, "look at it"):
            return ownership.found(fd)

    def prepare(self, directory: SocketDirectory) -> None:
        """Makes the directory if it is ours, gives it its owner, and mounts it where the vswitch finds it.

        Raises `SocketDirUnfit`.
        """
        if directory.made or directory.absent:
            _make_below(directory)
        with _Closing(_opened(directory)) as fd:
            with _telling(directory.path, "give it its owner and permissions"):
                ownership.give(fd, directory, self._log)
            if directory.mount:
                self._mount(fd, directory)

    def write(self, directory: SocketDirectory, name: str, content: bytes) -> None:
        """Writes a file that everybody in the pod can read, in one step. Raises `SocketDirUnfit`."""
        temporary = _temporary(name)
        with _Closing(self._reached(directory)) as fd, _telling(directory.path, f"write {name}"):
            _unlink(fd, temporary)
            file = os.open(temporary, _NEW_FILE, 0o644, dir_fd=fd)
            try:
                os.fchmod(file, 0o644)
                while content:
                    content = content[os.write(file, content) :]
            finally:
                os.close(file)
            os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)

    def remove(
        self, directory: SocketDirectory, names: tuple[str, ...], *, found: dict[str, Any] | None = None
    ) -> None:
        """Removes these names, the mount, and the directory if it is ours; puts back what `found` told.

        What is gone is no error. What the pod has put in the place of a name or of the directory is left.
        Raises `SocketDirUnfit`: for a name that is none at once, otherwise when all the rest has been done.
        """
        both = [name for one in names for name in (entry(one), _temporary(one))]
        steps: list[Callable[[], object]] = [lambda: self._remove_names(directory, both, found or {})]
        if directory.mount:
            steps.append(lambda: self._unmount(directory.mount))
        if directory.made or directory.absent:
            steps.append(lambda: self._remove_made(directory))
        run_all(*steps)

    def _remove_names(self, directory: SocketDirectory, names: list[str], found: dict[str, Any]) -> None:
        try:
            fd = self._reached(directory)
        except SocketDirUnfit as error:
            self._log.info(f"nothing to remove in {directory.path}: {error.msg}")
            return
        with _Closing(fd):
            run_all(lambda: _unlink_all(fd, directory, names), lambda: _put_back(fd, directory, found))

    def require_seen(self, directory: SocketDirectory, remote: str) -> None:
        """Proves that ovs-vswitchd has the mount where we have it, and as it is here. Raises `SocketDirUnfit`."""
        if directory.mount:
            sight.require_seen(directory.mount, remote)

    def differences(self, directory: SocketDirectory) -> list[str]:
        """What CHECK says: nothing while the vswitch's path leads to the directory."""
        try:
            with _Closing(_opened(directory)) as fd:
                wanted = sight.described(os.fstat(fd), mounts.ST_NOSYMFOLLOW)
        except SocketDirUnfit as error:
            return [error.msg]
        if not directory.mount:
            return []
        try:
            mounted = sight.identity(directory.mount)
        except OSError:
            mounted = ""
        return [] if mounted == wanted else [f"{directory.mount} is not the mount of {directory.path} any more"]

    def folders(self, parent: str) -> list[str]:
        """The names of the short folders, one per port; what is beside them and not as we make them is not told."""
        return [name for name in _names(parent) if _is_ours(f"{parent}/{name}")]

    def own_directories(self) -> list[str]:
        """The names of the directories of our own, one per port."""
        return _names(OWN_DIRECTORIES)

    def remove_folder(self, folder: str, names: tuple[str, ...]) -> None:
        """Removes a short folder of which nothing else is known, and through it these names.

        What is not as we make short folders is somebody else's, and left. Raises `SocketDirUnfit`.
        """
        if _is_mounted(folder):
            with _telling(folder, "remove the socket"), _Closing(os.open(folder, _DIRECTORY)) as fd:
                for name in names:
                    _unlink(fd, entry(name))
            self._unmount(folder)
        elif _is_ours(folder):
            self._unmount(folder)

    def _mount(self, fd: int, directory: SocketDirectory) -> None:
        parent = os.path.dirname(directory.mount)
        _make_passable(parent)
        require_private(parent)
        make_directory(directory.mount)
        self._unmount(directory.mount, keep=True)
        with (
            _telling(directory.path, f"mount it on {directory.mount}", _MOUNT_HINT),
            on_failure(self._unmount, directory.mount),
            _Closing(os.open(directory.mount, _DIRECTORY)) as target,
        ):
            mounts.bind(fd, target)

    def _unmount(self, folder: str, *, keep: bool = False) -> None:
        with _telling(folder, "take off the mount"):
            for _ in range(_STACKED_MOUNTS):
                if not _is_mounted(folder) or not mounts.unmount(folder):
                    break
        if not keep:
            self._rmdir(folder)

    def _reached(self, directory: SocketDirectory) -> int:
        """The directory, by the mount, which leads to it whatever the pod has renamed; else by its path."""
        if directory.mount and _is_mounted(directory.mount):
            with _telling(directory.mount, "open it"):
                return os.open(directory.mount, _DIRECTORY)
        return _opened(directory)

    def _remove_made(self, directory: SocketDirectory) -> None:
        try:
            parent = _opened(directory, up_to=-1)
        except SocketDirUnfit:
            return
        with _Closing(parent):
            self._rmdir(directory.path, name=directory.below[-1], parent=parent)

    def _rmdir(self, path: str, *, name: str = "", parent: int | None = None) -> None:
        """Removes a folder if it is there, and empty; by its name in the parent, if one is given."""
        try:
            os.rmdir(name or path, dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise SocketDirUnfit(f"cannot remove {path}: {os.strerror(error.errno or 0)}") from error
            # A pod that fills it must not keep its own DEL from ending.
            self._log.warning(f"{path} is left: {os.strerror(error.errno)}")


class _Closing:
    """The context of a descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_exc: object) -> None:
        os.close(self._fd)


class _telling:  # noqa: N801 - reads as a statement
    """Turns an `OSError` of the body into `SocketDirUnfit`, which says what could not be done with which path."""

    def __init__(self, path: str, what: str, hint: str = _HINT) -> None:
        self._path = path
        self._what = what
        self._hint = hint

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, OSError):
            raise SocketDirUnfit(
                f"socket directory {self._path}: cannot {self._what}: {os.strerror(error.errno or 0)}",
                hint=self._hint,
            ) from error


def _opened(directory: SocketDirectory, up_to: int | None = None) -> int:
    """A descriptor of the directory, or of one on the way to it. Raises `SocketDirUnfit`."""
    names = directory.below[:up_to]
    # The root is the administrator's, and may be reached by symlinks, as /var/run is.
    with _telling(directory.path, f"open {directory.root}"):
        fd = os.open(directory.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in names:
        with _Closing(fd), _telling(directory.path, f"open {name!r} in it (a symlink is not followed)"):
            fd = os.open(name, _DIRECTORY, dir_fd=fd)
    return fd


def _make_below(directory: SocketDirectory) -> None:
    _make_passable(directory.root)
    with _Closing(_opened(directory, up_to=-1)) as parent, _telling(directory.path, "make it"):
        _mkdir(directory.below[-1], 0o755, parent)


def _make_passable(path: str) -> None:
    """Makes a folder of ours or the administrator's, and its missing parents, for others to pass through."""
    if not os.path.isdir(path):
        _make_passable(os.path.dirname(path))
        with _telling(path, "make it"):
            _mkdir(path, _PASSABLE)
    if path.startswith(f"{RUN_DIRECTORY}/"):
        _open_passage()


def _open_passage() -> None:
    # Whatever else we have in /run made it first, for root alone.
    with _telling(RUN_DIRECTORY, "set its permissions"):
        if os.stat(RUN_DIRECTORY).st_mode & _PASSABLE != _PASSABLE:
            os.chmod(RUN_DIRECTORY, _PASSABLE)


def _mkdir(path: str, mode: int, parent: int | None = None) -> None:
    """Makes a folder, if it is not there, with just these permissions from the start: a call can be killed any time."""
    previous = os.umask(0)
    try:
        os.mkdir(path, mode, dir_fd=parent)
    except FileExistsError:
        return
    finally:
        os.umask(previous)


def _unlink_all(fd: int, directory: SocketDirectory, names: list[str]) -> None:
    with _telling(directory.path, "remove the socket"):
        for name in names + (_files(fd) if directory.made else []):
            _unlink(fd, name)


def _put_back(fd: int, directory: SocketDirectory, found: dict[str, Any]) -> None:
    with _telling(directory.path, "give it back its owner and permissions"):
        if found:
            ownership.put_back(fd, found)


def _temporary(name: str) -> str:
    """The name under which a file is written: no socket's name, of whatever attachment, begins with a dot."""
    return f".{entry(name)}.tmp"


def _unlink(fd: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=fd)
    except (FileNotFoundError, IsADirectoryError):
        return


def _files(fd: int) -> list[str]:
    """The names in a directory, not more than it takes a moment to remove."""
    names = []
    with os.scandir(fd) as entries:
        for found in entries:
            names.append(found.name)
            if len(names) == _MOST_FILES:
                break
    return names


def _is_mounted(folder: str) -> bool:
    """Whether something is mounted on our folder: ours alone has this flag. The folder's parent is root's alone."""
    try:
        return bool(os.statvfs(folder).f_flag & mounts.ST_NOSYMFOLLOW)
    except OSError:
        return False


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_ours(folder: str) -> bool:
    """Whether it is one of our mounts, or a folder as we make them to mount on."""
    if _is_mounted(folder):
        return True
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    return status.st_uid == 0 and status.st_mode & 0o170777 == 0o040000 | _SHORT_FOLDER
