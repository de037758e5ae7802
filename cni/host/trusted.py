"""Files and directories that a configuration names, opened so that only root controls where the path leads.

The author of a configuration is not trusted with the host. So a path is walked component by component. Each one is
checked before it is entered, and the target is checked (O_PATH) before it is opened: opening a device can arm a
watchdog, and opening a FIFO blocks.
"""

from __future__ import annotations

import os
import stat

from cni.errors import InvalidConfig
from cni.paths import is_below
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn, Self

    Reserved = tuple[str, Sequence[str]]

LARGEST = 1 << 20
"""Default maximum size of a file in bytes."""

NODE_CONFIGURATION = "/etc/barewire/node.json"

_MOST_LINKS, _MOST_COMPONENTS = 16, 64
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class NotThere(InvalidConfig):
    """The path, or a part of it, does not exist."""


class Roots(Value):
    """The allowed locations: directories with everything below them, or single files.

    `key` is the key of the node configuration that allows more. `reserved` are locations of other programs below these,
    each as a directory and names in it. `entrusted` are directories of other trusted users. `owners` are IDs of users
    who may own components of a path, and of groups that may write there. `start` is the directory where checking
    begins; it is not checked, and no path leads out of it.

    Every method takes the path and `what` it is for, the start of each message, and raises `InvalidConfig`. A symlink
    is followed if root owns it and no other user can write to its directory.
    """

    allowed: tuple[str, ...]
    key: str = ""
    reserved: tuple[Reserved, ...] = ()
    entrusted: tuple[str, ...] = ()
    owners: tuple[int, ...] = ()
    start: str = "/"

    def content(self, path: str, what: str, largest: int = LARGEST) -> bytes:
        """The content of a regular file. Raises `NotThere` if there is none."""
        with _Walk(self, path, what) as walk:
            return walk.content(largest)

    def opened(self, path: str, what: str, *, make: int = 0) -> int:
        """A descriptor of a directory, which the caller closes.

        `make` is the mode for missing directories; 0 creates none.
        """
        with _Walk(self, path, what) as walk:
            return walk.directory(make)

    def resolved(self, path: str, what: str, *, make: int = 0) -> str:
        """The path of a directory without symlinks. Only root can change where it leads. `make` as in `opened`."""
        with _Walk(self, path, what) as walk:
            os.close(walk.directory(make))
            return walk.place

    def destination(self, path: str, what: str) -> str:
        """Like `resolved`, for a directory that need not exist yet: missing components at the end are not checked."""
        with _Walk(self, path, what) as walk:
            return walk.destination()


def reserved(path: str) -> Reserved:
    """A single location in the format of `Roots.reserved`."""
    folder, _, name = path.rstrip("/").rpartition("/")
    return folder or "/", (name,)


