"""Reads the node configuration. A node without the file costs one failed `open`."""

from __future__ import annotations

import os
import stat

from cni.errors import CniError, InvalidConfig, IoFailure
from cni.node.node import PATH, NodeConf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST = 256 * 1024
"""Maximum size in bytes: a larger file is a mistake, and parsing it would delay every call."""

_UNDOING = ("DEL", "GC")


def load_for(command: str, warn: Callable[[str], None], path: str = PATH) -> NodeConf:
    """The configuration for a call of a runtime. DEL and GC work without a valid one; others raise `CniError`."""
    try:
        return load_node(path)
    except CniError as error:
        if command not in _UNDOING:
            raise
        warn(f"{error.msg}; {command} goes on with the defaults")
        return NodeConf()


def load_node(path: str = PATH) -> NodeConf:
    """The configuration; the defaults without a file. Raises `InvalidConfig` with all problems, and `IoFailure`."""
    content = _read(path)
    if content is None:
        return NodeConf()
    from cni.node.parse import parse_node  # noqa: PLC0415 - most nodes have no file

    try:
        return parse_node(content)
    except CniError as error:
        raise InvalidConfig(
            f"{path}: {error.msg}", hint="correct the file; docs/reference/node.md lists its keys"
        ) from error


def _read(path: str) -> bytes | None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise IoFailure(f"cannot read {path}: {error.strerror}", hint="it must be a regular file of root") from error
    try:
        _require_trusted(path, os.fstat(fd))
        content = os.read(fd, LARGEST + 1)
    except OSError as error:
        raise IoFailure(f"cannot read {path}: {error.strerror}") from error
    finally:
        os.close(fd)
    if len(content) > LARGEST:
        raise InvalidConfig(f"{path} is larger than {LARGEST} bytes")
    return content


def _require_trusted(path: str, found: os.stat_result) -> None:
    """Refuses a file that another user could have written or replaced. Raises `IoFailure`."""
    if not stat.S_ISREG(found.st_mode):
        raise IoFailure(f"{path} is not a regular file", hint="replace it with a file of root")
    folder = os.path.dirname(path)
    entries = [(path, found), (folder, os.lstat(folder)), (os.path.dirname(folder), os.lstat(os.path.dirname(folder)))]
    for name, entry in entries:
        if entry.st_uid not in (0, os.geteuid()) or entry.st_mode & 0o022 or stat.S_ISLNK(entry.st_mode):
            raise IoFailure(
                f"{name} belongs to another user, is a link, or others may write to it",
                hint=f"chown root {name}; chmod go-w {name}",
            )
