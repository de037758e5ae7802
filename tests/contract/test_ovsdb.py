"""The OVSDB client against the real ovsdb-server, python-ovs, and servers that misbehave."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, strategies as st
from ovs.db import data, idl, types
from ovs.db.schema import DbSchema
from ovs.poller import Poller

from cni.errors import TryAgainLater, VswitchRefused
from cni.userspace.vswitch.model import Owner, Port, PortStatus, Rate
from cni.userspace.vswitch.operations import (
    delete,
    equals,
    from_map,
    from_set,
    includes,
    insert,
    mutate,
    named,
    select,
    to_map,
    to_set,
    update,
    wait,
)
from cni.userspace.vswitch.ovs import OvsDpdk
from cni.userspace.vswitch.ovsdb import Database
from tests.ovs.daemon import SCHEMA, Daemon

SECONDS = 10.0
OWNER = Owner(container_id="c0ffee", ifname="net1", network="fast", pod_uid="f00d")


def soon(seconds: float = SECONDS) -> float:
    return time.monotonic() + seconds


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon(bridge="br0") as daemon:
        yield daemon


@pytest.fixture
def database(daemon) -> Iterator[Database]:
    with Database(daemon.remote, soon()) as database:
        yield database


@pytest.fixture
def replica(daemon) -> Iterator[Any]:
    """A copy of the whole database, maintained by python-ovs."""
    helper = idl.SchemaHelper(location=str(SCHEMA))
    helper.register_all()
    copy = idl.Idl(daemon.remote, helper)
    refresh(copy, copy.has_ever_connected)
    yield copy
    copy.close()


def refresh(copy: Any, ready: Callable[[], Any]) -> None:
    deadline = time.monotonic() + SECONDS
    while not ready():
        assert time.monotonic() < deadline, "python-ovs did not see it"
        if not copy.run():
            poller = Poller()
            copy.wait(poller)
            poller.timer_wait(100)
            poller.block()


def rows(copy: Any, table: str, name: str) -> list[Any]:
    return [row for row in copy.tables[table].rows.values() if row.name == name]


# python-ovs reads what we write, and we read what python-ovs writes


def test_python_ovs_reads_every_attribute_of_a_port_that_we_made(daemon, replica):
    wanted = Port(
        name="vhu1",
        bridge="br0",
        path=str(daemon.folder / "vhu1.sock"),
        owner=OWNER,
        vlan_mode="native-tagged",
        tag=5,
        trunks=(6, 7),
        mtu=1400,
        from_pod=Rate(kbit=1000, burst_kbit=300),
        to_pod=Rate(kbit=2000, burst_kbit=400),
        tx_retries=0,
        tx_steering="hash",
    )
    engine = OvsDpdk(daemon.remote)
    engine.plug(wanted)
    refresh(replica, lambda: rows(replica, "Port", "vhu1"))
    (port,) = rows(replica, "Port", "vhu1")
    mark = {"owner": "barewire", "container-id": "c0ffee", "ifname": "net1", "network": "fast", "pod-uid": "f00d"}
    assert (port.tag, port.trunks, port.vlan_mode, port.external_ids) == ([5], [6, 7], ["native-tagged"], mark)
    (interface,), (qos,) = port.interfaces, port.qos
    assert (interface.name, interface.type, interface.external_ids) == ("vhu1", "dpdkvhostuserclient", mark)
    assert interface.options == {"vhost-server-path": wanted.path, "tx-retries-max": "0"}
    assert (interface.other_config, interface.mtu_request) == ({"tx-steering": "hash"}, [1400])
    assert (interface.ingress_policing_rate, interface.ingress_policing_burst) == (1000, 300)
    assert (qos.type, qos.other_config, qos.queues) == ("egress-policer", {"cir": "250000", "cbs": "50000"}, {})
    assert [bridge.name for bridge in replica.tables["Bridge"].rows.values() if port in bridge.ports] == ["br0"]
    engine.unplug(OWNER)
    refresh(replica, lambda: not rows(replica, "Port", "vhu1") and not replica.tables["QoS"].rows)


def test_the_vswitch_itself_has_what_the_port_says(daemon):
    engine = OvsDpdk(daemon.remote)
    path = str(daemon.folder / "vhu1.sock")
    engine.plug(Port(name="vhu1", bridge="br0", path=path, owner=OWNER, tag=5, to_pod=Rate(kbit=8, burst_kbit=16)))
    assert daemon.datapath_ports() == {"br0", "vhu1"}
    assert daemon.appctl("qos/show", "vhu1").split() == "QoS: vhu1 egress-policer cir: 1000 cbs: 2000".split()
    assert daemon.vsctl("--columns=tag", "--bare", "list", "Port", "vhu1") == "5"
    assert daemon.vsctl("get", "Interface", "vhu1", "error") == "[]"
    engine.unplug(OWNER)
    assert daemon.datapath_ports() == {"br0"}


def test_we_read_a_port_that_python_ovs_made(daemon, replica):
    transaction = idl.Transaction(replica)
    interface, port, qos = (transaction.insert(replica.tables[table]) for table in ("Interface", "Port", "QoS"))
    interface.name = port.name = "theirs"
    interface.type = "dpdkvhostuserclient"
    interface.options = {"vhost-server-path": "/run/theirs.sock", "tx-retries-max": "2"}
    interface.mtu_request = 9000
    interface.ingress_policing_rate = 10
    interface.ingress_policing_burst = 20
    qos.type, qos.other_config = "egress-policer", {"cir": "125", "cbs": "2500"}
    port.interfaces, port.qos, port.tag, port.trunks = [interface], [qos], [3], [9, 8]
    (bridge,) = rows(replica, "Bridge", "br0")
    bridge.addvalue("ports", port)
    assert transaction.commit_block() == idl.Transaction.SUCCESS
    daemon.await_vswitchd()
    (seen,) = OvsDpdk(daemon.remote).show(name="theirs")
    assert seen.works
    expected = Port(
        name="theirs",
        bridge="br0",
        path="/run/theirs.sock",
        tag=3,
        trunks=(8, 9),
        mtu=9000,
        from_pod=Rate(kbit=10, burst_kbit=20),
        to_pod=Rate(kbit=1, burst_kbit=20),
        tx_retries=2,
    )
    assert seen.port == expected
    daemon.vsctl("del-port", "theirs")
    daemon.vsctl("--all", "destroy", "QoS")


def test_a_port_that_has_nothing_of_ours_is_read_too(daemon):
    daemon.vsctl("add-port", "br0", "int0", "--", "set", "Interface", "int0", "type=internal")
    (seen,) = OvsDpdk(daemon.remote).show(name="int0")
    assert (seen.type, seen.works, seen.port) == ("internal", True, Port(name="int0", bridge="br0", path=""))
    daemon.vsctl("--no-wait", "add-bond", "br0", "bond0", "p0", "p1")
    (bond,) = OvsDpdk(daemon.remote).show(name="bond0")
    nothing = Port(name="bond0", bridge="br0", path="")
    assert bond == PortStatus(port=nothing, type="", ofport=None, error="", link_state="")
    daemon.vsctl("del-port", "int0", "--", "del-port", "bond0")


MAP = types.Type(types.BaseType(types.StringType), types.BaseType(types.StringType), 0, 100)
SET = types.Type(types.BaseType(types.IntegerType), None, 0, 100)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def as_it_is(value: Any, _type: Any = None) -> Any:
    """The function with which python-ovs resolves references to rows; here there are none."""
    return value


@given(st.dictionaries(TEXT, TEXT, max_size=5))
def test_maps_mean_to_python_ovs_what_they_mean_to_us(entries):
    assert data.Datum.from_json(MAP, to_map(entries)).to_python(as_it_is) == entries
    assert from_map(data.Datum.from_python(MAP, entries, as_it_is).to_json()) == entries


@given(st.sets(st.integers(-(2**62), 2**62), max_size=5))
def test_sets_mean_to_python_ovs_what_they_mean_to_us(elements):
    assert data.Datum.from_json(SET, to_set(sorted(elements))).to_python(as_it_is) == sorted(elements)
    assert from_set(data.Datum.from_python(SET, sorted(elements), as_it_is).to_json()) == sorted(elements)


def test_all_columns_that_we_name_are_in_the_schema():
    from cni.userspace.vswitch.rows import INTERFACE_COLUMNS, PORT_COLUMNS, QOS_COLUMNS

    schema = DbSchema.from_json(json.loads(SCHEMA.read_text()))
    for table, columns in (("Port", PORT_COLUMNS), ("Interface", INTERFACE_COLUMNS), ("QoS", QOS_COLUMNS)):
        assert set(columns) <= {"_uuid", *schema.tables[table].columns}


# Transactions


def test_operations_have_their_results_in_order(database):
    results = database.transact(
        [
            insert("QoS", {"type": "one", "external_ids": to_map({"test": "yes"})}, "row"),
            insert("QoS", {"type": "two", "external_ids": to_map({"test": "yes"})}, "other"),
            update("QoS", [equals("type", "two")], {"type": "three"}),
            mutate("QoS", [equals("type", "one")], "external_ids", "insert", to_map({"more": 'ä €\n"\\'})),
            select("QoS", [includes("external_ids", to_map({"more": 'ä €\n"\\'}))], ("type",)),
            delete("QoS", [includes("external_ids", to_map({"test": "yes"}))]),
            select("QoS", [], ("type",)),
        ],
        soon(),
    )
    assert results[2:] == [{"count": 1}, {"count": 1}, {"rows": [{"type": "one"}]}, {"count": 2}, {"rows": []}]


def test_a_refused_operation_is_named_and_none_takes_effect(daemon, database):
    before = daemon.dump()
    wrong = [insert("QoS", {"type": "x"}, "qos"), insert("Port", {"name": "p", "tag": 5000}, "port")]
    with pytest.raises(VswitchRefused, match="5000 is not in the valid range") as caught:
        database.transact(wrong, soon())
    assert (caught.value.operation, caught.value.reason) == (1, "constraint violation")
    assert daemon.dump() == before


def test_a_refused_commit_is_named_behind_the_operations(database):
    bridge = {"name": "br0"}
    twice = [insert("Bridge", bridge, "b"), mutate("Open_vSwitch", [], "bridges", "insert", named("b"))]
    with pytest.raises(VswitchRefused, match="identical values") as caught:
        database.transact(twice, soon())
    assert (caught.value.operation, caught.value.reason) == (2, "constraint violation")


def test_a_table_that_is_not_there_is_refused(database):
    with pytest.raises(VswitchRefused, match="No table named Nothing"):
        database.transact([select("Nothing", [], ("name",))], soon())


def test_after_a_refusal_the_connection_goes_on(database):
    with pytest.raises(VswitchRefused):
        database.transact([wait("Bridge", [])], soon())
    assert database.transact([wait("Bridge", [equals("name", "br1")])], soon()) == [{}]


def test_a_wait_goes_on_when_what_it_awaits_has_happened(daemon, database):
    deadline = soon()
    waiting = wait("QoS", [], ("type",), [{"type": "awaited"}], milliseconds=int(SECONDS * 1000))
    thread = threading.Timer(0.1, daemon.transact, [insert("QoS", {"type": "awaited"}, "x")])
    thread.start()
    assert database.transact([waiting], deadline) == [{}]
    thread.join()
    database.transact([delete("QoS", [])], soon())


def test_a_wait_that_is_in_vain_ends_in_the_server(database):
    with pytest.raises(VswitchRefused, match="wait") as caught:
        database.transact([wait("Bridge", [], milliseconds=50)], soon())
    assert (caught.value.operation, caught.value.reason) == (0, "timed out")


def test_an_answer_of_megabytes_is_read(daemon, database):
    database.transact([insert("QoS", {"type": "x" * 1000}, f"q{n}") for n in range(3000)], soon())
    (answer,) = database.transact([select("QoS", [], ("_uuid", "type"))], soon())  # equal rows are returned once
    assert len(answer["rows"]) == 3000
    database.transact([delete("QoS", [])], soon())


def test_tcp_does_what_a_unix_socket_does():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number = probe.getsockname()[1]
    daemon = Daemon()
    try:
        daemon.start_database(f"ptcp:{number}:127.0.0.1")
        with Database(f"tcp:127.0.0.1:{number}", soon()) as database:
            assert database.transact([select("Bridge", [], ("name",))], soon()) == [{"rows": []}]
    finally:
        daemon.end()


def test_a_deadline_that_has_passed_asks_nothing(daemon):
    before = daemon.dump()
    with Database(daemon.remote, soon()) as database, pytest.raises(TryAgainLater, match="no time is left"):
        database.transact([insert("QoS", {"type": "late"}, "q")], time.monotonic() - 1)
    assert daemon.dump() == before