class _Walk:
    """One walk down a path. `place` is the current location."""

    def __init__(self, roots: Roots, path: str, what: str) -> None:
        self._roots = roots
        self._path = path
        self._what = what
        self._start = os.path.realpath(roots.start)
        self._names: list[str] = []
        self._links = 0
        if not path.startswith("/") or "\0" in path:
            self._refuse(f"{path!r} is not an absolute path")
        self._todo = self._parts(path)
        self._own = len(self._todo)
        self._is_own = True
        try:
            self._fd = os.open(self._start, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotThere(f"{what}: {roots.start} does not exist") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._fd)

    @property
    def place(self) -> str:
        return os.path.join(self._start, *self._names)

    def content(self, largest: int) -> bytes:
        self._go(0)
        self._require_allowed(self.place)
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            self._refuse(f"{self.place} is not a regular file")
        if found.st_size > largest:
            self._refuse(f"{self.place} is larger than {largest} bytes")
        # The descriptor opens the file that was checked, even if its name has changed.
        with self._reporting(), Closing(os.open(f"/proc/self/fd/{self._fd}", _READ)) as fd:
            content = _read(fd, largest + 1)
        if len(content) > largest:
            self._refuse(f"{self.place} is larger than {largest} bytes")
        return content

    def directory(self, make: int) -> int:
        self._go(make)
        self._require_allowed(self.place)
        if not stat.S_ISDIR(os.fstat(self._fd).st_mode):
            self._refuse(f"{self.place} is not a directory")
        with self._reporting():
            return os.open(".", _DIRECTORY, dir_fd=self._fd)

    def destination(self) -> str:
        try:
            os.close(self.directory(0))
        except NotThere:
            missing = self._missing()
            self._require_allowed(missing)
            return missing
        return self.place

    def _missing(self) -> str:
        """The whole path if its next component is missing: no symlink can redirect it from there on."""
        if ".." in self._todo:
            self._refuse(f"{self._path} does not exist")
        return os.path.join(self.place, *[name for name in reversed(self._todo) if name not in ("", ".")])

    def _go(self, make: int) -> None:
        while self._todo:
            # The target of a symlink comes before the rest of the path.
            self._is_own = len(self._todo) <= self._own
            name = self._todo.pop()
            self._own = min(self._own, len(self._todo)) if self._is_own else self._own
            if name == "..":
                self._up()
            elif name not in ("", "."):
                self._down(name, make)

    def _down(self, name: str, make: int) -> None:
        place = f"{self.place.rstrip('/')}/{name}"
        below = self._looked_at(name, place, make)
        try:
            found = os.fstat(below)
            self._judge(found, place)
            if stat.S_ISLNK(found.st_mode):
                self._follow(os.readlink("", dir_fd=below), place)
                return
            if self._todo and not stat.S_ISDIR(found.st_mode):
                self._refuse(f"{place} is not a directory")
            self._fd, below = below, self._fd
        finally:
            os.close(below)
        self._names.append(name)
        if len(self._names) > _MOST_COMPONENTS:
            self._refuse("the path has too many components")

    def _looked_at(self, name: str, place: str, make: int) -> int:
        """A descriptor (O_PATH) of an entry of the directory, which is created if `make` allows it."""
        try:
            return os.open(name, _LOOK, dir_fd=self._fd)
        except FileNotFoundError as error:
            if not self._is_own:
                # Probably a mount is missing: new files would later be hidden by the mount.
                self._refuse(f"{self._path} leads by a symbolic link to {place}, which does not exist")
            self._todo.append(name)
            if not make:
                raise NotThere(f"{self._what}: {place} does not exist{self._from(place)}") from error
        except OSError as error:
            self._refuse(f"{place}: {os.strerror(error.errno or 0)}")
        self._require_allowed(self._missing())
        self._todo.pop()
        with self._reporting():
            _mkdir(name, make, self._fd)
            return os.open(name, _LOOK, dir_fd=self._fd)

    def _judge(self, found: os.stat_result, place: str) -> None:
        """Refuses an entry that another user owns or can change. A symlink cannot be written to, whatever its mode."""
        if is_below(place, self._roots.entrusted):
            return
        owners = self._roots.owners
        if found.st_uid not in (0, os.geteuid(), *owners):
            self._refuse(
                f"{place} belongs to user {found.st_uid}{self._from(place)}",
                f"only what root owns is trusted: chown root {place}, or {_trusting(found.st_uid)}",
            )
        strangers = stat.S_IWOTH if found.st_gid in owners else stat.S_IWOTH | stat.S_IWGRP
        if found.st_mode & strangers and not stat.S_ISLNK(found.st_mode):
            is_group = found.st_gid and not found.st_mode & stat.S_IWOTH
            self._refuse(
                f"others may write to {place}{self._from(place)} (mode {found.st_mode & 0o7777:04o})",
                f"chmod go-w {place}, or {_trusting(found.st_gid) if is_group else 'use another directory'}",
            )

    def _follow(self, target: str, place: str) -> None:
        self._links += 1
        if self._links > _MOST_LINKS:
            self._refuse(f"too many symbolic links at {place}")
        if target.startswith("/"):
            self._restart()
            self._todo += self._parts(target)
        else:
            self._todo += reversed(target.split("/"))

    def _restart(self) -> None:
        self._names = []
        top = os.open(self._start, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.close(self._fd)
        self._fd = top

    def _up(self) -> None:
        if not self._names:
            return
        parent = os.open("..", _LOOK | os.O_DIRECTORY, dir_fd=self._fd)
        os.close(self._fd)
        self._fd = parent
        self._names.pop()

    def _parts(self, path: str) -> list[str]:
        """The components of an absolute path after the start, in reverse order."""
        tops = (self._start.rstrip("/"), self._roots.start.rstrip("/"))
        top = next((top for top in tops if f"{path}/".startswith(f"{top}/")), None)
        if top is None:
            self._refuse(f"{path} is not below {self._start}")
        return path[len(top) :].split("/")[::-1]

    def _require_allowed(self, place: str) -> None:
        if any(_is_entry(place, folder, names) for folder, names in self._roots.reserved):
            self._refuse(
                f"{place}{self._from(place)} belongs to another program, or to the node itself", "name another one"
            )
        if _is_in(place, self._roots.allowed):
            return
        allowed = ", ".join(self._roots.allowed) or "no directory"
        self._refuse(
            f"{place}{self._from(place)} is not below {allowed}",
            f"the node's administrator can allow it: {self._roots.key} in {NODE_CONFIGURATION}"
            if self._roots.key
            else "",
        )

    def _from(self, place: str) -> str:
        """The original path, if it is different from the location."""
        return "" if place == self._path else f" (on the way to {self._path})"

    def _refuse(self, reason: str, hint: str = "") -> NoReturn:
        raise InvalidConfig(f"{self._what}: {reason}", hint=hint)

    def _reporting(self) -> _Reporting:
        return _Reporting(f"{self._what}: {self.place}")


class Closing:
    """The context of a descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_exc: object) -> None:
        os.close(self._fd)


class _Reporting:
    """Turns an `OSError` of the body into `InvalidConfig`."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, OSError):
            raise InvalidConfig(f"{self._place}: {os.strerror(error.errno or 0)}") from error


def _mkdir(name: str, mode: int, parent: int) -> None:
    try:
        os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError:
        return  # Another call has just created it; it is checked like any other.


def _trusting(identity: int) -> str:
    """The part of a hint with the remedy if the other owner should be trusted."""
    return f"add {identity} to trustedOwners in {NODE_CONFIGURATION}"


def _is_in(place: str, roots: tuple[str, ...]) -> bool:
    return is_below(place, map(os.path.realpath, roots))


def _is_entry(place: str, folder: str, names: Sequence[str]) -> bool:
    """Whether a location is one of the named entries of a directory, or in one, also through a link.

    Resolving dozens of entries one by one would cost every call of `barewire-ipam` half a millisecond.
    """
    top = f"{os.path.realpath(folder).rstrip('/')}/"
    if place.startswith(top) and place[len(top) :].partition("/")[0] in names:
        return True
    return is_below(place, (os.path.realpath(f"{folder}/{name}") for name in _links(folder) if name in names))


def _links(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_symlink()]
    except OSError:
        return []  # Missing entries lead nowhere.


def _read(fd: int, most: int) -> bytes:
    found = bytearray()
    while len(found) < most:
        piece = os.read(fd, most - len(found))
        if not piece:
            break
        found += piece
    return bytes(found)
