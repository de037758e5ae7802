"""The directories of sockets on the host: made, given to the vswitch by a mount that follows no symlinks, taken back.

A pod owns its directory and is not trusted: what is below the directory's root is opened name by name without following
links, and then used through its descriptor. All steps can be repeated, after a kill at any point, too.
"""

from __future__ import annotations

import errno
import os

from cni.attachments import RUN_DIRECTORY
from cni.errors import SocketDirUnfit
from cni.host import acl, mounts
from cni.host.files import glance, make_directory
from cni.host.processes import pids
from cni.rollback import on_failure
from cni.userspace.directory import acl_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cni.log import Log
    from cni.userspace.directory import SocketDirectory

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_VSWITCHD = b"ovs-vswitchd"
_PIDFILE = "ovs-vswitchd.pid"
_STACKED_MOUNTS = 16
"""More than killed calls can have put on one another; the next one begins by taking off what is there."""

_PASSABLE = 0o711
"""Of folders that lead to sockets: the vswitch may run as somebody else, and needs no list of them."""


class Sockets:
    """The socket directories of this node."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def prepare(self, directory: SocketDirectory) -> None:
        """Makes the directory if it is ours, gives it its owner, and mounts it where the vswitch finds it.

        Raises `SocketDirUnfit`.
        """
        if directory.made:
            _make_below(directory)
        with _Opened(directory) as fd:
            with _telling(directory.path, "give it its owner and permissions"):
                _give(fd, directory, self._log)
            if directory.mount:
                self._mount(fd, directory)

    def write(self, directory: SocketDirectory, name: str, content: bytes) -> None:
        """Writes a file that everybody in the pod can read, in one step. Raises `SocketDirUnfit`."""
        with _Opened(directory) as fd, _telling(directory.path, f"write {name}"):
            temporary = f"{name}.tmp"
            _unlink(fd, temporary)
            file = os.open(temporary, _NEW_FILE, 0o644, dir_fd=fd)
            try:
                os.fchmod(file, 0o644)
                while content:
                    content = content[os.write(file, content) :]
            finally:
                os.close(file)
            os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)

    def remove(self, directory: SocketDirectory, names: tuple[str, ...]) -> None:
        """Removes these names, the mount, and the directory if it is ours. What is gone is no error.

        A directory that the pod has put in the place of a name is left. Raises `SocketDirUnfit`.
        """
        fd = self._reached(directory)
        if fd is not None:
            try:
                with _telling(directory.path, "remove the socket"):
                    for name in names:
                        _unlink(fd, name)
                        _unlink(fd, f"{name}.tmp")
                    if directory.made:
                        _empty(fd)
            finally:
                os.close(fd)
        if directory.mount:
            self._unmount(directory.mount)
        if directory.made:
            self._remove_made(directory)

    def require_seen(self, directory: SocketDirectory, remote: str) -> None:
        """Proves that ovs-vswitchd has the mount where we have it, and as it is here. Raises `SocketDirUnfit`."""
        if not directory.mount:
            return
        here = _identity(directory.mount)
        daemons = list(_vswitchds(remote))
        reasons = []
        for pid in daemons:
            try:
                if _identity(f"/proc/{pid}/root{directory.mount}") == here:
                    return
                reasons.append(f"process {pid} has something else there")
            except OSError as error:
                reasons.append(f"process {pid}: {os.strerror(error.errno or 0)}")
        raise SocketDirUnfit(
            f"ovs-vswitchd does not see {directory.mount}: {'; '.join(reasons) or 'no such process is seen here'}",
            hint="let ovs-vswitchd and the plugin share /run (a container: mountPropagation HostToContainer), or set "
            "vhostDir; allowUnsafeSocketDir gives it the pod's directory itself, in which it follows symlinks",
        )

    def differences(self, directory: SocketDirectory) -> list[str]:
        """What CHECK says: nothing while the vswitch's path leads to the directory."""
        try:
            with _Opened(directory) as fd:
                there = _identity_of(os.fstat(fd), 0)
        except SocketDirUnfit as error:
            return [error.msg]
        if not directory.mount:
            return []
        try:
            mounted = _identity(directory.mount)
        except OSError:
            mounted = ""
        wanted = f"{there.rpartition(':')[0]}:{mounts.ST_NOSYMFOLLOW}"
        return [] if mounted == wanted else [f"{directory.mount} is not the mount of {directory.path} any more"]

    def folders(self, parent: str) -> list[str]:
        """The names of the short folders, one per port."""
        try:
            return sorted(os.listdir(parent))
        except FileNotFoundError:
            return []

    def remove_folder(self, folder: str, names: tuple[str, ...]) -> None:
        """Removes a short folder of which nothing else is known, and through it these names."""
        if _is_mounted(folder):
            fd = os.open(folder, _DIRECTORY)
            try:
                with _telling(folder, "remove the socket"):
                    for name in names:
                        _unlink(fd, name)
            finally:
                os.close(fd)
        self._unmount(folder)

    def _mount(self, fd: int, directory: SocketDirectory) -> None:
        _make_passable(os.path.dirname(directory.mount))
        make_directory(directory.mount)
        self._unmount(directory.mount, keep=True)
        with _telling(directory.path, f"mount it on {directory.mount}"), on_failure(self._unmount, directory.mount):
            target = os.open(directory.mount, _DIRECTORY)
            try:
                mounts.bind(fd, target)
            finally:
                os.close(target)

    def _unmount(self, folder: str, *, keep: bool = False) -> None:
        with _telling(folder, "take off the mount"):
            for _ in range(_STACKED_MOUNTS):
                if not _is_mounted(folder):
                    break
                mounts.unmount(folder)
            if not keep:
                _rmdir(folder)

    def _reached(self, directory: SocketDirectory) -> int | None:
        """The directory, by the mount, which leads to it whatever the pod has renamed; else by its path."""
        if directory.mount and _is_mounted(directory.mount):
            return os.open(directory.mount, _DIRECTORY)
        try:
            return _opened(directory)
        except SocketDirUnfit as error:
            self._log.info(f"nothing to remove in {directory.path}: {error.msg}")
            return None

    def _remove_made(self, directory: SocketDirectory) -> None:
        try:
            parent = _opened(directory, up_to=-1)
        except SocketDirUnfit:
            return
        try:
            os.rmdir(directory.below[-1], dir_fd=parent)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise SocketDirUnfit(
                f"cannot remove {directory.path}: {os.strerror(error.errno or 0)}", hint="the pod left folders in it"
            ) from error
        finally:
            os.close(parent)


