"""The database in memory responds as the real ovsdb-server does: equal transactions have equal results."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cni.errors import VswitchRefused
from cni.userspace.vswitch.operations import (
    delete,
    equals,
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
from cni.userspace.vswitch.ovsdb import Database
from tests.fake_ovsdb import FakeOvsdb
from tests.ovs.daemon import Daemon

MARK = {"owner": "tests"}
OURS = [includes("external_ids", to_map(MARK))]
BRIDGE = {"name": "br0", "datapath_type": "netdev", "ports": named("port"), "external_ids": to_map(MARK)}
PORT = {
    "name": "p0",
    "interfaces": named("interface"),
    "external_ids": to_map(MARK),
    "trunks": to_set((7, 8)),
    "tag": 5,
}
INTERFACE = {"name": "p0", "type": "internal", "external_ids": to_map(MARK), "options": to_map({"a": "1", "b": "2"})}
LIMITS = {"type": "limits", "external_ids": to_map(MARK), "other_config": to_map({"cir": "1"})}

MAKE = [
    insert("Interface", INTERFACE, "interface"),
    insert("QoS", LIMITS, "qos"),
    insert("Port", {**PORT, "qos": named("qos")}, "port"),
    insert("Bridge", BRIDGE, "bridge"),
    mutate("Open_vSwitch", [], "bridges", "insert", named("bridge")),
]
LOOK = [
    select("Bridge", [equals("name", "br0")], ("name", "datapath_type", "ports", "external_ids")),
    select("Port", OURS, ("name", "interfaces", "trunks", "tag", "qos", "vlan_mode", "external_ids")),
    select("Interface", OURS, ("name", "type", "options", "mtu_request", "ingress_policing_rate")),
    select("QoS", OURS, ("type", "other_config")),
]
TRANSACTIONS: dict[str, list[list[Any]]] = {
    "rows are made, read and referred to": [MAKE, LOOK],
    "a row that nothing refers to vanishes, one of a root table stays": [
        MAKE,
        [mutate("Open_vSwitch", [], "bridges", "delete", ["uuid", "BRIDGE"]), *LOOK],
    ],
    "a row alone is gone with its transaction": [[insert("Port", {**PORT, "interfaces": named("interface")}, "port"), insert("Interface", INTERFACE, "interface")], LOOK],
    "maps and sets change by their elements": [
        MAKE,
        [
            mutate("Interface", OURS, "options", "insert", to_map({"a": "9", "c": "3"})),
            mutate("Port", OURS, "trunks", "delete", to_set((7, 9))),
            mutate("Port", OURS, "trunks", "insert", 11),
            *LOOK,
        ],
        [mutate("Interface", OURS, "options", "delete", to_map({"a": "1", "b": "other"})), *LOOK],
    ],
    "an update takes the place of a column": [MAKE, [update("Port", OURS, {"trunks": to_set(()), "tag": to_set(())}), *LOOK]],
    "two of one name are refused when all is done": [MAKE, [*MAKE], LOOK],
    "a wait that is not so refuses at once, and nothing behind it counts": [
        MAKE,
        [wait("Port", [equals("name", "p0")]), delete("QoS", OURS)],
        [insert("QoS", LIMITS, "more"), wait("Port", [equals("name", "p0")], ("name",), [{"name": "p1"}], milliseconds=1)],
        [wait("Port", [equals("name", "p0")], ("name",), [{"name": "p0"}]), wait("Port", [equals("name", "none")])],
        LOOK,
    ],
    "a row that another refers to cannot be deleted": [MAKE, [delete("QoS", OURS)], LOOK],
    "a row whose last user goes in the same transaction cannot, either": [
        MAKE,
        [mutate("Bridge", OURS, "ports", "delete", ["uuid", "PORT"]), delete("QoS", OURS)],
        [update("Port", OURS, {"qos": to_set(())}), mutate("Bridge", OURS, "ports", "delete", ["uuid", "PORT"]), delete("QoS", OURS)],
        LOOK,
    ],
    "numbers out of range are refused": [[insert("Interface", INTERFACE, "interface"), insert("Port", {**PORT, "tag": 4096}, "port")]],
    "a table that is not there is refused": [[select("Nothing", [], ("name",))]],
    "equal rows are given once": [[insert("QoS", LIMITS, "a"), insert("QoS", LIMITS, "b"), select("QoS", OURS, ("type",))]],
    "conditions select by map, set, number and identity": [
        MAKE,
        [
            select("Interface", [includes("options", to_map({"a": "1"}))], ("name",)),
            select("Interface", [includes("options", to_map({"a": "2"}))], ("name",)),
            select("Port", [includes("trunks", to_set((8,)))], ("name",)),
            select("Port", [equals("trunks", 8)], ("name",)),
            select("Port", [equals("_uuid", ["uuid", "PORT"])], ("name",)),
            select("Open_vSwitch", [["cur_cfg", "<", 0]], ("cur_cfg",)),
        ],
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def real() -> Iterator[str]:
    """An ovsdb-server without an ovs-vswitchd."""
    daemon = Daemon()
    try:
        daemon.start_database()
        daemon.vsctl("--no-wait", "init")
        yield daemon.remote
    finally:
        daemon.end()


def answers(remote: str, transactions: list[list[Any]]) -> list[Any]:
    """The responses of the database, with names for its UUIDs. It is empty again afterwards."""
    deadline = time.monotonic() + 30
    known: dict[str, str] = {}
    told: list[Any] = []
    with Database(remote, deadline) as database:
        for operations in transactions:
            text = json.dumps(operations)
            for identity, name in known.items():
                text = text.replace(f'"{name}"', f'"{identity}"')
            try:
                results = database.transact(json.loads(text), deadline)
            except VswitchRefused as refusal:
                told.append((refusal.operation, refusal.reason))
                continue
            for operation, result in zip(operations, results, strict=True):
                if operation["op"] == "insert":
                    known[result["uuid"][1]] = operation["uuid-name"].upper()
            text = json.dumps(results, sort_keys=True)
            for identity, name in known.items():
                text = text.replace(identity, name)
            told.append(json.loads(text))
        database.transact([update("Open_vSwitch", [], {"bridges": to_set(())})], deadline)
        database.transact([delete("QoS", [])], deadline)
    return told


@pytest.mark.parametrize("name", TRANSACTIONS)
def test_the_same_transactions_have_the_same_results(name, real, tmp_path):
    with FakeOvsdb(tmp_path) as fake:
        assert answers(fake.remote, TRANSACTIONS[name]) == answers(real, TRANSACTIONS[name])
