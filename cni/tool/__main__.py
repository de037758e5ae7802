"""Entry point of the command `barewire`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from cni.attachments import Attachments
from cni.delegate import DelegatedIpam
from cni.errors import CniError
from cni.host.kernel import HostKernel
from cni.log import Log
from cni.sriov.model import PLUGIN
from cni.sriov.removal import Removal
from cni.tool.gc import Collection
from cni.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 1 when something failed or could not be removed."""
    options = _options(argv)
    try:
        return _gc(apply=options.apply)
    except CniError as error:
        print(f"barewire: {error.msg}" + (f"\n  what to do: {error.details}" if error.details else ""), file=sys.stderr)
        return 1


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="barewire", description="Looks after the attachments of this node.")
    parser.add_argument("--version", action="version", version=f"barewire {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True)
    collect = commands.add_parser(
        "gc",
        help="find what pods that are gone have left behind, in all networks, and remove it",
        description="Lists what pods that are gone have left behind, in all networks. Removes it only with --apply.",
    )
    collect.add_argument("--apply", action="store_true", help="remove what is listed")
    return parser.parse_args(argv)


def _gc(*, apply: bool) -> int:
    log = Log({"plugin": "barewire"}, level="warning")
    kernel, attachments = HostKernel(log), Attachments(plugin=PLUGIN, warn=log.warning)
    removal = Removal(kernel=kernel, attachments=attachments, ipam=DelegatedIpam(os.environ), log=log)
    collection = Collection(kernel, attachments, removal)
    found = collection.leftovers()
    for leftover in found:
        print(leftover)
    if not found:
        print("nothing is left behind")
    elif not apply:
        print(f"{len(found)} to remove; nothing was changed: run again with --apply")
    else:
        failures = collection.remove(found)
        for failure in failures:
            print(failure, file=sys.stderr)
        print(f"{len(found) - len(failures)} of {len(found)} removed")
        return 1 if failures else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
