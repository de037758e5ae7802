"""Bind mounts that follow no symbolic links, made from directory descriptors, so that each path is resolved only once.

The kernel has had these system calls since Linux 5.12 at the latest, and MOUNT_ATTR_NOSYMFOLLOW since 5.14. They are
made through `_ctypes` because `ctypes`, which wraps it, costs 3 ms; the numbers are the same on x86-64 and on arm64.
"""

from __future__ import annotations

import _ctypes
import errno
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_OPEN_TREE, _MOVE_MOUNT, _OPENAT2, _MOUNT_SETATTR = 428, 429, 437, 442
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
_NOSUID, _NODEV, _NOEXEC, _NOSYMFOLLOW = 0x2, 0x4, 0x8, 0x200000
_PRIVATE = 1 << 18
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
ST_NOSYMFOLLOW = 0x2000
"""The mount's flag in `statvfs`."""


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001 - it has no public name
    _type_ = "l"


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001 - (as above)
    _type_ = "i"


_FLAGS = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO


class _Function(_ctypes.CFuncPtr):
    """A function that returns an int, as most do: read as a long, -1 could be a large number."""

    _flags_ = _FLAGS
    _restype_ = _Int


class _Syscall(_ctypes.CFuncPtr):
    """The function `syscall`, which returns a long."""

    _flags_ = _FLAGS
    _restype_ = _Long


class Clone:
    """A detached mount of the descriptor's directory. Raises `OSError`.

    Symbolic links below it are not followed (ELOOP), programs and devices are disabled. A call that is killed
    before `attach` leaves nothing: the clone lives as long as its descriptor. Mounts below the directory that are added
    later do not appear here, because links in them would be followed.
    """

    def __init__(self, directory: int) -> None:
        self._fd = _syscall(_OPEN_TREE, directory, b"", _AT_EMPTY_PATH | _OPEN_TREE_CLONE | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._fd)

    def attach(self, target: int) -> None:
        """Mounts it on the directory of the descriptor, which is in the current mount namespace of this process."""
        attributes = struct.pack("=4Q", _NOSUID | _NODEV | _NOEXEC | _NOSYMFOLLOW, 0, _PRIVATE, 0)
        _syscall(_MOUNT_SETATTR, self._fd, b"", _AT_EMPTY_PATH, attributes, len(attributes))
        _syscall(_MOVE_MOUNT, self._fd, b"", target, b"", _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH)


def bind(directory: int, target: int) -> None:
    """Mounts a `Clone` of the directory of the one descriptor on that of the other. Raises `OSError`."""
    with Clone(directory) as tree:
        tree.attach(target)


def unmount(path: str) -> bool:
    """Removes the uppermost mount of the path, even while it is in use; False if there is none. Raises `OSError`."""
    try:
        call("umount2", os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def open_in_root(root: int, path: str, flags: int = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) -> int:
    """A descriptor of the directory at a path, as seen by a process with this root. Raises `OSError`.

    An absolute symlink below /proc/PID/root would lead an ordinary `open` back to our own root.
    """
    how = struct.pack("=3Q", flags, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    return _syscall(_OPENAT2, root, os.fsencode(path), how, len(how))


def described(stat: os.stat_result, flags: int) -> str:
    """Text that is equal for the same directory in mounts with the same flag for symbolic links.

    `flags` come from `statvfs`.
    """
    return f"{stat.st_dev}:{stat.st_ino}:{flags & ST_NOSYMFOLLOW}"


def call(name: str, *arguments: int | bytes) -> int:
    """Calls a function of the C library that returns an int, -1 for an error. Raises `OSError`."""
    return _result(_Function(_address(name)), arguments)


def _syscall(number: int, *arguments: int | bytes) -> int:
    return _result(_Syscall(_address("syscall")), (number, *arguments))


def _address(name: str) -> int:
    return _ctypes.dlsym(_ctypes.dlopen(None, 0), name)  # type: ignore[arg-type]


def _result(function: _Function | _Syscall, arguments: tuple[int | bytes, ...]) -> int:
    # A plain int would be passed as 32 bits, and the rest of the register would be undefined.
    result: int = function(*[_Long(value) if isinstance(value, int) else value for value in arguments])
    if result < 0:
        number = _ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
