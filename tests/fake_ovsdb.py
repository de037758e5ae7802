"""Open vSwitch's database and its ovs-vswitchd in memory, on a unix socket, with the operations that our engine uses.

The protocol is RFC 7047. tests/contract/test_fake_ovsdb.py compares the responses with those of the real ovsdb-server,
and tests/contract/vswitch_contract.py tests the engine on this database and on real daemons.
"""

from __future__ import annotations

import copy
import json
import socket
import socketserver
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

Row = dict[str, Any]
Operation = dict[str, Any]

SET: frozenset[Any] = frozenset()
MAP: dict[str, str] = {}
_MARKED = {"external_ids": MAP}
COLUMNS: dict[str, Row] = {
    "Open_vSwitch": {"bridges": SET, "next_cfg": 0, "cur_cfg": 0, "iface_types": SET},
    "Bridge": {"name": "", "datapath_type": "", "ports": SET, **_MARKED},
    "Port": {"name": "", "interfaces": SET, "trunks": SET, "vlan_mode": SET, "tag": SET, "qos": SET, **_MARKED},
    "Interface": {
        "name": "",
        "type": "",
        "options": MAP,
        "other_config": MAP,
        "mtu_request": SET,
        "ingress_policing_rate": 0,
        "ingress_policing_burst": 0,
        "ofport": SET,
        "error": SET,
        "link_state": SET,
        "mtu": SET,
        **_MARKED,
    },
    "QoS": {"type": "", "other_config": MAP, **_MARKED},
}
"""The columns that the engine uses, with their defaults. An empty set stands for any set, including an optional value.
"""

REFERENCES = {
    ("Open_vSwitch", "bridges"): "Bridge",
    ("Bridge", "ports"): "Port",
    ("Port", "interfaces"): "Interface",
    ("Port", "qos"): "QoS",
}
OWNED = ("Bridge", "Port", "Interface")
"""Tables whose rows are removed when nothing refers to them any more."""

MEASURED = ("next_cfg", "cur_cfg", "ofport", "error", "link_state", "mtu", "iface_types")
TYPE, UNABLE = "dpdkvhostuserclient", "could not open network device"
_SECONDS = 30.0


class _Refused(Exception):
    def __init__(self, error: str, details: str) -> None:
        super().__init__(error)
        self.answer = {"error": error, "details": details}


