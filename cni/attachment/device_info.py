"""The device-info file of the Network Plumbing Working Group: describes a pod's device to its containers.

Multus names the file, reads it after ADD and puts it into the pod's network-status annotation, where containers find it
through the downward API. Format: device-info specification, version 1.1.0.
"""

from __future__ import annotations

import os

from cni import jsontext
from cni.errors import DecodeFailure, InvalidConfig, IoFailure
from cni.host.files import read_file, remove_file, write_file
from cni.host.folders import sweep_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.jsontext import JsonObject

FOLDERS = ("/var/run/k8s.cni.cncf.io/devinfo/cni", "/run/k8s.cni.cncf.io/devinfo/cni")
"""Multus' directories for these files.

The path comes from the configuration, and must not let it write other files as root.
"""

_VERSION = "1.1.0"


def checked(path: str, folders: tuple[str, ...] = FOLDERS) -> str:
    """The path, if it is directly in one of the directories. Raises `InvalidConfig`."""
    folder, name = os.path.split(path)
    if folder not in folders or not name or name in (".", "..") or "\0" in name:
        raise InvalidConfig(f"runtimeConfig.CNIDeviceInfoFile: {path!r} is not a file in {folders[0]}")
    return path


def pci(address: str, pf: str) -> JsonObject:
    """The document of a PCI device; `pf` is empty if it has none."""
    device = {"pci-address": address, **({"pf-pci-address": pf} if pf else {})}
    return {"type": "pci", "version": _VERSION, "pci": device}


def vhost_user(path: str) -> JsonObject:
    """The document of a vhost-user port. The container creates the socket at `path` in its own file system."""
    return {"type": "vhost-user", "version": _VERSION, "vhost-user": {"mode": "server", "path": path}}


def write(path: str, document: JsonObject) -> None:
    """Writes the file in one step. Raises `IoFailure`.

    Multus may have copied the device plugin's document of the same device there. Its additional keys, such as
    `rdma-device` and `vhost-net`, are kept.
    """
    folder = os.path.dirname(path)
    try:
        if not os.path.isdir(folder):  # makedirs is expensive in a frozen program (build/lean_os.py)
            os.makedirs(folder, 0o755, exist_ok=True)
    except OSError as error:
        raise IoFailure(f"cannot create {folder}: {os.strerror(error.errno or 0)}") from error
    write_file(path, jsontext.dumps(_merged(read_file(path), document)).encode() + b"\n")


def difference(path: str, document: JsonObject) -> list[str]:
    """The differences of the file for CHECK; empty if it is unchanged."""
    content = read_file(path)
    if content is None:
        return [f"the device-info file {path} is missing"]
    return [] if _merged(content, document) == _parsed(content) else [f"the device-info file {path} was changed"]


def _merged(content: bytes | None, document: JsonObject) -> JsonObject:
    """Our document, with the additional keys of the existing file about the same device."""
    present, kind = _parsed(content or b""), document["type"]
    theirs, ours = present.get(kind), document[kind]
    if present.get("type") != kind or not isinstance(theirs, dict):
        return document
    if theirs.get("pci-address") != ours.get("pci-address"):
        return document
    return {**present, **document, kind: {**theirs, **ours}}


def _parsed(content: bytes) -> JsonObject:
    """The document in a file; empty if it is not a JSON object."""
    try:
        found = jsontext.loads(content)
    except DecodeFailure:
        return {}
    return found if isinstance(found, dict) else {}


def remove(path: str) -> None:
    """Removes the file, if it exists, and the temporary files of killed calls. Raises `IoFailure`."""
    if not path:
        return
    remove_file(path)
    sweep_of(path)
