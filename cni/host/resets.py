"""Patience with drivers that reset a VF: i40e, ice and iavf refuse everything about it until the reset is over."""

from __future__ import annotations

import errno
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESET_SECONDS = 4.0
"""Bound for one reset: i40e and ice take up to two seconds after a change of VLAN, trust or MAC address."""

CALL_SECONDS = 12.0
"""Bound for all resets that one call of the plugin waits for together."""

_PAUSE = 0.05
_UNTIL_IT_IS_OVER = (errno.EAGAIN, errno.EBUSY)


class Resets:
    """What one call of the plugin waits for; `clock` tells monotonic seconds."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._left = CALL_SECONDS

    def tries(self) -> Iterator[None]:
        """A round for each try, with a pause between two; ends when the bound has passed."""
        yield
        start = self._clock()
        deadline = start + min(RESET_SECONDS, self._left)
        while self._clock() < deadline:
            # No event tells when a driver has finished its reset.
            self._sleep(_PAUSE)
            self._left -= _PAUSE
            yield


def is_passing(number: int | None) -> bool:
    """Whether the errno is that of a driver that resets the VF."""
    return number in _UNTIL_IT_IS_OVER
