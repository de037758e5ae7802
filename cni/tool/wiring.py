"""The composition root of the command `barewire`: the plugins' parts, with the real node behind them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cni.attachments import Attachments
from cni.host.kernel import HostKernel
from cni.host.netns import Namespaces
from cni.kube.access import access_of
from cni.kube.pods import open_pods
from cni.sriov import model as device, removal as device_removal
from cni.tool.gc import Devices, Ports
from cni.userspace import attachment as port, removal as port_removal
from cni.userspace.allowed import default_vhost_directory
from cni.userspace.ovs import OvsDpdk
from cni.userspace.publish import Publisher
from cni.userspace.remote import REMOTE
from cni.userspace.sockets import Sockets
from cni.userspace.world import World
from ipam.embedded import EmbeddedIpam

if TYPE_CHECKING:
    from cni.log import Log
    from cni.node.node import NodeConf


def devices(node: NodeConf, log: Log) -> Devices:
    """What `sriov` has on this node."""
    kernel, attachments = HostKernel(log), Attachments(plugin=device.PLUGIN, warn=log.warning)
    ipam, rebind = EmbeddedIpam(os.environ, node), node.devices.rebind
    removal = device_removal.Removal(kernel=kernel, attachments=attachments, ipam=ipam, log=log, rebind=rebind)
    return Devices(kernel, attachments, removal)


def ports(node: NodeConf, log: Log) -> Ports:
    """What `userspace` has on this node, of the usual database."""
    attachments = Attachments(plugin=port.PLUGIN, lasting_locks=False, warn=log.warning)
    sockets = Sockets(log, node.trusted_owners)
    access = access_of(node)
    publisher = Publisher(sockets, lambda kubeconfig, seconds: open_pods(kubeconfig, access, seconds), log)
    world = World(namespaces=Namespaces(), vswitch=OvsDpdk, sockets=sockets, publisher=publisher)
    removal = port_removal.Removal(
        world=world, attachments=attachments, ipam=EmbeddedIpam(os.environ, node), log=log, present=REMOTE
    )
    return Ports(world, attachments, removal, remote=REMOTE, vhost=default_vhost_directory(node))
