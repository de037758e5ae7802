"""Serves the interface on a unix socket of packets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from driverhost.access import Access, peer_of
from driverhost.closing import close_aside
from driverhost.dpdk.host import DpdkHost
from driverhost.errors import DriverHostError, Unsupported
from driverhost.mac import parse_unicast
from driverhost.port import Port
from driverhost.protocol import messages

if TYPE_CHECKING:
    from cni.log import Log
    from driverhost.host import DeviceHost

VERSION = 2
MOST_CONNECTIONS = 64
MOST_PORTS = 16
"""Of one connection."""
MOST_REFUSALS = 64
REFUSAL_SECONDS = 1.0
"""A process that is refused has so long to read why."""
_SEND_BYTES = 256 * 1024
"""Events that an application has not read. One that does not read them is disconnected."""


class BadRequest(DriverHostError):
    """The request is not one of the interface's."""


class Server:
    """`hosts` are the devices by their addresses."""

    def __init__(self, hosts: Mapping[str, DeviceHost | DpdkHost], access: Access, log: Log) -> None:
        self._hosts = hosts
        self._access = access
        self._log = log
        self._connections: set[_Connection] = set()
        self._refusals: set[_Refusal] = set()
        self._listeners: list[socket.socket] = []

    def listen(self, listener: socket.socket) -> None:
        """Serves a socket that is bound and listens. Owns it."""
        listener.setblocking(False)
        self._listeners.append(listener)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def announce(self, event: dict[str, Any]) -> None:
        """Sends an event to all that have subscribed."""
        for connection in list(self._connections):
            if connection.subscribed:
                connection.send(event)

    def close(self) -> None:
        while self._listeners:
            listener = self._listeners.pop()
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        for connection in list(self._connections):
            connection.close()
        for refusal in list(self._refusals):
            refusal.close()

    def forget(self, connection: _Connection | _Refusal) -> None:
        self._connections -= {connection}
        self._refusals -= {connection}

    def host(self, fields: Mapping[str, Any]) -> DeviceHost | DpdkHost:
        """The device that a request names, or the only one. Raises `BadRequest`."""
        name = fields.get("device")
        if name is None and len(self._hosts) == 1:
            return next(iter(self._hosts.values()))
        if not isinstance(name, str) or name not in self._hosts:
            raise BadRequest(f"device: one of {', '.join(sorted(self._hosts))} is required")
        return self._hosts[name]

    def devices(self) -> list[dict[str, Any]]:
        return [host.info() for host in self._hosts.values()]

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, _address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # Out of descriptors: the connection stays in the queue, and would wake us at once.
            self._log.warning(f"a connection cannot be accepted: {error}")
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(1.0, self._accept_again, listener)
            return
        peer = peer_of(accepted)
        refusal = "" if self._access.allows(peer) else f"uid {peer.uid} and gid {peer.gid} are not allowed"
        if not refusal and len(self._connections) >= MOST_CONNECTIONS:
            refusal = f"{MOST_CONNECTIONS} connections are open"
        if refusal:
            self._log.warning(f"process {peer.pid} is refused: {refusal}")
            if len(self._refusals) < MOST_REFUSALS:
                self._refusals.add(_Refusal(self, accepted, refusal))
            else:
                close_aside([accepted.detach()])
            return
        self._connections.add(_Connection(self, accepted, self._log))

    def _accept_again(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)


class _Refusal:
    """A process that is not served. Closing the socket before its request is read would hide the reason from it."""

    def __init__(self, server: Server, connection: socket.socket, reason: str) -> None:
        self._server = server
        self._socket = connection
        loop = asyncio.get_running_loop()
        connection.setblocking(False)
        self._timer = loop.call_later(REFUSAL_SECONDS, self.close)
        loop.add_reader(connection, self._readable)
        with contextlib.suppress(OSError):
            messages.send(connection, {"error": {"code": "refused", "message": reason}})

    def close(self) -> None:
        """It can be repeated."""
        if self._socket.fileno() < 0:
            return
        self._timer.cancel()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._server.forget(self)
        close_aside([self._socket.detach()])

    def _readable(self) -> None:
        """Reads requests, which are not answered, until the process closes its end or the time is over."""
        try:
            message = messages.receive(self._socket, close_aside)
        except (messages.BadMessage, OSError):
            message = None
        if message is None:
            self.close()
        else:
            close_aside(message.descriptors)


