"""Folders of our files: the names that are keys, temporary names, and what killed calls left.

A key is the name of a file that stays. It is made of the names of networks, containers, interfaces and devices, so it
never begins with a dot; an interface's name, which can be the last part of it, may end in anything, `.tmp` included. A
temporary name is `.<name>.<process>.tmp`, which no key can be. Older versions wrote `<name>.<process>.tmp`. A name that gets
too long in any of these ways is shortened to a hash.
"""

from __future__ import annotations

import os

from cni.errors import IoFailure
from cni.names import LONGEST, file_name

SUFFIX = ".tmp"
DAMAGED = ".damaged"
DOCUMENT = ".json"


_TEMPORARY = LONGEST - len(f"..4194304{SUFFIX}")
"""Bytes of the name in a temporary name; no process has a larger number."""


def temporary(path: str) -> str:
    """Where this process writes what is to become the file at `path`."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{file_name(name, longest=_TEMPORARY)}.{os.getpid()}{SUFFIX}"


def entries(folder: str) -> list[str]:
    """All names in the folder, sorted; none where there is no folder. Raises `IoFailure`."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise IoFailure(f"cannot list {folder}: {os.strerror(error.errno or 0)}", hint="run it as root") from error


def keys(folder: str, *, plain: bool = False) -> list[str]:
    """The names that are keys. Raises `IoFailure`.

    `plain`: no key in the folder can end in `.tmp` or `.damaged`, so nothing that does is one. Elsewhere what an older
    version wrote under a temporary name is among them.
    """
    return _keys(entries(folder), plain=plain)


def documents(folder: str) -> list[str]:
    """The names of the JSON documents: not of damaged ones, which were set aside, or of temporary ones. Raises `IoFailure`."""
    return [name for name in keys(folder) if name.endswith(DOCUMENT)]


def sweep(folder: str, *, plain: bool = False) -> list[str]:
    """Removes what killed processes left under temporary names, and returns the keys. Raises `IoFailure`.

    `plain`: no key in the folder can end in `.tmp`, so temporary names of older versions are known for what they are.
    """
    names = entries(folder)
    for name in names:
        number = _process(name)
        if number and (plain or name.startswith(".")) and not os.path.exists(f"/proc/{number}"):
            _unlink(f"{folder}/{name}")
    return _keys(names, plain=plain)


def sweep_of(path: str) -> None:
    """Removes what killed processes left of writing the file at `path`, whoever else has files there. Raises `IoFailure`."""
    folder, _, name = path.rpartition("/")
    names = (name, f".{file_name(name, longest=_TEMPORARY)}")
    for entry in entries(folder):
        if _process(entry) and entry.rpartition(".")[0].rpartition(".")[0] in names:
            _unlink(f"{folder}/{entry}")


def changed(path: str) -> float:
    """When the file, or the link, was written; 0 where there is none."""
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0


def set_aside(path: str) -> str:
    """Keeps a damaged file under another name, and returns where. Empty when it is gone: another call was faster.

    Raises `IoFailure`.
    """
    folder, slash, name = path.rpartition("/")
    kept = f"{folder}{slash}{file_name(name, DAMAGED)}"
    try:
        os.replace(path, kept)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise IoFailure(f"cannot rename {path}: {os.strerror(error.errno or 0)}") from error
    return kept


def _keys(names: list[str], *, plain: bool) -> list[str]:
    found = [name for name in names if not name.startswith(".")]
    return [name for name in found if not name.endswith((SUFFIX, DAMAGED))] if plain else found


def _process(name: str) -> str:
    """The number of the process that a temporary name tells; empty for another name."""
    rest = name.removesuffix(SUFFIX)
    number = rest.rpartition(".")[2]
    return number if rest not in (name, number) and number.isascii() and number.isdecimal() else ""


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except (FileNotFoundError, IsADirectoryError):
        return
    except OSError as error:
        raise IoFailure(f"cannot remove {path}: {os.strerror(error.errno or 0)}") from error
