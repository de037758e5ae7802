"""The directories of sockets on the host: created, mounted for the vswitch without symlinks, and removed.

A pod owns its directory and is not trusted: everything below the directory's root is opened name by name without
following links, and then used through its descriptor. Files that were there before the ADD are not removed. All steps
can be repeated, also after a kill at any point.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from cni.attachment.records import RUN_DIRECTORY
from cni.errors import InvalidConfig, SocketDirUnfit
from cni.host import hostmounts, mounts
from cni.host.files import make_directory
from cni.host.folders import entries
from cni.host.trusted import Closing, Roots
from cni.rollback import on_failure, run_all
from cni.userspace.sockets import ownership, visibility
from cni.userspace.sockets.directory import OWN_DIRECTORIES, entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Protocol

    from cni.log import Log
    from cni.userspace.sockets.directory import SocketDirectory
    from cni.userspace.sockets.ownership import FoundDict

    Kind = Callable[[os.stat_result], bool]

    class Mounts(Protocol):
        """Mounts of directories on short directories, which follow no symlinks. Every call can raise `OSError`.

        `cni.host.hostmounts` and the tests' FakeMounts implement it.
        """

        def bind(self, directory: int, folder: str) -> None:
            """Mounts the directory of the descriptor on the folder, on top of existing mounts."""

        def unmount(self, folder: str) -> bool:
            """Removes the uppermost mount of the folder; False if there is none."""

        def remove(self, folder: str) -> None:
            """Removes the folder, which is empty and has no mount."""

        def is_mounted(self, folder: str) -> bool:
            """Whether one of these mounts is on the folder. Raises nothing."""

        def opened(self, folder: str, flags: int) -> int:
            """A descriptor of the directory that is mounted on the folder, or of the folder itself."""

        def identity(self, folder: str) -> str:
            """The mounted directory and its mount's flag, as `cni.host.mounts.described` writes them."""

    class Visibility(Protocol):
        def require_visible(self, folder: str, remote: str) -> None:
            """Proves that the vswitch of this database has the folder's mount. Raises `SocketDirUnfit`."""

        def restricted_user(self, remote: str) -> int | None:
            """The user ID of that vswitch; None if file permissions do not apply to it.

            Raises `SocketDirUnfit` if it is not found.
            """


_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_STACKED_MOUNTS = 16
"""More mounts than killed calls can have stacked on a folder; the next call first removes the existing ones."""

_PASSABLE = 0o711
"""Permissions of directories on the way to sockets: the vswitch may run as another user, and need not list them."""

_SHORT_FOLDER = 0o700
"""Permissions of the folders that are mounted on."""

_MOST_FILES = 10_000
"""Most files removed from a directory that we created, so that a pod cannot make DEL run without end."""

_HINT = "look at its file system, and at what the pod has put there"
_MOUNT_HINT = (
    "it needs CAP_SYS_ADMIN, and Linux 5.14 for mounts that follow no symlinks; with allowUnsafeSocketDir there is none"
)

_CLOCK_REALTIME_COARSE = 5
"""The clock of files' times, in <linux/time.h>. It is up to some milliseconds behind CLOCK_REALTIME."""

_NOT_OURS = (errno.EBUSY, errno.ENOTDIR, errno.ENOTEMPTY)
"""The reasons why a folder is not removed: another program has put a file in it, or has replaced it."""


