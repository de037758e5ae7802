"""The files in the pod about its networks, some of which are written after the start of the pod."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from cni.errors import InvalidConfig, TryAgainLater
from cni.names import is_file_name, shown
from kubevirt.facts import device_metadata, network_info
from kubevirt.port import SOCKETS, Sight

if TYPE_CHECKING:
    from collections.abc import Collection

    from cni.log import Log
    from kubevirt.facts import Fact
    from kubevirt.machine import Claim, Machine

NETWORK_INFO = "/etc/podinfo/network-info"
DEVICE_METADATA = "/var/run/kubernetes.io/dra-device-attributes"
_METADATA_END = "-metadata.json"

CALL_SECONDS = 10.0
"""The time that a call waits for a file. virt-handler limits its own call to 20 s, and repeats a failed one."""
INFO_SECONDS = 90.0
"""The time from the first call during which a machine does not start without its network-info.

The kubelet updates a volume once a minute. If no network has a device, KubeVirt may write nothing.
"""
_PAUSE = 0.2
_LARGEST = 1 << 20


class PodFiles:
    """Reads the files for a machine."""

    def __init__(
        self,
        log: Log,
        *,
        sockets: str = SOCKETS,
        info: str = NETWORK_INFO,
        metadata: str = DEVICE_METADATA,
        call_seconds: float = CALL_SECONDS,
        info_seconds: float = INFO_SECONDS,
    ) -> None:
        self._log = log
        self._sockets, self._info, self._metadata = sockets, info, metadata
        self._call_seconds, self._info_seconds = call_seconds, info_seconds
        self._first: float | None = None

    async def sight(self, machine: Machine, binding: str) -> Sight:
        """The facts of all files. Raises `InvalidConfig`, and `TryAgainLater` for a file that is not written yet."""
        now = time.monotonic()
        self._first = self._first or now
        deadline = now + self._call_seconds
        return Sight(
            info=await self._network_info({each.name for each in machine.of_binding(binding)}, deadline),
            claims=await self._claims(machine, binding, deadline),
            sockets=self._sockets,
        )

    async def _network_info(self, networks: Collection[str], deadline: float) -> dict[str, Fact]:
        """The facts by network; empty if there is no file, because the plugin is registered without `downwardAPI`."""
        end = (self._first or 0) + self._info_seconds
        while (text := _read(self._info)) is not None:
            if (found := network_info(text, networks)) is not None:
                return found
            now = time.monotonic()
            if now >= end:
                self._log.warning(f"{self._info} is still empty: sockets have the interfaces' names, no MTU is set")
                break
            if now >= deadline:
                raise TryAgainLater(
                    f"{self._info} is empty: KubeVirt has not yet written what the networks of the pod are"
                )
            await asyncio.sleep(_PAUSE)
        return {}

    async def _claims(self, machine: Machine, binding: str, deadline: float) -> dict[str, Fact]:
        found: dict[str, Fact] = {}
        for interface in machine.of_binding(binding):
            network = machine.network(interface.name)
            if network is not None and network.resource_claim is not None:
                found[interface.name] = await self._claim(machine, network.resource_claim, deadline)
        return found

    async def _claim(self, machine: Machine, claim: Claim, deadline: float) -> Fact:
        folders = self._folders(machine, claim)
        while True:
            problem: InvalidConfig | None = None
            # A request may have devices of several drivers. Each writes a file, one after the other.
            for path in (path for folder in folders for path in _metadata_files(folder)):
                try:
                    if (fact := device_metadata(_read(path) or b"", path)) is not None:
                        return fact
                except InvalidConfig as error:
                    problem = problem or error
            if time.monotonic() >= deadline:
                if problem:
                    raise problem
                raise TryAgainLater(
                    f"claim {claim.claim_name}: there is no metadata of the device in {' or '.join(folders)}",
                    hint="the DRA driver writes it; KubeVirt 1.9 or later mounts it into the sidecar",
                )
            await asyncio.sleep(_PAUSE)

    def _folders(self, machine: Machine, claim: Claim) -> list[str]:
        """The places of Kubernetes for a claim by name, and for a claim from a template."""
        named = (each.resource_claim_name for each in machine.spec.resource_claims if each.name == claim.claim_name)
        # A request may contain alternatives (request/alternative). The directory has the name of the request.
        request = claim.request_name.partition("/")[0]
        names = {"resourceclaimtemplates": claim.claim_name, "resourceclaims": next(named, None) or claim.claim_name}
        for name in (request, *names.values()):
            if not is_file_name(name):
                raise InvalidConfig(f"resourceClaim: {shown(name)} is no name of a claim or a request")
        return [f"{self._metadata}/{place}/{name}/{request}" for place, name in names.items()]


def _metadata_files(folder: str) -> list[str]:
    try:
        return [f"{folder}/{name}" for name in sorted(os.listdir(folder)) if name.endswith(_METADATA_END)]
    except OSError:
        return []


def _read(path: str) -> bytes | None:
    """The content; None if there is no such file. Raises `TryAgainLater`, and `InvalidConfig` if it is too long."""
    try:
        with open(path, "rb") as file:
            text = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TryAgainLater(f"cannot read {path}: {os.strerror(error.errno or 0)}") from error
    if len(text) > _LARGEST:
        raise InvalidConfig(f"{path} has more than {_LARGEST} bytes")
    return text
