"""The DPDK process: its command line, its files and its output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from driverhost.errors import DeviceFailed, DeviceUnavailable

if TYPE_CHECKING:
    from cni.log import Log

END_SECONDS = 5.0
"""A process that is to end has so long before it is killed."""
_REST_SECONDS = 1.0
_LINES = 20
_LINE_BYTES = 400
_VOLUME_MODE = 0o660
_BUFFERS_PER_MIB = 64
"""A buffer takes about 2.5 KiB, and rings and the like need memory, too."""


@dataclass(frozen=True)
class Dpdk:
    """How the driver host starts DPDK. The administrator of the image decides it, and never an application.

    `folder` is where the vhost-user sockets are, in a volume that the applications share. `memory` is in MiB. `uid` and
    `gid` are the owner of the sockets; -1 leaves the process's own.
    """

    program: tuple[str, ...] = ("dpdk-testpmd",)
    folder: str = "/run/driverhost"
    memory: int = 256
    has_huge_pages: bool = True
    uid: int = -1
    gid: int = -1

    def socket(self, device: str) -> str:
        return f"{self.folder}/{device}.sock"


class Process:
    """A process that forwards frames between a device and a vhost-user socket.

    It ends with its stdin, so that it does not outlive the driver host.
    """

    def __init__(self, device: str, dpdk: Dpdk, log: Log) -> None:
        self._device, self._dpdk, self._log = device, dpdk, log
        self._runtime = tempfile.TemporaryDirectory(prefix="dpdk-")
        self._last: deque[str] = deque(maxlen=_LINES)

    @property
    def telemetry(self) -> str:
        return f"{self._runtime.name}/dpdk/rte/dpdk_telemetry.v2"

    async def start(self) -> None:
        """Raises `DeviceUnavailable` when the program cannot be executed."""
        pipe = asyncio.subprocess.PIPE
        environment = {**os.environ, "RUNTIME_DIRECTORY": self._runtime.name}
        try:
            os.makedirs(self._dpdk.folder, exist_ok=True)
            self._remove_socket()
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments(),
                stdin=pipe,
                stdout=pipe,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            self._runtime.cleanup()
            raise DeviceUnavailable(
                f"DPDK of {self._device} cannot be started: {error.filename}: {os.strerror(error.errno or 0)}",
                hint="the image needs DPDK, or --dpdk-program another program; --vhost-directory is for its socket",
            ) from error
        self._reading = asyncio.create_task(self._read(self._process.stdout))

    async def ended(self) -> None:
        """Returns never: raises `DeviceFailed` when the process ends, with its last lines."""
        await self._process.wait()
        await self._end_reading()
        lines = " | ".join(self._last)
        raise DeviceFailed(f"DPDK of {self._device} has ended with {self._process.returncode}: {lines}")

    async def stop(self) -> None:
        """Ends the process, and removes its files. It can be repeated."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), END_SECONDS)
        # The program may be a script that leaves a process behind.
        self._signal(signal.SIGKILL)
        await self._process.wait()
        await self._end_reading()
        self._remove_socket()
        self._runtime.cleanup()

    def offer(self) -> bool:
        """Whether the socket is there; then applications may connect to it."""
        path = self._dpdk.socket(self._device)
        try:
            os.chown(path, self._dpdk.uid, self._dpdk.gid)
            os.chmod(path, _VOLUME_MODE)
        except FileNotFoundError:
            return False
        except PermissionError as error:
            raise DeviceUnavailable(
                f"{path} cannot be given to uid {self._dpdk.uid} and gid {self._dpdk.gid}",
                hint="the container needs the capability CHOWN, or the group; without --allow-uid it keeps its owner",
            ) from error
        return True

    def _signal(self, number: int) -> None:
        """To the process and to those that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    async def _end_reading(self) -> None:
        """Reads the rest of the output, which another process may keep open."""
        await asyncio.wait((self._reading,), timeout=_REST_SECONDS)
        self._reading.cancel()

    def _arguments(self) -> list[str]:
        one, *others = sorted(os.sched_getaffinity(0))
        # Normal pages are "legacy memory", which DPDK does not combine with --in-memory.
        memory = ("--in-memory",) if self._dpdk.has_huge_pages else ("--no-huge", "--no-shconf")
        return [
            *self._dpdk.program,
            *(*memory, "-m", str(self._dpdk.memory)),
            *("--lcores", f"0@{one},1@{others[0] if others else one}"),
            *("-a", self._device, "--vdev", f"net_vhost0,iface={self._dpdk.socket(self._device)},queues=1"),
            *("--", "--forward-mode=io", "--auto-start", "--stats-period=0"),
            f"--total-num-mbufs={self._dpdk.memory * _BUFFERS_PER_MIB}",
        ]

    async def _read(self, output: asyncio.StreamReader | None) -> None:
        """Keeps the last lines of the output. Its size is bounded, whatever the process writes."""
        rest = b""
        while output and (data := await output.read(4096)):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[-_LINE_BYTES:]
            for line in lines:
                self._last.append(line[:_LINE_BYTES].decode(errors="replace").strip())
                self._log.debug(f"{self._device}: DPDK: {self._last[-1]}")
        if rest:
            self._last.append(rest.decode(errors="replace").strip())

    def _remove_socket(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            Path(self._dpdk.socket(self._device)).unlink()
