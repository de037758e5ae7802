"""Serves every resource, and registers with every new kubelet."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from deviceplugin.api import calls, deviceplugin_pb2 as v1beta1
from deviceplugin.podresources import identity
from deviceplugin.server import VERSION, ResourceServer, options, socket_name
from deviceplugin.watching import Bell, FolderEvents
from resident.calls import reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.log import Log
    from deviceplugin.metrics import Metrics
    from deviceplugin.stock import Stock

REGISTER_SECONDS = 15.0
"""Time limit of a registration: during the call, the kubelet connects to our server, with a limit of 10 s."""
FINISH_SECONDS = 20.0
"""Time limit of unfinished calls at the end of the process. A deleted pod is killed after 30 s."""
LOOK_SECONDS = 1.0
"""Interval of checks of the sockets without an event."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class Kubelet:
    """The resources in the kubelet's folders. `root` is its root folder.

    With `registry`, the kubelet discovers the sockets itself. When the kubelet starts, it removes all sockets and
    creates its own again. So the class checks whether our sockets exist, and whether the kubelet's socket is the one
    with which we registered.
    """

    def __init__(self, root: str, stock: Stock, log: Log, metrics: Metrics, *, registry: bool = False) -> None:
        self.folder = f"{root}/device-plugins"
        self._socket = f"{self.folder}/kubelet.sock"
        self._registry_folder = f"{root}/plugins_registry" if registry else ""
        self._stock = stock
        self._log = log
        self._metrics = metrics
        self._servers: dict[str, ResourceServer] = {}
        self._registered: dict[str, tuple[int, int]] = {}
        self._told: dict[str, set[str]] = {}
        """The logged failures of each resource. Every failed step is repeated each second."""
        self.bell = Bell()

    async def run(self) -> None:
        """Serves until it is cancelled."""
        pause = _FIRST_PAUSE
        folders = [self.folder, self._registry_folder] if self._registry_folder else [self.folder]
        with FolderEvents(folders, self.bell, self._log.warning) as events:
            try:
                while True:
                    events.renew()
                    done = await self.settle()
                    pause = _FIRST_PAUSE if done else min(pause * 2, _LONGEST_PAUSE)
                    await self._event(LOOK_SECONDS if done else pause)
            finally:
                # An end during a call would fail a pod, and would revert changes while a thread still binds a driver.
                await asyncio.gather(*(server.stop(FINISH_SECONDS) for server in self._servers.values()))

    async def settle(self) -> bool:
        """Serves and registers all resources that are not yet; False if a step must be repeated."""
        wanted = self._stock.resources()
        # Before our own sockets are checked: a kubelet that starts removes them first, and then creates its own. So
        # those that are found after this socket stay.
        present = identity(self._socket)
        await asyncio.gather(*(self._stop(name) for name in [*self._servers] if name not in wanted))
        served = await asyncio.gather(*(self._serve(name) for name in wanted))
        if self._registry_folder:
            return all(served)
        if present is None:
            return all(served)  # the appearance of its socket is an event
        for name, server in self._servers.items():
            if name in self._registered and server.is_given_up():
                del self._registered[name]
                self._tell(
                    name, self._log.warning, f"the kubelet does not follow {name} any more: it is registered again"
                )
        todo = [name for name in self._servers if self._registered.get(name) != present]
        if not todo:
            return all(served)
        # One channel for all resources: they use the same socket, and share its failures.
        async with grpc.aio.insecure_channel(f"unix:{self._socket}") as channel:
            done = await asyncio.gather(*(self._register(channel, name, present) for name in todo))
        return all(served) and all(done)

    async def _event(self, seconds: float) -> None:
        changes = asyncio.ensure_future(self._stock_changes())
        try:
            await self.bell.wait(seconds)
        finally:
            changes.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await changes

    async def _stock_changes(self) -> None:
        """Rings if the set of resources changes."""
        present = self._stock.resources()
        while self._stock.resources() == present:
            await self._stock.changes()
        self.bell.ring()

    async def _serve(self, resource: str) -> bool:
        server = self._servers.get(resource)
        if server is not None and all(map(os.path.exists, self._paths(resource))):
            return True
        if server is not None:
            await self._stop(resource)
        path, *registry = self._paths(resource)
        server = ResourceServer(
            resource, self._stock, self._log, self._metrics, path=path, registry_path=next(iter(registry), "")
        )
        try:
            await server.start()
        except RuntimeError as error:
            self._tell(resource, self._log.error, f"cannot serve {resource} on {path}: {error}")
            await server.stop()
            return False
        self._servers[resource] = server
        self._told.pop(resource, None)
        return True

    async def _stop(self, resource: str) -> None:
        self._registered.pop(resource, None)
        await self._servers.pop(resource).stop()

    def _paths(self, resource: str) -> list[str]:
        folders = [self.folder, self._registry_folder] if self._registry_folder else [self.folder]
        return [f"{folder}/{socket_name(resource)}" for folder in folders]

    def _tell(self, resource: str, log: Callable[[str], None], failure: str) -> None:
        """Logs a failure once, until the resource is served again or registered."""
        told = self._told.setdefault(resource, set())
        if failure not in told:
            told.add(failure)
            log(failure)

    async def _register(self, channel: grpc.aio.Channel, resource: str, present: tuple[int, int]) -> bool:
        request = v1beta1.RegisterRequest(
            version=VERSION, endpoint=socket_name(resource), resource_name=resource, options=options()
        )
        try:
            await calls.REGISTER.of(channel)(request, timeout=REGISTER_SECONDS)
        except grpc.aio.AioRpcError as error:
            self._metrics.registered(ok=False)
            # A kubelet that started meanwhile has removed our sockets: no failure, only the next registration.
            if identity(self._socket) == present:
                failure = f"the kubelet does not register {resource}, tried again soon: {reason(error)}"
                self._tell(resource, self._log.warning, failure)
            return False
        self._metrics.registered(ok=True)
        if resource not in self._servers:
            return True
        self._servers[resource].registered()
        self._registered[resource] = present
        self._told.pop(resource, None)
        self._log.info(f"registered {resource} with the kubelet")
        return True
