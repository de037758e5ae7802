"""The package of a new driver: files that an author completes. docs/driverhost-drivers.md has the steps."""

from __future__ import annotations

import re
from pathlib import Path

from driverhost.errors import DriverHostError

_NAME = re.compile(r"[a-z][a-z0-9_]{1,30}")
_PYPROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "driverhost-{hyphens}"
version = "0.1.0"
requires-python = ">=3.11"

[project.entry-points."barewire.drivers"]
{name} = "{name}.driver:{kind}"

[tool.hatch.build.targets.wheel]
packages = ["{name}"]
"""
_DRIVER = '''"""A driver for the devices {vendor:04x}:{device:04x}."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from driverhost.device import Device
from driverhost.driver import Driver, Link
from driverhost.errors import Unsupported

BAR = 0
VECTORS = 1


class {kind}(Driver):
    IDS: ClassVar[frozenset[tuple[int, int]]] = frozenset({{(0x{vendor:04X}, 0x{device:04X})}})

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._registers = device.registers(BAR)  # self._registers[offset // 4] is a register of 32 bits
        self._interrupts: list[int] = []
        self._counters = dict.fromkeys(("rx_packets", "tx_packets", "rx_bytes", "tx_bytes"), 0)

    def start(self) -> None:
        """Reset the device, give it rings and buffers, and enable its queues and interrupts."""
        self.device.set_bus_master(enabled=True)
        self._interrupts = self.device.interrupts(VECTORS)
        # memory = self.device.memory(size): memory.view has its bytes, memory.iova is its address for the device.
        raise NotImplementedError("start")

    def stop(self) -> None:
        """Disable queues and interrupts. The memory is freed afterwards."""
        self.device.set_bus_master(enabled=False)

    @property
    def interrupts(self) -> list[int]:
        return self._interrupts

    def on_interrupt(self) -> None:
        """Read the causes of the interrupt, if the device keeps any. Raise DeviceFailed if it needs a new start."""
        self.take_interrupts()

    @property
    def mac(self) -> bytes:
        raise NotImplementedError("mac")

    def set_mac(self, mac: bytes) -> None:
        """Set the address, and the filter of the device. Raise Unsupported if the device refuses it."""
        raise Unsupported(f"the MAC address of {{self.device.address}} cannot be set")

    @property
    def link(self) -> Link:
        raise NotImplementedError("link")

    @property
    def statistics(self) -> dict[str, int]:
        """Counters since start; the host reads them every second, so a register of 32 bits does not wrap unnoticed."""
        return dict(self._counters)

    def send(self, frames: Iterable[bytes | memoryview]) -> int:
        """Queue as many frames as there is room for, pad them to 60 bytes, and return their number."""
        raise NotImplementedError("send")

    def receive(self, limit: int) -> list[bytes]:
        """Copy at most `limit` frames, without their checksum, and give their buffers back to the device."""
        raise NotImplementedError("receive")
'''
_TEST = '''"""The contract of drivers. Replace `devices` by two devices on one network whose registers are a program."""

from __future__ import annotations

import pytest

from driverhost.contract import CONTRACT, started
from {name}.driver import {kind}


def devices():
    pytest.skip("write a simulated device, or run: driverhost verify ADDRESS ADDRESS")


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_the_driver_keeps_the_contract(promise):
    promise(started({kind}, devices()))
'''


class NotCreated(DriverHostError):
    """The package cannot be created."""


def create(name: str, ids: tuple[int, int], folder: Path) -> list[Path]:
    """Writes the package into a new directory `name` of the folder, and returns its files. Raises `NotCreated`."""
    if not _NAME.fullmatch(name):
        raise NotCreated(f"{name!r} is no name for a package", hint="use lower-case letters, digits and underscores")
    kind = "".join(word.capitalize() for word in name.split("_"))
    values = {"name": name, "hyphens": name.replace("_", "-"), "kind": kind, "vendor": ids[0], "device": ids[1]}
    top = folder / name
    texts = {
        top / "pyproject.toml": _PYPROJECT,
        top / name / "__init__.py": "",
        top / name / "driver.py": _DRIVER,
        top / "tests" / f"test_{name}.py": _TEST,
    }
    try:
        top.mkdir()
        for path, text in texts.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text.format_map(values))
    except OSError as error:
        raise NotCreated(f"cannot write {error.filename}: {error.strerror}", hint="name another directory") from error
    return list(texts)
