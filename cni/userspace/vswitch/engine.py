"""The interface of a vswitch for the plugin. `cni.userspace.vswitch.ovs` and the tests' FakeVswitch implement it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from cni.userspace.vswitch.model import Owner, Port, PortStatus

    class Vswitch(Protocol):
        """Every call has a time limit, and raises `TryAgainLater` if the vswitch does not respond."""

        def status(self, bridge: str = "", *, create_bridge: bool = False) -> None:
            """Returns if `plug` can work, on the bridge if one is given.

            Raises `NotAvailable`, or `LimitedConnectivity` if no port works now.
            """

        def plug(self, port: Port, *, create_bridge: bool = False) -> PortStatus:
            """Creates the port, whose owner has none yet, and returns it once the vswitch has really created it.

            After an error the port does not exist. The only exception is `TryAgainLater` with a note that the clean-up
            is incomplete: the port may exist, or may still appear, so `unplug` its owner. Raises `BridgeUnfit`,
            `PortTaken`, `VswitchRefused`.
            """

        def unplug(self, owner: Owner, *, name: str = "") -> None:
            """Removes all ports of the owner, or only its port `name`. Missing ports are no error."""

        def show(self, *, owner: Owner | None = None, name: str = "") -> list[PortStatus]:
            """The owner's ports, or the port of that name of any owner, or all ports with our mark."""
