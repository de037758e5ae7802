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
    from cni.log import open_log
    from cni.node.load import load_for
    from cni.sriov.model import PLUGIN
    from cni.sriov.plugin import SriovPlugin
    from cni.sriov.predecessor import Predecessor
    from cni.sriov.removal import Removal
    from ipam.embedded import EmbeddedIpam

    log = open_log(
        request.config,
        plugin=PLUGIN,
        command=request.command,
        container_id=request.container_id,
        ifname=request.ifname,
        device=str(request.config.get("deviceID", "")),
    )
    node = load_for(request.command, log.warning)
    host, attachments = (kernel or HostKernel)(log), Attachments(plugin=PLUGIN, warn=log.warning)
    ipam = EmbeddedIpam(request.env, node)
    return SriovPlugin(
        kernel=host,
        attachments=attachments,
        ipam=ipam,
        log=log,
        removal=Removal(kernel=host, attachments=attachments, ipam=ipam, log=log),
        predecessor=Predecessor(host, attachments, log),
        node=node,
    )


if __name__ == "__main__":
    main("sriov", load)
