"""POSIX access control lists of directories, in the kernel's binary form (linux/posix_acl_xattr.h)."""

from __future__ import annotations

import errno
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Entry = tuple[str, int, int]

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_VERSION = 2
_HEADER_BYTES = 4
_ROW = "<HHI"
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_NO_ID = 0xFFFFFFFF
_TAGS = {"user": _USER, "group": _GROUP}


def extend(fd: int, entries: Iterable[Entry], mode: int | None) -> None:
    """Adds entries, such as ("user", 107, 7), to the permission bits, for the directory and for new files in it.

    `mode` are the new permission bits; None keeps the current ones. Raises `OSError`.
    """
    text = encoded(_bits(fd) if mode is None else mode, entries)
    os.setxattr(fd, ACCESS, text)
    os.setxattr(fd, DEFAULT, text)


def _bits(fd: int) -> int:
    """The permission bits. If there is a list, `stat` shows its mask instead of the group's bits."""
    bits = os.fstat(fd).st_mode
    try:
        rows = struct.iter_unpack(_ROW, os.getxattr(fd, ACCESS)[_HEADER_BYTES:])
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        return bits
    group: int = next(permissions for tag, permissions, _number in rows if tag == _GROUP_OBJ)
    return bits & ~0o070 | group << 3


def encoded(mode: int, entries: Iterable[Entry]) -> bytes:
    """The list: the owner's, the group's and the others' bits, the entries, and a mask that restricts nothing."""
    named = sorted((_TAGS[kind], number, bits) for kind, number, bits in entries)
    group = mode >> 3 & 7
    mask = group
    for _tag, _number, bits in named:
        mask |= bits
    rows = [
        (_USER_OBJ, mode >> 6 & 7, _NO_ID),
        *[(tag, bits, number) for tag, number, bits in named if tag == _USER],
        (_GROUP_OBJ, group, _NO_ID),
        *[(tag, bits, number) for tag, number, bits in named if tag == _GROUP],
        (_MASK, mask, _NO_ID),
        (_OTHER, mode & 7, _NO_ID),
    ]
    return struct.pack("<I", _VERSION) + b"".join(struct.pack(_ROW, *row) for row in rows)
