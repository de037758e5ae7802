"""A node for tests: a simulated host, the strict kubelet, and the device plugin as it runs on a node."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from typing import TYPE_CHECKING, Any, Self

from deviceplugin.holding import Journal
from deviceplugin.metrics import Metrics
from deviceplugin.service import Service
from tests.kubelet.kubelet import Kubelet
from tests.kubelet.pcihost import PciHost
from tests.recording_log import RecordingLog

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

SECONDS = 60.0
"""Time limit for events that should happen at once, for a machine that is ten times slower."""
TEST_SECONDS = 300.0


def run(work: Coroutine[Any, Any, None]) -> None:
    """Runs a test's coroutine with a time limit."""

    async def bounded() -> None:
        async with asyncio.timeout(TEST_SECONDS):
            await work

    asyncio.run(bounded())


def driven(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Turns a coroutine into a test."""

    @functools.wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        run(test(*args, **kwargs))

    return wrapper


async def until(what: str, happened: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Returns the first true result of `happened`; fails if there is none in time."""
    deadline = time.monotonic() + seconds
    while not (answer := happened()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        await asyncio.sleep(0.005)
    return answer


class Node:
    """`async with` starts kubelet and plugin, and ends them. All files are below `root`, whose path must be short."""

    def __init__(self, root: Path, config: dict[str, Any] | None = None, **options: Any) -> None:
        self.host = PciHost(root / "host")
        self.kubelet = Kubelet(root / "kubelet")
        self.config = root / "etc/config.json"
        self.config.parent.mkdir()
        self.state = root / "state"
        self.log = RecordingLog()
        self.metrics = Metrics()
        self._options = {"settle": 0.0, "pause": 0.02} | options
        self._task: asyncio.Task[None] | None = None
        self.configure(config or {})

    def configure(self, config: dict[str, Any]) -> None:
        written = self.config.with_suffix(".new")
        written.write_text(json.dumps(config))
        written.replace(self.config)

    @property
    def service(self) -> Service:
        return self._service

    async def start_plugin(self) -> None:
        self.metrics = Metrics()
        self._service = Service(
            self.host.host(),
            Journal(str(self.state)),
            self.log,
            self.metrics,
            config=str(self.config),
            prefix="intel.com",
            kubelet_root=str(self.kubelet.root),
            **self._options,
        )
        self._task = asyncio.create_task(self._service.run())

    async def stop_plugin(self) -> None:
        if self._task:
            self._task.cancel()
            done = await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            assert isinstance(done[0], asyncio.CancelledError), done

    async def __aenter__(self) -> Self:
        await self.kubelet.start()
        await self.start_plugin()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop_plugin()
        await self.kubelet.stop()
        assert self.kubelet.violations == []

    async def offered(self, resource: str, number: int) -> None:
        await until(f"{number} allocatable {resource}", lambda: self.kubelet.allocatable(resource) == number)
