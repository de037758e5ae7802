"""`barewire status`: problems that prevent ADDs in networks of this node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cni.log import Log
from cni.node.load import load_node
from cni.tool import wiring
from cni.tool.command import FINE, FOUND, Command
from cni.tool.networks import configured
from cni.tool.status import found_by, of_addresses

if TYPE_CHECKING:
    import argparse

SECONDS = 5.0
"""Time limit for a server: an operator waits for the result."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="look also at this network's configuration"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help=f"how long each server and vswitch is waited for (default {SECONDS:g})",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def _run(options: argparse.Namespace) -> int:
    log, node = Log({"plugin": "barewire"}, level="warning"), load_node()
    requests = configured(node.cni_conf_dirs, options.config)
    lacks = found_by(wiring.looks(node, log, requests, options.seconds))
    lacks += of_addresses(wiring.address_places(node, options.config, options.seconds))
    if options.json:
        print(json.dumps({"lacks": [lack.as_dict() for lack in lacks]}, indent=2))
    else:
        print("\n".join(map(str, lacks)) if lacks else "nothing is lacking")
    return FOUND if lacks else FINE


STATUS = Command(
    name="status",
    summary="tell what networks of this node lack: full ranges, bridges, PFs, servers",
    description="Reports problems that prevent ADDs in networks of this node. STATUS, which runtimes call, reports only "
    "problems of the node itself, because runtimes make the whole node NotReady when it fails. This command checks the "
    "networks in the directories of CNI configurations and all networks with attachments, and contacts their servers.",
    configure=_configure,
    run=_run,
)
