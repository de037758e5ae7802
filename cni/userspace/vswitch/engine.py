"""What the plugin needs of a vswitch. `cni.userspace.vswitch.ovs` and the tests' FakeVswitch implement it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from cni.userspace.vswitch.model import Owner, Port, PortStatus

    class Vswitch(Protocol):
        """Every call is bounded and ends as `TryAgainLater` when the vswitch does not answer."""

        def status(self, bridge: str = "", *, create_bridge: bool = False) -> None:
            """Returns if `plug` can work (on that bridge, if one is told).

            Raises `NotAvailable`, or `LimitedConnectivity` when no port works now.
            """

        def plug(self, port: Port, *, create_bridge: bool = False) -> PortStatus:
            """Makes the port, whose owner has none yet, and returns it when the vswitch has really made it.

            After an error the port is not there; only after `TryAgainLater` with a note that the clean-up is
            incomplete it may be, or may appear yet: `unplug` its owner. Raises `BridgeUnfit`, `PortTaken`,
            `VswitchRefused`.
            """

        def unplug(self, owner: Owner, *, name: str = "") -> None:
            """Removes all that the owner has, or only the port `name` of it. What is not there is no error."""

        def show(self, *, owner: Owner | None = None, name: str = "") -> list[PortStatus]:
            """The owner's ports, the port of that name whoever owns it, or else all ports of ours."""
