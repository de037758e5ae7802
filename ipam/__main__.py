"""Entry point of the executable `barewire-ipam`: a plugin for runtimes and other plugins, and a command for people."""

from __future__ import annotations

import os
import sys

from cni.serve import main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.ports import Plugin
    from cni.request import Request


def load(request: Request) -> Plugin:
    """The plugin for one call; VERSION and malformed requests are answered without."""
    from cni.log import open_log
    from cni.node.load import load_for
    from ipam.place import PLUGIN
    from ipam.plugin import IpamPlugin
    from ipam.stores import Stores

    log = open_log(
        request.config,
        plugin=PLUGIN,
        command=request.command,
        container_id=request.container_id,
        ifname=request.ifname,
    )
    return IpamPlugin(Stores(log, node=load_for(request.command, log.warning)), log)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not os.environ.get("CNI_COMMAND"):
        from ipam.tool import command

        sys.exit(command(sys.argv[1:]))
    main("barewire-ipam", load)
