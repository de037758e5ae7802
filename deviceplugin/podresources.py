"""The devices of pods, as the kubelet reports them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from cni.errors import TryAgainLater
from deviceplugin.api import calls, podresources_pb2 as v1
from resident.calls import reason

if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS = 5.0
_LARGEST = 16 << 20
"""Limit of a response in bytes, as in the clients of the kubelet's project."""


class PodResources:
    """The kubelet's pod-resources API. Every query uses a new connection, because a restart replaces the socket."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._target = f"unix:{path}"
        self._kubelet: tuple[int, int] | None = None

    async def listed(self) -> Mapping[str, frozenset[str]]:
        """The devices by resource.

        Raises `TryAgainLater` if the kubelet does not answer, and once after a restart of the kubelet: it may not know
        its pods yet.
        """
        before = identity(self._path)
        answer = await _answer(self._target)
        known, self._kubelet = self._kubelet, before
        if known and before != known:
            raise TryAgainLater("the kubelet has started again: what it does not list counts after a while")
        found: dict[str, set[str]] = {}
        for pod in answer.pod_resources:
            for container in pod.containers:
                for devices in container.devices:
                    found.setdefault(devices.resource_name, set()).update(devices.device_ids)
        return {resource: frozenset(devices) for resource, devices in found.items()}


def identity(path: str) -> tuple[int, int] | None:
    """Identifies the socket with this path. An inode number can be used again, but not with the same ctime."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


async def owners(path: str) -> dict[tuple[str, str], str]:
    """The containers by resource and device, as text: namespace, pod, container. Raises `TryAgainLater`."""
    found: dict[tuple[str, str], list[str]] = {}
    for pod in (await _answer(f"unix:{path}")).pod_resources:
        for container in pod.containers:
            for devices in container.devices:
                for device in devices.device_ids:
                    name = f"{pod.namespace}/{pod.name}/{container.name}"
                    found.setdefault((devices.resource_name, device), []).append(name)
    return {key: ", ".join(names) for key, names in found.items()}


async def _answer(target: str) -> v1.ListPodResourcesResponse:
    limit = ("grpc.max_receive_message_length", _LARGEST)
    try:
        async with grpc.aio.insecure_channel(target, options=[limit]) as channel:
            answer: v1.ListPodResourcesResponse = await calls.POD_RESOURCES.of(channel)(
                v1.ListPodResourcesRequest(), timeout=SECONDS
            )
    except (grpc.aio.AioRpcError, DecodeError) as error:
        why = reason(error) if isinstance(error, grpc.aio.AioRpcError) else f"its answer is damaged: {error}"
        raise TryAgainLater(
            f"the kubelet does not say which devices pods have: {why}",
            hint="pod-resources/kubelet.sock of the kubelet's folder has to be mounted",
        ) from error
    return answer