class _Connection:
    """One application. Its ports are closed with it."""

    def __init__(self, server: Server, connection: socket.socket, log: Log) -> None:
        self._server = server
        self._socket = connection
        self._log = log
        self._ports: list[tuple[DeviceHost | DpdkHost, Port]] = []
        self.subscribed = False
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        asyncio.get_running_loop().add_reader(connection, self._readable)

    def send(self, fields: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        """Closes the connection when the application does not read."""
        try:
            messages.send(self._socket, fields, descriptors)
        except OSError as error:
            self._log.warning(f"an application is disconnected: {error}")
            self.close()

    def close(self) -> None:
        """It can be repeated."""
        if self._socket.fileno() < 0:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._server.forget(self)
        while self._ports:
            host, port = self._ports.pop()
            host.close(port)
        close_aside([self._socket.detach()])  # requests that are not read yet may contain descriptors

    def _readable(self) -> None:
        try:
            message = messages.receive(self._socket, close_aside)
        except BlockingIOError:
            return
        except (messages.BadMessage, OSError) as error:
            self._log.warning(f"an application is disconnected: {error}")
            self.close()
            return
        if message is None:
            self.close()
        else:
            self._answer(message)

    def _answer(self, message: messages.Message) -> None:
        number = message.fields.get("id")
        head = {"id": number} if isinstance(number, int) else {}
        try:
            result, port = self._result(message)
        except DriverHostError as error:
            code = type(error).__name__
            self.send({**head, "error": {"code": code, "message": error.message, "hint": error.hint}})
            return
        self.send({**head, "result": result}, port.descriptors if port else ())
        if port:
            port.handed_over()

    def _result(self, message: messages.Message) -> tuple[dict[str, Any], Port | None]:
        fields = message.fields
        name = fields.get("call")
        if name == "open" and not message.descriptors and isinstance(host := self._server.host(fields), DpdkHost):
            host.require_running()
            return {"vhost-user": host.vhost_user, "mode": "server"}, None
        if name in ("open", "capture"):
            port = self._open(message)
            return {"slots": port.slots}, port
        close_aside(message.descriptors)  # no other request has any
        calls: dict[Any, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "version": lambda _fields: {"version": VERSION},
            "list": lambda _fields: {"devices": self._server.devices()},
            "info": lambda fields: self._server.host(fields).info(),
            "statistics": lambda fields: self._server.host(fields).statistics(),
            "setMac": self._set_mac,
            "subscribe": self._subscribe,
        }
        if not isinstance(name, str) or name not in calls:
            raise BadRequest(f"call: one of {', '.join([*calls, 'open', 'capture'])} is required")
        return calls[name](fields), None

    def _set_mac(self, fields: dict[str, Any]) -> dict[str, Any]:
        host = self._server.host(fields)
        try:
            mac = parse_unicast(fields.get("mac"))
        except ValueError as error:
            raise BadRequest(f"mac: {error}") from error
        host.set_mac(mac)
        return host.info()

    def _subscribe(self, _fields: dict[str, Any]) -> dict[str, Any]:
        self.subscribed = True
        return {"devices": self._server.devices()}

    def _open(self, message: messages.Message) -> Port:
        memory, *others = [*message.descriptors, -1]
        try:
            host = self._server.host(message.fields)
            if others != [-1]:
                raise BadRequest("the memory of the port, and no other descriptor, is required")
            self._ports = [(owner, port) for owner, port in self._ports if port.is_open]
            if len(self._ports) >= MOST_PORTS:
                raise Unsupported(f"{MOST_PORTS} ports of this connection are open")
            port = Port(memory)
        except OSError as error:
            raise Unsupported(f"no descriptors for a port: {error}") from error
        except DriverHostError:
            close_aside(message.descriptors)
            raise
        try:
            (host.open if message.fields["call"] == "open" else host.capture)(port)
        except DriverHostError:
            port.close()
            raise
        self._ports.append((host, port))
        return port
