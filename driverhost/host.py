"""One device with its driver: starts it, restarts it after a failure, and moves frames between it and the ports."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from driverhost.errors import DeviceFailed, DriverHostError, Unsupported
from driverhost.port import BURST, Port
from driverhost.protocol.rings import MOST_SLOTS, RingBroken

if TYPE_CHECKING:
    from cni.log import Log
    from driverhost.device import Device
    from driverhost.driver import Driver

RESTART_SECONDS = (0.05, 0.2, 1.0, 5.0)
"""Pauses before a driver that has failed is started again; the last one repeats."""
LOOK_SECONDS = 1.0
"""The link's state is looked up so often: not every device announces a change."""

Opened = tuple["Device", "Driver"]


class DeviceHost:
    """`open_device` returns the device, reset, and a driver for it. `announce` is called with each event.

    At most one port is open for sending and receiving; any number of others get copies of all frames.
    """

    def __init__(
        self, address: str, open_device: Callable[[], Opened], announce: Callable[[dict[str, Any]], None], log: Log
    ) -> None:
        self.address = address
        self._open_device = open_device
        self._announce = announce
        self._log = log
        self._device: Any = None
        self._driver: Driver | None = None
        self._watched: list[int] = []
        self._port: Port | None = None
        self._captures: list[Port] = []
        self._failed = asyncio.Event()
        self._mac: bytes | None = None
        self.restarts = 0
        self._link_up = False
        self._more = False

    async def run(self) -> None:
        """Until it is cancelled; then the device is reset and closed."""
        failures = 0
        while True:
            try:
                self._start()
                failures = 0
                await self._watch()
            except DriverHostError as error:
                self._log.error(f"{self.address}: {error}" + (f"; {error.hint}" if error.hint else ""))
            finally:
                self._stop()
            pause = RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)]
            failures += 1
            self.restarts += 1
            await asyncio.sleep(pause)

    # What the interface offers.

    def info(self) -> dict[str, Any]:
        driver = self._driver
        described: dict[str, Any] = {
            "device": self.address,
            "state": "up" if driver else "down",
            "restarts": self.restarts,
        }
        if driver:
            described |= {"driver": type(driver).__name__, "mac": driver.mac.hex(":"), "link": driver.link._asdict()}
        return described | {"port": self._port is not None, "captures": len(self._captures)}

    def statistics(self) -> dict[str, int]:
        ports = {f"port_{name}": value for name, value in self._port.counters.items()} if self._port else {}
        return self._running().statistics | ports

    def set_mac(self, mac: bytes) -> None:
        """It stays when the driver is restarted. Raises `Unsupported`, `DeviceFailed`."""
        self._running().set_mac(mac)
        self._mac = mac

    def open(self, port: Port) -> None:
        """Raises `Unsupported` while another port is open."""
        if self._port:
            raise Unsupported(f"{self.address} has an open port", hint="one application has a device at a time")
        self._port = port
        asyncio.get_running_loop().add_reader(port.doorbell, self._rung, port)

    def capture(self, port: Port) -> None:
        self._captures.append(port)
        asyncio.get_running_loop().add_reader(port.doorbell, self._rung, port)

    def close(self, port: Port) -> None:
        """Of a port that may be closed already."""
        if port is not self._port and port not in self._captures:
            return
        asyncio.get_running_loop().remove_reader(port.doorbell)
        if port is self._port:
            self._port = None
        else:
            self._captures.remove(port)
        port.close()

    # The driver's life.

    def _start(self) -> None:
        self._failed.clear()
        self._device, driver = self._open_device()
        driver.start()
        if self._mac and driver.mac != self._mac:
            driver.set_mac(self._mac)
        self._driver = driver
        loop = asyncio.get_running_loop()
        for descriptor in driver.interrupts:
            loop.add_reader(descriptor, self._interrupted)
            self._watched.append(descriptor)
        self._link_up = driver.link.up
        self._log.info(f"{self.address}: the driver is ready")
        self._announce({"event": "device", "device": self.address, "state": "up"})
        self._interrupted()

    async def _watch(self) -> None:
        """Returns when the driver has failed."""
        while not self._failed.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._failed.wait(), LOOK_SECONDS)
            link = self._running().link
            if link.up != self._link_up:
                self._link_up = link.up
                self._announce({"event": "link", "device": self.address, **link._asdict()})

    def _stop(self) -> None:
        driver, device = self._driver, self._device
        self._driver = self._device = None
        loop = asyncio.get_running_loop()
        while self._watched:
            loop.remove_reader(self._watched.pop())
        if driver:
            self._announce({"event": "device", "device": self.address, "state": "down"})
            with contextlib.suppress(DriverHostError):
                driver.stop()
        if device:
            device.close()

    def _running(self) -> Driver:
        if not self._driver:
            raise DeviceFailed(f"the driver of {self.address} is not running", hint="it is restarted; see its log")
        return self._driver

    # Frames.

    def _interrupted(self) -> None:
        driver = self._driver
        if not driver:
            return
        try:
            driver.on_interrupt()
            while frames := driver.receive(BURST):
                self._deliver(frames)
            self._transmit()
        except DriverHostError as error:
            self._log.error(f"{self.address}: {error}")
            self._failed.set()

    def _rung(self, port: Port) -> None:
        is_open = port.answer()
        if port is self._port:
            # An application may send frames and close its port at once: as many as the device takes now are sent.
            for _ in range(1 if is_open else 1 + MOST_SLOTS // BURST):
                self._transmit()
        if not is_open:
            self.close(port)

    def _transmit_more(self) -> None:
        self._more = False
        self._transmit()

    def _transmit(self) -> None:
        """Sends the frames of the port while the device has room. The interrupt of a sent frame continues."""
        port, driver = self._port, self._driver
        if not port or not driver:
            return
        try:
            waiting = port.waiting()
        except RingBroken as error:
            self._break(port, error)
            return
        good = [frame for frame in waiting if frame is not None]
        accepted = driver.send(good)
        done = waiting if accepted == len(good) else waiting[: _until(waiting, accepted)]
        if done:
            port.sent(done)
            self._copy(good[:accepted])
        if len(done) == BURST and not self._more:
            # There may be more, which other work must not wait for.
            self._more = True
            asyncio.get_running_loop().call_soon(self._transmit_more)

    def _deliver(self, frames: list[bytes]) -> None:
        if self._port:
            self._give(self._port, frames)
        self._copy(frames)

    def _copy(self, frames: list[bytes]) -> None:
        for capture in list(self._captures):
            self._give(capture, frames)

    def _give(self, port: Port, frames: list[bytes]) -> None:
        try:
            port.deliver(frames)
        except RingBroken as error:
            self._break(port, error)

    def _break(self, port: Port, error: RingBroken) -> None:
        self._log.warning(f"{self.address}: a port is closed: {error}")
        self.close(port)


def _until(frames: list[bytes | None], accepted: int) -> int:
    """The number of first frames that have `accepted` good ones; malformed ones that follow them count, too."""
    number = 0
    for frame in frames:
        if frame is not None:
            if not accepted:
                break
            accepted -= 1
        number += 1
    return number
