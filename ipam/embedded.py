"""IPAM for `sriov` and `userspace` without a second process, where the configuration names our own plugin.

Everything else is delegated. Whatever a delegate's answer means to its caller, ours means the same: it is put in the
place of what the process would have printed.
"""

from __future__ import annotations

import _thread

from cni.attachment.delegate import DelegatedIpam, DelegateRefusal
from cni.errors import CniError, InternalError, IoFailure, TryAgainLater

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.attachment.delegate import IpamCall
    from cni.node.node import NodeConf

TYPE = "barewire-ipam"
"""What `ipam.type` says of us."""


class EmbeddedIpam(DelegatedIpam):
    """The port `Ipam`: our own plugin in this process, others in theirs."""

    def __init__(self, environment: Mapping[str, str], node: NodeConf) -> None:
        super().__init__(environment, seconds=node.delegate_seconds or None)
        self._node = node

    def preload(self, plugin: str, /) -> None:
        """Loads our plugin while the kernel, or the vswitch, works on the device: both take longer than that."""
        if plugin == TYPE:
            _thread.start_new_thread(_load, ())

    def _find(self, call: IpamCall) -> None:
        if call.type != TYPE:
            super()._find(call)

    def _call(self, call: IpamCall, command: str, seconds: float) -> bytes:
        if call.type != TYPE:
            return super()._call(call, command, seconds)
        from ipam.answer import answer  # noqa: PLC0415 - other IPAM plugins do not pay for ours

        try:
            return answer(call.environment(command), call.stdin, seconds, self._node)
        except (TryAgainLater, IoFailure):
            raise  # As with a process that was killed nobody knows what has happened.
        except CniError as error:
            raise DelegateRefusal(call.type, error.code, error.msg, error.details) from error
        except Exception as error:
            raise InternalError(f"{TYPE}: internal error: {type(error).__name__}: {error}") from error


def _load() -> None:
    try:
        import ipam.answer  # noqa: PLC0415
        import ipam.config.request  # noqa: PLC0415
        import ipam.local.store  # noqa: F401, PLC0415
    except Exception:  # noqa: BLE001 - the lease itself will meet it again, where it can be told
        return
