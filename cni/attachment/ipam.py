"""The plugin that gives addresses, as plugins see it. `cni.attachment.delegate`, `ipam.embedded` and fakes implement it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from cni.attachment.delegate import IpamCall
    from cni.protocol.result import Result

    class Ipam(Protocol):
        """The plugin that gives addresses."""

        def preload(self, plugin: str) -> None:
            """Begins what takes time, because that IPAM plugin is about to be called for a lease."""

        def lease(self, call: IpamCall) -> Result: ...

        def release(self, call: IpamCall, *, seconds: float | None = None) -> None: ...

        def check(self, call: IpamCall) -> None: ...

        def gc(self, call: IpamCall) -> None: ...

        def status(self, call: IpamCall) -> None: ...
