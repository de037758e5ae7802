"""One device with its driver: starts it, restarts it after a failure, and moves frames between it and the ports."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from driverhost.errors import DeviceFailed, Unsupported, described
from driverhost.pauses import Pauses
from driverhost.port import BURST, Port
from driverhost.protocol.rings import MOST_SLOTS, RingBroken

if TYPE_CHECKING:
    from cni.log import Log
    from driverhost.device import Device
    from driverhost.driver import Driver

LOOK_SECONDS = 1.0
"""The link's state is looked up so often, and the counters are read: not every device announces a change, and a counter
of 32 bits wraps within half a minute.
"""
RECEIVE_BURSTS = 4
"""Bursts of received frames that are delivered before other work has its turn."""
MOST_CAPTURES = 8
"""Each frame is copied to each of them."""

Opened = tuple["Device", "Driver"]


class DeviceHost:
    """`open_device` returns the device, reset, and a driver for it. `announce` is called with each event.

    At most one port is open for sending and receiving; at most `MOST_CAPTURES` others get copies of all frames.
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
        self._due: set[Callable[[], None]] = set()

    async def run(self) -> None:
        """Until it is cancelled; then the device is reset and closed. Whatever a driver raises restarts this device."""
        pauses, loop = Pauses(), asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                self._start()
                await self._watch()
            except Exception as error:  # noqa: BLE001 - a driver may raise anything
                self._report(error)
            finally:
                self._stop()
            self.restarts += 1
            await asyncio.sleep(pauses.after(loop.time() - started))

    # What the interface offers.

    def info(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"device": self.address, "state": "down", "restarts": self.restarts}
        if self._driver:
            with contextlib.suppress(DeviceFailed), self._using_driver() as driver:
                link = driver.link._asdict()
                shown |= {"state": "up", "driver": type(driver).__name__, "mac": driver.mac.hex(":"), "link": link}
        return shown | {"port": self._port is not None, "captures": len(self._captures)}

    def statistics(self) -> dict[str, int]:
        """Raises `DeviceFailed`."""
        ports = {f"port_{name}": value for name, value in self._port.counters.items()} if self._port else {}
        with self._using_driver() as driver:
            return {str(name): int(value) for name, value in driver.statistics.items()} | ports

    def set_mac(self, mac: bytes) -> None:
        """It stays when the driver is restarted, unless it is refused then. Raises `Unsupported`, `DeviceFailed`."""
        with self._using_driver() as driver:
            driver.set_mac(mac)
        self._mac = mac

    def open(self, port: Port) -> None:
        """Raises `Unsupported` while another port is open."""
        if self._port:
            raise Unsupported(f"{self.address} has an open port", hint="one application has a device at a time")
        self._port = port
        asyncio.get_running_loop().add_reader(port.doorbell, self._rung, port)

    def capture(self, port: Port) -> None:
        """Raises `Unsupported` for too many."""
        if len(self._captures) >= MOST_CAPTURES:
            raise Unsupported(f"{self.address} has {MOST_CAPTURES} captures", hint="end one of them")
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
        self._restore_mac(driver)
        self._driver = driver
        for descriptor in driver.interrupts:
            self._watch_descriptor(descriptor, self._interrupted)
        for descriptor, reason in self._device.faults().items():
            self._watch_descriptor(descriptor, self._fail, DeviceFailed(f"{self.address}: {reason}"))
        self._link_up = driver.link.up
        self._log.info(f"{self.address}: the driver is ready")
        self._announce({"event": "device", "device": self.address, "state": "up"})
        self._interrupted()

    def _restore_mac(self, driver: Driver) -> None:
        """Sets the address that an application has set, unless the PF's administrator has fixed another one since."""
        if not self._mac or driver.mac == self._mac:
            return
        try:
            driver.set_mac(self._mac)
        except Unsupported as error:
            self._log.warning(f"{self.address}: the address of an application is not set again: {error}")
            self._mac = None

    def _watch_descriptor(self, descriptor: int, function: Callable[..., None], *arguments: Any) -> None:
        asyncio.get_running_loop().add_reader(descriptor, function, *arguments)
        self._watched.append(descriptor)

    async def _watch(self) -> None:
        """Returns when the driver has failed."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._failed.wait(), LOOK_SECONDS)
            if self._failed.is_set():
                return
            driver = self._running()
            link, _counters = driver.link, driver.statistics
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
            self._attempt(driver.stop)
        if device:
            self._attempt(device.close)

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - a driver may raise anything
            self._report(error)

    @contextlib.contextmanager
    def _using_driver(self) -> Iterator[Driver]:
        """Raises `Unsupported`; any other failure ends the driver, and raises `DeviceFailed`."""
        driver = self._running()
        try:
            yield driver
        except Unsupported:
            raise
        except Exception as error:
            self._fail(error)
            raise DeviceFailed(
                f"the driver of {self.address} has failed", hint="it is restarted; see its log"
            ) from error

    def _fail(self, error: Exception) -> None:
        """Ends the driver; `run` starts another one."""
        if not self._failed.is_set():
            self._report(error)
            self._failed.set()

    def _report(self, error: Exception) -> None:
        self._log.error(f"{self.address}: {described(error)}")

    def _running(self) -> Driver:
        if not self._driver:
            raise DeviceFailed(f"the driver of {self.address} is not running", hint="it is restarted; see its log")
        return self._driver

    # Frames.

    def _interrupted(self) -> None:
        if self._driver:
            self._do(self._driver.on_interrupt)
            self._do(self._receive)

    def _receive(self) -> None:
        """Delivers frames. An endless stream of them must not keep other work from its turn."""
        driver = self._driver
        if not driver:
            return
        for _ in range(RECEIVE_BURSTS):
            frames = driver.receive(BURST)
            if not frames:
                break
            self._deliver(frames)
        else:
            self._soon(self._receive)
        self._transmit()

    def _rung(self, port: Port) -> None:
        is_open = port.answer()
        if port is self._port:
            # An application may send frames and close its port at once: as many as the device takes now are sent.
            for _ in range(1 if is_open else 1 + MOST_SLOTS // BURST):
                self._do(self._transmit)
        if not is_open:
            self.close(port)

    def _soon(self, work: Callable[[], None]) -> None:
        if work not in self._due:
            self._due.add(work)
            asyncio.get_running_loop().call_soon(self._do_due, work)

    def _do_due(self, work: Callable[[], None]) -> None:
        self._due.discard(work)
        self._do(work)

    def _do(self, work: Callable[[], None]) -> None:
        """Work of the event loop with the driver; a failure ends the driver."""
        if self._failed.is_set():
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a driver may raise anything
            self._fail(error)

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
        if len(done) == BURST:
            self._soon(self._transmit)  # there may be more, which other work must not wait for

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
