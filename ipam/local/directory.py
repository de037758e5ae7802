"""The directory of Go's host-local: a file per address, with its name, that holds container ID and interface name.

Beside them are `lock`, for flock(2), and `last_reserved_ip.<i>`, the address last leased from range set `i`. Names,
contents and modes are those of host-local 1.1.1, which may use the same directory at any time.
"""

from __future__ import annotations

import os

from cni.errors import InvalidConfig, IoFailure
from cni.host.files import Lock
from ipam import address
from ipam.store import holder_fault, ignore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from ipam.address import Address
    from ipam.store import Report

    LeaseFile = tuple[str, str, str]
    """Name of the file, container ID, interface name. Old versions of host-local omitted the last: it is empty.

    Both are empty if a process died between creating a file and writing it.
    """

SEPARATOR = "\r\n"
_MODE = 0o644
_DIRECTORY_MODE = 0o755
_LOCK_MODE = 0o750
_LIMIT = 4096
"""Bytes: more than a container ID and an interface name can have."""
_WHITE = " \t\r\n\v\f\0"
"""NUL is included because some file systems return it for data lost in a power failure."""

# Without O_NONBLOCK a FIFO in the directory would block the call forever.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_WRITE = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Directory:
    """One network's directory, open and locked inside `with`. Failures raise `IoFailure`."""

    def __init__(self, path: str, seconds: float) -> None:
        """`seconds` limits the wait for the lock, after which `TryAgainLater` is raised."""
        self.path = path
        self.fd = -1
        self._lock = Lock(f"{path}/lock", f"the directory of addresses {path}", seconds)

    def exists(self) -> bool:
        return os.path.isdir(self.path)

    def __enter__(self) -> Self:
        self._make()
        self._lock.acquire()
        try:
            self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._require_private()
        except OSError as error:
            self._close()
            raise _failure("open", self.path, error) from error
        except IoFailure:
            self._close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._close()

    def _close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self._lock.release()

    def lease_files(self) -> Iterator[LeaseFile]:
        """The entries of all addresses. Files that are not regular, or not host-local's, are skipped."""
        return self.checked_files(ignore)

    def checked_files(self, damaged: Report) -> Iterator[LeaseFile]:
        """Like `lease_files`; `damaged` is called for each file that is skipped."""
        for name in self.names():
            if is_address(name):
                file = self.lease_file(name)
                if file is not None:
                    yield file
                else:
                    damaged(f"{self.path}/{name} does not name a valid owner of the address")

    def names(self) -> list[str]:
        try:
            return os.listdir(self.fd)
        except OSError as error:
            raise _failure("list", self.path, error) from error

    def lease_file(self, name: str) -> LeaseFile | None:
        content = self._read(name)
        return None if content is None else _parsed(name, content)

    def last(self, i: int) -> Address | None:
        """The address last leased from range set `i`, if known."""
        content = self._read(f"last_reserved_ip.{i}") or ""
        return address.parse(content, "") if is_address(content) else None

    def keep_last(self, i: int, last: Address) -> None:
        """Overwrites the file in place, as Go does. A partial write only loses the round-robin position."""
        self._write(f"last_reserved_ip.{i}", 0, str(last).encode())

    def take(self, names: Iterable[str], container_id: str, ifname: str) -> str | None:
        """Creates the file of the first name that has none, and returns the name; None if all have one."""
        content = os.fsencode(container_id + SEPARATOR + ifname)
        nameless = self._nameless(content)
        if nameless is None:
            return next((name for name in names if self._create(name, content)), None)
        try:
            return next((name for name in names if self._link(nameless, name, content)), None)
        finally:
            os.close(nameless)

    def remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _failure("remove", f"{self.path}/{name}", error) from error

    def _make(self) -> None:
        """Creates the directory and the lock file, because `Lock` would create them with other modes than Go."""
        path = f"{self.path}/lock"
        flags = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            try:
                os.close(os.open(path, flags, _LOCK_MODE))
            except FileNotFoundError:
                _make_directory(self.path)
                os.close(os.open(path, flags, _LOCK_MODE))
        except OSError as error:
            raise _failure("make", path, error) from error

    def add_ifname(self, entry: LeaseFile) -> None:
        """Adds the interface's name to a file that holds only the container ID, which stays at its beginning."""
        name, container_id, ifname = entry
        self._write(name, 0, f"{container_id}{SEPARATOR}{ifname}".encode())

    def _require_private(self) -> None:
        stat = os.fstat(self.fd)
        if stat.st_uid != os.geteuid() or stat.st_mode & 0o022:
            raise IoFailure(
                f"{self.path} belongs to another user, or is writable by others",
                hint=f"only root may assign addresses: chown root {self.path}; chmod 0755 {self.path}",
            )

    def _read(self, name: str) -> str | None:
        """The content; None if there is no file that is regular, short and readable."""
        try:
            fd = os.open(name, _READ, dir_fd=self.fd)
        except OSError:
            return None
        try:
            content = os.read(fd, _LIMIT)
            # Only empty and overlong files are examined further: there may be 60,000 files.
            return os.fsdecode(content) if 0 < len(content) < _LIMIT or _is_empty(fd) else None
        except OSError:
            return None
        finally:
            os.close(fd)

    def _nameless(self, content: bytes) -> int | None:
        """A written file without a name, so that the named file is never incomplete, whenever we are killed."""
        try:
            fd = os.open(self.path, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, _MODE)
        except OSError:
            return None  # Not every file system supports them.
        try:
            os.write(fd, content)
        except OSError as error:
            os.close(fd)
            raise _failure("write", self.path, error) from error
        return fd

    def _link(self, nameless: int, name: str, content: bytes) -> bool:
        """Returns False if a file of the name exists."""
        try:
            os.link(f"/proc/self/fd/{nameless}", name, dst_dir_fd=self.fd, follow_symlinks=True)
        except FileExistsError:
            return False
        except OSError:
            return self._create(name, content)  # There is no /proc.
        return True

    def _create(self, name: str, content: bytes) -> bool:
        """Creates the file as Go does: if we are killed in between, an empty file is left, which GC removes."""
        try:
            self._write(name, os.O_EXCL, content)
        except FileExistsError:
            return False
        except IoFailure:
            self.remove(name)
            raise
        return True

    def _write(self, name: str, flags: int, content: bytes) -> None:
        try:
            write_over(name, content, _MODE, flags=flags, dir_fd=self.fd)
        except FileExistsError:
            raise
        except OSError as error:
            raise _failure("write", f"{self.path}/{name}", error) from error


