"""A strict kubelet: the part that communicates with device plugins, with the real one's refusals and data losses.

It calls back during Register, takes every list as complete, removes a silent resource after a grace period, chooses
devices at random, requests devices for one container at a time, uses only the first response, keeps it for restarts,
and deletes all sockets when it starts. Violations of the protocol by a plugin are kept in `violations`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from deviceplugin.api import (
    calls,
    deviceplugin_pb2 as v1beta1,
    pluginregistration_pb2 as registration,
    podresources_pb2 as v1,
)
from resident.calls import Call, serve

if TYPE_CHECKING:
    from pathlib import Path

DIAL_SECONDS = 10.0
PRE_START_SECONDS = 30.0
CHECKPOINT = "kubelet_internal_checkpoint"
_RESOURCE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


class AdmissionError(Exception):
    """The pod fails: UnexpectedAdmissionError."""


class Endpoint:
    """A registered resource."""

    def __init__(self, resource: str, path: str, options: v1beta1.DevicePluginOptions) -> None:
        self.resource = resource
        # Unlike Go's, channels of this library share a failed attempt to connect, and wait after it.
        self.channel = grpc.aio.insecure_channel(f"unix:{path}", options=[("grpc.use_local_subchannel_pool", 1)])
        self.options = options
        self.devices: dict[str, str] = {}
        self.numa: dict[str, int] = {}
        self.lists: list[dict[str, str]] = []
        self.stopped_at = 0.0
        self.task: asyncio.Task[None] | None = None


class Kubelet:
    """`grace` replaces the five minutes for which a resource outlives its plugin."""

    def __init__(self, root: Path, *, grace: float = 0.5, seed: int = 0) -> None:
        self.root = root
        self.folder = root / "device-plugins"
        self.registry = root / "plugins_registry"
        self.pod_resources = root / "pod-resources"
        for folder in (self.folder, self.registry, self.pod_resources):
            folder.mkdir(parents=True)
        self.grace = grace
        self.endpoints: dict[str, Endpoint] = {}
        self.pods: dict[str, dict[str, dict[str, list[str]]]] = {}
        self.answers: dict[tuple[str, str, str], v1beta1.ContainerAllocateResponse] = {}
        self.violations: list[str] = []
        self.registrations: list[tuple[str, float]] = []
        self.failed_dials: list[str] = []
        """The resources whose sockets could not be reached during their registration."""
        self.refuses_registration = ""
        self._random = random.Random(seed)
        self._servers: list[grpc.aio.Server] = []

    # Life cycle

    async def start(self) -> None:
        for path in self.folder.iterdir():
            if path.name != CHECKPOINT and not path.is_dir():
                path.unlink()
        self.endpoints.clear()
        await self._serve(self.folder / "kubelet.sock", {calls.REGISTER: self._register})
        await self.start_listing()

    async def start_listing(self) -> None:
        await self._serve(self.pod_resources / "kubelet.sock", {calls.POD_RESOURCES: self._list})

    async def stop(self) -> None:
        """Stops like a crash: there is no clean-up."""
        for endpoint in self.endpoints.values():
            await self._drop(endpoint)
        for server in self._servers:
            await server.stop(grace=None)
        self._servers.clear()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def _serve(self, path: Path, functions: dict[Call, Any]) -> None:
        server = grpc.aio.server()
        serve(server, functions)
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        self._servers.append(server)

    # Methods that plugins call

    async def _register(self, request: v1beta1.RegisterRequest, context: Any) -> v1beta1.Empty:
        problem = self.refuses_registration or self._problem(request)
        if problem:
            await context.abort(grpc.StatusCode.UNKNOWN, problem)
        try:
            await self._connect(request.resource_name, str(self.folder / request.endpoint), request.options)
        except grpc.aio.AioRpcError as error:
            self.failed_dials.append(request.resource_name)
            await context.abort(grpc.StatusCode.UNKNOWN, f"failed to dial device plugin: {error.details()}")
        return v1beta1.Empty()

    def _problem(self, request: v1beta1.RegisterRequest) -> str:
        if request.version != "v1beta1":
            return f"unsupported version {request.version!r}"
        if not _RESOURCE.fullmatch(request.resource_name) or "kubernetes.io/" in request.resource_name:
            return f"{request.resource_name!r} is no extended resource"
        if "/" in request.endpoint or not request.endpoint:
            return f"{request.endpoint!r} is no name of a socket"
        return ""

    async def find_plugins(self) -> None:
        """Calls every socket in plugins_registry, like the real plugin watcher."""
        for path in sorted(self.registry.iterdir()):
            async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
                info = await calls.GET_INFO.of(channel)(registration.InfoRequest(), timeout=DIAL_SECONDS)
                if info.type != "DevicePlugin" or "v1beta1" not in info.supported_versions:
                    self.violations.append(f"{path.name} says {info}")
                    continue
                await self._connect(info.name, info.endpoint, None)
                status = registration.RegistrationStatus(plugin_registered=True)
                await calls.NOTIFY.of(channel)(status, timeout=DIAL_SECONDS)

    async def _connect(self, resource: str, path: str, options: v1beta1.DevicePluginOptions | None) -> None:
        if present := self.endpoints.pop(resource, None):
            await self._drop(present)
        endpoint = Endpoint(resource, path, options or v1beta1.DevicePluginOptions())
        try:
            found = await calls.OPTIONS.of(endpoint.channel)(v1beta1.Empty(), timeout=DIAL_SECONDS)
        except grpc.aio.AioRpcError:
            await endpoint.channel.close()
            raise
        if options is not None and found != options:
            self.violations.append(f"{resource}: other options than it registered with")
        endpoint.options = found
        self.endpoints[resource] = endpoint
        self.registrations.append((resource, time.monotonic()))
        endpoint.task = asyncio.create_task(self._consume(endpoint))

    async def _consume(self, endpoint: Endpoint) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for message in calls.LIST_AND_WATCH.of(endpoint.channel)(v1beta1.Empty()):
                self._take(endpoint, message)
        endpoint.devices = dict.fromkeys(endpoint.devices, "Unhealthy")
        endpoint.stopped_at = time.monotonic()

    def _take(self, endpoint: Endpoint, message: v1beta1.ListAndWatchResponse) -> None:
        names = [device.ID for device in message.devices]
        if len(set(names)) != len(names):
            self.violations.append(f"{endpoint.resource}: a device twice in one list")
        for device in message.devices:
            if len(device.ID) > 63 or device.health not in ("Healthy", "Unhealthy"):
                self.violations.append(f"{endpoint.resource}: {device}")
        endpoint.devices = {device.ID: device.health for device in message.devices}
        endpoint.numa = {device.ID: device.topology.nodes[0].ID for device in message.devices if device.topology.nodes}
        endpoint.lists.append(endpoint.devices)

    async def _drop(self, endpoint: Endpoint) -> None:
        if endpoint.task:
            endpoint.task.cancel()
            await asyncio.gather(endpoint.task, return_exceptions=True)
        await endpoint.channel.close()

    # The node's reported capacity

    def capacity(self, resource: str) -> int:
        endpoint = self._living(resource)
        return len(endpoint.devices) if endpoint else 0

    def allocatable(self, resource: str) -> int:
        endpoint = self._living(resource)
        return list(endpoint.devices.values()).count("Healthy") if endpoint else 0

    def health(self, resource: str) -> dict[str, str]:
        endpoint = self._living(resource)
        return dict(endpoint.devices) if endpoint else {}

    def _living(self, resource: str) -> Endpoint | None:
        endpoint = self.endpoints.get(resource)
        if endpoint and endpoint.stopped_at and time.monotonic() - endpoint.stopped_at > self.grace:
            del self.endpoints[resource]
            return None
        return endpoint

    # Pods

    async def admit(
        self, pod: str, resource: str, number: int = 1, *, container: str = "app", wanted: tuple[str, ...] = ()
    ) -> list[str]:
        """Allocates devices to a container and returns them; those of init containers are reused. Raises
        `AdmissionError`.

        `wanted` replaces the random choice.
        """
        containers = self.pods.setdefault(pod, {})
        try:
            endpoint = self._living(resource)
            if endpoint is None:
                raise AdmissionError(f"no endpoint for {resource}")
            devices = await self._chosen(endpoint, containers.get("init", {}).get(resource, []), number, wanted)
            request = v1beta1.AllocateRequest(
                container_requests=[v1beta1.ContainerAllocateRequest(devices_ids=devices)]
            )
            answer = await calls.ALLOCATE.of(endpoint.channel)(request)
        except grpc.aio.AioRpcError as error:
            self.pods.pop(pod)
            raise AdmissionError(error.details()) from error
        except AdmissionError:
            self.pods.pop(pod)
            raise
        containers.setdefault(container, {})[resource] = devices
        self.answers[pod, container, resource] = answer.container_responses[0]
        return devices

    async def _chosen(self, endpoint: Endpoint, reused: list[str], number: int, wanted: tuple[str, ...]) -> list[str]:
        taken = {
            device
            for containers in self.pods.values()
            for resources in containers.values()
            for device in resources.get(endpoint.resource, [])
        }
        free = [name for name, health in endpoint.devices.items() if health == "Healthy" and name not in taken]
        chosen = [*reused[:number], *wanted]
        if not set(wanted) <= set(free):
            raise AdmissionError(f"{wanted} are not free and healthy")
        missing = number - len(chosen)
        if missing > len(free):
            raise AdmissionError(f"{number} of {endpoint.resource} requested, {len(free)} available")
        if 0 < missing < len(free) and endpoint.options.get_preferred_allocation_available:
            request = v1beta1.ContainerPreferredAllocationRequest(
                available_deviceIDs=free, must_include_deviceIDs=chosen, allocation_size=number
            )
            answer = await calls.PREFERRED.of(endpoint.channel)(
                v1beta1.PreferredAllocationRequest(container_requests=[request])
            )
            hint = list(answer.container_responses[0].deviceIDs)
            if len(hint) == number and set(hint) <= {*free, *chosen}:
                return hint
            self.violations.append(f"{endpoint.resource}: preferred {hint}, which is no answer to {request}")
        return [*chosen, *self._random.sample(free, missing)]

    async def start_container(self, pod: str, container: str = "app") -> None:
        """Starts or restarts a container: the response of Allocate is kept, and PreStartContainer is called again."""
        for resource, devices in self.pods[pod][container].items():
            endpoint = self.endpoints[resource]
            if endpoint.options.pre_start_required:
                request = v1beta1.PreStartContainerRequest(devices_ids=devices)
                await calls.PRE_START.of(endpoint.channel)(request, timeout=PRE_START_SECONDS)

    def end(self, pod: str) -> None:
        """Ends the pod. The plugin is not notified."""
        self.pods.pop(pod, None)

    async def _list(self, _request: v1.ListPodResourcesRequest, _context: Any) -> v1.ListPodResourcesResponse:
        answer = v1.ListPodResourcesResponse()
        for name, containers in self.pods.items():
            pod = answer.pod_resources.add(name=name, namespace="default")
            for container, resources in containers.items():
                one = pod.containers.add(name=container)
                for resource, devices in resources.items():
                    one.devices.add(resource_name=resource, device_ids=devices)
        return answer
