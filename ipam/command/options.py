"""The options of the command `barewire-ipam`."""

from __future__ import annotations

import argparse
from typing import Any

from cni.version import VERSION
from ipam.command.fsck import GRACE_SECONDS
from ipam.stores import SECONDS


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="barewire-ipam", description="Manages the addresses of networks.")
    whole.add_argument("--version", action="version", version=f"barewire-ipam {VERSION}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add(commands, "list", "show the utilisation of the networks, and the owner of each address", answers=True)
    show = _add(commands, "show", "show the owner of an address, or the addresses of a container", answers=True)
    show.add_argument("what", metavar="ADDRESS|CONTAINER[/IFNAME]")
    _add_release(commands)
    _add_forget(commands)
    _add_fsck(commands)
    _add_adopt(commands)
    _add_free_node(commands)
    _add_reconcile(commands)
    return whole


def _add_release(commands: Any) -> None:
    free = _add(commands, "release", "free the addresses of an interface, which may be named by one of them")
    free.add_argument("what", metavar="ADDRESS|CONTAINER[/IFNAME]")
    free.add_argument(
        "--force", action="store_true", help="also free addresses that are in use, or may be in use on another node"
    )
    free.add_argument("--yes", action="store_true", help="do not ask")


def _add_forget(commands: Any) -> None:
    lost = _add(commands, "forget", "give up tombstones whose cluster is gone for good", of_networks=False)
    lost.add_argument("what", metavar="CONTAINER[/IFNAME]", nargs="?", default="", help="only those of this container")
    lost.add_argument("--yes", action="store_true", help="do not ask")


def _add_fsck(commands: Any) -> None:
    check = _add(commands, "fsck", "find leaks, duplicates, and leases that are missing from the journal", answers=True)
    check.add_argument(
        "--repair", action="store_true", help="repair the findings where possible; without it nothing is changed"
    )
    check.add_argument(
        "--older-than",
        type=float,
        default=GRACE_SECONDS,
        metavar="SECONDS",
        help=f"skip younger leases, whose sandboxes may still be being created (default {GRACE_SECONDS:g})",
    )


def _add_adopt(commands: Any) -> None:
    moved = _add(commands, "adopt", "move this node's leases from former locations to the configured one")
    moved.add_argument("--yes", action="store_true", help="do not ask")
    moved.add_argument(
        "--from",
        dest="former",
        default="",
        metavar="FILE",
        help="the former configuration, with backend kubernetes: also move whereabouts' leases of pods on this node",
    )
    moved.add_argument(
        "--abandon",
        action="store_true",
        help="give up the leases in a former cluster that cannot be reached, because it is gone for good",
    )


def _add_free_node(commands: Any) -> None:
    dead = _add(commands, "free-node", "free all addresses of a dead node in the clusters")
    dead.add_argument("name", metavar="NODE")
    dead.add_argument("--yes", action="store_true", help="do not ask")
    dead.add_argument(
        "--kubeconfig", default="", metavar="FILE", help="also check with this API server that the node is not Ready"
    )
    dead.add_argument(
        "--former",
        action="store_true",
        help="in etcd, free the leases of other machines under the name of this node, which was replaced or reinstalled",
    )
    dead.add_argument(
        "--gone-pods",
        action="store_true",
        help="in Kubernetes, also free the leases of pods that do not exist any more, on any node",
    )


def _add_reconcile(commands: Any) -> None:
    lost = _add(commands, "reconcile", "free the leases in Kubernetes of pods that do not exist any more, on any node")
    lost.add_argument("--yes", action="store_true", help="do not ask")
    lost.add_argument("--kubeconfig", default="", metavar="FILE", help="look the pods up at this API server")
    lost.add_argument(
        "--older-than",
        type=float,
        default=GRACE_SECONDS,
        metavar="SECONDS",
        help=f"skip younger leases; 0 also frees leases of unknown age (default {GRACE_SECONDS:g})",
    )


def _add(
    commands: Any, name: str, text: str, *, answers: bool = False, of_networks: bool = True
) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    added.set_defaults(json=False, config="", data_dir="")
    added.add_argument("--network", metavar="NAME", help="only the network of this name")
    if of_networks:
        added.add_argument("--config", metavar="FILE", help="the networks of this configuration, or list of them")
        added.add_argument("--data-dir", metavar="DIR", help="dataDir of backend local, without a configuration")
    added.add_argument("--seconds", type=float, default=SECONDS, help=f"time limit for a cluster (default {SECONDS:g})")
    if answers:
        added.add_argument("--json", action="store_true", help="as JSON")
    return added
