"""The journal of held devices: one file per device, written before the device is changed.

The kubelet does not report that a device is free again, and it does not repeat Allocate after our restart. So the
journal is authoritative, and a file is removed only after the device is back in its original state.
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

    If `driver`, which the pool promises, is not empty, `found_driver` and `found_override` are restored at the release.
    `identity` is the one of the function, because addresses can change at a boot. `request` lists the devices that the
    container requested together. `lead` is set for a member of an IOMMU group that no container requested: it is the
    device with which the member was bound. `rdma` and `vhost_net` are those of the selector that applied at the
    allocation. `cdi` means that the container may have a CDI name. Older files lack the last three.
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
        """Whether both were requested together."""
        return bool(self.request) and self.request == other.request


def holders(held: Mapping[str, Holding]) -> dict[str, str]:
    """The resource of each requested device, without those that were only bound together with one."""
    return {device: holding.resource for device, holding in held.items() if not holding.lead}


class Journal:
    """The holdings on disk. Every method raises `IoFailure` if a file cannot be read or written."""

    def __init__(self, folder: str = FOLDER, warn: Callable[[str], None] = lambda _text: None) -> None:
        self._folder = folder
        self._warn = warn

    def load(self) -> dict[str, Holding]:
        """All holdings by device. Creates the directory if it does not exist.

        A device whose file is damaged is included without a resource: a container may have it.
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
        """Removes temporary files of killed processes."""
        make_directory(self._folder)
        folders.sweep(self._folder)

    def mend(self, holding: Holding) -> None:
        """Writes a new file for a device whose file is damaged, and keeps the damaged one under another name."""
        path = self._path(holding.device)
        try:
            write_file(f"{path}{folders.DAMAGED}", read_file(path) or b"")
        except IoFailure:
            folders.set_aside(path)  # not a file, or not readable
        self.write(holding)

    def write(self, holding: Holding) -> None:
        content = json.dumps({"schema": _SCHEMA, **holding.as_dict()}, indent=1)
        write_file(self._path(holding.device), content.encode() + b"\n")

    def remove(self, device: str) -> None:
        remove_file(self._path(device))

    def _path(self, device: str) -> str:
        return f"{self._folder}/{component(device)}.json"

    def _read(self, path: str) -> Holding | None:
        """None if it is not a file, or not one that we wrote."""
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
