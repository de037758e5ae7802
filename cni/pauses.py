"""When to retry failed work: at once for a while, then after growing pauses. Pure."""

from __future__ import annotations

GRACE_SECONDS = 30.0
"""Seconds after the first failure in which every call retries: a restarted service is back by then."""

LONGEST_SECONDS = 600.0
"""The longest pause: the maximum delay until a call detects that a service is back."""


def is_due(first: float, last: float, now: float) -> bool:
    """Whether a pause is over. `first` is the time of the first failure (0: unknown), `last` that of the last one.

    A pause is as long as all previous ones together, so they double. A clock that was set back ends a pause.
    """
    waited = last - first
    pause = 0.0 if not first or waited < GRACE_SECONDS else min(waited, LONGEST_SECONDS)
    return not last <= now < last + pause
