"""The interface of an IPAM plugin, which `cni.attachment.delegate`, `ipam.embedded` and fakes implement."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from cni.attachment.delegate import IpamCall
    from cni.protocol.result import Result

    class Ipam(Protocol):
        """An IPAM plugin."""

        def preload(self, plugin: str) -> None:
            """Starts slow preparations for a lease from that IPAM plugin."""

        def lease(self, call: IpamCall) -> Result: ...

        def release(self, call: IpamCall, *, seconds: float | None = None) -> None: ...

        def check(self, call: IpamCall) -> None: ...

        def gc(self, call: IpamCall) -> None: ...

        def status(self, call: IpamCall) -> None: ...
