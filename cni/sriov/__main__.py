"""Entry point of the executable `sriov`: wires the real world to the plugin, and imports it when a command needs it."""

from __future__ import annotations

from cni.serve import main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.log import Log
    from cni.ports import Kernel, Plugin
    from cni.request import Request


def load(request: Request, kernel: Callable[[Log], Kernel] | None = None) -> Plugin:
    """The plugin for one call, on the host's kernel or another; VERSION and malformed requests are answered without."""
    from cni.attachments import Attachments
    from cni.host.kernel import HostKernel
    from cni.node.start import begin
    from cni.sriov.model import PLUGIN
    from cni.sriov.plugin import SriovPlugin
    from cni.sriov.predecessor import Predecessor
    from cni.sriov.removal import Removal
    from ipam.embedded import EmbeddedIpam

    node, log = begin(request, PLUGIN, str(request.config.get("deviceID", "")))
    host, attachments = (kernel or HostKernel)(log), Attachments(plugin=PLUGIN, warn=log.warning)
    ipam = EmbeddedIpam(request.env, node)
    return SriovPlugin(
        kernel=host,
        attachments=attachments,
        ipam=ipam,
        log=log,
        removal=Removal(kernel=host, attachments=attachments, ipam=ipam, log=log, rebind=node.devices.rebind),
        predecessor=Predecessor(host, attachments, log),
        node=node,
    )


if __name__ == "__main__":
    main("sriov", load)
