"""The server of one resource: its own socket, with the calls of the device plugin protocol."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from cni.errors import CniError
from deviceplugin.api import calls, deviceplugin_pb2 as v1beta1, pluginregistration_pb2 as registration
from deviceplugin.pool import short_name
from deviceplugin.preference import preferred
from resident.calls import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cni.log import Log
    from deviceplugin.container import Contents
    from deviceplugin.metrics import Metrics
    from deviceplugin.offer import Offer
    from deviceplugin.stock import Stock
    from resident.calls import Call

VERSION = "v1beta1"
ANSWER_SECONDS = 1.0
"""Time limit for sending an answer."""
LOST_SECONDS = 5.0
"""A kubelet that has not followed a list again for so long has dropped the resource."""
UNWATCHED_SECONDS = 60.0
"""The same for a kubelet that never followed the list: a node that has just started is busy."""


def options() -> v1beta1.DevicePluginOptions:
    """The optional calls that the kubelet may make."""
    return v1beta1.DevicePluginOptions(pre_start_required=True, get_preferred_allocation_available=True)


def socket_name(resource: str) -> str:
    """The name of a resource's socket."""
    return f"{short_name(resource)}.sock"


class ResourceServer:
    """Serves one resource on `path`, and the kubelet's registration calls on `registry_path` if it is not empty."""

    def __init__(
        self, resource: str, stock: Stock, log: Log, metrics: Metrics, *, path: str, registry_path: str = ""
    ) -> None:
        self.resource = resource
        self.path = path
        self._registry_path = registry_path
        self._stock = stock
        self._log = log
        self._metrics = metrics
        self._servers: list[grpc.aio.Server] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._streams = 0
        self._was_watched = False
        self._unwatched_since = time.monotonic()
        self._ended = -ANSWER_SECONDS
        """When the last call ended. Its answer may still be on its way."""

    async def start(self) -> None:
        """Starts to serve. Raises `RuntimeError` if the socket cannot be created."""
        await self._serve(
            self.path,
            {
                calls.OPTIONS: self._options,
                calls.LIST_AND_WATCH: self._list_and_watch,
                calls.PREFERRED: self._preferred,
                calls.ALLOCATE: self._allocate,
                calls.PRE_START: self._pre_start,
            },
        )
        if self._registry_path:
            await self._serve(self._registry_path, {calls.GET_INFO: self._info, calls.NOTIFY: self._notified})

    async def stop(self, patience: float = 0.0) -> None:
        """Ends the streams and removes the sockets. First it waits up to `patience` seconds for running calls."""
        await self._finish_calls(patience)
        servers, self._servers = self._servers, []
        answered = time.monotonic() - self._ended > ANSWER_SECONDS
        for server in servers:
            await server.stop(grace=None if answered or not patience else ANSWER_SECONDS)

    def registered(self) -> None:
        """The kubelet is about to follow the list."""
        self._was_watched, self._unwatched_since = False, time.monotonic()

    def is_given_up(self) -> bool:
        """Whether the kubelet has stopped following the list, or has never followed it since the registration."""
        patience = LOST_SECONDS if self._was_watched else UNWATCHED_SECONDS
        return not self._streams and time.monotonic() - self._unwatched_since > patience

    async def _finish_calls(self, patience: float) -> None:
        """Waits until no call is running, including calls that arrive during the wait."""
        deadline = time.monotonic() + patience
        while self._tasks and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=left)

    async def _serve(self, path: str, functions: dict[Call, Any]) -> None:
        server = grpc.aio.server()
        serve(server, functions)
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        self._servers.append(server)

    # The device plugin's calls

    async def _options(self, _request: v1beta1.Empty, _context: Any) -> v1beta1.DevicePluginOptions:
        return options()

    async def _list_and_watch(
        self, _request: v1beta1.Empty, _context: Any
    ) -> AsyncIterator[v1beta1.ListAndWatchResponse]:
        self._streams += 1
        try:
            async for offers in self._stock.watch(self.resource):
                yield v1beta1.ListAndWatchResponse(devices=map(_message, offers))
        finally:
            self._streams -= 1
            self._was_watched, self._unwatched_since = True, time.monotonic()

    async def _preferred(
        self, request: v1beta1.PreferredAllocationRequest, _context: Any
    ) -> v1beta1.PreferredAllocationResponse:
        answers = [
            v1beta1.ContainerPreferredAllocationResponse(
                deviceIDs=preferred(
                    self._stock.sight.inventory,
                    one.available_deviceIDs,
                    one.must_include_deviceIDs,
                    one.allocation_size,
                    spread=self._stock.spreads(self.resource),
                )
            )
            for one in request.container_requests
        ]
        return v1beta1.PreferredAllocationResponse(container_responses=answers)

    async def _allocate(self, request: v1beta1.AllocateRequest, context: Any) -> v1beta1.AllocateResponse:
        answer = v1beta1.AllocateResponse()
        for one in request.container_requests:
            devices = list(one.devices_ids)
            contents = await self._done("Allocate", devices, self._stock.allocate(self.resource, devices), context)
            answer.container_responses.append(_container(contents))
        return answer

    async def _pre_start(
        self, request: v1beta1.PreStartContainerRequest, context: Any
    ) -> v1beta1.PreStartContainerResponse:
        devices = list(request.devices_ids)
        await self._done("PreStartContainer", devices, self._stock.prepare(self.resource, devices), context)
        return v1beta1.PreStartContainerResponse()

    async def _done(self, call: str, devices: list[str], work: Any, context: Any) -> Any:
        """The result of the work. If it fails, the call fails with the full message."""
        told = f"{call} of {', '.join(devices)} ({self.resource})"
        began = time.monotonic()
        # A kubelet that disconnects during a call must not interrupt the binding of a driver.
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            outcome = await asyncio.shield(task)
        except CniError as error:
            self._metrics.refused(self.resource, call, type(error).__name__)
            text = ". ".join(part for part in (error.msg, error.details) if part)
            self._log.error(f"{told}: {text}")
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
        finally:
            self._ended = time.monotonic()
            self._metrics.took(call, self._ended - began)
        self._log.info(told)
        return outcome

    # The calls of a kubelet that discovers our sockets itself

    async def _info(self, _request: registration.InfoRequest, _context: Any) -> registration.PluginInfo:
        return registration.PluginInfo(
            type="DevicePlugin", name=self.resource, endpoint=self.path, supported_versions=[VERSION]
        )

    async def _notified(
        self, request: registration.RegistrationStatus, _context: Any
    ) -> registration.RegistrationStatusResponse:
        if request.plugin_registered:
            self._log.info(f"the kubelet has registered {self.resource}")
        else:
            self._log.error(f"the kubelet does not register {self.resource}: {request.error}")
        return registration.RegistrationStatusResponse()


def _message(offer: Offer) -> v1beta1.Device:
    numa = v1beta1.TopologyInfo(nodes=[v1beta1.NUMANode(ID=offer.numa)]) if offer.numa >= 0 else None
    return v1beta1.Device(ID=offer.device, health="Healthy" if offer.healthy else "Unhealthy", topology=numa)


def _container(contents: Contents) -> v1beta1.ContainerAllocateResponse:
    nodes = [
        v1beta1.DeviceSpec(container_path=node.container, host_path=node.host, permissions="rw")
        for node in contents.nodes
    ]
    names = [v1beta1.CDIDevice(name=name) for name in contents.cdi]
    return v1beta1.ContainerAllocateResponse(envs=contents.environment, devices=nodes, cdi_devices=names)
