"""Reads files of the pod, with a size limit and one-line errors."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from pathlib import Path

    from cni.jsontext import JsonObject

BYTES = 4 << 20
"""Maximum size of a file. Kubernetes allows 256 KiB of annotations, which quoting makes several times longer."""


class PodInfoError(Exception):
    """The information of the pod cannot be read; the message is one line."""


def read(path: Path) -> str | None:
    """The text of the file, None if it does not exist. Raises `PodInfoError`, also if it is not a regular file."""
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
    # Other programs write to the shared directory: a FIFO there would block us.
    return os.open(path, flags | os.O_NONBLOCK)


def _unreadable(path: Path, error: OSError | ValueError) -> PodInfoError:
    """The error for an existing path, or for an invalid one: with a NUL, which is a ValueError."""
    return PodInfoError(f"cannot read {path}: {error.strerror if isinstance(error, OSError) else error}")


def names(folder: Path, *, prefix: str, suffix: str = "") -> list[str]:
    """The sorted names of entries with that prefix and suffix; empty if there is no directory.

    Raises `PodInfoError`.
    """
    try:
        entries = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error
    return sorted(name for name in entries if name.startswith(prefix) and name.endswith(suffix))


def document(text: str, source: str) -> Any:
    """The JSON value of the text; `source` is its origin. Raises `PodInfoError`."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise PodInfoError(f"{source} is not JSON: {error}") from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def objects(text: str, source: str) -> list[JsonObject]:
    """The JSON objects of a list. Raises `PodInfoError`."""
    found = document(text, source)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise PodInfoError(f"{source} is not a list of objects")
    return found


def section(parent: JsonObject, key: str) -> JsonObject:
    """The object at a key, empty if there is none."""
    found = parent.get(key)
    return found if isinstance(found, dict) else {}


def text(parent: JsonObject, key: str) -> str:
    """The string at a key, empty if there is none."""
    found = parent.get(key)
    return found if isinstance(found, str) else ""
