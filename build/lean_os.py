"""`os` in a frozen program: as much of it as a call of a plugin uses, and all of it as soon as anything else is used.

The whole module takes a tenth of the time of an ADD, for classes and functions that no call needs. Each name here is,
or does, what it is in the whole module, which takes this module's place by being executed in it.
"""

import _imp
import posix
import posixpath as path
import sys
from posix import *
from posix import _exit as _exit
from posixpath import curdir, defpath, devnull, extsep, pardir, pathsep, sep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

sys.modules["os.path"] = path
name = "posix"
linesep = "\n"
altsep = None


def fsencode(filename: "str | bytes") -> bytes:
    filename = posix.fspath(filename)
    return filename if isinstance(filename, bytes) else filename.encode(*_FILE_SYSTEM)


def fsdecode(filename: "str | bytes") -> str:
    filename = posix.fspath(filename)
    return filename if isinstance(filename, str) else filename.decode(*_FILE_SYSTEM)


_FILE_SYSTEM = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
environ = {fsdecode(key): fsdecode(value) for key, value in posix.environ.items()}  # type: ignore[misc]


def __getattr__(wanted: str) -> "Any":
    """Completes the module. The interpreter asks for attributes such as `__path__`, which it does not have."""
    whole = globals()
    if "__getattr__" in whole and (not wanted.startswith("__") or wanted == "__all__"):
        del whole["__getattr__"]
        exec(_imp.get_frozen_object("os"), whole)
        if wanted in whole:
            return whole[wanted]
    raise AttributeError(f"module 'os' has no attribute {wanted!r}")
