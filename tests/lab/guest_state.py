"""Runs in the guest: the state of the host there, read with `ip`, /proc and /sys only, never with product code.

Prints one JSON object on stdout. `snapshot.py` and `topology.py` send this file and say what its parts mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

PCI = Path("/sys/bus/pci/devices")
NETWORK_CLASS = "0x020000"
SYSCTLS = ("ipv4/conf", "ipv4/neigh", "ipv6/conf", "ipv6/neigh")
FILES = (Path("/var/lib/cni"), Path("/run/barewire"))


def ip(*arguments: str) -> list[dict[str, Any]]:
    out = subprocess.run(["ip", "-d", "-j", *arguments], stdout=subprocess.PIPE, check=True).stdout
    return [entry for entry in json.loads(out or "[]") if entry]


def text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def link(path: Path) -> str | None:
    return os.path.basename(os.readlink(path)) if path.is_symlink() else None


def network_devices() -> dict[str, dict[str, Any]]:
    return {path.name: pci_device(path) for path in sorted(PCI.iterdir()) if text(path / "class") == NETWORK_CLASS}


def pci_device(path: Path) -> dict[str, Any]:
    """`bars` are the start addresses of the regions in use; `vfs` the addresses in the order of their index."""
    resource = (text(path / "resource") or "").splitlines()
    return {
        "driver": link(path / "driver"),
        "driver_override": text(path / "driver_override"),
        "sriov_numvfs": text(path / "sriov_numvfs"),
        "sriov_drivers_autoprobe": text(path / "sriov_drivers_autoprobe"),
        "iommu_group": link(path / "iommu_group"),
        "physfn": link(path / "physfn"),
        "vfs": [link(vf) for vf in sorted(path.glob("virtfn*"), key=lambda vf: int(vf.name.removeprefix("virtfn")))],
        "netdevs": sorted(os.listdir(path / "net")) if (path / "net").is_dir() else [],
        "bars": [start for line in resource if (start := int(line.split()[0], 16))],
    }


def sysctls(names: list[str]) -> dict[str, str]:
    found = {}
    for kind in SYSCTLS:
        for name in names:
            folder = f"/proc/sys/net/{kind}/{name}"
            for entry in os.listdir(folder) if os.path.isdir(folder) else ():
                found[f"net.{kind.replace('/', '.')}.{name}.{entry}"] = quick_text(f"{folder}/{entry}")
    return found


def quick_text(path: str) -> str:
    """`text` without objects on the way: there are a thousand of these files, and this is an emulated processor."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return "not readable"
    try:
        return os.read(fd, 4096).decode().strip()
    except OSError:
        return "not readable"
    finally:
        os.close(fd)


def files() -> dict[str, str]:
    paths = sorted(path for top in FILES for path in top.rglob("*") if path.is_symlink() or not path.is_dir())
    return {str(path): content(path) for path in paths}


def content(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else "special file"


def state() -> dict[str, Any]:
    links = ip("link", "show")
    return {
        "pci": network_devices(),
        "links": links,
        "addresses": ip("addr", "show"),
        "routes": {
            "ipv4": ip("-4", "route", "show", "table", "all"),
            "ipv6": ip("-6", "route", "show", "table", "all"),
        },
        "rules": {"ipv4": ip("-4", "rule"), "ipv6": ip("-6", "rule")},
        "sysctls": sysctls([*(entry["ifname"] for entry in links), "all", "default"]),
        "netns": sorted(os.listdir("/run/netns")),
        "files": files(),
    }


if __name__ == "__main__":
    print(json.dumps(state()))