class FakeOvsdb:
    """`daemon` is True if ovs-vswitchd runs, `capable` if it can create vhost-user ports."""

    def __init__(self, folder: Path) -> None:
        self.remote = f"unix:{folder}/db.sock"
        self._path = f"{folder}/db.sock"
        self._changed = threading.Condition()
        self._numbers = 0
        self._daemon = self._capable = True
        self.tables: dict[str, dict[str, Row]] = {table: {} for table in COLUMNS}
        self.tables["Open_vSwitch"][str(uuid.uuid4())] = copy.deepcopy(COLUMNS["Open_vSwitch"])
        self._take_over()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        self._server = _Server(self._path, self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        """Ends the database. The next start has its content."""
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join(_SECONDS)
        Path(self._path).unlink()

    @contextmanager
    def without_database(self) -> Iterator[None]:
        self.stop()
        yield
        self.start()

    @contextmanager
    def without_daemon(self) -> Iterator[None]:
        self._daemon = False
        yield
        self._daemon = True
        self._take_over()

    @contextmanager
    def incapable(self) -> Iterator[None]:
        self._capable = False
        self._take_over(anew=True)
        yield
        self._capable = True
        self._take_over(anew=True)

    def snapshot(self) -> list[str]:
        """The rows and their references as lines, without the columns that ovs-vswitchd writes."""
        with self._changed:
            names = {one: row.get("name", "") for rows in self.tables.values() for one, row in rows.items()}
            return sorted(
                f"{table} {_readable(row, names)}" for table, rows in self.tables.items() for row in rows.values()
            )

    def transact(self, operations: list[Operation]) -> list[Any]:
        """The results, as ovsdb-server returns them: a failed operation has its error, and later ones are null."""
        with self._changed:
            before = copy.deepcopy(self.tables)
            named = {one["uuid-name"]: str(uuid.uuid4()) for one in operations if one["op"] == "insert"}
            results: list[Any] = []
            try:
                for operation in operations:
                    results.append(self._done(operation, named))  # noqa: PERF401 - those before a refused one count
                self._commit()
            except _Refused as refused:
                self.tables = before
                behind = len(operations) - len(results) - 1
                return [*results, refused.answer, *[None] * behind]
            if self.tables != before:
                self._take_over()
            return results

    # Operations.

    def _done(self, operation: Operation, named: dict[str, str]) -> Any:
        table = self.tables.get(operation["table"])
        if table is None:
            raise _Refused("syntax error", f"No table named {operation['table']}.")
        run = getattr(self, f"_{operation['op']}")
        return run(operation, operation["table"], named)

    def _insert(self, operation: Operation, table: str, named: dict[str, str]) -> Any:
        row = copy.deepcopy(COLUMNS[table])
        row.update(_decoded(table, operation["row"], named))
        identity = named[operation["uuid-name"]]
        self.tables[table][identity] = row
        return {"uuid": ["uuid", identity]}

    def _select(self, operation: Operation, table: str, named: dict[str, str]) -> Any:
        rows = [_shown(identity, row, operation["columns"]) for identity, row in self._found(operation, table, named)]
        return {"rows": [row for at, row in enumerate(rows) if row not in rows[:at]]}

    def _update(self, operation: Operation, table: str, named: dict[str, str]) -> Any:
        found = self._found(operation, table, named)
        for _identity, row in found:
            row.update(_decoded(table, operation["row"], named))
        return {"count": len(found)}

    def _mutate(self, operation: Operation, table: str, named: dict[str, str]) -> Any:
        found = self._found(operation, table, named)
        for _identity, row in found:
            for column, mutator, value in operation["mutations"]:
                row[column] = _mutated(row[column], mutator, _value(row[column], value, named))
        return {"count": len(found)}

    def _delete(self, operation: Operation, table: str, named: dict[str, str]) -> Any:
        found = self._found(operation, table, named)
        for identity, _row in found:
            del self.tables[table][identity]
        return {"count": len(found)}

    def _wait(self, operation: Operation, table: str, named: dict[str, str]) -> Any:
        def is_so() -> bool:
            found = self._found(operation, table, named)
            rows = [_shown(identity, row, operation["columns"]) for identity, row in found]
            wanted = [{**dict.fromkeys(operation["columns"]), **row} for row in operation["rows"]]
            return sorted(map(_canonical, rows)) == sorted(map(_canonical, wanted))

        # Other threads, which have the lock meanwhile, do what is awaited.
        if not self._changed.wait_for(is_so, operation["timeout"] / 1000):
            raise _Refused("timed out", '"wait" timed out')
        return {}

    def _found(self, operation: Operation, table: str, named: dict[str, str]) -> list[tuple[str, Row]]:
        return [
            (identity, row)
            for identity, row in self.tables[table].items()
            if all(_holds(identity, row, condition, named) for condition in operation["where"])
        ]

    # Commit.

    def _commit(self) -> None:
        self._require_whole()
        # Unreferenced rows are removed, which can make others unreferenced.
        while gone := [
            (table, one) for table in OWNED for one in self.tables[table] if one not in self._referred(table)
        ]:
            for table, identity in gone:
                del self.tables[table][identity]
        for table in OWNED:
            names = [row["name"] for row in self.tables[table].values()]
            if len(set(names)) != len(names):
                words = f'Transaction causes multiple rows in "{table}" table to have identical values for index on column "name".'
                raise _Refused("constraint violation", words)

    def _require_whole(self) -> None:
        """Even rows that are about to be removed must not refer to a deleted row."""
        for table in set(REFERENCES.values()):
            missing = self._referred(table) - set(self.tables[table])
            if missing:
                raise _Refused(
                    "referential integrity violation",
                    f"cannot delete {table} row {missing.pop()} because of references",
                )

    def _referred(self, target: str) -> set[str]:
        return {
            one[1]
            for (table, column), referred in REFERENCES.items()
            for row in self.tables[table].values()
            for one in row[column]
            if referred == target
        }

    # ovs-vswitchd.

    def _take_over(self, *, anew: bool = False) -> None:
        """Does what the daemon does after a change: creates ports, and sets the number of the applied configuration."""
        if not self._daemon:
            return
        with self._changed:
            (root,) = self.tables["Open_vSwitch"].values()
            root["iface_types"] = frozenset({"internal", "system", *([TYPE] if self._capable else [])})
            for interface in self.tables["Interface"].values():
                if anew or not interface["ofport"]:
                    self._make(interface)
            root["cur_cfg"] = root["next_cfg"]
            self._changed.notify_all()

    def _make(self, interface: Row) -> None:
        if interface["type"] == TYPE and not self._capable:
            interface.update(ofport=frozenset({-1}), error=frozenset({f"{UNABLE} {interface['name']}"}))
            return
        self._numbers += 1
        interface.update(ofport=frozenset({self._numbers}), error=SET, link_state=frozenset({"down"}))


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(self, path: str, database: FakeOvsdb) -> None:
        self.database = database
        self._open: set[socket.socket] = set()
        super().__init__(path, _Connection)

    def hang_up(self) -> None:
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)


