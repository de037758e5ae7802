"""The composition root of the command `barewire`: the plugins' parts, connected to the real node."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cni.attachment.records import Attachments
from cni.errors import CniError
from cni.host.kernel import HostKernel
from cni.host.netns import Namespaces
from cni.kube.access import access_of
from cni.kube.pods import open_pods
from cni.sriov import model as device
from cni.sriov.removal import DeviceRemoval
from cni.sriov.sriov_cni import SriovCniState
from cni.tool.gc import Devices, Ports
from cni.tool.status import Look, of_devices, of_ports
from cni.tool.vlans import with_vlans
from cni.userspace import attachment as port
from cni.userspace.adapters import Adapters
from cni.userspace.allowed import default_vhost_directory
from cni.userspace.publish import Publisher
from cni.userspace.removal import PortRemoval
from cni.userspace.sockets.sockets import Sockets
from cni.userspace.vswitch.ovs import OvsDpdk
from cni.userspace.vswitch.remote import REMOTE
from ipam.command import inventory, listing
from ipam.command.networks import Folders, configured, discover
from ipam.config.policy import Policy
from ipam.embedded import EmbeddedIpam

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.log import Log
    from cni.node.node import NodeConf
    from cni.protocol.request import Request
    from ipam.command.listing import LocationDict


def devices(node: NodeConf, log: Log) -> Devices:
    """The parts of `sriov` on this node."""
    kernel, attachments = HostKernel(log), Attachments(plugin=device.PLUGIN, warn=log.warning)
    ipam, rebind = EmbeddedIpam(os.environ, node), node.devices.rebind
    removal = DeviceRemoval(kernel=kernel, attachments=attachments, ipam=ipam, log=log, rebind=rebind)
    return Devices(kernel, attachments, removal)


def left_vlans(log: Log) -> list[str]:
    """The free VFs with a VLAN, one line each."""
    kernel, attachments = HostKernel(log), Attachments(plugin=device.PLUGIN, warn=log.warning)
    return list(with_vlans(kernel, attachments, SriovCniState(kernel, attachments, log)))


def ports(node: NodeConf, log: Log) -> Ports:
    """The parts of `userspace` on this node, with the usual database."""
    attachments = Attachments(plugin=port.PLUGIN, lasting_locks=False, warn=log.warning)
    sockets = Sockets(log, node.trusted_owners)
    access = access_of(node)
    publisher = Publisher(sockets, lambda kubeconfig, seconds: open_pods(kubeconfig, access, seconds), log)
    adapters = Adapters(namespaces=Namespaces(), vswitch=OvsDpdk, sockets=sockets, publisher=publisher)
    removal = PortRemoval(
        adapters=adapters, attachments=attachments, ipam=EmbeddedIpam(os.environ, node), log=log, present=REMOTE
    )
    return Ports(adapters, attachments, removal, remote=REMOTE, vhost=default_vhost_directory(node))


def looks(node: NodeConf, log: Log, requests: list[Request], seconds: float) -> list[Look]:
    """The checks of `status` for both plugins; `seconds` limits requests to the vswitch."""
    of_sriov = Attachments(plugin=device.PLUGIN, warn=log.warning)
    of_userspace = Attachments(plugin=port.PLUGIN, lasting_locks=False, warn=log.warning)
    return [
        *of_devices(HostKernel(log), of_sriov, requests),
        *of_ports(OvsDpdk, of_userspace, requests, node, seconds),
    ]


def address_places(node: NodeConf, files: Iterable[str], seconds: float) -> list[LocationDict]:
    """The stores of leases, as in `barewire-ipam list`: of known networks, and of the networks in files."""
    folders = Folders(policy=Policy(node=node))
    networks = discover(folders)
    for path in files:
        try:
            networks += configured(path, folders.policy)
        except CniError:
            continue  # It has no leases of barewire-ipam.
    return listing.listed(inventory.collect(folders, networks, seconds))
