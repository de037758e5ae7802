"""Serves the interface on a unix socket of packets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from driverhost.access import Access, peer_of
from driverhost.errors import DriverHostError, Unsupported
from driverhost.port import Port
from driverhost.protocol import messages

if TYPE_CHECKING:
    from cni.log import Log
    from driverhost.host import DeviceHost

VERSION = 1
MOST_CONNECTIONS = 64
MOST_PORTS = 16
"""Of one connection."""
DEFAULT_SLOTS = 512
_SEND_BYTES = 256 * 1024
"""Events that an application has not read. One that does not read them is disconnected."""


class BadRequest(DriverHostError):
    """The request is not one of the interface's."""


class Server:
    """`hosts` are the devices by their addresses."""

    def __init__(self, hosts: Mapping[str, DeviceHost], access: Access, log: Log) -> None:
        self._hosts = hosts
        self._access = access
        self._log = log
        self._connections: set[_Connection] = set()
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

    def forget(self, connection: _Connection) -> None:
        self._connections.discard(connection)

    def host(self, fields: Mapping[str, Any]) -> DeviceHost:
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
            with accepted, contextlib.suppress(OSError):
                accepted.setblocking(False)
                messages.send(accepted, {"error": {"code": "refused", "message": refusal}})
            return
        self._connections.add(_Connection(self, accepted, self._log))

    def _accept_again(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)


class _Connection:
    """One application. Its ports are closed with it."""

    def __init__(self, server: Server, connection: socket.socket, log: Log) -> None:
        self._server = server
        self._socket = connection
        self._log = log
        self._ports: list[tuple[DeviceHost, Port]] = []
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
        self._socket.close()
        self._server.forget(self)
        while self._ports:
            host, port = self._ports.pop()
            host.close(port)

    def _readable(self) -> None:
        try:
            message = messages.receive(self._socket)
        except BlockingIOError:
            return
        except (messages.BadMessage, OSError) as error:
            self._log.warning(f"an application is disconnected: {error}")
            self.close()
            return
        if message is None:
            self.close()
            return
        for descriptor in message.descriptors:
            os.close(descriptor)  # no request has any
        self._answer(message.fields)

    def _answer(self, fields: dict[str, Any]) -> None:
        number = fields.get("id")
        head = {"id": number} if isinstance(number, int) else {}
        try:
            result, port = self._result(fields)
        except DriverHostError as error:
            code = type(error).__name__
            self.send({**head, "error": {"code": code, "message": error.message, "hint": error.hint}})
            return
        self.send({**head, "result": result}, port.descriptors if port else ())
        if port:
            port.handed_over()

    def _result(self, fields: dict[str, Any]) -> tuple[dict[str, Any], Port | None]:
        name = fields.get("call")
        calls: dict[Any, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "version": lambda _fields: {"version": VERSION},
            "list": lambda _fields: {"devices": self._server.devices()},
            "info": lambda fields: self._server.host(fields).info(),
            "statistics": lambda fields: self._server.host(fields).statistics(),
            "setMac": self._set_mac,
            "subscribe": self._subscribe,
        }
        if name in ("open", "capture"):
            port = self._open(fields)
            return {"slots": fields.get("slots", DEFAULT_SLOTS)}, port
        if not isinstance(name, str) or name not in calls:
            raise BadRequest(f"call: one of {', '.join([*calls, 'open', 'capture'])} is required")
        return calls[name](fields), None

    def _set_mac(self, fields: dict[str, Any]) -> dict[str, Any]:
        host = self._server.host(fields)
        try:
            mac = bytes.fromhex(str(fields.get("mac", "")).replace(":", ""))
        except ValueError:
            mac = b""
        if len(mac) != 6 or mac[0] & 1 or not any(mac):
            raise BadRequest("mac: the address of one interface, such as 02:00:00:00:00:01, is required")
        host.set_mac(mac)
        return host.info()

    def _subscribe(self, _fields: dict[str, Any]) -> dict[str, Any]:
        self.subscribed = True
        return {"devices": self._server.devices()}

    def _open(self, fields: dict[str, Any]) -> Port:
        host = self._server.host(fields)
        self._ports = [(owner, port) for owner, port in self._ports if port.is_open]
        if len(self._ports) >= MOST_PORTS:
            raise Unsupported(f"{MOST_PORTS} ports of this connection are open")
        slots = fields.get("slots", DEFAULT_SLOTS)
        if not isinstance(slots, int):
            raise BadRequest("slots: a number is required")
        try:
            port = Port(slots)
        except ValueError as error:
            raise BadRequest(f"slots: {error}") from error
        except OSError as error:
            raise Unsupported(f"no memory for a port: {error}") from error
        try:
            (host.open if fields["call"] == "open" else host.capture)(port)
        except DriverHostError:
            port.close()
            raise
        self._ports.append((host, port))
        return port
