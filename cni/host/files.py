"""Files that survive a crash (atomic replacement), and locks with a time limit."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from cni.errors import IoFailure, TryAgainLater
from cni.host.folders import temporary
from cni.names import file_name, is_file_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

LOCK_SECONDS = 60.0
"""Time limit for a lock: the kubelet allows a sandbox four minutes, and an ADD holds a lock for about one at most."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_LOCKED = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
LARGEST = 64 << 20
"""Maximum size of a file that is read as a whole: a record has thousands of bytes."""

_LONGEST_PAUSE = 0.02

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def component(name: str, end: str = "") -> str:
    """The file name of a name and an ending (see `file_name`).

    Raises `IoFailure` if it could leave its directory in a path.

    Code that builds a path from a name must call this even for validated names, because root uses the path.
    """
    if not is_file_name(name):
        raise IoFailure(f"{name!a} is not a file name", hint="it comes from a damaged record, or from another program")
    return file_name(name, end)


def make_directory(path: str) -> None:
    """Creates `path` and its missing parents, each with mode 0700. Raises `IoFailure`."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_with_parents(path)
    except OSError as error:
        raise _failure("create directory", path, error) from error


def _make_with_parents(path: str) -> None:
    make_directory(os.path.dirname(path))
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except OSError as error:
        # A parent can be a dangling symlink: it exists, and nothing can be created in it.
        raise _failure("create directory", path, error) from error


def require_private(path: str) -> None:
    """Refuses a directory in which another user could plant files that root would use. Raises `IoFailure`."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failure("check", path, error) from error
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise IoFailure(
            f"{path} belongs to another user, or others may write to it", hint=f"chown root {path}; chmod 0700 {path}"
        )


def read_file(path: str) -> bytes | None:
    """The content of a regular file, or None if it does not exist. Raises `IoFailure`."""
    try:
        # O_NONBLOCK: opening a FIFO would block the call.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failure("read", path, error) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise IoFailure(f"cannot read {path}: not a regular file", hint=f"remove {path}")
        if found.st_size > LARGEST:
            raise IoFailure(f"cannot read {path}: larger than {LARGEST >> 20} MiB", hint=f"check {path}")
        return _whole(fd, found.st_size)
    except OSError as error:
        raise _failure("read", path, error) from error
    finally:
        os.close(fd)


def _whole(fd: int, size: int) -> bytes:
    """All bytes of a file. `open` would need three more system calls; `size` is 0 for a file in /proc."""
    content = b""
    while part := os.read(fd, max(size + 1, 4096)):
        content += part
    return content


def peek(path: str) -> bytes:
    """The first 4096 bytes of a regular file in any directory; empty for everything else.

    The type is checked before the file is opened: a FIFO would block, and opening a device can have an effect.
    """
    try:
        look = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return read_small(f"/proc/self/fd/{look}") if stat.S_ISREG(os.fstat(look).st_mode) else b""
    finally:
        os.close(look)


def read_small(path: str) -> bytes:
    """The first 4096 bytes of a file in /proc or /sys; empty if it does not exist or cannot be read.

    Raises `IoFailure` if this process or the kernel can open no more files, because this is not a property of the file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        refuse_shortage(path, error)
        return b""
    try:
        return os.read(fd, 4096)
    except OSError:
        return b""
    finally:
        os.close(fd)


def refuse_shortage(path: str, error: OSError) -> None:
    """Raises `IoFailure` for an error that is not a property of the file: too little memory, or too many open files."""
    if error.errno in _SHORTAGES:
        raise _failure("check", path, error) from error


def write_file(path: str, content: bytes) -> None:
    """Writes the file with mode 0600, so that a crash leaves either the old or the new content. Raises `IoFailure`."""
    written = temporary(path)
    try:
        _write_synced(written, content)
        os.replace(written, path)
        _sync_directory(os.path.dirname(path))
    except OSError as error:
        remove_file(written)
        raise _failure("write", path, error) from error


def create_file(path: str, content: bytes) -> bool:
    """Like `write_file`, but returns False and changes nothing if the file exists."""
    written = temporary(path)
    try:
        _write_synced(written, content)
        os.link(written, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise _failure("write", path, error) from error
    finally:
        remove_file(written)
    try:
        _sync_directory(os.path.dirname(path))
    except OSError as error:
        remove_file(path)
        raise _failure("write", path, error) from error
    return True


def remove_file(path: str) -> None:
    """Removes the file if it exists. Raises `IoFailure`."""
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise _failure("remove", path, error) from error


def _write_synced(path: str, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, 0o600)
    except FileExistsError:
        # A killed process with our number left it. It is not opened, because in other programs' directories it could be
        # any file.
        os.unlink(path)
        fd = os.open(path, flags, 0o600)
    try:
        remaining = memoryview(content)
        while remaining:
            remaining = remaining[os.write(fd, remaining) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Lock:
    """An exclusive lock on a file, awaited for at most `seconds`. The kernel releases it when the process ends.

    The file of a `lasting` lock is kept. Otherwise the holder removes it at the end, for names that may never be used
    again.
    """

    def __init__(self, path: str, what: str, seconds: float = LOCK_SECONDS, *, lasting: bool = True) -> None:
        self._path = path
        self._what = what
        self._seconds = seconds
        self._lasting = lasting
        self._fd = -1

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Raises `TryAgainLater` if another call holds it for longer than the time limit."""
        make_directory(os.path.dirname(self._path))
        deadline = time.monotonic() + self._seconds
        self._open()
        while self._acquired(deadline):
            if self._is_the_file():
                return
            # The holder has removed the file meanwhile: the next call would lock a new file with this name.
            self._close()
            self._open()
        self._close()
        raise TryAgainLater(
            f"{self._what} is locked by another call for more than {self._seconds:g} s",
            hint=f"the lock file is {self._path}; find the holder with: fuser -v {self._path}",
        )

    def release(self) -> None:
        """Does nothing if it is not held."""
        if self._fd < 0:
            return
        try:
            if not self._lasting:
                remove_file(self._path)
        finally:
            # A file that cannot be removed must not keep the rest of this call waiting for its own lock.
            self._close()

    def _open(self) -> None:
        try:
            self._fd = os.open(self._path, _LOCKED, 0o600)
        except OSError as error:
            raise _failure("open lock", self._path, error) from error

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1

    def _is_the_file(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), os.lstat(self._path))
        except FileNotFoundError:
            return False

    def _acquired(self, deadline: float) -> bool:
        # flock has no time-out, and a signal handler would cost an import: retry, at short intervals first.
        pause = 0.001
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EINTR):
                    raise _failure("lock", self._path, error) from error
            else:
                return True
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            time.sleep(min(pause, remaining))
            pause = min(pause * 2, _LONGEST_PAUSE)


def _failure(verb: str, path: str, error: OSError) -> IoFailure:
    reason = os.strerror(error.errno or 0)
    return IoFailure(f"cannot {verb} {path}: {reason}", hint=f"look at free space, permissions and the mount of {path}")