class Sockets:
    """The socket directories of this node. `owners` are those of `Roots`."""

    def __init__(
        self,
        log: Log,
        owners: tuple[int, ...] = (),
        *,
        mounts: Mounts = hostmounts,
        visibility: Visibility = visibility,
    ) -> None:
        self._log = log
        self._owners = owners
        self._mounts = mounts
        self._visibility = visibility

    def found(self, directory: SocketDirectory) -> FoundDict | None:
        """The directory's owner and permissions before `prepare`, for `remove`; None if they will not change."""
        if directory.made or directory.absent or not ownership.is_wanted(directory):
            return None
        with Closing(self._opened(directory)) as fd, _reporting(directory.path, "look at it"):
            return ownership.found(fd)

    def require_free(self, directory: SocketDirectory, socket: str, file: str) -> None:
        """Refuses existing files with the names of the socket, of the file, or of a directory to be created.

        In a directory of its own, the pod's files stay: the application of an earlier sandbox may have left a socket.
        Empty names are skipped. Raises `SocketDirUnfit`.
        """
        try:
            fd = self._opened(directory)
        except SocketDirUnfit:
            return  # It does not exist yet, or `prepare` reports what is there instead.
        with Closing(fd):
            if directory.made and not _is_own(directory):
                raise _taken(directory.path)
            if not directory.made:
                _require_names_free(fd, directory, socket, file)

    @staticmethod
    def is_missing(directory: SocketDirectory) -> bool:
        """Whether an ADD has to create a pod's directory in a directory for sockets. The kubelet creates volumes."""
        return not (directory.made or directory.of_pod or os.path.isdir(directory.path))

    @staticmethod
    def now() -> int:
        """A time, in seconds, that no file created from now on is older than."""
        return int(time.clock_gettime(_CLOCK_REALTIME_COARSE))

    def prepare(self, directory: SocketDirectory, found: FoundDict | None = None) -> None:
        """Creates the directory if necessary, sets its owner, and mounts it where the vswitch finds it.

        `found` is restored later. Raises `SocketDirUnfit`.
        """
        if directory.made or directory.absent:
            self._make_below(directory)
        with Closing(self._opened(directory)) as fd:
            if found and ownership.is_wanted(directory) and not ownership.is_of(fd, found):
                raise SocketDirUnfit(f"socket directory {directory.path} has been replaced by another one", hint=_HINT)
            with _reporting(directory.path, "give it its owner and permissions"):
                ownership.give(fd, directory, self._log)
            if directory.mount:
                self._mount(fd, directory)

    def write(self, directory: SocketDirectory, name: str, content: bytes) -> None:
        """Writes a file that all users in the pod can read, in one step. Raises `SocketDirUnfit`."""
        temporary = _temporary(name)
        with Closing(self._reached(directory)) as fd, _reporting(directory.path, f"write {name}"):
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
        self,
        directory: SocketDirectory,
        socket: str,
        file: str,
        *,
        found: FoundDict | None = None,
        kept: Collection[str] = (),
    ) -> None:
        """Removes the socket, the file, the mount, and the directory if it is ours; restores `found` except `kept`.

        Missing ones are no error. Files that were there before, and those that replaced a socket, a file or the
        directory, are left. Empty names are skipped. Raises `SocketDirUnfit`: immediately for an invalid name,
        otherwise after all other steps have run.
        """
        names = _names_of(socket, file)
        steps: list[Callable[[], object]] = [lambda: self._remove_names(directory, names, found, kept)]
        if directory.mount:
            steps.append(lambda: self._unmount(directory.mount))
        if directory.made or directory.absent:
            steps.append(lambda: self._remove_made(directory))
        run_all(*steps)

    def _remove_names(
        self, directory: SocketDirectory, names: dict[str, Kind], found: FoundDict | None, kept: Collection[str]
    ) -> None:
        try:
            fd = self._reached(directory)
        except SocketDirUnfit as error:
            self._log.info(f"nothing to remove in {directory.path}: {error.msg}")
            return
        with Closing(fd):
            run_all(lambda: self._unlink_all(fd, directory, names), lambda: self._put_back(fd, directory, found, kept))

    def _unlink_all(self, fd: int, directory: SocketDirectory, names: dict[str, Kind]) -> None:
        with _reporting(directory.path, "remove the socket"):
            if directory.made:
                names = dict.fromkeys(_files(fd), _is_no_folder)
            since = 0 if _is_own(directory) else directory.since
            left = [name for name, kind in names.items() if not _unlinked(fd, name, kind, since)]
        if left:
            self._log.warning(f"not ours, and left in {directory.path}: {', '.join(map(repr, left))}")

    def _put_back(self, fd: int, directory: SocketDirectory, found: FoundDict | None, kept: Collection[str]) -> None:
        with _reporting(directory.path, "give it back its owner and permissions"):
            if found and ownership.is_of(fd, found):
                ownership.put_back(fd, found, directory, kept)
            elif found:
                self._log.warning(f"{directory.path} has been replaced by another directory, which is left as it is")

    def require_visible(self, directory: SocketDirectory, remote: str) -> None:
        """Proves that ovs-vswitchd has the same mount at the same path. Raises `SocketDirUnfit`."""
        if directory.mount:
            self._visibility.require_visible(directory.mount, remote)

    def vswitch_user(self, remote: str) -> int | None:
        """The user ID of this database's ovs-vswitchd, if it needs permission to connect; otherwise None.

        Raises `SocketDirUnfit` if it cannot be determined.
        """
        return self._visibility.restricted_user(remote)

    def differences(self, directory: SocketDirectory) -> list[str]:
        """The differences for CHECK; empty if the vswitch's path leads to the directory."""
        try:
            with Closing(self._opened(directory)) as fd:
                wanted = mounts.described(os.fstat(fd), mounts.ST_NOSYMFOLLOW)
        except SocketDirUnfit as error:
            return [error.msg]
        if not directory.mount:
            return []
        try:
            mounted = self._mounts.identity(directory.mount)
        except OSError:
            mounted = ""
        return [] if mounted == wanted else [f"{directory.mount} is not the mount of {directory.path} any more"]

    def folders(self, parent: str) -> list[str]:
        """The names of the short directories, one per port. Other files beside them are not listed."""
        return (
            [name for name in entries(parent) if self._is_ours(f"{parent}/{name}")] if self._is_trusted(parent) else []
        )

    def own_directories(self) -> list[str]:
        """The names of the directories that we created, one per port."""
        return entries(OWN_DIRECTORIES)

    def remove_folder(self, folder: str, socket: str, file: str) -> None:
        """Removes a short directory without a record, and through it the socket and the file.

        A directory in another form is not ours, and is left. Raises `SocketDirUnfit`.
        """
        if not self._is_trusted(os.path.dirname(folder)):
            return
        if self._mounts.is_mounted(folder):
            names = _names_of(socket, file)
            with _reporting(folder, "remove the socket"), Closing(self._mounts.opened(folder, _DIRECTORY)) as fd:
                for name, kind in names.items():
                    _unlinked(fd, name, kind)
            self._unmount(folder)
        elif self._is_ours(folder):
            self._unmount(folder)

    def _mount(self, fd: int, directory: SocketDirectory) -> None:
        os.close(self._trusted(os.path.dirname(directory.mount), make=True))
        make_directory(directory.mount)
        self._unmount(directory.mount, keep=True)
        with (
            _reporting(directory.path, f"mount it on {directory.mount}", _MOUNT_HINT),
            on_failure(self._unmount, directory.mount),
        ):
            self._mounts.bind(fd, directory.mount)

    def _unmount(self, folder: str, *, keep: bool = False) -> None:
        with _reporting(folder, "take off the mount"):
            for _ in range(_STACKED_MOUNTS):
                if not self._mounts.is_mounted(folder) or not self._mounts.unmount(folder):
                    break
            # An earlier version, which used only its own mount namespace, may have left a mount there.
            if not self._mounts.is_mounted(folder) and _has_mount(folder):
                mounts.unmount(folder)
        if not keep:
            self._rmdir(folder, lambda: self._mounts.remove(folder))

    def _reached(self, directory: SocketDirectory) -> int:
        """The directory, through the mount, which leads to it even if the pod has renamed it; otherwise by its path."""
        if directory.mount and self._mounts.is_mounted(directory.mount):
            with _reporting(directory.mount, "open it"):
                return self._mounts.opened(directory.mount, _DIRECTORY)
        return self._opened(directory)

    def _remove_made(self, directory: SocketDirectory) -> None:
        self._rmdir_below(directory)
        # A record can be damaged: only directories above this one, in their order.
        for folder, above in zip(directory.parents, directory.above if directory.parents else (), strict=False):
            if folder != above or not self._rmdir_below(directory.replace(path=folder), is_shared=True):
                break

    def _rmdir_below(self, directory: SocketDirectory, *, is_shared: bool = False) -> bool:
        try:
            parent = self._opened(directory, up_to=-1)
        except SocketDirUnfit:
            return False
        with Closing(parent):
            return self._rmdir(
                directory.path, lambda: os.rmdir(directory.below[-1], dir_fd=parent), is_shared=is_shared
            )

    def _rmdir(self, path: str, remove: Callable[[], None], *, is_shared: bool = False) -> bool:
        """Removes a folder if it exists and is empty. Returns whether it is gone."""
        try:
            remove()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise SocketDirUnfit(f"cannot remove {path}: {os.strerror(error.errno or 0)}") from error
            # A pod that fills it must not block its own DEL.
            if not is_shared:
                self._log.warning(f"{path} is left: {os.strerror(error.errno)}")
            return False
        return True

    def _opened(self, directory: SocketDirectory, up_to: int | None = None) -> int:
        """A descriptor of the directory, or of one on the way to it. Raises `SocketDirUnfit`."""
        names = directory.below[:up_to]
        fd = self._trusted(directory.root)
        for name in names:
            fd = _entered(fd, name, directory)
        return fd

    def _make_below(self, directory: SocketDirectory) -> None:
        *passed, last = directory.below
        fd = self._trusted(directory.root, make=True)
        for name in passed:
            with on_failure(os.close, fd), _reporting(directory.path, f"make {name!r} in it"):
                _mkdir(name, _PASSABLE, fd)
            fd = _entered(fd, name, directory)
        with Closing(fd), _reporting(directory.path, "make it"):
            _mkdir(last, 0o755, fd)

    def _trusted(self, path: str, *, make: bool = False) -> int:
        """A descriptor of a folder whose path only root controls. With `make`, missing parts are created for all users.

        Raises `SocketDirUnfit`.
        """
        previous = os.umask(0)
        try:
            fd = Roots(allowed=(path,), owners=self._owners).opened(
                path, "socket directory", make=_PASSABLE if make else 0
            )
        except InvalidConfig as error:
            raise SocketDirUnfit(error.msg, hint=error.hint) from error
        finally:
            os.umask(previous)
        if make and path.startswith(f"{RUN_DIRECTORY}/"):
            with on_failure(os.close, fd):
                _open_passage()
        return fd

    def _is_ours(self, folder: str) -> bool:
        """Whether it is one of our mounts, or a folder in the form of those that we create to mount on."""
        if self._mounts.is_mounted(folder):
            return True
        try:
            status = os.lstat(folder)
        except OSError:
            return False
        return status.st_uid == os.geteuid() and status.st_mode & 0o170777 == 0o040000 | _SHORT_FOLDER

    def _is_trusted(self, path: str) -> bool:
        try:
            os.close(self._trusted(path))
        except SocketDirUnfit:
            return False
        return True


