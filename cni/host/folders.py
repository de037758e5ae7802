"""Directories of our files: keys, temporary names, and leftovers of killed calls.

A key is the name of a permanent file. It consists of names of networks, containers, interfaces and devices, so it never
begins with a dot. Its last part can be an interface name, which may have any ending, including `.tmp`. A temporary name
is `.<name>.<process>.tmp`, which cannot be a key. Older versions wrote `<name>.<process>.tmp`. Names that are too long
are shortened to a hash.
"""

from __future__ import annotations

import os

from cni.errors import IoFailure
from cni.names import LONGEST, file_name

SUFFIX = ".tmp"
DAMAGED = ".damaged"
DOCUMENT = ".json"


_TEMPORARY = LONGEST - len(f"..4194304{SUFFIX}")
"""Maximum bytes of the name in a temporary name; no process has a larger number."""


def temporary(path: str) -> str:
    """The path to which this process writes before it renames the file to `path`."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{file_name(name, longest=_TEMPORARY)}.{os.getpid()}{SUFFIX}"


def entries(folder: str) -> list[str]:
    """All names in the directory, sorted; empty if it does not exist. Raises `IoFailure`."""
    return sorted(_names(folder))


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise IoFailure(f"cannot list {folder}: {os.strerror(error.errno or 0)}", hint="run it as root") from error


def keys(folder: str, *, plain: bool = False) -> list[str]:
    """The names that are keys. Raises `IoFailure`.

    `plain`: no key in the directory can end in `.tmp` or `.damaged`. Otherwise, temporary names of older versions count
    as keys.
    """
    return _keys(entries(folder), plain=plain)


def documents(folder: str) -> list[str]:
    """The names of the JSON documents, without damaged and temporary files. Raises `IoFailure`."""
    return [name for name in keys(folder) if name.endswith(DOCUMENT)]


def sweep(folder: str, *, plain: bool = False) -> list[str]:
    """Removes temporary files of killed processes, and returns the keys, in no order. Raises `IoFailure`.

    `plain`: no key in the directory can end in `.tmp`, so that temporary names of older versions are recognized.
    """
    names = _names(folder)
    # Each call sweeps directories with a thousand names: a function call for each of them is too much.
    for name in [name for name in names if name.endswith(SUFFIX)]:
        number = _process(name)
        if number and (plain or name.startswith(".")) and not os.path.exists(f"/proc/{number}"):
            _unlink(f"{folder}/{name}")
    return _keys(names, plain=plain)


def sweep_of(path: str) -> None:
    """Removes temporary files of killed processes that wrote `path`, in a directory with other programs' files.

    Raises `IoFailure`.
    """
    folder, _, name = path.rpartition("/")
    names = (name, f".{file_name(name, longest=_TEMPORARY)}")
    for entry in entries(folder):
        if _process(entry) and entry.rpartition(".")[0].rpartition(".")[0] in names:
            _unlink(f"{folder}/{entry}")


def changed(path: str) -> float:
    """The modification time of the file, or of the link itself; 0 if it does not exist."""
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0


def touch(path: str) -> None:
    """Sets the time of a file, or of a link itself, to now. Nothing happens if it does not exist."""
    try:
        os.utime(path, follow_symlinks=False)
    except FileNotFoundError:
        return


def set_aside(path: str) -> str:
    """Renames a damaged file, and returns the new path; empty if another call has already renamed it.

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
    found = [name for name in names if name[0] != "."]
    return [name for name in found if not name.endswith((SUFFIX, DAMAGED))] if plain else found


def _process(name: str) -> str:
    """The process number in a temporary name; empty for other names."""
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
