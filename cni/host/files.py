"""Files that survive a crash (atomic replacement), and locks with a bound."""

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
"""Bound for a lock: kubelet gives a sandbox four minutes, and an ADD that holds the lock takes at most about one."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_LOCKED = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
LARGEST = 64 << 20
"""Bytes of a file that is read whole: a record has thousands, and the allocations of sriov-cni have less."""

_LONGEST_PAUSE = 0.02

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def component(name: str, end: str = "") -> str:
    """The name with its ending, if in a path it can only mean something inside its folder; see `file_name`. Raises `IoFailure`.

    Whoever makes a path of a name calls this, also where the name has been judged already: root acts on the path.
    """
    if not is_file_name(name):
        raise IoFailure(f"{name!a} is no file's name", hint="it comes from a damaged record, or from another program")
    return file_name(name, end)


def make_directory(path: str) -> None:
    """Makes `path` and its missing parents, each with mode 0700. Raises `IoFailure`."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_with_parents(path)
    except OSError as error:
        raise _failure("make directory", path, error) from error


def _make_with_parents(path: str) -> None:
    make_directory(os.path.dirname(path))
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except OSError as error:
        # A parent can be a symlink that leads nowhere: it exists, and nothing can be made in it.
        raise _failure("make directory", path, error) from error


def require_private(path: str) -> None:
    """Refuses a directory in which somebody else could plant files that we act on as root. Raises `IoFailure`."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failure("look at", path, error) from error
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise IoFailure(
            f"{path} belongs to another user, or others may write to it", hint=f"chown root {path}; chmod 0700 {path}"
        )


def read_file(path: str) -> bytes | None:
    """The whole regular file, or None when it does not exist. Raises `IoFailure`."""
    try:
        # O_NONBLOCK: a FIFO in its place would hold the call for ever.
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
            raise IoFailure(f"cannot read {path}: larger than {LARGEST >> 20} MiB", hint=f"look at {path}")
        return _whole(fd, found.st_size)
    except OSError as error:
        raise _failure("read", path, error) from error
    finally:
        os.close(fd)


def _whole(fd: int, size: int) -> bytes:
    """All bytes of a file. Not by `open`, which asks the kernel three times more; `size` is 0 for a file of /proc."""
    content = b""
    while part := os.read(fd, max(size + 1, 4096)):
        content += part
    return content


def peek(path: str) -> bytes:
    """The first 4096 bytes of a regular file in a directory that need not be ours; empty for everything else.

    It is looked at before it is opened: a FIFO would wait, and opening a device can have an effect.
    """
    try:
        look = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return glance(f"/proc/self/fd/{look}") if stat.S_ISREG(os.fstat(look).st_mode) else b""
    finally:
        os.close(look)


def glance(path: str) -> bytes:
    """The first 4096 bytes of a file of /proc or /sys; empty when it is gone or does not answer.

    Raises `IoFailure` when this process or the kernel can open no more files: that says nothing about the file.
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
    """Raises `IoFailure` for an error that says nothing about what was looked at: too little memory, or too many open files."""
    if error.errno in _SHORTAGES:
        raise _failure("look at", path, error) from error


def write_file(path: str, content: bytes) -> None:
    """Writes the file so that a crash leaves the old content or the new, mode 0600. Raises `IoFailure`."""
    written = temporary(path)
    try:
        _write_synced(written, content)
        os.replace(written, path)
        _sync_directory(os.path.dirname(path))
    except OSError as error:
        remove_file(written)
        raise _failure("write", path, error) from error


def create_file(path: str, content: bytes) -> bool:
    """Like `write_file`, but only where there is no file yet: False, and nothing changed, when there is one."""
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
        # A killed process with our number left it. It is not opened: in a folder of others it could be anything.
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
    """An exclusive lock on a file, awaited for at most `seconds`; the kernel drops it when the process ends.

    The file of a `lasting` lock stays. Without that its holder removes it at the end, for names that nobody may use again.
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
        """Raises `TryAgainLater` when another call holds it for longer than its bound."""
        make_directory(os.path.dirname(self._path))
        deadline = time.monotonic() + self._seconds
        self._open()
        while self._acquired(deadline):
            if self._is_the_file():
                return
            # Its holder has removed the file meanwhile: whoever comes now would lock another one of this name.
            self._close()
            self._open()
        self._close()
        raise TryAgainLater(
            f"{self._what} is locked by another call for more than {self._seconds:g} s",
            hint=f"the lock file is {self._path}; find the holder with: fuser -v {self._path}",
        )

    def release(self) -> None:
        """Does nothing when it is not held."""
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
        # flock has no time-out, and a signal handler for one would cost an import: ask again, soon at first.
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
