"""Which devices the kubelet says that pods have."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from cni.errors import TryAgainLater
from deviceplugin.api import calls, podresources_pb2 as v1

if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS = 5.0
_LARGEST = 16 << 20
"""Bytes of an answer; the kubelet's own clients take as much."""


class PodResources:
    """The kubelet's socket for it. Every answer is from a new connection: the socket of a kubelet that restarts is another."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._target = f"unix:{path}"
        self._kubelet: tuple[int, int] | None = None

    async def listed(self) -> Mapping[str, frozenset[str]]:
        """The devices by resource.

        Raises `TryAgainLater` when the kubelet does not answer, and once when it is another one than that of the last
        answer: it may have started between two questions, and has not heard of its pods yet.
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
    """Which socket it is that has this path: the number of a removed one is soon used again, but not at the same time."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


async def owners(path: str) -> dict[tuple[str, str], str]:
    """The containers by resource and device, for people: namespace, pod, container. Raises `TryAgainLater`."""
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
        raise TryAgainLater(
            f"the kubelet does not say which devices pods have: {getattr(error, 'details', error.__str__)()}",
            hint="pod-resources/kubelet.sock of the kubelet's folder has to be mounted",
        ) from error
    return answer
