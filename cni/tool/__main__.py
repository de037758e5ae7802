"""Entry point of the command `barewire`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from cni.errors import CniError
from cni.tool.command import FOUND
from cni.tool.forget_command import FORGET
from cni.tool.gc_command import GC
from cni.tool.status_command import STATUS
from cni.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = (STATUS, GC, FORGET)
"""The subcommands. The modules of all of them are imported in each run, because this program need not be fast."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 1 if something failed, or work is left."""
    options = _parser().parse_args(argv)
    try:
        code: int = options.run(options)
    except CniError as error:
        print(f"barewire: {error.msg}" + (f"\n  what to do: {error.details}" if error.details else ""), file=sys.stderr)
        return FOUND
    return code


def _parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="barewire", description="Looks after the attachments of this node.")
    whole.add_argument("--version", action="version", version=f"barewire {VERSION}")
    parsers = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        one = parsers.add_parser(command.name, help=command.summary, description=command.description)
        command.configure(one)
        one.set_defaults(run=command.run)
    return whole


if __name__ == "__main__":
    sys.exit(main())
