"""`barewire forget`: abandons removals that can never finish."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cni.errors import CniError
from cni.log import Log
from cni.node.load import load_node
from cni.tool import wiring
from cni.tool.command import FINE, FOUND, Command
from cni.tool.giving_up import key_of

if TYPE_CHECKING:
    import argparse


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("attachments", metavar="NETWORK/CONTAINER/INTERFACE", nargs="+", help="as barewire gc lists it")


def _run(options: argparse.Namespace) -> int:
    log, node = Log({"plugin": "barewire"}, level="warning"), load_node()
    collections = (wiring.devices(node, log), wiring.ports(node, log))
    code = FINE
    for key in [key_of(text) for text in options.attachments]:
        try:
            told = "".join(collection.give_up(key) for collection in collections)
        except CniError as error:
            told, code = "", FOUND
            print(f"{error.msg}" + (f"\n  what to do: {error.details}" if error.details else ""), file=sys.stderr)
        else:
            code = code if told else FOUND
            print(told or f"{key}: there is no record of it")
    return code


FORGET = Command(
    name="forget",
    summary="give up the removal of attachments that wait for what is gone for good",
    description=(
        "Removes what can be removed of attachments whose pods are gone, and forgets the rest: a database, a cluster, an IPAM "
        "plugin or credentials will not come back. A VF that is not home and clean is never forgotten."
    ),
    configure=_configure,
    run=_run,
)
