"""The engine `ovs-dpdk`: ports of Open vSwitch's userspace datapath, created through its database.

A port's row in the database is a request. Its outcome is known when ovs-vswitchd has raised `cur_cfg` to the `next_cfg`
of the transaction: it is in `ofport` and `error`. So each change increments `next_cfg`, and the database itself waits
for `cur_cfg` in a `wait` operation: nothing is polled, and the vswitch's tables are not copied.
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
"""Time limit of a call. ovs-vswitchd needs some milliseconds for a port, and seconds if it (re)builds all of them."""

ROLLBACK_SECONDS = 5.0
"""Time limit for the removal of a port that failed, which only needs the database."""

APPLIED_SECONDS = 2.0
"""How long `unplug` waits for ovs-vswitchd before it returns: see `_wait_applied`."""

_GRACE_SECONDS = 1.0
"""How much longer the client waits than the database: the response may be on its way."""

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
        """Lets ovs-vswitchd process its configuration once: a socket that accepts connections proves nothing."""
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
            # A refusal does not need the removal above: nothing was inserted, and the owner may have an earlier port.
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
    """The database responds, but ovs-vswitchd does not."""


def _insert(database: Database, port: Port, create_bridge: bool, deadline: float) -> int | CniError:
    """The generation (`next_cfg`) with the port in it, or the reason why the database refuses the port."""
    creates = False
    while True:
        try:
            return _generation(database.transact(_insertion(port, creates), deadline))
        except VswitchRefused as refusal:
            if refusal.operation != _BRIDGE_GUARD:
                return _explained(refusal, port)
        # The state of the bridge differs. The bridge may be created or removed before each try, so there may be
        # several.
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
    """One transaction: the guards, in the order that `_explained` expects, and then the rows.

    The last result contains the generation.
    """
    bridge = [equals("name", port.bridge)]
    fit = [] if creates_bridge else [{"name": port.bridge, "datapath_type": _USERSPACE}]
    return [
        wait("Bridge", bridge, ("name", "datapath_type"), fit),
        wait("Port", [equals("name", port.name)]),
        wait("Interface", [equals("name", port.name)]),
        # OVS accepts a second port on the same socket without an error, and the port never works.
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
    """A bridge is also a port and an interface with its own name."""
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
    """The error for the guard that refused."""
    taken = {
        1: f"the vswitch already has a port {port.name}",
        2: f"the vswitch already has an interface {port.name}",
        3: f"the vswitch already has a port on the socket {port.path}",
        4: f"{port.owner.ifname} of container {port.owner.container_id} already has a port in {port.owner.network}",
        5: f"another attachment's port is on the socket {port.socket}",
    }
    # The operations after the guards are refused with a reason; a guard only times out.
    if refusal.operation not in taken or refusal.reason != "timed out":
        return refusal
    return PortTaken(
        taken[refusal.operation], hint="`ovs-vsctl list Interface` shows it, external_ids tell whose it is"
    )


def _made(database: Database, port: Port, generation: int, deadline: float) -> PortStatus:
    """The port as ovs-vswitchd created it. Raises `VswitchRefused` with its error message if it could not."""
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
    """The ports that `where` selects. It must apply to the port's interface as well."""
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
    """Removes by mark, never by name alone. Returns the generation; 0 if there was nothing to remove."""
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
            # Another client removed a port in between, or changed its mark: look again.


def _cuts(ports: list[Any]) -> list[Operation]:
    """Removes the ports from their bridges, which deletes their rows. A QoS row stays until it is deleted."""
    # A port that is about to be deleted still counts as a reference to its QoS row, which cannot be deleted then.
    loosed = [update("Port", [equals("_uuid", port)], {"qos": to_set(())}) for port in ports]
    return loosed + [mutate("Bridge", [includes("ports", port)], "ports", "delete", port) for port in ports]


def _remove_empty_bridges(database: Database, deadline: float) -> int:
    """Removes the bridges that we created and that have only their own port. Returns the generation, or 0."""
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
            # It has a port since, or is gone: it must not be removed now.
    return generation


def _bump() -> list[Operation]:
    """Informs ovs-vswitchd that a client waits for it. `_generation` reads the results."""
    return [mutate(_ROOT, [], "next_cfg", "+=", 1), select(_ROOT, [], ("next_cfg",))]


def _generation(results: list[JsonObject]) -> int:
    generation: int = results[-1]["rows"][0]["next_cfg"]
    return generation


def _await_generation(database: Database, generation: int, deadline: float) -> None:
    """Returns when ovs-vswitchd has applied the configuration of that generation."""
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
    """Waits a moment for ovs-vswitchd to release the ports. If it is not running, they are released when it starts.

    If a port is removed and created again under its name before ovs-vswitchd looks, it keeps its former socket path
    without an error (measured with OVS 3.1).
    """
    try:
        _await_generation(database, generation, min(deadline, time.monotonic() + APPLIED_SECONDS))
    except TryAgainLater:
        return
