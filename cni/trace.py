"""The messages of logLevel debug: each step of a call, with its arguments, its result and its duration.

Configurations can contain secrets, and others may read the log: only the keys of documents and the number of bytes are
shown.
"""

from __future__ import annotations

import time

from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cni.log import Log

LONGEST = 300
"""Maximum characters of the arguments or the result of a step in a line."""
_MOST = 8
"""Elements of a list that are shown."""
_AS_THEY_ARE = (str, int, float, type(None))


class Traced:
    """A proxy for `subject`, called `name`, that logs each call of its methods."""

    def __init__(self, subject: Any, name: str, log: Log) -> None:
        self._subject = subject
        self._name = name
        self._log = log

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._subject, name)
        if name.startswith("_") or not callable(found):
            return found
        return self._logging(found, f"{self._name}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """For a callable subject whose result is to be traced as well."""
        return Traced(self._subject(*args, **kwargs), f"{self._name}({_arguments(args, kwargs)})", self._log)

    def _logging(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            told, started = f"{name}({_arguments(args, kwargs)})", time.monotonic()
            try:
                outcome = method(*args, **kwargs)
            except BaseException as error:
                self._log.debug(f"{told} failed after {_since(started)}: {type(error).__name__}: {error}")
                raise
            self._log.debug(f"{told} took {_since(started)}: {_cut(_shown(outcome))}")
            return outcome

        return call


def _since(started: float) -> str:
    return f"{(time.monotonic() - started) * 1000:.1f} ms"


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return _cut(", ".join([*map(_shown, args), *(f"{name}={_shown(value)}" for name, value in kwargs.items())]))


def _shown(value: object) -> str:
    if isinstance(value, _AS_THEY_ARE):
        return str(value)
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return f"<{', '.join(map(str, value))}>"
    if isinstance(value, (list, tuple, set, frozenset)):
        listed = list(value)
        return f"[{', '.join(map(_shown, listed[:_MOST]))}{', ...' if len(listed) > _MOST else ''}]"
    if isinstance(value, Value):
        return f"{type(value).__name__}({', '.join(_fields(value))})"
    path = getattr(value, "path", None)
    return f"{type(value).__name__} {path}" if isinstance(path, str) else type(value).__name__


def _fields(value: Value) -> list[str]:
    """The fields that differ from their defaults."""
    fields = value.as_dict().items()
    return [f"{name}={_shown(field)}" for name, field in fields if field != getattr(type(value), name, ...)]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
