"""The entry point of `driverhost`."""

from __future__ import annotations

import sys

from driverhost.command import run


def main() -> int:
    """The exit code."""
    return run()


if __name__ == "__main__":
    sys.exit(main())