class _Connection(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        text = b""
        with suppress(OSError):
            while chunk := self.request.recv(1 << 16):
                text += chunk
                with suppress(json.JSONDecodeError):
                    request, text = json.loads(text), b""
                    results = self.server.database.transact(request["params"][1:])
                    self.request.sendall(json.dumps({"id": request["id"], "error": None, "result": results}).encode())


def _readable(row: Row, names: dict[str, str]) -> str:
    """The row, with the names of the rows that it refers to."""

    def told(value: Any) -> Any:
        if isinstance(value, frozenset):
            return sorted(str(told(one)) for one in value)
        return names.get(value[1]) if isinstance(value, tuple) else value

    return str({column: told(value) for column, value in row.items() if column not in MEASURED})


def _atom(value: Any, named: dict[str, str]) -> Any:
    if isinstance(value, list):
        return ("uuid", named[value[1]] if value[0] == "named-uuid" else value[1])
    return value


def _value(like: Any, value: Any, named: dict[str, str]) -> Any:
    """The meaning of a JSON value in a column with values like `like`."""
    if isinstance(like, dict):
        return dict(value[1])
    if isinstance(like, frozenset):
        elements = value[1] if isinstance(value, list) and value[0] == "set" else [value]
        return frozenset(_atom(one, named) for one in elements)
    return _atom(value, named)


def _decoded(table: str, row: Row, named: dict[str, str]) -> Row:
    decoded = {column: _value(COLUMNS[table][column], value, named) for column, value in row.items()}
    tags = decoded.get("tag", SET) | decoded.get("trunks", SET)
    if any(not 0 <= tag <= 4095 for tag in tags):
        raise _Refused("constraint violation", f"{max(tags)} is not in the valid range 0 to 4095 (inclusive)")
    return decoded


def _encoded(value: Any) -> Any:
    if isinstance(value, dict):
        return ["map", [[key, text] for key, text in sorted(value.items())]]
    if isinstance(value, frozenset):
        elements = [_encoded(one) for one in sorted(value)]
        return elements[0] if len(elements) == 1 else ["set", elements]
    return list(value) if isinstance(value, tuple) else value


def _shown(identity: str, row: Row, columns: list[str]) -> Row:
    return {column: _encoded(("uuid", identity) if column == "_uuid" else row[column]) for column in columns}


def _canonical(row: Row) -> str:
    return json.dumps(row, sort_keys=True)


def _holds(identity: str, row: Row, condition: list[Any], named: dict[str, str]) -> bool:
    column, function, value = condition
    present = ("uuid", identity) if column == "_uuid" else row[column]
    wanted = _value(present, value, named)
    if function == "includes" and isinstance(present, dict):
        return bool(wanted.items() <= present.items())
    if function == "includes" and isinstance(present, frozenset):
        return bool(wanted <= present)
    return bool(present < wanted if function == "<" else present == wanted)


def _mutated(present: Any, mutator: str, value: Any) -> Any:
    if mutator == "+=":
        return present + value
    if isinstance(present, dict):
        # An existing key keeps its value, and is removed only with its value.
        left = {key: text for key, text in present.items() if value.get(key) != text}
        return {**value, **present} if mutator == "insert" else left
    return present | value if mutator == "insert" else present - value
