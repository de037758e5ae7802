"""The entry point of `barewire-kubevirt`: signals end it from the first moment."""

from __future__ import annotations

import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> int:
    """The exit code."""
    # The kernel drops signals without a handler to the first process of a container, and importing gRPC takes seconds.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    from kubevirt.command import run

    return run()


def _end(*_signal: Any) -> None:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
