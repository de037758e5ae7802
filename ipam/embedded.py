"""Runs our own IPAM plugin for `sriov` and `userspace` in their process.

Other IPAM plugins are delegated to as usual. The result and the errors of our plugin mean to the caller exactly what
those of a separate process would mean, so the result is encoded as that process would print it.
"""

from __future__ import annotations

import _thread

from cni import jsontext
from cni.attachment.delegate import DelegatedIpam, DelegateRefusal
from cni.errors import CniError, InternalError, IoFailure, TryAgainLater
from cni.protocol import result
from cni.protocol.request import parse, parse_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.attachment.delegate import IpamCall
    from cni.node.node import NodeConf

TYPE = "barewire-ipam"
"""The value of `ipam.type` that selects our plugin."""


class EmbeddedIpam(DelegatedIpam):
    """Implements the port `Ipam`: runs our own plugin in this process and all others as separate processes."""

    def __init__(self, environment: Mapping[str, str], node: NodeConf) -> None:
        super().__init__(environment, seconds=node.delegate_seconds or None)
        self._node = node

    def preload(self, plugin: str, /) -> None:
        """Imports our plugin in a thread while the kernel or the vswitch works on the device, which takes longer."""
        if plugin == TYPE:
            _thread.start_new_thread(_load, ())

    def _find(self, call: IpamCall) -> None:
        if call.type != TYPE:
            super()._find(call)

    def _call(self, call: IpamCall, command: str, seconds: float) -> bytes:
        if call.type != TYPE:
            return super()._call(call, command, seconds)
        try:
            return _run(call.environment(command), call.stdin, seconds, self._node)
        except (TryAgainLater, IoFailure):
            raise  # The outcome is unknown, as after a process that was killed.
        except CniError as error:
            raise DelegateRefusal(call.type, error.code, error.msg, error.details) from error
        except Exception as error:
            raise InternalError(f"{TYPE}: internal error: {type(error).__name__}: {error}") from error


def _run(environment: Mapping[str, str], stdin: bytes, seconds: float, node: NodeConf) -> bytes:
    """Runs our plugin for one call. Returns the encoded result of ADD, and nothing for other commands."""
    # Calls with another IPAM plugin do not pay for these imports.
    from cni.node.start import log_of  # noqa: PLC0415
    from ipam.config.policy import Policy  # noqa: PLC0415
    from ipam.plugin import IpamPlugin  # noqa: PLC0415
    from ipam.stores import Stores  # noqa: PLC0415

    request = parse(parse_environment(environment), stdin)
    log = log_of(request, node, TYPE)
    plugin = IpamPlugin(Stores(log, seconds=seconds, policy=Policy(node=node)), log)
    if request.command == "ADD":
        return jsontext.dumps(result.encode(plugin.add(request), request.cni_version)).encode()
    {"DEL": plugin.delete, "CHECK": plugin.check, "GC": plugin.gc, "STATUS": plugin.status}[request.command](request)
    return b""


def _load() -> None:
    try:
        import ipam.config.request  # noqa: PLC0415
        import ipam.local.store  # noqa: PLC0415
        import ipam.plugin  # noqa: PLC0415
        import ipam.stores  # noqa: F401, PLC0415
    except Exception:  # noqa: BLE001 - the lease itself fails in the same way, and reports it
        return
