"""Entry point of the executable `sriov`: connects the plugin to the host, if a command needs it."""

from __future__ import annotations

from cni.serve import main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.log import Log
    from cni.protocol.request import Request
    from cni.serve import Plugin
    from cni.sriov.kernel import Kernel


def load(request: Request, kernel: Callable[[Log], Kernel] | None = None) -> Plugin:
    """The plugin for one call, on the host's kernel or another one. VERSION and malformed requests do not need it."""
    from cni.attachment.records import Attachments
    from cni.host.kernel import HostKernel
    from cni.node.start import begin
    from cni.sriov.model import PLUGIN
    from cni.sriov.plugin import SriovPlugin
    from cni.sriov.removal import DeviceRemoval
    from cni.sriov.sriov_cni import SriovCniState
    from ipam.embedded import EmbeddedIpam

    node, log = begin(request, PLUGIN, str(request.config.get("deviceID", "")))
    host = log.traced((kernel or HostKernel)(log), "kernel")
    attachments = log.traced(Attachments(plugin=PLUGIN, warn=log.warning), "records")
    ipam = log.traced(EmbeddedIpam(request.env, node), "ipam")
    plugin = SriovPlugin(
        kernel=host,
        attachments=attachments,
        ipam=ipam,
        log=log,
        removal=DeviceRemoval(kernel=host, attachments=attachments, ipam=ipam, log=log, rebind=node.devices.rebind),
        sriov_cni=SriovCniState(host, attachments, log),
        node=node,
    )
    return log.traced(plugin, PLUGIN)


if __name__ == "__main__":
    main("sriov", load)
