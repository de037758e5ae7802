"""The worlds in which the contract of a vswitch is held: real daemons, and the fake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cni.userspace.vswitch.ovs import OvsDpdk
from tests.contract.vswitch_contract import BOUND_SECONDS
from tests.fake_vswitch import FakeVswitch
from tests.ovs.daemon import Daemon

BRIDGES = ("br0", "br1")


class RealWorld:
    """OvsDpdk on daemons of its own."""

    def __init__(self, daemon: Daemon, incapable: Daemon | None = None) -> None:
        self.daemon = daemon
        self._incapable = incapable
        self._point_at(daemon)
        for each in (daemon, *([incapable] if incapable else [])):
            for bridge in BRIDGES:
                each.add_bridge(bridge)

    def _point_at(self, daemon: Daemon) -> None:
        self._now = daemon
        self.folder = daemon.folder
        self.vswitch = OvsDpdk(daemon.remote)
        self.hasty = OvsDpdk(daemon.remote, seconds=BOUND_SECONDS)

    def snapshot(self) -> Any:
        return self._now.dump()

    def add_bridge(self, name: str, datapath: str) -> None:
        self._now.add_bridge(name, datapath, waits=False)

    def remove_bridge(self, name: str) -> None:
        self._now.vsctl("del-br", name)

    def add_foreign_port(self, bridge: str, name: str, path: str) -> None:
        settings = ("type=dpdkvhostuserclient", f"options:vhost-server-path={path}")
        self._now.vsctl("add-port", bridge, name, "--", "set", "Interface", name, *settings)

    def remove_foreign_port(self, name: str) -> None:
        self._now.vsctl("del-port", name)

    @contextmanager
    def without_daemon(self) -> Iterator[None]:
        self._now.kill("ovs-vswitchd")
        try:
            yield
        finally:
            self._now.start_vswitchd()

    @contextmanager
    def without_database(self) -> Iterator[None]:
        self._now.kill("ovsdb-server")
        try:
            yield
        finally:
            self._now.start_database()
            self._now.await_vswitchd()

    @contextmanager
    def incapable(self) -> Iterator[None]:
        assert self._incapable is not None
        self._point_at(self._incapable)
        try:
            yield
        finally:
            self._point_at(self.daemon)


class FakeWorld:
    """The fake, which needs no time."""

    def __init__(self, folder: Path) -> None:
        self.fake = FakeVswitch()
        self.vswitch = self.hasty = self.fake
        self.folder = folder
        for bridge in BRIDGES:
            self.fake.add_bridge(bridge, "netdev")
        self.snapshot = self.fake.snapshot
        self.add_bridge = self.fake.add_bridge
        self.add_foreign_port = self.fake.add_foreign_port

    def remove_bridge(self, name: str) -> None:
        del self.fake.bridges[name]

    def remove_foreign_port(self, name: str) -> None:
        del self.fake.ports[name]

    @contextmanager
    def _lacking(self, what: str) -> Iterator[None]:
        setattr(self.fake, what, False)
        try:
            yield
        finally:
            setattr(self.fake, what, True)

    def without_daemon(self) -> Any:
        return self._lacking("daemon")

    def without_database(self) -> Any:
        return self._lacking("database")

    def incapable(self) -> Any:
        return self._lacking("capable")
