"""`barewire gc`: lists leftovers of deleted pods, and removes them on request."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cni.log import Log
from cni.node.load import load_node
from cni.tool import wiring
from cni.tool.command import FINE, FOUND, Command

if TYPE_CHECKING:
    import argparse


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--apply", action="store_true", help="remove what is listed")


def _run(options: argparse.Namespace) -> int:
    log, node = Log({"plugin": "barewire"}, level="warning"), load_node()
    collections = (wiring.devices(node, log), wiring.ports(node, log))
    found = [(collection, leftover) for collection in collections for leftover in collection.leftovers()]
    for _collection, leftover in found:
        print(leftover)
    for text in [text for collection in collections for text in collection.damaged()]:
        print(text)
    for text in wiring.left_vlans(log):
        print(text)
    if not found:
        print("nothing is left behind")
    elif not options.apply:
        print(f"{len(found)} to remove; nothing was changed: run again with --apply")
    else:
        failures = [failure for collection, leftover in found for failure in collection.remove([leftover])]
        for failure in failures:
            print(failure, file=sys.stderr)
        print(f"{len(found) - len(failures)} of {len(found)} removed")
        return FOUND if failures else FINE
    return FINE


GC = Command(
    name="gc",
    summary="find what pods that are gone have left behind, in all networks, and remove it",
    description="Lists what pods that are gone have left behind, in all networks. Removes it only with --apply. Lists also free "
    "VFs with a VLAN, which sriov-cni leaves when its ADD fails: an administrator may have set it, so it is not removed.",
    configure=_configure,
    run=_run,
)
