"""The engine `ovs-dpdk` when daemons are killed in the middle of a call, and when many calls use the same bridges."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cni.errors import CniError, LimitedConnectivity, NotAvailable, TryAgainLater
from cni.userspace.vswitch.model import Owner, Port, Rate
from cni.userspace.vswitch.ovs import APPLIED_SECONDS, OvsDpdk
from tests.ovs.backends import RealBackend
from tests.ovs.daemon import Daemon, until

OWNER = Owner(container_id="c0ffee", ifname="net1", network="fast")
CALLS = 50
SECONDS = 60.0


@pytest.fixture(scope="module")
def running() -> Iterator[RealBackend]:
    with Daemon() as daemon:
        backend = RealBackend(daemon)
        backend.add_foreign_port("br0", "foreign", str(daemon.folder / "foreign.sock"))
        yield backend


@pytest.fixture
def daemon(running) -> Iterator[Daemon]:
    """The daemon. After the test its database and datapath must be as before."""
    before = running.daemon.dump()
    yield running.daemon
    assert running.daemon.dump() == before
    until("the end of all ports", lambda: running.daemon.datapath_ports() == {"br0", "br1", "foreign"})


def port(daemon: Daemon, owner: Owner = OWNER, name: str = "vhu1", bridge: str = "br0", **settings: Any) -> Port:
    settings = {"path": str(daemon.folder / f"{name}.sock"), "to_pod": Rate(kbit=1000), **settings}
    return Port(name=name, bridge=bridge, owner=owner, **settings)


def port_names(daemon: Daemon) -> set[str]:
    return {row["name"] for row in daemon.dump()["Port"].values()}


class Call(threading.Thread):
    """A call in a thread beside the test; `outcome` is its error or its value."""

    def __init__(self, function, *arguments) -> None:
        super().__init__()
        self._function, self._arguments = function, arguments
        self.outcome: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self._function(*self._arguments)
        except CniError as error:
            self.outcome = error

    def result(self) -> Any:
        self.join(SECONDS)
        assert not self.is_alive()
        return self.outcome


# Daemons that are killed or hang in the middle


def test_a_database_that_dies_while_a_port_is_made_leaves_what_unplug_removes(daemon):
    daemon.pause("ovs-vswitchd")
    call = Call(OvsDpdk(daemon.remote).plug, port(daemon))
    until("the port's row", lambda: "vhu1" in port_names(daemon))
    started = time.monotonic()
    daemon.kill("ovsdb-server")
    error = call.result()
    assert time.monotonic() - started < APPLIED_SECONDS
    assert isinstance(error, TryAgainLater)
    assert "clean-up incomplete" in error.details
    daemon.start_database()
    daemon.resume("ovs-vswitchd")
    assert "vhu1" in port_names(daemon)
    OvsDpdk(daemon.remote).unplug(OWNER)


def test_a_database_that_hangs_ends_a_call_in_time_and_what_it_does_later_is_unplugged(daemon):
    daemon.pause("ovsdb-server")
    started = time.monotonic()
    with pytest.raises(TryAgainLater, match="no answer in time") as caught:
        OvsDpdk(daemon.remote, seconds=0.5).plug(port(daemon))
    assert time.monotonic() - started < 8
    assert "clean-up incomplete" in caught.value.details
    daemon.resume("ovsdb-server")
    daemon.await_vswitchd()
    OvsDpdk(daemon.remote).unplug(OWNER)


def test_a_vswitchd_that_hangs_takes_nothing_with_it(daemon):
    daemon.pause("ovs-vswitchd")
    engine = OvsDpdk(daemon.remote, seconds=0.5)
    with pytest.raises(TryAgainLater, match="did not take over") as caught:
        engine.plug(port(daemon, bridge="br9"), create_bridge=True)
    assert caught.value.details == "is ovs-vswitchd running?"
    assert "vhu1" not in port_names(daemon)
    with pytest.raises(LimitedConnectivity):
        engine.status()
    daemon.resume("ovs-vswitchd")
    engine.status()


def test_a_vswitchd_that_restarts_in_the_middle_makes_the_port_after_all(daemon):
    daemon.kill("ovs-vswitchd")
    call = Call(OvsDpdk(daemon.remote).plug, port(daemon))
    until("the port's row", lambda: "vhu1" in port_names(daemon))
    daemon.start_vswitchd()
    assert call.result().works
    OvsDpdk(daemon.remote).unplug(OWNER)


def test_a_port_that_is_removed_in_the_middle_is_tried_again_later(daemon):
    daemon.pause("ovs-vswitchd")
    call = Call(OvsDpdk(daemon.remote).plug, port(daemon))
    until("the port's row", lambda: "vhu1" in port_names(daemon))
    daemon.vsctl("--no-wait", "del-port", "vhu1")
    daemon.resume("ovs-vswitchd")
    error = call.result()
    assert isinstance(error, TryAgainLater)
    assert "was removed" in error.msg
    assert "incomplete" not in error.details


def test_a_dpdk_vswitchd_without_dpdk_is_reported_by_status():
    with Daemon(dpdk=False) as daemon, pytest.raises(NotAvailable, match="dpdkvhostuserclient") as caught:
        OvsDpdk(daemon.remote).status()
    assert "dpdk-init" in caught.value.hint


# Changes by others to our ports


def test_the_limits_of_a_port_that_was_removed_go_with_unplug(daemon):
    engine = OvsDpdk(daemon.remote)
    engine.plug(port(daemon))
    daemon.vsctl("del-port", "vhu1")
    assert len(daemon.dump()["QoS"]) == 1
    engine.unplug(OWNER)


def test_a_port_that_lost_our_mark_is_not_ours_any_more(daemon):
    engine = OvsDpdk(daemon.remote)
    engine.plug(port(daemon, to_pod=None))
    daemon.vsctl("remove", "Port", "vhu1", "external_ids", "owner", "barewire")
    engine.unplug(OWNER, name="vhu1")
    assert "vhu1" in port_names(daemon)
    daemon.vsctl("del-port", "vhu1")


def test_unplug_leaves_a_limit_that_the_administrator_gave_instead_of_ours(daemon):
    engine = OvsDpdk(daemon.remote)
    engine.plug(port(daemon))
    daemon.vsctl("set", "Port", "vhu1", "qos=@q", "--", "--id=@q", "create", "QoS", "type=trtcm-policer")
    assert engine.show(owner=OWNER)[0].port.to_pod is None
    engine.unplug(OWNER)
    assert [row["type"] for row in daemon.dump()["QoS"].values()] == ["trtcm-policer"]
    daemon.vsctl("--all", "destroy", "QoS")


# The socket


def test_the_vswitch_connects_to_the_socket_of_the_port(daemon):
    wanted = port(daemon)
    with socket.socket(socket.AF_UNIX) as application:
        application.bind(wanted.path)
        application.listen()
        application.settimeout(SECONDS)
        OvsDpdk(daemon.remote).plug(wanted)
        application.accept()[0].close()
    OvsDpdk(daemon.remote).unplug(OWNER)


def test_a_port_that_is_made_again_under_its_name_has_its_new_socket(daemon):
    """OVS keeps the former path if it sees removal and creation at once, so unplug waits for the removal."""
    engine = OvsDpdk(daemon.remote)
    for number in range(5):
        path = str(daemon.folder / f"new{number}.sock")
        with socket.socket(socket.AF_UNIX) as application:
            application.bind(path)
            application.listen()
            application.settimeout(SECONDS)
            engine.plug(port(daemon, path=path))
            application.accept()[0].close()
        engine.unplug(OWNER)


# Many at once


def test_fifty_ports_on_five_bridges_come_and_go_at_once_and_leave_nothing(daemon):
    everybody = threading.Barrier(CALLS)
    bridges = ["br0", "br1", "br7", "br8", "br9"]

    def live(number: int) -> tuple[str, int | None]:
        engine, owner = OvsDpdk(daemon.remote, seconds=SECONDS), OWNER.replace(container_id=f"c{number}")
        wanted = port(daemon, owner, f"vhu{number}", bridges[number % len(bridges)])
        everybody.wait(SECONDS)
        made = engine.plug(wanted, create_bridge=True)
        assert made.port == wanted
        everybody.wait(SECONDS)
        engine.unplug(owner)
        return wanted.bridge, made.ofport

    with ThreadPoolExecutor(CALLS) as pool:
        numbers = list(pool.map(live, range(CALLS)))
    assert len(set(numbers)) == CALLS, "no two ports of a bridge have one number"


def test_a_bridge_that_comes_and_goes_under_many_hands_serves_them_all(daemon):
    failures: list[str] = []

    def churn(number: int) -> None:
        engine, owner = OvsDpdk(daemon.remote, seconds=SECONDS), OWNER.replace(container_id=f"c{number}")
        for _ in range(8):
            made = engine.plug(port(daemon, owner, f"vhu{number}", "br9"), create_bridge=True)
            if not made.works or made.port.bridge != "br9":
                failures.append(repr(made))
            engine.unplug(owner)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(churn, range(8)))
    assert failures == []


def test_one_owner_that_is_unplugged_by_many_is_unplugged_once(daemon):
    engine = OvsDpdk(daemon.remote)
    engine.plug(port(daemon, bridge="br9"), create_bridge=True)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(engine.unplug, [OWNER] * 8)) == [None] * 8


def test_of_many_that_want_one_name_or_socket_one_gets_it(daemon):
    def plug(number: int) -> str:
        owner = OWNER.replace(container_id=f"c{number}")
        settings = {"name": "vhu1"} if number % 2 else {"name": f"vhu{number}", "path": f"{daemon.folder}/vhu1.sock"}
        try:
            return OvsDpdk(daemon.remote).plug(port(daemon, owner, **settings)).port.owner.container_id
        except CniError as error:
            return type(error).__name__

    with ThreadPoolExecutor(10) as pool:
        outcomes = sorted(pool.map(plug, range(10)))
    assert outcomes[:9] == ["PortTaken"] * 9
    OvsDpdk(daemon.remote).unplug(OWNER.replace(container_id=outcomes[9]))
