"""POSIX access control lists of directories, in the kernel's binary form (linux/posix_acl_xattr.h)."""

from __future__ import annotations

import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Entry = tuple[str, int, int]

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_NO_ID = 0xFFFFFFFF
_TAGS = {"user": _USER, "group": _GROUP}


def extend(fd: int, entries: Iterable[Entry]) -> None:
    """Adds entries, such as ("user", 107, 7), to what the permission bits say, for the directory and for all new in it."""
    text = encoded(os.fstat(fd).st_mode, entries)
    os.setxattr(fd, ACCESS, text)
    os.setxattr(fd, DEFAULT, text)


def encoded(mode: int, entries: Iterable[Entry]) -> bytes:
    """The list: the owner's, the group's and the others' bits, the entries, and a mask that hides nothing."""
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
    return struct.pack("<I", _VERSION) + b"".join(struct.pack("<HHI", *row) for row in rows)
