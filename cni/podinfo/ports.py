"""vhost-user and memif ports that the `userspace` plugin publishes: in an annotation, or in shared files."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import TYPE_CHECKING

from .annotations import CONFIGURATION_DATA, MAPPED_DIR, NETWORK_STATUS
from .devices import DEVICE_INFO_VERSION
from .reading import PodInfoError, document, names, objects, read, section, text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from cni.jsontext import JsonObject

    Entries = dict[str, JsonObject]
    """Entries of the configuration data by interface name."""

SHARED_DIR = "/var/lib/cni/usrspcni"
"""The default mount point of the shared directory."""

INVALID = "invalid"
"""The device type of a port whose description is unusable."""

_VHOST_MODES = ("client", "server")
_MEMIF_MODES = ("ethernet", "ip", "inject-punt")
_MEMIF_ROLES = ("master", "slave")


def shared_folder(told: Mapping[str, str], asked: str | None) -> str:
    """The directory of the sockets in the container: the requested path, the annotation's, or the plugin's default."""
    return asked or told.get(MAPPED_DIR) or SHARED_DIR


def entries(told: Mapping[str, str], folder: str, known: Collection[str]) -> Entries:
    """The plugin's description of each port. Raises `PodInfoError`.

    An annotation has priority over a file. Only files of `known` interfaces are used, because a directory of the host
    may contain those of other pods. Without an annotation all files are used.
    """
    published = _last(objects(told.get(CONFIGURATION_DATA) or "[]", f"the annotation {CONFIGURATION_DATA}"))
    annotated = NETWORK_STATUS in told or CONFIGURATION_DATA in told
    wanted = known if annotated else None
    return _last(_in_file(path) for path in _files(Path(folder), wanted)) | published


def _last(found: Iterable[JsonObject]) -> Entries:
    # Each new sandbox of the pod adds its entries, and the old ones may stay. A container does not know the ID of its
    # sandbox; but the last entry is the newest.
    return {name: entry for entry in found if (name := text(entry, "ifName"))}


def _files(folder: Path, wanted: Collection[str] | None) -> list[Path]:
    """The files of the shared directory, the oldest first; only those of the wanted interfaces are read."""
    found = names(folder, prefix="configData-", suffix=".json")
    mine = [name for name in found if wanted is None or any(name.endswith(f"-{one}.json") for one in wanted)]
    return sorted([folder / name for name in mine], key=_written)


def _written(path: Path) -> int:
    """The modification time of the file in nanoseconds; 0 if it was removed meanwhile."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _in_file(path: Path) -> JsonObject:
    found = document(read(path) or "{}", str(path))
    if not isinstance(found, dict):
        raise PodInfoError(f"{path} is not an object")
    return found


def device_info(entry: JsonObject, folder: str) -> JsonObject:
    """The port as a device information document; empty if its description is unusable."""
    config = section(entry, "config")
    make = {"vhostuser": _vhost_user, "memif": _memif}.get(text(config, "iftype"))
    return make(config, folder) if make else {}


def _vhost_user(config: JsonObject, folder: str) -> JsonObject:
    told = section(config, "vhost")
    port = {"mode": text(told, "mode"), "path": _socket(told, folder)}
    return _document("vhost-user", port) if port["mode"] in _VHOST_MODES else {}


def _memif(config: JsonObject, folder: str) -> JsonObject:
    told = section(config, "memif")
    port = {"role": text(told, "role"), "path": _socket(told, folder), "mode": text(told, "mode") or "ethernet"}
    return _document("memif", port) if port["role"] in _MEMIF_ROLES and port["mode"] in _MEMIF_MODES else {}


def _document(kind: str, port: dict[str, str]) -> JsonObject:
    return {"type": kind, "version": DEVICE_INFO_VERSION, kind: port} if port["path"] else {}


def _socket(told: JsonObject, folder: str) -> str:
    """The path of the socket; empty if the name is not a file in the directory."""
    name = text(told, "socketfile")
    return posixpath.join(folder, name) if name and "/" not in name and name not in (".", "..") else ""


def status(entry: JsonObject) -> JsonObject:
    """The network status for an interface that has none."""
    result = section(entry, "ipResult")
    found = {"name": text(entry, "name"), "interface": text(entry, "ifName"), "dns": section(result, "dns")}
    addresses = _addresses(result)
    return {**found, **_hardware(result, text(entry, "ifName")), **({"ips": addresses} if addresses else {})}


def _hardware(result: JsonObject, ifname: str) -> JsonObject:
    """MAC address and MTU of the interface, if the plugin's result contains them."""
    told = result.get("interfaces")
    interfaces = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
    mine = next((one for one in interfaces if one.get("name") == ifname), {})
    return {key: mine[key] for key in ("mac", "mtu") if mine.get(key)}


def _addresses(result: JsonObject) -> list[str]:
    """The addresses without their prefix length. Results of CNI 1.0 and later have no `version` in an address."""
    told = result.get("ips")
    addresses = [text(ip, "address") for ip in told if isinstance(ip, dict)] if isinstance(told, list) else []
    return [address.partition("/")[0] for address in addresses if address]
