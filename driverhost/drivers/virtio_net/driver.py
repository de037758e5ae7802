"""The driver: one pair of queues, the control queue where the device has one, and two interrupts. No offloads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from driverhost.driver import Driver, Link
from driverhost.drivers.virtio_net import layout
from driverhost.drivers.virtio_net.configuration import Common, Fields, structures
from driverhost.drivers.virtio_net.queues import MOST_DESCRIPTORS, Bell, Control, Queue, Receive, Transmit
from driverhost.errors import DeviceFailed, Unsupported
from driverhost.mac import random_unicast

if TYPE_CHECKING:
    from driverhost.device import Device

_QUEUES, _CONFIGURATION = 0, 1
"""The two vectors."""
_REQUIRED = layout.VERSION_1
# ACCESS_PLATFORM is accepted where it is offered: without it, the device would bypass the IOMMU.
_WANTED = (
    layout.ACCESS_PLATFORM
    | layout.HAS_MAC
    | layout.HAS_STATUS
    | layout.HAS_SPEED
    | layout.HAS_CONTROL
    | layout.CONTROLS_FILTER
    | layout.CONTROLS_MAC
)


class VirtioNet(Driver):
    """Drives a virtio network device of version 1, such as QEMU's `virtio-net-pci` with `disable-legacy=on`."""

    IDS: ClassVar[frozenset[tuple[int, int]]] = frozenset({(layout.REDHAT, layout.NETWORK)})

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        found = structures(device)
        self._common = Common(Fields(device, found[layout.COMMON]), device.address)
        self._config = Fields(device, found[layout.DEVICE])
        notify = found[layout.NOTIFY]
        self._bell = Bell(Fields(device, notify), notify.multiplier)
        self._features = 0
        self._mac = b""
        self._interrupts: list[int] = []
        self._queues: list[Queue] = []
        self._control: Control | None = None
        self._counters = dict.fromkeys(("rx_packets", "tx_packets", "rx_bytes", "tx_bytes"), 0)

    def start(self) -> None:
        self._common.reset()
        self._features = self._common.negotiate(_REQUIRED, _WANTED)
        self.device.set_bus_master(enabled=True)
        self._interrupts = self.device.interrupts(2)
        self._common.set_vector(layout.CONFIG_VECTOR, _CONFIGURATION)
        self._receive = Receive(self._queue(layout.RECEIVE, _QUEUES), self._bell)
        self._transmit = Transmit(self._queue(layout.TRANSMIT, _QUEUES), self._bell)
        if self._features & layout.HAS_CONTROL:
            queue = self._queue(layout.CONTROL, layout.NO_VECTOR)
            self._control = Control(queue, self._bell, self.device.address)
        self._common.add_status(layout.DRIVER_OK)
        self._receive.start()
        self._choose_frames()
        self._mac = self._first_mac()

    def stop(self) -> None:
        try:
            self._common.reset()
        finally:
            self.device.set_bus_master(enabled=False)
            while self._queues:
                self._queues.pop().close()

    @property
    def interrupts(self) -> list[int]:
        return self._interrupts

    def on_interrupt(self) -> None:
        if self.take_interrupts()[_CONFIGURATION] and self._common.needs_reset:
            raise DeviceFailed(f"{self.device.address} has an error and needs a reset", hint="the driver is restarted")

    @property
    def mac(self) -> bytes:
        return self._mac

    def set_mac(self, mac: bytes) -> None:
        if not self._control or not self._features & layout.CONTROLS_MAC:
            raise Unsupported(f"the MAC address of {self.device.address} cannot be set")
        self._control.command(layout.MAC, layout.SET_MAC, mac)
        self._mac = mac

    @property
    def link(self) -> Link:
        if self._features & layout.HAS_STATUS and not self._config.read(layout.LINK_STATUS) & layout.LINK_UP:
            return Link(up=False)
        speed = self._config.read(layout.SPEED) if self._features & layout.HAS_SPEED else layout.UNKNOWN_SPEED
        return Link(up=True, speed=0 if speed == layout.UNKNOWN_SPEED else speed)

    @property
    def statistics(self) -> dict[str, int]:
        return dict(self._counters)

    def send(self, frames: Iterable[bytes | memoryview]) -> int:
        sizes = self._transmit.send(frames)
        self._count("tx", sizes)
        return len(sizes)

    def receive(self, limit: int) -> list[bytes]:
        # A device without the filter passes on what is for others on its network. If there are more of these than fit
        # into the ring, the interrupt of the next one continues.
        for _ in range(1 + MOST_DESCRIPTORS // limit):
            frames = self._receive.receive(limit)
            wanted = [frame for frame in frames if len(frame) >= 14 and (frame[0] & 1 or frame[:6] == self._mac)]
            if wanted or not frames:
                break
        self._count("rx", [len(frame) for frame in wanted])
        return wanted

    def _queue(self, index: int, vector: int) -> Queue:
        self._queues.append(Queue(self.device, self._common, index, vector))
        return self._queues[-1]

    def _choose_frames(self) -> None:
        """Only frames for the own address and for groups; a device may begin with all frames of its network."""
        if self._control and self._features & layout.CONTROLS_FILTER:
            self._control.command(layout.FILTER, layout.PROMISCUOUS, b"\0")
            self._control.command(layout.FILTER, layout.ALL_MULTICAST, b"\1")

    def _first_mac(self) -> bytes:
        if self._features & layout.HAS_MAC:
            return bytes(self._config.read((index, 8)) for index in range(6))
        return random_unicast()

    def _count(self, direction: str, sizes: list[int]) -> None:
        self._counters[f"{direction}_packets"] += len(sizes)
        self._counters[f"{direction}_bytes"] += sum(sizes)
