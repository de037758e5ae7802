"""A vswitch in memory that behaves like OVS-DPDK. tests/contract/vswitch_contract.py tests both alike.

`refuse(n)` makes the n-th change from now on fail; `refuse_from(n)` also makes all later ones fail. `database`,
`daemon` and `capable` are True if the database and the daemon run, and if the daemon can create vhost-user ports.
"""

from __future__ import annotations

from cni.errors import (
    BridgeUnfit,
    CniError,
    LimitedConnectivity,
    NotAvailable,
    PortTaken,
    TryAgainLater,
    VswitchRefused,
)
from cni.userspace.vswitch.model import NOBODY, Owner, Port, PortStatus, key
from cni.userspace.vswitch.rows import INTERFACE_TYPE

USERSPACE = "netdev"


class FakeBridge:
    def __init__(self, datapath: str, *, ours: bool) -> None:
        self.datapath = datapath
        self.ours = ours

    def __repr__(self) -> str:
        return f"{self.datapath} {'ours' if self.ours else 'theirs'}"


class FakeVswitch:
    """Bridges and ports by their names."""

    def __init__(self) -> None:
        self.bridges: dict[str, FakeBridge] = {}
        self.ports: dict[str, PortStatus] = {}
        self.database = self.daemon = self.capable = True
        self._changes = 0
        self._refused = range(0)
        self._numbers = 0

    def refuse(self, number: int) -> None:
        self._refused = range(self._changes + number, self._changes + number + 1)

    def refuse_from(self, number: int) -> None:
        self._refused = range(self._changes + number, 1 << 30)

    def refuse_nothing(self) -> None:
        self._refused = range(0)

    def snapshot(self) -> tuple[dict[str, str], dict[str, PortStatus]]:
        return {name: repr(bridge) for name, bridge in self.bridges.items()}, dict(self.ports)

    def add_bridge(self, name: str, datapath: str) -> None:
        self.bridges[name] = FakeBridge(datapath, ours=False)

    def add_foreign_port(self, bridge: str, name: str, path: str) -> None:
        self._put(Port(name=name, bridge=bridge, path=path))

    def status(self, bridge: str = "", *, create_bridge: bool = False) -> None:
        if not self.database:
            raise NotAvailable("no database")
        if not self.daemon:
            raise LimitedConnectivity("no vswitchd")
        if not self.capable:
            raise NotAvailable(f"no ports of type {INTERFACE_TYPE}")
        unfit = self._unfit(bridge, create_bridge) if bridge else None
        if unfit is not None:
            raise NotAvailable(unfit.msg)

    def plug(self, port: Port, *, create_bridge: bool = False) -> PortStatus:
        self._change()
        refusal = self._refusal(port, create_bridge)
        if refusal is not None:
            raise refusal
        if not self.daemon:
            raise TryAgainLater("vswitchd does not answer")
        if not self.capable:
            raise VswitchRefused("could not open network device")
        self.bridges.setdefault(port.bridge, FakeBridge(USERSPACE, ours=True))
        return self._put(port)

    def unplug(self, owner: Owner, *, name: str = "") -> None:
        self._change()
        for seen in [seen for seen in self.ports.values() if _belongs(seen, owner) and name in ("", seen.port.name)]:
            del self.ports[seen.port.name]
        used = {seen.port.bridge for seen in self.ports.values()}
        for bridge in [name for name, bridge in self.bridges.items() if bridge.ours and name not in used]:
            del self.bridges[bridge]

    def show(self, *, owner: Owner | None = None, name: str = "") -> list[PortStatus]:
        self._answer()
        return [
            seen
            for seen in self.ports.values()
            if name in ("", seen.port.name)
            and (_belongs(seen, owner) if owner is not None else name or seen.port.owner != NOBODY)
        ]

    def _refusal(self, port: Port, create_bridge: bool) -> CniError | None:
        unfit = self._unfit(port.bridge, create_bridge)
        if unfit is not None:
            return unfit
        for seen in self.ports.values():
            shared = bool(port.socket) and seen.port.socket == port.socket
            if shared or seen.port.name == port.name or seen.port.path == port.path or _belongs(seen, port.owner):
                return PortTaken(f"there is {seen.port.name} on {seen.port.socket or seen.port.path}")
        return None

    def _unfit(self, name: str, create_bridge: bool) -> BridgeUnfit | None:
        bridge = self.bridges.get(name)
        if bridge is None and not create_bridge:
            return BridgeUnfit(f"there is no bridge {name}")
        if bridge is not None and bridge.datapath != USERSPACE:
            return BridgeUnfit(f"bridge {name} is of another datapath")
        return None

    def _put(self, port: Port) -> PortStatus:
        self._numbers += 1
        self.ports[port.name] = PortStatus(
            port=port, type=INTERFACE_TYPE, ofport=self._numbers, error="", link_state="down"
        )
        return self.ports[port.name]

    def _answer(self) -> None:
        if not self.database:
            raise TryAgainLater("the database does not answer")

    def _change(self) -> None:
        self._answer()
        self._changes += 1
        if self._changes in self._refused:
            raise VswitchRefused("refused by the test")


def _belongs(seen: PortStatus, owner: Owner) -> bool:
    return seen.port.owner != NOBODY and key(seen.port.owner) == key(owner)
