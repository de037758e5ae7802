"""Progress messages: every line starts with the seconds since the work began."""

from __future__ import annotations

import time
from collections.abc import Callable

Say = Callable[[str], None]


def timed(subject: str, say: Say = print) -> Say:
    """Returns a `say` that puts the subject and the seconds since this call in front of each line."""
    started = time.monotonic()
    return lambda text: say(f"{subject} {time.monotonic() - started:6.1f} s  {text}")


def silent(_text: str) -> None:
    """A `say` for callers that want no progress."""
