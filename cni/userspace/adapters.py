"""The adapters of the `userspace` plugin, except records, addresses and the log."""

from __future__ import annotations

from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from cni.host.netns import Netns
    from cni.userspace.publish import Publisher
    from cni.userspace.sockets.sockets import Sockets
    from cni.userspace.vswitch.engine import Vswitch

    class Namespaces(Protocol):
        """The network namespaces of the host."""

        def netns(self, path: str) -> Netns: ...

        def is_inhabited(self, path: str, identity: str) -> bool: ...

    class OpenVswitch(Protocol):
        def __call__(self, remote: str, *, seconds: float = ...) -> Vswitch: ...


class Adapters(Value):
    """`vswitch` opens the vswitch whose database has this address; `seconds` limits each of its calls."""

    namespaces: Namespaces
    vswitch: OpenVswitch
    sockets: Sockets
    publisher: Publisher
