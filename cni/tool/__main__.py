"""Entry point of the command `barewire`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from cni.attachments import Attachments
from cni.errors import CniError
from cni.host.kernel import HostKernel
from cni.host.netns import Namespaces
from cni.kube.access import access_of
from cni.kube.pods import open_pods
from cni.log import Log
from cni.node.load import load_node
from cni.sriov import model as device, removal as device_removal
from cni.tool.gc import Collection, Devices, Ports
from cni.userspace import attachment as port, removal as port_removal
from cni.userspace.allowed import default_vhost_directory
from cni.userspace.ovs import OvsDpdk
from cni.userspace.publish import Publisher
from cni.userspace.remote import REMOTE
from cni.userspace.sockets import Sockets
from cni.userspace.world import World
from cni.version import VERSION
from ipam.embedded import EmbeddedIpam

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
    collections = (_devices(log), _ports(log))
    found = [(collection, leftover) for collection in collections for leftover in collection.leftovers()]
    for _collection, leftover in found:
        print(leftover)
    for text in [text for collection in collections for text in collection.damaged()]:
        print(text)
    if not found:
        print("nothing is left behind")
    elif not apply:
        print(f"{len(found)} to remove; nothing was changed: run again with --apply")
    else:
        failures = [failure for collection, leftover in found for failure in collection.remove([leftover])]
        for failure in failures:
            print(failure, file=sys.stderr)
        print(f"{len(found) - len(failures)} of {len(found)} removed")
        return 1 if failures else 0
    return 0


def _devices(log: Log) -> Collection:
    kernel, attachments = HostKernel(log), Attachments(plugin=device.PLUGIN, warn=log.warning)
    node = load_node()
    ipam, rebind = EmbeddedIpam(os.environ, node), node.devices.rebind
    removal = device_removal.Removal(kernel=kernel, attachments=attachments, ipam=ipam, log=log, rebind=rebind)
    return Devices(kernel, attachments, removal)


def _ports(log: Log) -> Collection:
    node = load_node()
    attachments = Attachments(plugin=port.PLUGIN, lasting_locks=False, warn=log.warning)
    sockets = Sockets(log, node.trusted_owners)
    access = access_of(node)
    publisher = Publisher(sockets, lambda kubeconfig, seconds: open_pods(kubeconfig, access, seconds), log)
    world = World(namespaces=Namespaces(), vswitch=OvsDpdk, sockets=sockets, publisher=publisher)
    removal = port_removal.Removal(world=world, attachments=attachments, ipam=EmbeddedIpam(os.environ, node), log=log)
    return Ports(world, attachments, removal, remote=REMOTE, vhost=default_vhost_directory(node))


if __name__ == "__main__":
    sys.exit(main())
