"""Files of the pod: read with a bound, and with errors of one line."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from pathlib import Path

BYTES = 4 << 20
"""Nothing that is read here is larger. Kubernetes allows 256 KiB of annotations, which quoting makes some times longer."""


class PodInfoError(Exception):
    """What the pod says of itself cannot be read; the message is one line, for people."""


def read(path: Path) -> str | None:
    """The file's text, None when there is no such file. Raises `PodInfoError`, also for what is no regular file."""
    try:
        with open(path, "rb", opener=_without_waiting) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise PodInfoError(f"{path} is not a file")
            content = stream.read(BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if len(content) > BYTES:
        raise PodInfoError(f"{path} is larger than {BYTES} bytes")
    return content.decode(errors="replace")


def _without_waiting(path: str, flags: int) -> int:
    # Others write into the shared directory: a FIFO there would stop us for ever.
    return os.open(path, flags | os.O_NONBLOCK)


def _unreadable(path: Path, error: OSError | ValueError) -> PodInfoError:
    """The error of a path that is there, or of one that cannot be: with a NUL, which is a ValueError."""
    return PodInfoError(f"cannot read {path}: {error.strerror if isinstance(error, OSError) else error}")


def names(folder: Path, *, prefix: str, suffix: str = "") -> list[str]:
    """Names of the folder's entries that begin and end so, sorted; none when there is no folder. Raises `PodInfoError`."""
    try:
        entries = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error
    return sorted(name for name in entries if name.startswith(prefix) and name.endswith(suffix))


def document(text: str, source: str) -> Any:
    """The JSON value of the text; `source` says whose it is. Raises `PodInfoError`."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise PodInfoError(f"{source} is not JSON: {error}") from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def objects(text: str, source: str) -> list[dict[str, Any]]:
    """The JSON objects of a list. Raises `PodInfoError`."""
    found = document(text, source)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise PodInfoError(f"{source} is not a list of objects")
    return found


def section(parent: dict[str, Any], key: str) -> dict[str, Any]:
    """The object at a key, an empty one when there is none."""
    found = parent.get(key)
    return found if isinstance(found, dict) else {}


def text(parent: dict[str, Any], key: str) -> str:
    """The string at a key, an empty one when there is none."""
    found = parent.get(key)
    return found if isinstance(found, str) else ""
