"""The client for programs with asyncio. Its ports are those of the plain client, with `arrived` to wait for frames."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any, Self

from driverhost.client.connection import DEFAULT, Disconnected, opened, result_of
from driverhost.client.plain import ANSWER_SECONDS
from driverhost.client.port import ApplicationPort
from driverhost.protocol import messages

_MOST_EVENTS = 1024
"""Unread ones; the oldest goes first."""


class AsyncClient:
    """One connection, for one event loop. Calls may overlap. They raise `Refused` and `Disconnected`."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._number = 0
        self._waiting: dict[int, asyncio.Future[messages.Message]] = {}
        self._events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(_MOST_EVENTS)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection, self._readable)

    @classmethod
    async def connect(cls, path: str = DEFAULT) -> Self:
        """Raises `Disconnected`."""
        try:
            return cls(opened(path))
        except OSError as error:
            raise Disconnected(f"no driver host at {path}: {error}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """It can be repeated. Calls that wait raise `Disconnected`."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket)
        self._socket.close()
        while self._waiting:
            _number, future = self._waiting.popitem()
            if not future.done():
                future.set_exception(Disconnected("the driver host has ended"))
        self._keep(None)

    async def call(self, name: str, **fields: Any) -> dict[str, Any]:
        """The result of any call of the interface."""
        return result_of(await self._answer(name, fields))

    async def open(self, device: str | None = None, slots: int = 512) -> ApplicationPort:
        """A port for sending and receiving."""
        message = await self._answer("open", {"device": device, "slots": slots})
        result_of(message)
        return ApplicationPort(*message.descriptors)

    async def event(self) -> dict[str, Any]:
        """The next event, after `call("subscribe")`. Raises `Disconnected`."""
        event = await self._events.get()
        if event is None:
            self._keep(None)
            raise Disconnected("the driver host has ended")
        return event

    async def _answer(self, name: str, fields: dict[str, Any]) -> messages.Message:
        self._number += 1
        number = self._number
        future = self._waiting[number] = self._loop.create_future()
        given = {key: value for key, value in fields.items() if value is not None}
        try:
            messages.send(self._socket, {"id": number, "call": name, **given})
            answer: messages.Message = await asyncio.wait_for(future, ANSWER_SECONDS)
        except (OSError, TimeoutError) as error:
            raise Disconnected(f"no answer to {name}: {error}") from error
        finally:
            self._waiting.pop(number, None)
        return answer

    def _readable(self) -> None:
        try:
            message = messages.receive(self._socket)
        except BlockingIOError:
            return
        except (OSError, messages.BadMessage):
            message = None
        if message is None:
            self.close()
        elif "event" in message.fields:
            self._keep(message.fields)
        elif (future := self._waiting.get(message.fields.get("id", 0))) and not future.done():
            future.set_result(message)
        else:
            # Of a call that nobody waits for any more.
            for descriptor in message.descriptors:
                os.close(descriptor)

    def _keep(self, event: dict[str, Any] | None) -> None:
        if self._events.full():
            self._events.get_nowait()
        self._events.put_nowait(event)


async def arrived(port: ApplicationPort) -> list[bytes]:
    """The next frames, as soon as there are some. Raises `Disconnected`."""
    loop, rung = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(port, rung.set)
    try:
        while not (frames := port.receive()):
            rung.clear()
            await rung.wait()
    finally:
        loop.remove_reader(port)
    return frames
