"""Entry point of the executable `barewire-ipam`, which is both a plugin and the operator's command."""

from __future__ import annotations

import os
import sys

from cni.serve import main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.protocol.request import Request
    from cni.serve import Plugin


def load(request: Request) -> Plugin:
    """Creates the plugin for one call. VERSION and malformed requests are handled without it."""
    from cni.node.start import begin
    from ipam.config.location import PLUGIN
    from ipam.config.policy import Policy
    from ipam.plugin import IpamPlugin
    from ipam.stores import Stores

    node, log = begin(request, PLUGIN)
    return log.traced(IpamPlugin(Stores(log, policy=Policy(node=node)), log), PLUGIN)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not os.environ.get("CNI_COMMAND"):
        from ipam.command.main import command

        sys.exit(command(sys.argv[1:]))
    main("barewire-ipam", load)
