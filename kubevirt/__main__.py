"""The entry point of `barewire-kubevirt`: it can be ended from the first moment on."""

from __future__ import annotations

import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> int:
    """The exit code."""
    # The kernel keeps signals without a handler from a container's first process, and importing gRPC takes seconds.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    from kubevirt.command import run

    return run()


def _end(*_signal: Any) -> None:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
