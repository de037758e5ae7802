"""The container's interfaces, combined from the network status, the plugin's entries and the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import ports
from .annotations import NETWORK_STATUS, pod_annotations
from .devices import pci_address, pci_devices
from .reading import PodInfoError, objects, section, text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.jsontext import JsonObject

    _Interface = JsonObject

FOLDER = "/etc/podnetinfo"
"""The path at which the network resources injector mounts the downward API volume."""

_DEVICE_TYPES = ("pci", "vdpa", "vhost-user", "memif")


def interfaces(
    folder: str = FOLDER, *, environment: Mapping[str, str] | None = None, shared_dir: str | None = None
) -> dict[str, list[_Interface]]:
    """The interfaces: `{"Interface": [{"device-type": ..., "network-status": {...}}]}`.

    `folder` is the mount point of the downward API volume, `environment` defaults to the process's own, `shared_dir`
    is the directory of the vhost-user sockets, by default from the pod's annotation. Devices are never assigned to
    interfaces by guessing: a device without a known interface is listed separately, as "pci".

    Raises `PodInfoError`, also if there is no source of information.
    """
    path = Path(folder) / "annotations"
    told = pod_annotations(path)
    found = _with_ports(told or {}, shared_dir)
    found = _with_devices(found, pci_devices(os.environ if environment is None else environment))
    if told is None and not found:
        raise PodInfoError(f"there is no {path}, no PCIDEVICE_ variable and no file of the userspace plugin")
    return {"Interface": found}


def _with_ports(told: Mapping[str, str], shared_dir: str | None) -> list[_Interface]:
    """The interfaces of the network status, each with its port, and the ports that are not in it."""
    statuses = objects(told.get(NETWORK_STATUS) or "[]", f"the annotation {NETWORK_STATUS}")
    known = [text(status, "interface") for status in statuses]
    folder = ports.shared_folder(told, shared_dir)
    entries = ports.entries(told, folder, known)
    statuses += [ports.status(entry) for name, entry in entries.items() if name not in known]
    return [_interface(status, entries.get(text(status, "interface")), folder) for status in statuses]


def _interface(status: JsonObject, entry: JsonObject | None, folder: str) -> _Interface:
    if not section(status, "device-info") and entry is not None:
        port = ports.device_info(entry, folder)
        return _told(ports.INVALID, status) if not port else _told(port["type"], {**status, "device-info": port})
    return _told(_device_type(section(status, "device-info")), status)


def _told(device_type: str, status: JsonObject) -> _Interface:
    return {"device-type": device_type, "network-status": status}


def _device_type(info: JsonObject) -> str:
    """The type in the device information; empty if there is none."""
    kind = text(info, "type")
    if kind in _DEVICE_TYPES and not section(info, kind):
        return ports.INVALID
    return kind if kind in _DEVICE_TYPES or not info else "unknown"


def _with_devices(found: list[_Interface], devices: dict[str, JsonObject]) -> list[_Interface]:
    """The interfaces with their device types, and the devices that belong to none of them."""
    related = {_address(interface) for interface in found}
    left = [device for address, device in devices.items() if address not in related]
    settled = [_settled(interface, devices, bool(left)) for interface in found]
    return settled + [_told("pci", {"name": "", "dns": {}, "device-info": device}) for device in left]


def _settled(interface: _Interface, devices: dict[str, JsonObject], left: bool) -> _Interface:
    kind, status = interface["device-type"], interface["network-status"]
    if kind == "pci" and (_address(interface) in devices or _pci(interface, "pf-pci-address")):
        kind = "sr-iov"
    # One of the remaining devices may belong to this interface, but there is no information about it.
    return _told(kind or ("unknown" if left and status.get("default") is not True else "host"), status)


def _address(interface: _Interface) -> str:
    return pci_address(_pci(interface, "pci-address"))


def _pci(interface: _Interface, key: str) -> str:
    info = section(interface["network-status"], "device-info")
    return text(section(info, "pci"), key) or text(section(info, "vdpa"), key)
