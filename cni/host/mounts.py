"""Bind mounts that follow no symbolic links, from directory descriptors: the paths in between are looked at once.

The kernel has had these system calls since Linux 5.2, and MOUNT_ATTR_NOSYMFOLLOW since 5.14. They are made through
`_ctypes` because `ctypes`, which wraps it, costs 3 ms; the numbers are the same on x86-64 and on arm64.
"""

from __future__ import annotations

import _ctypes
import os
import struct

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
_NOSUID, _NODEV, _NOEXEC, _NOSYMFOLLOW = 0x2, 0x4, 0x8, 0x200000
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
ST_NOSYMFOLLOW = 0x2000
"""The mount's flag in `statvfs`."""


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001 - it has no public name
    _type_ = "l"


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Long


def bind(directory: int, target: int) -> None:
    """Mounts the directory of the one descriptor on that of the other. Raises `OSError`.

    Symbolic links below the mount are not followed (ELOOP), nothing is executed, no device works. A call that is killed
    before the last step leaves nothing: the clone lives as long as its descriptor.
    """
    tree = _syscall(_OPEN_TREE, directory, b"", _AT_EMPTY_PATH | _OPEN_TREE_CLONE | os.O_CLOEXEC)
    try:
        attributes = struct.pack("=4Q", _NOSUID | _NODEV | _NOEXEC | _NOSYMFOLLOW, 0, 0, 0)
        _syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, len(attributes))
        _syscall(_MOVE_MOUNT, tree, b"", target, b"", _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH)
    finally:
        os.close(tree)


def unmount(path: str) -> None:
    """Takes the uppermost mount off the path, also while it is in use. Raises `OSError`: EINVAL when there is none."""
    _call("umount2", os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW)


def _syscall(number: int, *arguments: int | bytes) -> int:
    return _call("syscall", number, *arguments)


def _call(name: str, *arguments: int | bytes) -> int:
    function = _Function(_ctypes.dlsym(_ctypes.dlopen(None, 0), name))  # type: ignore[arg-type]
    # A plain int would be passed as 32 bits, and the rest of the register is whatever it was.
    result: int = function(*[_Long(value) if isinstance(value, int) else value for value in arguments])
    if result < 0:
        number = _ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
