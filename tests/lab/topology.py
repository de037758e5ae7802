"""The machine's devices as its kernel reports them, read without product code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.qemu import uplink_mac
from tests.lab.vm import Vm

GUEST_STATE = Path(__file__).with_name("guest_state.py")
_DEVICES_CODE = GUEST_STATE.read_text().partition("\nif __name__")[0] + "\nprint(json.dumps(network_devices()))\n"

Devices = Mapping[str, dict[str, Any]]
"""The network devices by PCI address, as `guest_state.py` reports them."""


@dataclass(frozen=True)
class Vf:
    """`netdev` is its name in the host's network namespace; None while it is elsewhere or has no network driver."""

    index: int
    address: str
    netdev: str | None
    driver: str | None
    iommu_group: str | None
    bar0: int


@dataclass(frozen=True)
class Pf:
    """`uplink` is the number of its wire: `vm.wires[pf.uplink]`."""

    uplink: int
    address: str
    netdev: str
    vfs: tuple[Vf, ...]


def pfs(vm: Vm) -> tuple[Pf, ...]:
    """All PFs by uplink, with their VFs by index, in their current state."""
    devices: Devices = json.loads(vm.python(_DEVICES_CODE).out)
    macs = {
        address: vm.get(f"/sys/class/net/{device['netdevs'][0]}/address").decode().strip()
        for address, device in devices.items()
        if device["driver"] == "igb"
    }
    return arranged(devices, macs)


def arranged(devices: Devices, macs: Mapping[str, str]) -> tuple[Pf, ...]:
    """`pfs` from devices that were already read. `macs`: MAC addresses by PCI address, at least those of the PFs."""
    uplinks = {uplink_mac(number): number for number in range(len(devices))}
    found = [
        _pf(uplinks[macs[address]], address, devices)
        for address, device in devices.items()
        if device["driver"] == "igb"
    ]
    return tuple(sorted(found, key=lambda pf: pf.uplink))


def _pf(uplink: int, address: str, devices: Devices) -> Pf:
    (netdev,) = devices[address]["netdevs"]
    vfs = [_vf(index, vf, devices[vf]) for index, vf in enumerate(devices[address]["vfs"])]
    return Pf(uplink=uplink, address=address, netdev=netdev, vfs=tuple(vfs))


def _vf(index: int, address: str, device: dict[str, Any]) -> Vf:
    netdev = next(iter(device["netdevs"]), None)
    bar0 = next(iter(device["bars"]), 0)
    return Vf(index, address, netdev, device["driver"], device["iommu_group"], bar0)
