"""The engine `ovs-dpdk` on a database in memory, and the fake of the engine, fulfil the contract of a vswitch.

tests/contract/test_ovs_engine.py tests the engine on real daemons.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cni.errors import TryAgainLater, VswitchRefused
from cni.userspace.vswitch.model import Owner, Port, Rate
from cni.userspace.vswitch.operations import delete, equals, from_set, insert, mutate, select, to_map, update, wait
from cni.userspace.vswitch.ovsdb import Database
from cni.userspace.vswitch.rows import QOS_TYPE
from tests.contract.vswitch_contract import CONTRACT
from tests.fake_ovsdb import FakeOvsdb
from tests.ovs.backends import DatabaseBackend, FakeBackend

OWNER = Owner(container_id="c0ffee", ifname="net1", network="fast")


@pytest.fixture
def backend(tmp_path, monkeypatch) -> Iterator[DatabaseBackend]:
    # The tests' daemon takes no time, or does not run.
    monkeypatch.setattr("cni.userspace.vswitch.ovs.APPLIED_SECONDS", 0.05)
    with FakeOvsdb(tmp_path) as fake:
        yield DatabaseBackend(fake, tmp_path)


@pytest.mark.parametrize("name", CONTRACT)
def test_the_engine_keeps_the_contract_on_a_database_in_memory(name, backend):
    CONTRACT[name](backend)


@pytest.mark.parametrize("name", CONTRACT)
def test_the_fake_keeps_the_contract(name, tmp_path):
    CONTRACT[name](FakeBackend(tmp_path))


def port(backend: DatabaseBackend, name: str = "vhu1", **settings: Any) -> Port:
    return Port(name=name, **{"bridge": "br0", "path": str(backend.folder / name), "owner": OWNER, **settings})


# Changes of the database by others while the engine works on it.


class Meddler(Database):
    """A connection before whose n-th transaction another program makes a change, once."""

    at = 0
    deed: Callable[[], object] | None = None

    def transact(self, operations: list[dict[str, Any]], deadline: float) -> list[dict[str, Any]]:
        Meddler.at -= 1
        if Meddler.at == 0 and Meddler.deed is not None:
            Meddler.deed()
        return super().transact(operations, deadline)


@pytest.fixture
def meddling(monkeypatch) -> Callable[[int, Callable[[], object]], None]:
    monkeypatch.setattr("cni.userspace.vswitch.ovs.Database", Meddler)

    def meddle(at: int, deed: Callable[[], object]) -> None:
        Meddler.at, Meddler.deed = at, deed

    return meddle


def test_a_bridge_that_comes_between_two_looks_is_used_as_it_is(backend, meddling):
    # Neither the first attempt nor the lookup finds a bridge; the second attempt would create it.
    meddling(3, lambda: backend.add_bridge("br9", "netdev"))
    backend.vswitch.plug(port(backend, bridge="br9"), create_bridge=True)
    backend.vswitch.unplug(OWNER)
    # It is not ours, so it stays.
    backend.remove_bridge("br9")


def test_a_bridge_that_goes_between_two_looks_is_made(backend, meddling):
    backend.add_bridge("br9", "netdev")
    before = backend.snapshot()
    backend.remove_bridge("br9")
    meddling(2, lambda: backend.add_bridge("br9", "netdev"))
    assert backend.vswitch.plug(port(backend, bridge="br9"), create_bridge=True).port.bridge == "br9"
    backend.vswitch.unplug(OWNER)
    assert backend.snapshot() == before


def test_a_port_that_another_client_removes_while_it_is_unplugged_is_gone(backend, meddling):
    before = backend.snapshot()
    backend.vswitch.plug(port(backend))
    meddling(2, lambda: backend.remove_foreign_port("vhu1"))
    backend.vswitch.unplug(OWNER)
    assert backend.snapshot() == before


def test_a_port_whose_mark_another_client_removes_while_it_is_unplugged_stays(backend, meddling):
    backend.vswitch.plug(port(backend))

    def unmark() -> None:
        backend._done(update("Port", [equals("name", "vhu1")], {"external_ids": to_map({})}))

    meddling(2, unmark)
    backend.vswitch.unplug(OWNER)
    assert [seen.port.name for seen in backend.vswitch.show(name="vhu1")] == ["vhu1"]


def test_a_bridge_of_ours_that_gets_a_port_while_it_is_removed_stays(backend, meddling):
    backend.vswitch.plug(port(backend, bridge="br9"), create_bridge=True)
    # After the lookup of the ports, their removal, and the lookup of the bridges.
    meddling(4, lambda: backend.add_foreign_port("br9", "theirs", "/run/theirs"))
    backend.vswitch.unplug(OWNER)
    assert backend.vswitch.show(name="theirs")[0].port.bridge == "br9"


def test_a_port_that_another_client_removes_while_it_is_made_is_no_success(backend, meddling):
    before = backend.snapshot()
    # After its insertion and the wait for ovs-vswitchd.
    meddling(3, lambda: backend.remove_foreign_port("vhu1"))
    with pytest.raises(TryAgainLater, match="was removed while ovs-vswitchd made it"):
        backend.vswitch.plug(port(backend))
    assert backend.snapshot() == before


def test_what_the_database_itself_refuses_is_quoted_and_taken_back(backend):
    before = backend.snapshot()
    with pytest.raises(VswitchRefused, match="5000 is not in the valid range"):
        backend.vswitch.plug(port(backend, tag=5000))
    assert backend.snapshot() == before


def test_a_port_that_is_made_without_a_number_is_refused_and_taken_back(backend, monkeypatch):
    before = backend.snapshot()
    monkeypatch.setattr(FakeOvsdb, "_make", lambda _self, _interface: None)
    with pytest.raises(VswitchRefused, match=r"it gave the port no number \(ofport None\)"):
        backend.vswitch.plug(port(backend))
    assert backend.snapshot() == before


def test_limits_of_a_port_go_with_it_and_those_that_a_killed_call_left_too(backend):
    before = backend.snapshot()
    backend.vswitch.plug(port(backend, to_pod=Rate(kbit=8, burst_kbit=16)))
    assert any(line.startswith("QoS") for line in backend.snapshot())
    # The port was removed by hand: its limits stay.
    backend.remove_foreign_port("vhu1")
    assert backend.snapshot() != before
    backend.vswitch.unplug(OWNER)
    assert backend.snapshot() == before


def test_a_port_of_several_interfaces_and_other_limits_is_read(backend):
    backend.add_foreign_port("br0", "bond0", "/run/theirs")
    backend._done(
        update("Interface", [equals("name", "bond0")], {"name": "p0"}),
        insert("QoS", {"type": "linux-htb"}, "qos"),
        update("Port", [equals("name", "bond0")], {"qos": ["named-uuid", "qos"], "tag": 7}),
    )
    (seen,) = backend.vswitch.show(name="bond0")
    assert (seen.type, seen.ofport, seen.port.tag, seen.port.to_pod) == ("", None, 7, None)
    assert not seen.works


@pytest.mark.parametrize(("cir", "kbit"), [("125", 1), ("nonsense", 0), ("-5", 0), (None, 0)])
def test_numbers_that_an_administrator_wrote_are_read_or_are_none(backend, cir, kbit):
    backend.vswitch.plug(port(backend, to_pod=Rate(kbit=8, burst_kbit=16), tx_retries=3))
    config = to_map({} if cir is None else {"cir": cir})
    options = to_map({"vhost-server-path": "/p", "tx-retries-max": str(cir)})
    backend._done(
        update("QoS", [equals("type", QOS_TYPE)], {"other_config": config}),
        update("Interface", [equals("name", "vhu1")], {"options": options}),
    )
    (seen,) = backend.vswitch.show(name="vhu1")
    assert seen.port.to_pod == Rate(kbit=kbit, burst_kbit=0)
    assert seen.port.tx_retries == (125 if cir == "125" else None)


# The database in memory.


def test_a_wait_goes_on_when_what_it_awaits_has_happened(backend):
    awaited = wait("QoS", [], ("type",), [{"type": "awaited"}], milliseconds=10_000)
    timer = threading.Timer(0.05, backend._done, [insert("QoS", {"type": "awaited"}, "x")])
    timer.start()
    with Database(backend.fake.remote, time.monotonic() + 10) as database:
        assert database.transact([awaited], time.monotonic() + 10) == [{}]
    timer.join()


def test_after_a_refusal_the_connection_goes_on_and_nothing_has_changed(backend):
    before = backend.snapshot()
    row = insert("Bridge", {"name": "br0", "datapath_type": "netdev"}, "b")
    twice = [row, mutate("Open_vSwitch", [], "bridges", "insert", ["named-uuid", "b"])]
    with Database(backend.fake.remote, time.monotonic() + 10) as database:
        with pytest.raises(VswitchRefused, match="identical values") as refused:
            database.transact(twice, time.monotonic() + 10)
        assert (refused.value.operation, refused.value.reason) == (2, "constraint violation")
        (answer,) = database.transact([select("Bridge", [equals("name", "br0")], ("ports",))], time.monotonic() + 10)
        assert len(from_set(answer["rows"][0]["ports"])) == 1
    assert backend.snapshot() == before


def test_what_is_referred_to_cannot_be_deleted(backend):
    backend.vswitch.plug(port(backend, to_pod=Rate(kbit=8)))
    before = backend.snapshot()
    with Database(backend.fake.remote, time.monotonic() + 10) as database:
        with pytest.raises(VswitchRefused, match="referential integrity violation"):
            database.transact([delete("QoS", [equals("type", QOS_TYPE)])], time.monotonic() + 10)
        with pytest.raises(VswitchRefused, match="No table named Nothing"):
            database.transact([select("Nothing", [], ("name",))], time.monotonic() + 10)
    assert backend.snapshot() == before
