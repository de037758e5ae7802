"""A proxy in front of etcd that adds latency, counts requests, and loses responses."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Self

SECONDS = 30.0


class Proxy:
    """Runs in a thread until the `with` ends. Data that arrives within one `latency` is passed on together."""

    def __init__(self, port: int, latency: float = 0.0) -> None:
        self.endpoint = ""
        self.questions = 0
        self.loses = 0
        """How many of the next responses are lost: the connection is closed instead."""
        self._server_port = port
        self._latency = latency
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(SECONDS)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(SECONDS)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        connections: set[asyncio.Task[None]] = set()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._connection(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0, backlog=1000)
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in tuple(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.close()
            return
        try:
            with suppress(ConnectionError):
                await asyncio.gather(self._questions(reader, back), self._answers(there, writer))
        finally:
            writer.close()
            back.close()

    async def _questions(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self.questions += data.startswith(b"POST ")
            await asyncio.sleep(self._latency)
            back.write(data)
            await back.drain()
        back.close()

    async def _answers(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await there.read(1 << 20):
            if self.loses:
                self.loses -= 1
                raise ConnectionAbortedError
            writer.write(data)
            await writer.drain()
        writer.close()
