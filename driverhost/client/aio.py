"""The client for programs with asyncio. Its ports are those of the plain client, with `arrived` to wait for frames."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Self

from driverhost.client.connection import ANSWER_SECONDS, DEFAULT, Disconnected, opened, result_of
from driverhost.client.opening import Opening
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
        self._sending = asyncio.Lock()
        self._refusal: messages.Message | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection, self._readable)

    @classmethod
    async def connect(cls, path: str = DEFAULT, seconds: float = ANSWER_SECONDS) -> Self:
        """Raises `Disconnected` when the driver host does not accept within the time."""
        try:
            return cls(await asyncio.to_thread(opened, path, seconds))
        except OSError as error:
            raise Disconnected(f"no driver host at {path}: {error}", hint="see the log of its container") from error

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
            if not future.done() and self._refusal:
                future.set_result(self._refusal)
            elif not future.done():
                future.set_exception(Disconnected("the driver host has ended"))
        self._keep(None)

    async def devices(self) -> list[dict[str, Any]]:
        return list((await self.call("list"))["devices"])

    async def info(self, device: str | None = None) -> dict[str, Any]:
        """State, driver, MAC and link. A device need not be named where there is only one."""
        return await self.call("info", device=device)

    async def statistics(self, device: str | None = None) -> dict[str, int]:
        """Counters since the driver's start."""
        return await self.call("statistics", device=device)

    async def set_mac(self, mac: str, device: str | None = None) -> None:
        await self.call("setMac", device=device, mac=mac)

    async def vhost_user(self, device: str | None = None) -> str:
        """The path of the vhost-user socket of a device with DPDK. The driver host listens; QEMU or DPDK connects."""
        return str((await self.call("open", device=device))["vhost-user"])

    async def subscribe(self) -> None:
        """From now on `event` returns events."""
        await self.call("subscribe")

    async def call(self, name: str, **fields: Any) -> dict[str, Any]:
        """The result of any call of the interface, except those that open a port."""
        message = await self._answer(name, fields)
        message.close()
        return result_of(message)

    async def open(self, device: str | None = None, slots: int = 512) -> ApplicationPort:
        """A port for sending and receiving; one application has a device at a time."""
        return await self._port("open", device, slots)

    async def capture(self, device: str | None = None, slots: int = 512) -> ApplicationPort:
        """A port that receives copies of all frames, sent and received."""
        return await self._port("capture", device, slots)

    async def _port(self, name: str, device: str | None, slots: int) -> ApplicationPort:
        with Opening(slots) as opening:
            return opening.port(await self._answer(name, {"device": device}, opening.descriptor))

    async def event(self) -> dict[str, Any]:
        """The next event, after `call("subscribe")`. Raises `Disconnected`."""
        event = await self._events.get()
        if event is None:
            self._keep(None)
            raise Disconnected("the driver host has ended")
        return event

    async def _answer(self, name: str, fields: dict[str, Any], *descriptors: int) -> messages.Message:
        if self._refusal:
            return self._refusal
        self._number += 1
        number = self._number
        future = self._waiting[number] = self._loop.create_future()
        given = {key: value for key, value in fields.items() if value is not None}
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._send({"id": number, "call": name, **given}, descriptors)
                answer: messages.Message = await future
        except (OSError, TimeoutError) as error:
            raise Disconnected(f"no answer to {name}: {error}") from error
        finally:
            self._waiting.pop(number, None)
        return answer

    async def _send(self, fields: dict[str, Any], descriptors: tuple[int, ...]) -> None:
        """Waits while the driver host has not read earlier requests."""
        async with self._sending:
            while True:
                try:
                    messages.send(self._socket, fields, descriptors)
                except BlockingIOError:
                    await self._writable()
                else:
                    return

    async def _writable(self) -> None:
        writable = asyncio.Event()
        self._loop.add_writer(self._socket, writable.set)
        try:
            await writable.wait()
        finally:
            self._loop.remove_writer(self._socket)

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
        elif "id" not in message.fields and "error" in message.fields:
            self._refusal = message  # of the whole connection, which ends now
            self.close()
        elif (future := self._waiting.get(message.fields.get("id", 0))) and not future.done():
            future.set_result(message)
        else:
            message.close()  # of a call that nobody waits for any more

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
