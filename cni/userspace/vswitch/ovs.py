"""The engine `ovs-dpdk`: ports of Open vSwitch's userspace datapath, made through its database.

A port's row in the database is a wish. What came of it is known when ovs-vswitchd has raised `cur_cfg` to the
`next_cfg` of the transaction; then `ofport` and `error` tell. So each change bumps `next_cfg`, and the database itself
waits for `cur_cfg` in a `wait` operation: nothing is polled, and the vswitch's tables are not copied.
"""

from __future__ import annotations

import time

from cni.errors import (
    BridgeUnfit,
    LimitedConnectivity,
    NotAvailable,
    PortTaken,
    TryAgainLater,
    VswitchRefused,
)
from cni.rollback import on_failure
from cni.userspace.vswitch.model import MARK, SOCKET, key
from cni.userspace.vswitch.operations import (
    delete,
    equals,
    from_set,
    includes,
    insert,
    mutate,
    named,
    select,
    to_map,
    to_set,
    update,
    uuid,
    wait,
)
from cni.userspace.vswitch.ovsdb import Database
from cni.userspace.vswitch.remote import REMOTE
from cni.userspace.vswitch.rows import (
    INTERFACE_COLUMNS,
    INTERFACE_TYPE,
    PATH,
    PORT_COLUMNS,
    QOS_COLUMNS,
    interface_row,
    port_row,
    qos_row,
    seen,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.errors import CniError
    from cni.jsontext import JsonObject
    from cni.userspace.vswitch.model import Owner, Port, PortStatus
    from cni.userspace.vswitch.operations import Condition, Operation

SECONDS = 20.0
"""Bound of one call. ovs-vswitchd needs some milliseconds for a port, and seconds when it (re)builds all of them."""

ROLLBACK_SECONDS = 5.0
"""Bound for taking back a port that failed; the database alone does that."""

APPLIED_SECONDS = 2.0
"""How long `unplug` lets ovs-vswitchd take note before it returns: see `_wait_applied`."""

_GRACE_SECONDS = 1.0
"""How much longer the client waits than it lets the database wait: the answer is on its way then."""

_ROOT = "Open_vSwitch"
_USERSPACE = "netdev"
_OURS = {"owner": MARK}
_BRIDGE_GUARD = 0


class OvsDpdk:
    """Implements `cni.userspace.vswitch.engine.Vswitch`. Each call has a connection of its own."""

    def __init__(self, remote: str = REMOTE, *, seconds: float = SECONDS) -> None:
        self._remote = remote
        self._seconds = seconds

    def status(self, bridge: str = "", *, create_bridge: bool = False) -> None:
        """Lets ovs-vswitchd go through its configuration once: a socket that accepts proves nothing."""
        deadline = time.monotonic() + self._seconds
        try:
            with Database(self._remote, deadline) as database:
                generation = _generation(database.transact(_bump(), deadline))
                _await_generation(database, generation, deadline)
                root = database.transact([select(_ROOT, [], ("iface_types",))], deadline)[0]["rows"][0]
                types = from_set(root["iface_types"])
                row = _bridge(database, bridge, deadline)
        except _VswitchSilent as error:
            raise LimitedConnectivity(error.msg, hint=error.hint) from error
        except TryAgainLater as error:
            raise NotAvailable(error.msg, hint=error.hint) from error
        if INTERFACE_TYPE not in types:
            raise NotAvailable(
                f"ovs-vswitchd at {self._remote} knows no ports of type {INTERFACE_TYPE}",
                hint="run the DPDK build of ovs-vswitchd, and set other_config:dpdk-init=true",
            )
        unfit = _unfit(bridge, row, create_bridge) if bridge else None
        if unfit is not None:
            raise NotAvailable(unfit.msg, hint=unfit.hint)

    def plug(self, port: Port, *, create_bridge: bool = False) -> PortStatus:
        deadline = time.monotonic() + self._seconds
        with Database(self._remote, deadline) as database:
            with on_failure(self._remove, port.owner, port.name, ROLLBACK_SECONDS):
                answer = _insert(database, port, create_bridge, deadline)
                if isinstance(answer, int):
                    return _made(database, port, answer, deadline)
            # A refusal is no failure up there: the database took nothing, and the owner may have an earlier port.
            raise answer

    def unplug(self, owner: Owner, *, name: str = "") -> None:
        self._remove(owner, name, self._seconds, waits=True)

    def show(self, *, owner: Owner | None = None, name: str = "") -> list[PortStatus]:
        where = [includes("external_ids", to_map(key(owner) if owner else _OURS))] if owner or not name else []
        if name:
            where.append(equals("name", name))
        deadline = time.monotonic() + self._seconds
        with Database(self._remote, deadline) as database:
            return _look(database, where, deadline)

    def _remove(self, owner: Owner, name: str, seconds: float, *, waits: bool = False) -> None:
        deadline = time.monotonic() + seconds
        with Database(self._remote, deadline) as database:
            generation = _remove_ports(database, owner, name, deadline)
            generation = max(generation, _remove_empty_bridges(database, deadline))
            if waits and generation:
                _wait_applied(database, generation, deadline)


class _VswitchSilent(TryAgainLater):
    """The database answers, ovs-vswitchd does not."""


def _insert(database: Database, port: Port, create_bridge: bool, deadline: float) -> int | CniError:
    """The generation (`next_cfg`) with the port in it, or why the database may not have it."""
    creates = False
    while True:
        try:
            return _generation(database.transact(_insertion(port, creates), deadline))
        except VswitchRefused as refusal:
            if refusal.operation != _BRIDGE_GUARD:
                return _explained(refusal, port)
        # The bridge is not as supposed; it may come or go between this look and the next try, so there may be several.
        bridge = _bridge(database, port.bridge, deadline)
        unfit = _unfit(port.bridge, bridge, create_bridge)
        if unfit is not None:
            return unfit
        creates = bridge is None


def _unfit(name: str, row: JsonObject | None, create_bridge: bool) -> BridgeUnfit | None:
    """Why the bridge cannot have our ports."""
    if row is not None and row["datapath_type"] != _USERSPACE:
        return BridgeUnfit(
            f"bridge {name} has datapath_type {row['datapath_type'] or 'system'!r}, not {_USERSPACE!r}",
            hint="vhost-user ports work on bridges of the userspace datapath only",
        )
    if row is None and not create_bridge:
        return BridgeUnfit(f"there is no bridge {name}", hint="create it, with datapath_type netdev")
    return None


def _insertion(port: Port, creates_bridge: bool) -> list[Operation]:
    """One transaction: guards, which `_explained` knows by their places, and then the rows. The last result tells the generation."""
    bridge = [equals("name", port.bridge)]
    fit = [] if creates_bridge else [{"name": port.bridge, "datapath_type": _USERSPACE}]
    return [
        wait("Bridge", bridge, ("name", "datapath_type"), fit),
        wait("Port", [equals("name", port.name)]),
        wait("Interface", [equals("name", port.name)]),
        # OVS takes a second port on the same socket without a word, and it never works.
        wait("Interface", [includes("options", to_map({PATH: port.path}))]),
        wait("Port", [includes("external_ids", to_map(key(port.owner)))]),
        *([wait("Port", [includes("external_ids", to_map({**_OURS, SOCKET: port.socket}))])] if port.socket else []),
        *(_bridge_rows(port.bridge) if creates_bridge else []),
        *([insert("QoS", qos_row(port, port.to_pod), "qos")] if port.to_pod else []),
        insert("Interface", interface_row(port), "interface"),
        insert("Port", port_row(port, "interface", "qos"), "port"),
        mutate("Bridge", bridge, "ports", "insert", named("port")),
        *_bump(),
    ]


def _bridge_rows(name: str) -> list[Operation]:
    """A bridge is a port and an interface of its own name, too."""
    row = {
        "name": name,
        "datapath_type": _USERSPACE,
        "ports": named("local_port"),
        "external_ids": to_map(_OURS),
    }
    return [
        insert("Interface", {"name": name, "type": "internal"}, "local_interface"),
        insert("Port", {"name": name, "interfaces": named("local_interface")}, "local_port"),
        insert("Bridge", row, "bridge"),
        mutate(_ROOT, [], "bridges", "insert", named("bridge")),
    ]


def _explained(refusal: VswitchRefused, port: Port) -> CniError:
    """Which guard it was that refused, in words for people."""
    taken = {
        1: f"the vswitch already has a port {port.name}",
        2: f"the vswitch already has an interface {port.name}",
        3: f"the vswitch already has a port on the socket {port.path}",
        4: f"{port.owner.ifname} of container {port.owner.container_id} already has a port in {port.owner.network}",
        5: f"another attachment's port is on the socket {port.socket}",
    }
    # What follows the guards is refused with a reason; a guard only times out.
    if refusal.operation not in taken or refusal.reason != "timed out":
        return refusal
    return PortTaken(
        taken[refusal.operation], hint="`ovs-vsctl list Interface` shows it, external_ids tell whose it is"
    )


def _made(database: Database, port: Port, generation: int, deadline: float) -> PortStatus:
    """The port as ovs-vswitchd made it. Raises `VswitchRefused` with its words when it could not."""
    _await_generation(database, generation, deadline)
    found = _look(database, [equals("name", port.name)], deadline)
    if not found:
        raise TryAgainLater(f"port {port.name} was removed while ovs-vswitchd made it")
    if not found[0].works:
        words = found[0].error or f"it gave the port no number (ofport {found[0].ofport})"
        raise VswitchRefused(
            f"ovs-vswitchd could not make port {port.name} on {port.bridge}: {words}",
            hint="see ovs-vswitchd's log; is it the DPDK build, with other_config:dpdk-init=true?",
        )
    return found[0]


def _look(database: Database, where: list[Condition], deadline: float) -> list[PortStatus]:
    """The ports that `where` selects; it must hold for the port's interface alike."""
    answers = database.transact(
        [
            select("Port", where, PORT_COLUMNS),
            select("Interface", where, INTERFACE_COLUMNS),
            select("Bridge", [], ("name", "ports")),
        ],
        deadline,
    )
    ports, interfaces, bridges = (answer["rows"] for answer in answers)
    by_name = {row["name"]: row for row in interfaces}
    bridge_of = {port: bridge["name"] for bridge in bridges for port in from_set(bridge["ports"])}
    limits = _limits(database, ports, deadline)
    return [
        seen(
            row, by_name.get(row["name"]), bridge_of.get(row["_uuid"][1], ""), limits.get("".join(from_set(row["qos"])))
        )
        for row in ports
    ]


def _limits(database: Database, ports: list[JsonObject], deadline: float) -> dict[str, JsonObject]:
    """The QoS rows of these ports, by UUID."""
    wanted = [select("QoS", [equals("_uuid", uuid(one))], QOS_COLUMNS) for row in ports for one in from_set(row["qos"])]
    answers = database.transact(wanted, deadline) if wanted else []
    return {row["_uuid"][1]: row for answer in answers for row in answer["rows"]}


def _bridge(database: Database, name: str, deadline: float) -> JsonObject | None:
    rows = database.transact([select("Bridge", [equals("name", name)], ("datapath_type",))], deadline)[0]["rows"]
    return {"datapath_type": str(rows[0]["datapath_type"])} if rows else None


def _remove_ports(database: Database, owner: Owner, name: str, deadline: float) -> int:
    """Removes by mark, never by name alone. Returns the generation, 0 when there was nothing."""
    ports = [includes("external_ids", to_map(key(owner)))] + [equals("name", name)] * bool(name)
    limits = [includes("external_ids", to_map({**key(owner), **({"port": name} if name else {})}))]
    while True:
        answers = database.transact([select("Port", ports, ("_uuid",)), select("QoS", limits, ("_uuid",))], deadline)
        found, orphans = ([row["_uuid"] for row in answer["rows"]] for answer in answers)
        if not found and not orphans:
            return 0
        guards = [wait("Port", [equals("_uuid", one), *ports], ("_uuid",), [{"_uuid": one}]) for one in found]
        try:
            return _generation(database.transact([*guards, *_cuts(found), delete("QoS", limits), *_bump()], deadline))
        except VswitchRefused as refusal:
            if not 0 <= refusal.operation < len(guards):
                raise
            # Another call removed a port in between, or somebody took its mark away: look again.


def _cuts(ports: list[Any]) -> list[Operation]:
    """Takes the ports from their bridges. Their rows vanish by that; a QoS row stays until it is deleted."""
    # A port that is about to vanish still counts as referring to its QoS row, which then cannot be deleted.
    loosed = [update("Port", [equals("_uuid", port)], {"qos": to_set(())}) for port in ports]
    return loosed + [mutate("Bridge", [includes("ports", port)], "ports", "delete", port) for port in ports]


def _remove_empty_bridges(database: Database, deadline: float) -> int:
    """Removes the bridges that we created and that have no port but their own. Returns the generation, or 0."""
    ours = [includes("external_ids", to_map(_OURS))]
    bridges = database.transact([select("Bridge", ours, ("_uuid", "name", "ports"))], deadline)[0]["rows"]
    generation = 0
    for bridge in bridges:
        if len(from_set(bridge["ports"])) != 1:
            continue
        local = uuid(from_set(bridge["ports"])[0])
        guards = [
            wait("Bridge", [equals("_uuid", bridge["_uuid"]), *ours], ("ports",), [{"ports": local}]),
            wait("Port", [equals("_uuid", local)], ("name",), [{"name": bridge["name"]}]),
        ]
        removal = mutate(_ROOT, [], "bridges", "delete", bridge["_uuid"])
        try:
            generation = _generation(database.transact([*guards, removal, *_bump()], deadline))
        except VswitchRefused as refusal:
            if not 0 <= refusal.operation < len(guards):
                raise
            # It has got a port since, or is gone: not ours to remove now.
    return generation


def _bump() -> list[Operation]:
    """Tells ovs-vswitchd that somebody waits for it; `_generation` reads the results."""
    return [mutate(_ROOT, [], "next_cfg", "+=", 1), select(_ROOT, [], ("next_cfg",))]


def _generation(results: list[JsonObject]) -> int:
    generation: int = results[-1]["rows"][0]["next_cfg"]
    return generation


def _await_generation(database: Database, generation: int, deadline: float) -> None:
    """Returns when ovs-vswitchd has taken over the configuration of that generation."""
    milliseconds = max(int((deadline - time.monotonic()) * 1000), 0)
    behind = wait(_ROOT, [["cur_cfg", "<", generation]], milliseconds=milliseconds)
    try:
        database.transact([behind], deadline + _GRACE_SECONDS)
    except VswitchRefused as refusal:
        if refusal.reason != "timed out":
            raise
        raise _VswitchSilent(
            "ovs-vswitchd did not take over the configuration in time", hint="is ovs-vswitchd running?"
        ) from refusal


def _wait_applied(database: Database, generation: int, deadline: float) -> None:
    """Gives ovs-vswitchd a moment to let go of the ports; without it they go when it starts.

    A port that is removed and made again under its name before ovs-vswitchd looks keeps its former socket path, in
    silence (measured with OVS 3.1).
    """
    try:
        _await_generation(database, generation, min(deadline, time.monotonic() + APPLIED_SECONDS))
    except TryAgainLater:
        return
