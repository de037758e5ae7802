"""The log: one line per message in logfmt, to stderr or to a file below /var/log.

The `logging` module costs more than a whole VERSION call, and a plugin needs none of its handlers.
"""

from __future__ import annotations

import os
import time

from cni.jsontext import member

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

LOG_ROOT = "/var/log"
"""Whoever writes a config decides where root writes: below here it can only be a log."""

LEVELS = ("panic", "error", "warning", "info", "debug")
_SYNONYMS = {"verbose": "debug"}  # userspace-cni's word
DEFAULT_LEVEL = "info"

_STDERR = 2
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO that nobody reads would hold the call for ever; a regular file does not care.
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Log:
    """Writes messages of `level` and graver ones, each with the same `context` (names and values), to a descriptor.

    Nothing is raised: what the file does not take goes to stderr, and what stderr does not take is lost.
    """

    def __init__(
        self,
        context: Mapping[str, str],
        *,
        level: str = DEFAULT_LEVEL,
        fd: int = _STDERR,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._context = "".join(f" {name}={_quoted(value)}" for name, value in context.items() if value)
        self._enabled = LEVELS[: LEVELS.index(level) + 1]
        self._fd = fd
        self._clock = clock

    def panic(self, message: str) -> None:
        """A defect of the plugin."""
        self._write("panic", message)

    def error(self, message: str) -> None:
        """The call fails."""
        self._write("error", message)

    def warning(self, message: str) -> None:
        """The call goes on, and somebody should look at this."""
        self._write("warning", message)

    def info(self, message: str) -> None:
        """What the call did."""
        self._write("info", message)

    def debug(self, message: str) -> None:
        """Each step."""
        self._write("debug", message)

    def _write(self, level: str, message: str) -> None:
        if level not in self._enabled:
            return
        line = f"{_timestamp(self._clock())} level={level}{self._context} msg={_quoted(message, always=True)}\n"
        # `replace`: a lone surrogate is escaped above; nothing may ever raise here.
        binary = line.encode(errors="replace")
        if not _written(self._fd, binary) and self._fd != _STDERR:
            _written(_STDERR, binary)


def open_log(
    config: Mapping[str, Any],
    *,
    plugin: str,
    command: str,
    container_id: str,
    ifname: str,
    device: str = "",
    root: str = LOG_ROOT,
) -> Log:
    """The log that a config asks for with `logLevel` and `logFile`; never refuses, warns instead.

    A descriptor that it opens stays open until the process ends.
    """
    context = {"plugin": plugin, "command": command, "container": container_id[:12], "ifname": ifname, "device": device}
    level, problem = _level(member(config, "logLevel"))
    problems = [problem] * bool(problem)
    fd, path = _STDERR, member(config, "logFile")
    if path:
        try:
            fd = open_below(root, path)
        except _Refused as refused:
            problems.append(f"logFile: {refused}; the log goes to stderr")
    log = Log(context, level=level, fd=fd)
    for text in problems:
        Log(context).warning(text)
    return log


class _Refused(Exception):
    """Why a file cannot be the log."""


def open_below(root: str, path: object) -> int:
    """Opens a log file below the directory `root` for appending. Raises `_Refused`.

    The path is resolved first and then walked without following a symlink, so that one placed in between (some
    directories in /var/log belong to services) leads nowhere. One missing directory is made.
    """
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path or path.endswith("/"):
        raise _Refused(f"{path!r} is not the absolute path of a file")
    top = os.path.realpath(root)
    resolved = os.path.realpath(path)
    if not resolved.startswith(f"{top}/"):
        raise _Refused(f"{path!r} is not below {root}")
    *folders, name = resolved.removeprefix(f"{top}/").split("/")
    try:
        return _open_file(_Walk(top).into(folders), name)
    except OSError as error:
        raise _Refused(f"{path!r}: {os.strerror(error.errno) if error.errno else error}") from error


class _Walk:
    """Goes down a directory tree by descriptors, without following symlinks."""

    def __init__(self, top: str) -> None:
        self._fd = os.open(top, _DIRECTORY)
        self._may_make = True

    def into(self, folders: list[str]) -> int:
        """Descriptor of the last folder; the caller closes it. Raises `OSError`."""
        try:
            for folder in folders:
                below = self._step(folder)
                os.close(self._fd)
                self._fd = below
        except OSError:
            os.close(self._fd)
            raise
        return self._fd

    def _step(self, folder: str) -> int:
        try:
            return os.open(folder, _DIRECTORY, dir_fd=self._fd)
        except FileNotFoundError:
            if not self._may_make:
                raise
        self._may_make = False
        _ensure_directory(folder, self._fd)
        return os.open(folder, _DIRECTORY, dir_fd=self._fd)


def _ensure_directory(name: str, parent: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return  # Another call has just made it.


def _open_file(folder: int, name: str) -> int:
    try:
        fd = os.open(name, _APPEND, 0o600, dir_fd=folder)
    finally:
        os.close(folder)
    if not _is_plain_file(fd):
        os.close(fd)
        raise _Refused(f"{name!r} is not a regular file with one name")
    return fd


def _is_plain_file(fd: int) -> bool:
    # A second name can be a hard link, placed by a directory's owner, to a file elsewhere.
    stat = os.fstat(fd)
    return stat.st_mode & 0o170000 == 0o100000 and stat.st_nlink == 1


def _level(wanted: object) -> tuple[str, str]:
    """(level, warning about it or nothing)."""
    if wanted is None or wanted == "":
        return DEFAULT_LEVEL, ""
    level = _SYNONYMS.get(wanted.lower(), wanted.lower()) if isinstance(wanted, str) else ""
    if level in LEVELS:
        return level, ""
    return DEFAULT_LEVEL, f"logLevel: {wanted!r} is not one of {', '.join(LEVELS)}; using {DEFAULT_LEVEL}"


def _timestamp(now: float) -> str:
    """ISO 8601 in UTC, with milliseconds."""
    milliseconds = int(now * 1000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{text}.{milliseconds % 1000:03}Z"


def _quoted(text: str, *, always: bool = False) -> str:
    """The text as a logfmt value on one line; quoted when it must be, or `always`."""
    if text.isprintable() and not any(mark in text for mark in '"\\'):
        return f'"{text}"' if always or " " in text or "=" in text else text
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    # Not printable in Python's sense are also the characters that reorder or break a line in a viewer.
    if character in _ESCAPES:
        return _ESCAPES[character]
    return character if character.isprintable() else ascii(character)[1:-1]


def _written(fd: int, line: bytes) -> bool:
    try:
        return os.write(fd, line) == len(line)
    except OSError:
        return False
