"""The journal of what containers hold: one file per device, written before anything is done to the device.

The kubelet never says that a device is free again, and it calls for a device of ours also after our restart. So the journal
is what counts, and the file goes only when the device is as it was found.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cni import pci
from cni.host import folders
from cni.host.files import component, make_directory, read_file, remove_file, require_private, write_file
from cni.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FOLDER = "/var/lib/barewire/devices"
_SCHEMA = 1


class Holding(Value):
    """A device that a container has, or may have.

    `found_driver` and `found_override` are what it goes back to when `driver`, which the pool promises, is not empty.
    `identity` is that of the function: addresses are given anew at a boot. `request` lists the devices that the container asked
    for together. `lead` is the device that this one was bound together with, for a member of its IOMMU group that no container
    asked for. Older files lack these.
    """

    device: str
    resource: str
    driver: str = ""
    found_driver: str = ""
    found_override: str = ""
    identity: str = ""
    request: str = ""
    lead: str = ""

    def asked_with(self, other: Holding) -> bool:
        """Whether one request was for both."""
        return bool(self.request) and self.request == other.request


def holders(held: Mapping[str, Holding]) -> dict[str, str]:
    """By device the resource that a container asked for it: without those that were only bound together with one."""
    return {device: holding.resource for device, holding in held.items() if not holding.lead}


class Journal:
    """The holdings on disk. Every method raises `IoFailure` where the disk does not take or give them."""

    def __init__(self, folder: str = FOLDER, warn: Callable[[str], None] = lambda _text: None) -> None:
        self._folder = folder
        self._warn = warn

    def load(self) -> dict[str, Holding]:
        """All holdings by device. A file that is damaged is set aside, with a warning."""
        make_directory(self._folder)
        require_private(self._folder)
        folders.sweep(self._folder)
        found = {}
        for name in folders.documents(self._folder):
            holding = _decoded(read_file(f"{self._folder}/{name}") or b"")
            if holding is None or f"{holding.device}.json" != name:
                folders.set_aside(f"{self._folder}/{name}")
                self._warn(f"{self._folder}/{name} is damaged and was set aside: look whether a pod has that device")
            else:
                found[holding.device] = holding
        return found

    def write(self, holding: Holding) -> None:
        content = json.dumps({"schema": _SCHEMA, **holding.as_dict()}, indent=1)
        write_file(self._path(holding.device), content.encode() + b"\n")

    def remove(self, device: str) -> None:
        remove_file(self._path(device))

    def _path(self, device: str) -> str:
        return f"{self._folder}/{component(device)}.json"


def _decoded(content: bytes) -> Holding | None:
    try:
        document = json.loads(content)
        schema = document.pop("schema")
        holding = Holding(**document)
        pci.parse(holding.device)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    texts = all(isinstance(value, str) for value in holding.as_dict().values())
    return holding if schema == _SCHEMA and texts else None
