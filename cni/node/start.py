"""The start of every call of a runtime: the node configuration, and the log that it allows."""

from __future__ import annotations

from cni.log import open_log
from cni.node.load import load_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.log import Log
    from cni.node.node import NodeConf
    from cni.protocol.request import Request


def begin(request: Request, plugin: str, device: str = "") -> tuple[NodeConf, Log]:
    """Raises `CniError` for an invalid node configuration, except in DEL and GC."""
    warnings: list[str] = []
    node = load_for(request.command, warnings.append)
    log = log_of(request, node, plugin, device)
    for text in warnings:
        log.warning(text)
    return node, log


def log_of(request: Request, node: NodeConf, plugin: str, device: str = "") -> Log:
    """The log in the request's configuration, if the node configuration allows it."""
    return open_log(
        request.config,
        plugin=plugin,
        command=request.command,
        container_id=request.container_id,
        ifname=request.ifname,
        device=device,
        roots=node.log_roots,
    )
