"""The options of the command `barewire-ipam`."""

from __future__ import annotations

import argparse
from typing import Any

from cni.version import VERSION
from ipam.command.fsck import GRACE_SECONDS
from ipam.stores import SECONDS


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="barewire-ipam", description="Looks after the addresses of networks.")
    whole.add_argument("--version", action="version", version=f"barewire-ipam {VERSION}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add(commands, "list", "show how full the networks are, and who has which address", answers=True)
    show = _add(commands, "show", "show who has an address, or what a container has", answers=True)
    show.add_argument("what", metavar="ADDRESS|CONTAINER[/IFNAME]")
    free = _add(commands, "release", "free what an interface has; an address stands for its interface")
    free.add_argument("what", metavar="ADDRESS|CONTAINER[/IFNAME]")
    free.add_argument("--force", action="store_true", help="also what is in use, or may be in use on another node")
    free.add_argument("--yes", action="store_true", help="do not ask")
    lost = _add(commands, "forget", "give up tombstones whose cluster is gone for good", of_networks=False)
    lost.add_argument("what", metavar="CONTAINER[/IFNAME]", nargs="?", default="", help="only those of this container")
    lost.add_argument("--yes", action="store_true", help="do not ask")
    check = _add(commands, "fsck", "find leaks, duplicates, and what the journal does not know", answers=True)
    check.add_argument("--repair", action="store_true", help="repair what can be; without it nothing is changed")
    check.add_argument(
        "--older-than",
        type=float,
        default=GRACE_SECONDS,
        metavar="SECONDS",
        help=f"pass over what is younger: its sandbox may just be made (default {GRACE_SECONDS:g})",
    )
    moved = _add(commands, "adopt", "take over what this node has in places where a network's leases were before")
    moved.add_argument("--yes", action="store_true", help="do not ask")
    moved.add_argument(
        "--from",
        dest="former",
        default="",
        metavar="FILE",
        help="the configuration of before, with backend kubernetes: also what whereabouts leased to pods of this node",
    )
    moved.add_argument(
        "--abandon",
        action="store_true",
        help="what a cluster of before holds that cannot be told stays leased there: it is gone for good",
    )
    dead = _add(commands, "free-node", "free all addresses of a node that is gone, in the clusters")
    dead.add_argument("name", metavar="NODE")
    dead.add_argument("--yes", action="store_true", help="do not ask")
    dead.add_argument(
        "--kubeconfig", default="", metavar="FILE", help="ask this API server, too, whether the node is Ready"
    )
    dead.add_argument(
        "--former",
        action="store_true",
        help="in etcd, free what other machines have leased under the name of this node: it was replaced, or installed anew",
    )
    dead.add_argument(
        "--gone-pods",
        action="store_true",
        help="in Kubernetes, free what pods have that do not exist any more, too, whatever node they were on",
    )
    lost = _add(commands, "reconcile", "free what pods that are gone still have in Kubernetes, of whatever node")
    lost.add_argument("--yes", action="store_true", help="do not ask")
    lost.add_argument("--kubeconfig", default="", metavar="FILE", help="have this API server tell of pods")
    lost.add_argument(
        "--older-than",
        type=float,
        default=GRACE_SECONDS,
        metavar="SECONDS",
        help=f"pass over what is younger; 0 takes also what is of unknown age (default {GRACE_SECONDS:g})",
    )
    return whole


def _add(
    commands: Any, name: str, text: str, *, answers: bool = False, of_networks: bool = True
) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    added.set_defaults(json=False, config="", data_dir="")
    added.add_argument("--network", metavar="NAME", help="only the network of this name")
    if of_networks:
        added.add_argument("--config", metavar="FILE", help="the networks of this configuration, or list of them")
        added.add_argument("--data-dir", metavar="DIR", help="dataDir of backend local, without a configuration")
    added.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"how long a cluster is waited for (default {SECONDS:g})"
    )
    if answers:
        added.add_argument("--json", action="store_true", help="as JSON")
    return added
