"""The log: one line per message in logfmt, to stderr or to a file below /var/log.

The `logging` module costs more than a whole VERSION call, and a plugin needs none of its handlers.
"""

from __future__ import annotations

import os
import time

from cni.jsontext import member, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    Subject = TypeVar("Subject")

LOG_ROOTS = ("/var/log",)
"""The author of a configuration chooses where root writes: below this directory it can only be a log."""

LEVELS = ("panic", "error", "warning", "info", "debug")
_SYNONYMS = {"verbose": "debug"}  # the name in userspace-cni
DEFAULT_LEVEL = "info"

_STDERR = 2
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Log:
    """Writes messages of `level` and above, each with the same `context` (names and values), to a descriptor.

    It raises nothing: messages that cannot be written to the file go to stderr, or are lost.
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
        """The call continues, but an administrator should check this."""
        self._write("warning", message)

    def info(self, message: str) -> None:
        """A step of the call."""
        self._write("info", message)

    def debug(self, message: str) -> None:
        """A detail of the call."""
        self._write("debug", message)

    def traced(self, subject: Subject, name: str) -> Subject:
        """The subject itself; at level debug a proxy that logs each call of its methods."""
        if "debug" not in self._enabled:
            return subject
        from cni.trace import Traced  # noqa: PLC0415 - most calls have no such log

        return Traced(subject, name, self)  # type: ignore[return-value]  # it has the subject's methods

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
    roots: tuple[str, ...] = LOG_ROOTS,
) -> Log:
    """The log for the `logLevel` and `logFile` of a configuration. It warns about invalid values, and never fails.

    A descriptor that it opens stays open until the process ends.
    """
    context = {"plugin": plugin, "command": command, "container": container_id[:12], "ifname": ifname, "device": device}
    level, problem = _level(member(config, "logLevel"))
    problems = [problem] * bool(problem)
    fd, path = _STDERR, member(config, "logFile")
    if path:
        from cni.logfile import Refused, open_below  # noqa: PLC0415 - most configurations name no file

        try:
            fd = open_below(roots, path)
        except Refused as refused:
            problems.append(f"logFile: {refused}; the log goes to stderr")
    log = Log(context, level=level, fd=fd)
    for text in problems:
        Log(context).warning(text)
    return log


def _level(wanted: object) -> tuple[str, str]:
    """(level, warning about it or an empty text)."""
    if wanted is None or wanted == "":
        return DEFAULT_LEVEL, ""
    level = _SYNONYMS.get(wanted.lower(), wanted.lower()) if isinstance(wanted, str) else ""
    if level in LEVELS:
        return level, ""
    return DEFAULT_LEVEL, f"logLevel: {shown(wanted)} is not one of {', '.join(LEVELS)}; using {DEFAULT_LEVEL}"


def _timestamp(now: float) -> str:
    """ISO 8601 in UTC, with milliseconds."""
    milliseconds = int(now * 1000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{text}.{milliseconds % 1000:03}Z"


def _quoted(text: str, *, always: bool = False) -> str:
    """The text as a logfmt value on one line; quoted if necessary, or `always`."""
    if text.isprintable() and not any(mark in text for mark in '"\\'):
        return f'"{text}"' if always or " " in text or "=" in text else text
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    # In Python, characters that reorder or break a line in a viewer also count as not printable.
    if character in _ESCAPES:
        return _ESCAPES[character]
    return character if character.isprintable() else ascii(character)[1:-1]


def _written(fd: int, line: bytes) -> bool:
    try:
        return os.write(fd, line) == len(line)
    except OSError:
        return False
