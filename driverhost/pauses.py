"""The pauses before a driver that has failed is started again."""

from __future__ import annotations

RESTART_SECONDS = (0.05, 0.2, 1.0, 5.0)
"""The last one repeats."""
GOOD_SECONDS = 10.0
"""After a failure of a driver that has run so long, the first pause applies again."""


class Pauses:
    """They grow while failures follow each other."""

    def __init__(self) -> None:
        self._failures = 0

    def after(self, seconds: float) -> float:
        """The pause after a driver that has run for so long."""
        if seconds > GOOD_SECONDS:
            self._failures = 0
        pause = RESTART_SECONDS[min(self._failures, len(RESTART_SECONDS) - 1)]
        self._failures += 1
        return pause
