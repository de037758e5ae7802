"""One call of the plugin by another one in the same process: environment and stdin in, what it would print out."""

from __future__ import annotations

from cni import jsontext
from cni.node.start import log_of
from cni.protocol import result
from cni.protocol.request import parse, parse_environment
from ipam.config.location import PLUGIN
from ipam.config.policy import Policy
from ipam.plugin import IpamPlugin
from ipam.stores import Stores

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.node.node import NodeConf


def answer(environment: Mapping[str, str], stdin: bytes, seconds: float, node: NodeConf) -> bytes:
    """The result of ADD, nothing for other commands. Raises what the plugin raises."""
    request = parse(parse_environment(environment), stdin)
    log = log_of(request, node, PLUGIN)
    plugin = IpamPlugin(Stores(log, seconds=seconds, policy=Policy(node=node)), log)
    if request.command == "ADD":
        return jsontext.dumps(result.encode(plugin.add(request), request.cni_version)).encode()
    {"DEL": plugin.delete, "CHECK": plugin.check, "GC": plugin.gc, "STATUS": plugin.status}[request.command](request)
    return b""
