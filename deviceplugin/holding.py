"""The journal of what containers hold: one file per device, written before anything is done to the device.

The kubelet never says that a device is free again, and it calls for a device of ours also after our restart. So the journal
is what counts, and the file goes only when the device is as it was found.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cni import jsontext, pci
from cni.errors import CniError, IoFailure
from cni.host import folders
from cni.host.files import (
    component,
    make_directory,
    read_file,
    refuse_shortage,
    remove_file,
    require_private,
    write_file,
)
from cni.names import is_file_name
from cni.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FOLDER = "/var/lib/barewire/devices"
_SCHEMA = 1
_FLAGS = ("rdma", "vhost_net", "cdi")


class Holding(Value):
    """A device that a container has, or may have.

    `found_driver` and `found_override` are what it goes back to when `driver`, which the pool promises, is not empty.
    `identity` is that of the function: addresses are given anew at a boot. `request` lists the devices that the container asked
    for together. `lead` is the device that this one was bound together with, for a member of its IOMMU group that no container
    asked for. `rdma` and `vhost_net` are those of the selector with which the device was given away, and `cdi` says that its
    container may have got a CDI name. Older files lack these.
    """

    device: str
    resource: str
    driver: str = ""
    found_driver: str = ""
    found_override: str = ""
    identity: str = ""
    request: str = ""
    lead: str = ""
    rdma: bool = False
    vhost_net: bool = False
    cdi: bool = False

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
        """All holdings by device. Changes nothing but makes the folder.

        A device whose file is damaged is among them, without a resource: somebody may have it, and nothing else is known.
        """
        make_directory(self._folder)
        require_private(self._folder)
        found = {}
        for name in folders.documents(self._folder):
            device = name.removesuffix(folders.DOCUMENT)
            holding = self._read(f"{self._folder}/{name}")
            if holding is None or holding.device != device:
                self._warn(f"{self._folder}/{name} is damaged: the device counts as held until there is evidence")
                holding = Holding(device=device, resource="")
            if _is_address(device):
                found[device] = holding
        return found

    def sweep(self) -> None:
        """Removes what killed processes left under temporary names."""
        make_directory(self._folder)
        folders.sweep(self._folder)

    def mend(self, holding: Holding) -> None:
        """Writes what is known now of a device whose file is damaged, and keeps that one under another name."""
        path = self._path(holding.device)
        try:
            write_file(f"{path}{folders.DAMAGED}", read_file(path) or b"")
        except IoFailure:
            folders.set_aside(path)  # no file, or not one that can be read
        self.write(holding)

    def write(self, holding: Holding) -> None:
        content = json.dumps({"schema": _SCHEMA, **holding.as_dict()}, indent=1)
        write_file(self._path(holding.device), content.encode() + b"\n")

    def remove(self, device: str) -> None:
        remove_file(self._path(device))

    def _path(self, device: str) -> str:
        return f"{self._folder}/{component(device)}.json"

    def _read(self, path: str) -> Holding | None:
        """None where it is no file, or not one of ours."""
        try:
            return _decoded(read_file(path) or b"")
        except IoFailure as error:
            if isinstance(error.__cause__, OSError):
                refuse_shortage(path, error.__cause__)
            return None


def _decoded(content: bytes) -> Holding | None:
    try:
        document = jsontext.loads(content)
        schema = document.pop("schema")
        holding = Holding(**document)
    except (CniError, TypeError, KeyError, AttributeError):
        return None
    sound = all(_is_sound(name, value) for name, value in holding.as_dict().items())
    if schema != _SCHEMA or not sound or not holding.resource:
        return None
    drivers = (holding.driver, holding.found_driver, holding.found_override)
    return holding if all(is_file_name(name) for name in drivers if name) else None


def _is_sound(name: str, value: object) -> bool:
    if name in _FLAGS:
        return isinstance(value, bool)
    return isinstance(value, str) and value.isprintable()


def _is_address(text: str) -> bool:
    try:
        return pci.parse(text) == text
    except ValueError:
        return False