class _Opened:
    """The context of the directory's descriptor."""

    def __init__(self, directory: SocketDirectory) -> None:
        self._directory = directory
        self._fd = -1

    def __enter__(self) -> int:
        self._fd = _opened(self._directory)
        return self._fd

    def __exit__(self, *_exc: object) -> None:
        os.close(self._fd)


class _telling:  # noqa: N801 - reads as a statement
    """Turns an `OSError` of the body into `SocketDirUnfit`, which says what could not be done with which path."""

    def __init__(self, path: str, what: str) -> None:
        self._path = path
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, OSError):
            raise SocketDirUnfit(
                f"socket directory {self._path}: cannot {self._what}: {os.strerror(error.errno or 0)}",
                hint="look at its file system, and at what the pod has put there",
            ) from error


def _opened(directory: SocketDirectory, up_to: int | None = None) -> int:
    """A descriptor of the directory, or of one on the way to it. Raises `SocketDirUnfit`."""
    # The root is the administrator's, and may be reached by symlinks, as /var/run is.
    with _telling(directory.path, f"open {directory.root}"):
        fd = os.open(directory.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in directory.below[:up_to]:
        try:
            with _telling(directory.path, f"open {name!r} in it (a symlink is not followed)"):
                below = os.open(name, _DIRECTORY, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def _make_below(directory: SocketDirectory) -> None:
    _make_passable(directory.root)
    parent = _opened(directory, up_to=-1)
    try:
        with _telling(directory.path, "make it"):
            os.mkdir(directory.below[-1], 0o755, dir_fd=parent)
    except SocketDirUnfit as error:
        if not isinstance(error.__cause__, FileExistsError):
            raise
    finally:
        os.close(parent)


def _make_passable(path: str) -> None:
    """Makes a folder of ours or the administrator's, and its missing parents, for others to pass through."""
    if not path.startswith(RUN_DIRECTORY) and os.path.isdir(path):
        return
    if path != RUN_DIRECTORY:
        _make_passable(os.path.dirname(path))
    make_directory(path)
    # Records and locks make ours for root alone; who passes through finds nothing that is not his own to use.
    with _telling(path, "set its permissions"):
        if os.stat(path).st_mode & 0o777 != _PASSABLE:
            os.chmod(path, _PASSABLE)


def _give(fd: int, directory: SocketDirectory, log: Log) -> None:
    group = _group_id(directory)
    if directory.owner is not None or group is not None:
        os.fchown(fd, -1 if directory.owner is None else directory.owner, -1 if group is None else group)
    if directory.mode is not None:
        os.fchmod(fd, directory.mode)
    if directory.acl:
        acl.extend(fd, [acl_entry(text) for text in directory.acl])
    if directory.selinux_label:
        try:
            os.setxattr(fd, "security.selinux", directory.selinux_label.encode() + b"\0")
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL):
                raise
            log.warning(f"{directory.path}: no SELinux label was set: {os.strerror(error.errno)}")


def _group_id(directory: SocketDirectory) -> int | None:
    if not directory.group:
        return None
    if directory.group.isdecimal() and directory.group.isascii():
        return int(directory.group)
    import grp  # noqa: PLC0415 - most directories name no group

    try:
        return grp.getgrnam(directory.group).gr_gid
    except KeyError as error:
        raise SocketDirUnfit(
            f"host.vhost.group: there is no group {directory.group}",
            hint="name one of the host's groups, or its number",
        ) from error


def _unlink(fd: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=fd)
    except (FileNotFoundError, IsADirectoryError):
        return


def _empty(fd: int) -> None:
    """Removes what is in a directory that is ours, except folders."""
    for name in os.listdir(fd):
        _unlink(fd, name)


def _rmdir(path: str) -> None:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return


def _is_mounted(folder: str) -> bool:
    """Whether something is mounted on our folder: ours alone has this flag. The folder's parent is root's alone."""
    try:
        return bool(os.statvfs(folder).f_flag & mounts.ST_NOSYMFOLLOW)
    except OSError:
        return False


def _identity(path: str) -> str:
    return _identity_of(os.stat(path), os.statvfs(path).f_flag & mounts.ST_NOSYMFOLLOW)


def _identity_of(stat: os.stat_result, flag: int) -> str:
    return f"{stat.st_dev}:{stat.st_ino}:{flag}"


def _vswitchds(remote: str) -> Iterator[int]:
    """The process that keeps a pidfile beside the database's socket, else all that bear its name."""
    beside = glance(f"{os.path.dirname(remote.partition(':')[2])}/{_PIDFILE}") if remote.startswith("unix:") else b""
    if beside.strip().isdigit():
        yield int(beside)
        return
    for pid in pids():
        if glance(f"/proc/{pid}/comm").startswith(_VSWITCHD):
            yield int(pid)
