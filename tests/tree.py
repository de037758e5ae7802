"""The content of a folder as a value to compare: type, mode, owner, content, links and modification times."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    Tree = dict[str, str]


def tree(folder: Path | str) -> Tree:
    """The state of each path. The access time is left out, because reading is not a change."""
    top = os.fspath(folder)
    found = {".": _described(top)}
    for parent, folders, names in os.walk(top):
        for name in (*folders, *names):
            path = os.path.join(parent, name)
            found[os.path.relpath(path, top)] = _described(path)
    return found


def differences(before: Tree, after: Tree) -> list[str]:
    """Each path that has changed, with the change, one line each."""
    paths = sorted(before.keys() | after.keys())
    return [
        f"{path}: {before.get(path, 'nothing')} -> {after.get(path, 'nothing')}"
        for path in paths
        if before.get(path) != after.get(path)
    ]


def _described(path: str) -> str:
    found = os.lstat(path)
    kind = stat.S_IFMT(found.st_mode)
    # A link count reveals a hard link that is elsewhere.
    return (
        f"{stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid} links={found.st_nlink} "
        f"modified={found.st_mtime_ns} {_content(path, kind)}"
    )


def _content(path: str, kind: int) -> str:
    if kind == stat.S_IFLNK:
        return f"-> {os.readlink(path)}"
    if kind == stat.S_IFREG:
        try:
            with open(path, "rb") as file:
                return hashlib.sha256(file.read()).hexdigest()[:16]
        except OSError as error:  # a namespace has no content
            return os.strerror(error.errno or 0)
    return ""
