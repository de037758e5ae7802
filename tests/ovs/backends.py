"""The backends on which the contract of a vswitch is tested: real daemons, a database in memory, and the fake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cni.userspace.vswitch.operations import equals, includes, insert, mutate, named, select, to_map
from cni.userspace.vswitch.ovs import OvsDpdk
from cni.userspace.vswitch.rows import INTERFACE_TYPE, PATH
from tests.contract.vswitch_contract import BOUND_SECONDS
from tests.fake_ovsdb import FakeOvsdb
from tests.fake_vswitch import FakeVswitch
from tests.ovs.daemon import Daemon

BRIDGES = ("br0", "br1")


class RealBackend:
    """OvsDpdk on its own daemons."""

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


class FakeBackend:
    """The fake, which takes no time."""

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


class DatabaseBackend:
    """OvsDpdk on a database in memory. Time limits that must expire are short."""

    def __init__(self, fake: FakeOvsdb, folder: Path) -> None:
        self.fake = fake
        self.folder = folder
        self.vswitch = OvsDpdk(fake.remote)
        self.hasty = OvsDpdk(fake.remote, seconds=0.2)
        for bridge in BRIDGES:
            self.add_bridge(bridge, "netdev")
        self.snapshot = fake.snapshot
        self.without_daemon, self.without_database = fake.without_daemon, fake.without_database
        self.incapable = fake.incapable

    def add_bridge(self, name: str, datapath: str) -> None:
        self._done(
            insert("Interface", {"name": name, "type": "internal"}, "interface"),
            insert("Port", {"name": name, "interfaces": named("interface")}, "port"),
            insert("Bridge", {"name": name, "datapath_type": datapath, "ports": named("port")}, "bridge"),
            mutate("Open_vSwitch", [], "bridges", "insert", named("bridge")),
        )

    def remove_bridge(self, name: str) -> None:
        (bridge,) = self._done(select("Bridge", [equals("name", name)], ("_uuid",)))[0]["rows"]
        self._done(mutate("Open_vSwitch", [], "bridges", "delete", bridge["_uuid"]))

    def add_foreign_port(self, bridge: str, name: str, path: str) -> None:
        row = {"name": name, "type": INTERFACE_TYPE, "options": to_map({PATH: path})}
        self._done(
            insert("Interface", row, "interface"),
            insert("Port", {"name": name, "interfaces": named("interface")}, "port"),
            mutate("Bridge", [equals("name", bridge)], "ports", "insert", named("port")),
        )

    def remove_foreign_port(self, name: str) -> None:
        (port,) = self._done(select("Port", [equals("name", name)], ("_uuid",)))[0]["rows"]
        self._done(mutate("Bridge", [includes("ports", port["_uuid"])], "ports", "delete", port["_uuid"]))

    def _done(self, *operations: Any) -> Any:
        """A change by another program."""
        results = self.fake.transact(json.loads(json.dumps(operations)))
        assert not any("error" in (result or {}) for result in results), results
        return results