class _reporting:  # noqa: N801 - reads as a statement
    """Converts an `OSError` of the body to `SocketDirUnfit`, with the failed action and its path."""

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


def _entered(fd: int, name: str, directory: SocketDirectory) -> int:
    """Opens the folder of that name, and closes the descriptor of its parent."""
    with Closing(fd), _reporting(directory.path, f"open {name!r} in it (a symlink is not followed)"):
        return os.open(name, _DIRECTORY, dir_fd=fd)


def _open_passage() -> None:
    # Another part of Barewire in /run may have created it for root only.
    with _reporting(RUN_DIRECTORY, "set its permissions"):
        if os.stat(RUN_DIRECTORY).st_mode & _PASSABLE != _PASSABLE:
            os.chmod(RUN_DIRECTORY, _PASSABLE)


def _mkdir(path: str, mode: int, parent: int | None = None) -> None:
    """Creates a folder if it is missing, with these permissions from the start: a call can be killed at any time."""
    previous = os.umask(0)
    try:
        os.mkdir(path, mode, dir_fd=parent)
    except FileExistsError:
        return
    finally:
        os.umask(previous)


def _is_own(directory: SocketDirectory) -> bool:
    """Whether only we can have created it."""
    return directory.made and directory.root == OWN_DIRECTORIES


