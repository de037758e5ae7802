"""A device that a DPDK process drives: its life, its state, and the path of its vhost-user socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from driverhost.dpdk import telemetry
from driverhost.dpdk.process import Process
from driverhost.errors import DeviceFailed, Unsupported, described
from driverhost.pauses import Pauses

if TYPE_CHECKING:
    from cni.log import Log
    from driverhost.dpdk.process import Dpdk
    from driverhost.port import Port

START_SECONDS = 30.0
LOOK_SECONDS = 1.0
MOST_SILENT = 3
"""A process that does not answer so many times in a row hangs, and is restarted."""
_COUNTERS = {
    "rx_packets": "ipackets",
    "tx_packets": "opackets",
    "rx_bytes": "ibytes",
    "tx_bytes": "obytes",
    "rx_missed": "imissed",
    "rx_errors": "ierrors",
    "tx_errors": "oerrors",
}


class DpdkHost:
    """As `driverhost.host.DeviceHost`, for a device with DPDK. Applications get the path of a vhost-user socket."""

    def __init__(self, address: str, dpdk: Dpdk, announce: Callable[[dict[str, Any]], None], log: Log) -> None:
        self.address = address
        self.vhost_user = dpdk.socket(address)
        self._dpdk, self._announce, self._log = dpdk, announce, log
        self._seen: dict[str, Any] | None = None
        self._counters: dict[str, int] = {}
        self.restarts = 0

    async def run(self) -> None:
        """Until it is cancelled; then the process is ended."""
        pauses, loop = Pauses(), asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await self._live()
            except Exception as error:  # noqa: BLE001 - an error of one device leaves the others alone
                self._log.error(f"{self.address}: {described(error)}")
            self.restarts += 1
            await asyncio.sleep(pauses.after(loop.time() - started))

    def info(self) -> dict[str, Any]:
        state = {"state": "up", **self._seen} if self._seen else {"state": "down"}
        return {"device": self.address, "driver": "dpdk", "restarts": self.restarts, **state}

    def statistics(self) -> dict[str, int]:
        """Of at most a second ago. Raises `DeviceFailed`."""
        self.require_running()
        return dict(self._counters)

    def set_mac(self, _mac: bytes) -> None:
        """Raises `Unsupported`."""
        raise Unsupported(f"the MAC address of {self.address} cannot be set: DPDK drives it", hint="set it at the PF")

    def open(self, _port: Port) -> None:
        """Raises `Unsupported`."""
        raise Unsupported(f"{self.address} has no ring: use its vhost-user socket {self.vhost_user}")

    def capture(self, _port: Port) -> None:
        """Raises `Unsupported`."""
        raise Unsupported(f"frames of {self.address} cannot be captured: DPDK drives it")

    def close(self, _port: Port) -> None:
        """There are no ports."""

    def require_running(self) -> None:
        """Raises `DeviceFailed`."""
        if not self._seen:
            raise DeviceFailed(f"DPDK of {self.address} is not running", hint="it is restarted; see the log")

    async def _live(self) -> None:
        """One life of the process. Raises the reason of its end."""
        process = Process(self.address, self._dpdk, self._log)
        await process.start()
        ending = asyncio.create_task(process.ended())
        watching = asyncio.create_task(self._watch(process))
        try:
            done, _pending = await asyncio.wait((ending, watching), return_when=asyncio.FIRST_COMPLETED)
            for task in (watching, ending):
                if task in done:
                    task.result()
        finally:
            for task in (ending, watching):
                task.cancel()
            await asyncio.gather(ending, watching, return_exceptions=True)
            if self._seen:
                self._seen = None
                self._announce({"event": "device", "device": self.address, "state": "down"})
            await asyncio.shield(process.stop())

    async def _watch(self, process: Process) -> None:
        port = await self._first_answer(process)
        self._log.info(f"{self.address}: DPDK is ready on {self.vhost_user}")
        self._announce({"event": "device", "device": self.address, "state": "up"})
        silent = 0
        while silent < MOST_SILENT:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look(process, port)
                silent = 0
            except DeviceFailed as error:
                silent += 1
                self._log.warning(f"{self.address}: {error}")
        raise DeviceFailed(f"DPDK of {self.address} hangs: it has not answered {silent} times")

    async def _first_answer(self, process: Process) -> int:
        """The number of the device's port in DPDK, as soon as it works. Raises `DeviceFailed`."""
        problem = "no answer"
        try:
            async with asyncio.timeout(START_SECONDS):
                while True:
                    try:
                        port = await self._port(process)
                        if process.offer():
                            await self._look(process, port)
                            return port
                        problem = f"{self.vhost_user} is missing"
                    except DeviceFailed as error:
                        problem = error.message
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise DeviceFailed(
                f"DPDK of {self.address} is not ready within {START_SECONDS:.0f} s: {problem}",
                hint="the device needs the driver vfio-pci, and DPDK huge pages unless --no-huge is set",
            ) from None

    async def _port(self, process: Process) -> int:
        [ports] = await asyncio.to_thread(telemetry.ask, process.telemetry, "/ethdev/list")
        if not isinstance(ports, list) or not all(isinstance(port, int) for port in ports):
            raise DeviceFailed("DPDK's list of ports is not readable")
        commands = [f"/ethdev/info,{port}" for port in ports]
        infos = await asyncio.to_thread(telemetry.ask, process.telemetry, *commands)
        for port, info in zip(ports, infos, strict=True):
            if isinstance(info, dict) and info.get("name") == self.address:
                self._mac = str(info.get("mac_addr", "")).lower()
                return int(port)
        raise DeviceFailed(f"{self.address} is none of DPDK's ports")

    async def _look(self, process: Process, port: int) -> None:
        commands = (f"/ethdev/link_status,{port}", f"/ethdev/stats,{port}")
        link, counters = await asyncio.to_thread(telemetry.ask, process.telemetry, *commands)
        if not isinstance(link, dict) or not isinstance(counters, dict):
            raise DeviceFailed("DPDK's answer about the port is not readable")
        up = link.get("status") == "UP"
        speed = link.get("speed", 0) if up else 0
        seen = {"up": up, "speed": speed if isinstance(speed, int) else 0}
        if self._seen and self._seen["link"] != seen:
            self._announce({"event": "link", "device": self.address, **seen})
        self._seen = {"mac": self._mac, "link": seen, "vhost-user": self.vhost_user}
        known = {name: counters.get(theirs, 0) for name, theirs in _COUNTERS.items()}
        self._counters = {name: value for name, value in known.items() if isinstance(value, int)}
