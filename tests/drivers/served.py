"""Driver hosts on a card that is a program, served in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from driverhost.access import Access
from driverhost.drivers.igbvf.driver import IgbVf
from driverhost.host import DeviceHost
from driverhost.serve import listening
from driverhost.server import Server
from tests.drivers.igbvf_card import Card, Vf
from tests.recording_log import RecordingLog

SECONDS = 10.0


class Served:
    """Two VFs of one card, each with a driver host of its own. `paths` are the sockets."""

    def __init__(self, folder: Path, access: Access | None = None) -> None:
        self.card = Card()
        self.vfs = [self.card.vf(bytes.fromhex(f"0200000000a{number}")) for number in range(2)]
        self.macs = [vf.admin_mac for vf in self.vfs]
        self.paths = [str(folder / f"host{number}.sock") for number in range(2)]
        self.log = RecordingLog()
        self.hosts: list[DeviceHost] = []
        self._access = access or Access()
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(SECONDS)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(SECONDS)
        self._loop.close()

    def do(self, function: Callable[[], Any]) -> Any:
        """The result of a function that runs in the thread of the hosts."""

        async def call() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(SECONDS)

    async def _run(self) -> None:
        servers, tasks = [], []
        for vf, path in zip(self.vfs, self.paths, strict=True):
            hosts: dict[str, DeviceHost] = {}
            server = Server(hosts, self._access, self.log)
            hosts[vf.address] = host = DeviceHost(vf.address, _opener(vf), server.announce, self.log)
            server.listen(listening(path))
            servers.append(server)
            self.hosts.append(host)
            tasks.append(asyncio.create_task(host.run()))
        await asyncio.sleep(0)  # the drivers start
        self._ready.set()
        await self._stopped.wait()
        for server in servers:
            server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _opener(vf: Vf) -> Callable[[], Any]:
    return lambda: (vf, IgbVf(vf))
