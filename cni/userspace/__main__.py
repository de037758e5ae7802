"""Entry point of the executable `userspace`: connects the plugin to the host, if a command needs it."""

from __future__ import annotations

from cni.serve import main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.node.node import NodeConf
    from cni.protocol.request import Request
    from cni.serve import Plugin
    from cni.userspace.publish import Pods


def load(request: Request) -> Plugin:
    """The plugin for one call. VERSION and malformed requests do not need it."""
    from cni.attachment.records import Attachments
    from cni.host.netns import Namespaces
    from cni.node.start import begin
    from cni.userspace.adapters import Adapters
    from cni.userspace.attachment import PLUGIN
    from cni.userspace.plugin import UserspacePlugin
    from cni.userspace.publish import Publisher
    from cni.userspace.removal import PortRemoval
    from cni.userspace.request import present_remote
    from cni.userspace.sockets.sockets import Sockets
    from cni.userspace.vswitch.ovs import OvsDpdk
    from ipam.embedded import EmbeddedIpam

    node, log = begin(request, PLUGIN)
    # Ports are named after their pods, so there is no limit to the number of names.
    attachments = log.traced(Attachments(plugin=PLUGIN, lasting_locks=False, warn=log.warning), "records")
    ipam = log.traced(EmbeddedIpam(request.env, node), "ipam")
    sockets = log.traced(Sockets(log, node.trusted_owners), "sockets")
    adapters = Adapters(
        namespaces=Namespaces(),
        vswitch=log.traced(OvsDpdk, "vswitch"),
        sockets=sockets,
        publisher=log.traced(
            Publisher(sockets, lambda kubeconfig, seconds: _pods(kubeconfig, seconds, node), log), "publisher"
        ),
    )
    present = present_remote(request, node)
    removal = PortRemoval(adapters=adapters, attachments=attachments, ipam=ipam, log=log, present=present)
    plugin = UserspacePlugin(adapters=adapters, attachments=attachments, ipam=ipam, log=log, removal=removal, node=node)
    return log.traced(plugin, PLUGIN)


def _pods(kubeconfig: str, seconds: float, node: NodeConf) -> Pods:
    # http.client and ssl cost more than all other modules: they are imported only if the API server is needed.
    from cni.kube.access import access_of
    from cni.kube.pods import open_pods

    return open_pods(kubeconfig, access_of(node), seconds)


if __name__ == "__main__":
    main("userspace", load)