def _names_of(socket: str, file: str) -> dict[str, Kind]:
    """The names that an attachment can have in a directory, with the kind of file of each."""
    sockets = {entry(socket): _is_socket} if socket else {}
    return {**sockets, **(dict.fromkeys((entry(file), _temporary(file)), _is_file) if file else {})}


def _is_socket(look: os.stat_result) -> bool:
    return stat.S_ISSOCK(look.st_mode)


def _is_file(look: os.stat_result) -> bool:
    return stat.S_ISREG(look.st_mode) and look.st_uid == os.geteuid()


def _is_no_folder(look: os.stat_result) -> bool:
    return not stat.S_ISDIR(look.st_mode)


def _require_names_free(fd: int, directory: SocketDirectory, socket: str, file: str) -> None:
    with _reporting(directory.path, "look at it"):
        for name, kind in _names_of(socket, file).items():
            look = _look(fd, name)
            if look is not None and not (directory.of_pod and kind(look)):
                raise _taken(f"{directory.path}/{name}")


def _taken(path: str) -> SocketDirUnfit:
    return SocketDirUnfit(
        f"{path} is there already, and no attachment of ours left it",
        hint="remove it if nothing uses it, or give the socket another name (socketNaming, host.vhost.socketfile) or place",
    )


def _look(fd: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _unlinked(fd: int, name: str, kind: Kind, since: int = 0) -> bool:
    """Removes the name if it is that kind of file, and not older than `since`. Returns whether it is gone."""
    look = _look(fd, name)
    if look is not None and kind(look) and int(look.st_ctime) >= since:
        _unlink(fd, name)
        return True
    return look is None


def _temporary(name: str) -> str:
    """The temporary name for writing a file: no socket of any attachment has a name that begins with a dot."""
    return f".{entry(name)}.tmp"


def _unlink(fd: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=fd)
    except (FileNotFoundError, IsADirectoryError):
        return


def _files(fd: int) -> list[str]:
    """The names in a directory, at most as many as can be removed in a moment."""
    names = []
    with os.scandir(fd) as scan:
        for found in scan:
            names.append(found.name)
            if len(names) == _MOST_FILES:
                break
    return names


def _has_mount(folder: str) -> bool:
    """Whether one of our mounts is on the folder in the plugin's own mount namespace."""
    try:
        return bool(os.statvfs(folder).f_flag & mounts.ST_NOSYMFOLLOW)
    except OSError:
        return False