def write_over(path: str, content: bytes, mode: int, *, flags: int = 0, dir_fd: int | None = None) -> None:
    """Overwrites the file, or creates it. A crash can leave any mixture of old and new. Raises `OSError`."""
    fd = os.open(path, _WRITE | os.O_CREAT | flags, mode, dir_fd=dir_fd)
    try:
        # It is not truncated first: ext4 would write such a file to the disk when it is closed.
        os.ftruncate(fd, os.write(fd, content))
    finally:
        os.close(fd)


def is_address(name: str) -> bool:
    """Whether the name is the text that Go writes for an address."""
    if not name[:1].isalnum() and not name.startswith("::"):
        return False
    try:
        return str(address.parse(name, "")) == name
    except InvalidConfig:
        return False


def _parsed(name: str, content: str) -> LeaseFile | None:
    container_id, _separator, ifname = content.strip(_WHITE).partition(SEPARATOR)
    if (container_id or ifname) and holder_fault(container_id, ifname):
        return None
    return name, container_id, ifname


def _is_empty(fd: int) -> bool:
    stat = os.fstat(fd)
    return stat.st_mode & 0o170000 == 0o100000 and stat.st_size == 0


def _make_directory(path: str) -> None:
    # mkdir's errors do not suffice: a parent can be a dangling symlink, which would recurse forever.
    if not os.path.isdir(os.path.dirname(path)):
        _make_directory(os.path.dirname(path))
    try:
        os.mkdir(path, _DIRECTORY_MODE)
    except FileExistsError:
        return


def _failure(verb: str, path: str, error: OSError) -> IoFailure:
    reason = os.strerror(error.errno or 0)
    return IoFailure(f"cannot {verb} {path}: {reason}", hint=f"check free space, permissions and the mount of {path}")
