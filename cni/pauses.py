"""When to try again what could not be done: at once for a while, then after pauses that grow. Pure."""

from __future__ import annotations

GRACE_SECONDS = 30.0
"""For so long after the first failure every call tries: what is merely restarted is back by then."""

LONGEST_SECONDS = 600.0
"""The longest pause: so late at most a call finds out that what was away is back."""


def is_due(first: float, last: float, now: float) -> bool:
    """Whether a pause is over. `first` is the time of the first failure (0: unknown), `last` that of the last one.

    A pause is as long as all before it together, so that they double. A clock that was set back ends it.
    """
    waited = last - first
    pause = 0.0 if not first or waited < GRACE_SECONDS else min(waited, LONGEST_SECONDS)
    return not last <= now < last + pause
