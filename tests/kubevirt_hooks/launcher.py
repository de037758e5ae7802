"""virt-launcher's side of the hooks: it finds the sidecars by their sockets, and calls them within its time limits.

It is written from the protocol's description in docs/kubevirt.md, "The hook protocol".
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from kubevirt.api import calls, info_pb2
from resident.calls import Call

DIAL_SECONDS, INFO_SECONDS, CALL_SECONDS = 1.0, 1.0, 60.0
PAUSE_SECONDS = 0.02
"""Seconds between two scans of the folder. virt-launcher waits longer."""
KNOWN = ("v1alpha3", "v1alpha2", "v1alpha1")


class CollectError(Exception):
    """A sidecar cannot be used, or was late: the machine does not start."""


@dataclass
class Sidecar:
    """A sidecar that was found. `version` is the newest that both support."""

    socket: Path
    name: str
    version: str
    hooks: list[info_pb2.HookPoint]

    def has(self, hook: str) -> bool:
        return hook in [each.name for each in self.hooks]


class Launcher:
    """`known` are the versions that this virt-launcher supports, newest first. `nested`: each sidecar has its own
    folder.
    """

    def __init__(self, folder: Path, *, known: tuple[str, ...] = KNOWN, nested: bool = False) -> None:
        self.folder, self._known, self._nested = folder, known, nested
        self.sidecars: list[Sidecar] = []

    def collect(self, count: int, seconds: float = 60.0) -> None:
        """Scans until that many sockets respond. Two sidecars with one name are one, even in different folders."""
        deadline = time.monotonic() + seconds
        found: dict[str, Sidecar] = {}
        while len(found) < count:
            for path in self._entries():
                if path.name not in found and (sidecar := self._asked(path)):
                    found[path.name] = sidecar
            if time.monotonic() > deadline:
                raise CollectError(f"only {sorted(found)} of {count} in time")
            time.sleep(PAUSE_SECONDS)
        self.sidecars = list(found.values())

    def define(self, domain: bytes, vmi: dict[str, Any]) -> bytes:
        """The domain for libvirt, after the hooks have changed it one after the other."""
        text = json.dumps(vmi).encode()
        for sidecar in self._with("OnDefineDomain"):
            call = calls.ON_DEFINE_DOMAIN[sidecar.version]
            domain = self._call(sidecar, call, call.request(domainXML=domain, vmi=text)).domainXML
        return domain

    def pre_cloud_init_iso(self, data: bytes, legacy: bytes) -> tuple[bytes, bytes]:
        """Calls the first sidecar, whether or not it has requested that."""
        sidecar = self.sidecars[0]
        call = calls.PRE_CLOUD_INIT_ISO[sidecar.version]
        answer = self._call(sidecar, call, call.request(cloudInitData=data, cloudInitNoCloudSource=legacy, vmi=b"{}"))
        return answer.cloudInitData, answer.cloudInitNoCloudSource

    def shut_down(self) -> None:
        for sidecar in self._with("Shutdown"):
            if call := calls.SHUTDOWN.get(sidecar.version):
                self._call(sidecar, call, call.request())

    def _with(self, hook: str) -> list[Sidecar]:
        return [sidecar for sidecar in self.sidecars if sidecar.has(hook)]

    def _entries(self) -> list[Path]:
        if not self._nested:
            return sorted(self.folder.iterdir())
        return sorted(path for folder in self.folder.iterdir() for path in folder.iterdir() if not path.is_dir())

    def _asked(self, path: Path) -> Sidecar | None:
        """Returns None for a sidecar that is not ready yet. One that accepts a connection without responding ends the
        start.
        """
        with _dialled(path) as channel:
            try:
                grpc.channel_ready_future(channel).result(DIAL_SECONDS)
            except grpc.FutureTimeoutError:
                return None
            try:
                info = calls.INFO.of(channel)(info_pb2.InfoParams(), timeout=INFO_SECONDS)
            except grpc.RpcError as error:
                raise CollectError(f"{path}: {error.details()}") from error
        version = next((each for each in self._known if each in info.versions), None)
        if version is None:
            raise CollectError(f"{path}: no common version with {list(info.versions)}")
        return Sidecar(path, info.name, version, list(info.hookPoints))

    @staticmethod
    def _call(sidecar: Sidecar, call: Call, request: Any) -> Any:
        with _dialled(sidecar.socket) as channel:
            grpc.channel_ready_future(channel).result(DIAL_SECONDS)
            return call.of(channel)(request, timeout=CALL_SECONDS)


def _dialled(path: Path) -> grpc.Channel:
    """Go's client uses the path as the server's name, which is not a valid host name."""
    return grpc.insecure_channel(f"unix:{path}", options=[("grpc.default_authority", str(path))])
