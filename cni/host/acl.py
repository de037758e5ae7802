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

    Entries for other users and groups stay. `mode` are the new permission bits; None keeps the current ones. Raises
    `OSError`.
    """
    bits, wanted = _bits(fd) if mode is None else mode, list(entries)
    access, default = (
        encoded(each, _merged(_rows(fd, name), wanted))
        for name, each in (
            (ACCESS, bits),
            # The kernel does not apply the umask to new files where there is a default list.
            (DEFAULT, bits & ~0o002),
        )
    )
    os.setxattr(fd, ACCESS, access)
    os.setxattr(fd, DEFAULT, default)


def _merged(rows: Iterable[tuple[int, int, int]], wanted: list[Entry]) -> list[Entry]:
    kinds = {tag: kind for kind, tag in _TAGS.items()}
    present = {(kinds[tag], number): bits for tag, bits, number in rows if tag in kinds}
    return [(kind, number, bits) for (kind, number), bits in {**present, **{one[:2]: one[2] for one in wanted}}.items()]


def _rows(fd: int, name: str) -> list[tuple[int, int, int]]:
    """The rows of a list: tag, permission bits, ID. Empty if there is no list."""
    try:
        return list(struct.iter_unpack(_ROW, os.getxattr(fd, name)[_HEADER_BYTES:]))
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        return []


def _bits(fd: int) -> int:
    """The permission bits. If there is a list, `stat` shows its mask instead of the group's bits."""
    bits = os.fstat(fd).st_mode
    group = next((permissions for tag, permissions, _number in _rows(fd, ACCESS) if tag == _GROUP_OBJ), None)
    return bits if group is None else bits & ~0o070 | group << 3


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
