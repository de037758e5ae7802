"""Runs in the guest: the state of the host there, read with `ip`, /proc and /sys only, never with product code.

Prints one JSON object on stdout. `snapshot.py` and `topology.py` send this file and say what its parts mean.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import hashlib
import json
import os
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

PCI = Path("/sys/bus/pci/devices")
NETWORK_CLASS = "0x020000"
SYSCTLS = ("ipv4/conf", "ipv4/neigh", "ipv6/conf", "ipv6/neigh")
ETHTOOL = {"coalescing": (0x0E, 23), "rings": (0x10, 9), "channels": (0x3C, 9), "features": (0x3A, 18)}
"""Commands of SIOCETHTOOL that read, and how many 32-bit words they give."""

QUEUES = ("gro_flush_timeout", "napi_defer_hard_irqs", "threaded", "queues/rx-0/rps_cpus", "queues/rx-0/rps_flow_cnt")
FILES = (Path("/var/lib/cni"), Path("/run/barewire"))


def ip(*commands: str, family: str = "") -> list[list[dict[str, Any]]]:
    """What each of the commands shows. One process: under emulation its start costs more than its work."""
    argv = ["ip", "-d", "-j", *filter(None, [family]), "-batch", "-"]
    text = subprocess.run(argv, input="\n".join(commands), stdout=subprocess.PIPE, check=True, text=True).stdout.strip()
    found = []
    while text:
        entries, end = json.JSONDecoder().raw_decode(text)
        found.append([entry for entry in entries if entry])
        text = text[end:].lstrip()
    assert len(found) == len(commands), f"{commands}: {len(found)} answers"
    return found


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


def ethtool(name: str) -> dict[str, str]:
    """What SIOCETHTOOL says, as numbers; of what the driver does not have it says nothing."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for what, (command, words) in ETHTOOL.items():
            # The features come in as many blocks of four words as the caller has room for.
            data = array.array("I", [command, 4 if what == "features" else 0, *[0] * (words - 2)])
            try:
                fcntl.ioctl(
                    any_socket, 0x8946, struct.pack("16sP", name.encode(), data.buffer_info()[0]).ljust(40, b"\0")
                )
            except OSError:
                continue
            found[what] = " ".join(map(str, data[1:]))
    return found | {file: quick_text(f"/sys/class/net/{name}/{file}") for file in QUEUES}


def stacked_elsewhere() -> list[str]:
    """The links in all namespaces whose lower link is in another one, except for veths, which come in pairs."""
    found, seen, home = [], set(), os.open("/proc/self/ns/net", os.O_RDONLY)
    paths = [f"/proc/{pid}/ns/net" for pid in os.listdir("/proc") if pid.isdigit()]
    for path in [*paths, *(f"/run/netns/{name}" for name in os.listdir("/run/netns"))]:
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        if (inode := os.fstat(fd).st_ino) not in seen:
            seen.add(inode)
            enter(fd)
            found += stacked_here()
        os.close(fd)
    enter(home)
    os.close(home)
    return sorted(found)


def enter(namespace: int) -> None:
    if ctypes.CDLL(None).setns(namespace, 0x40000000):
        raise OSError("setns")


def stacked_here() -> list[str]:
    """The same of one namespace: IFLA_IFNAME 3, IFLA_LINK 5, IFLA_LINKINFO 18, IFLA_LINK_NETNSID 37."""
    found: list[str] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.send(struct.pack("=IHHIIBxHiII", 32, 18, 0x301, 1, 0, 0, 0, 0, 0, 0))
        while True:
            buffer, at = kernel.recv(1 << 18), 0
            while at < len(buffer):
                length, kind = struct.unpack_from("=IH", buffer, at)
                if kind == 3:
                    return found
                attrs = attributes(buffer[at + 32 : at + length])
                info = attributes(attrs.get(18, b"")).get(1, b"").rstrip(b"\0")
                if 5 in attrs and 37 in attrs and info != b"veth":
                    found.append(f"{info.decode()} {attrs[3].rstrip(bytes(1)).decode()}")
                at += length + 3 & ~3


def attributes(buffer: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(buffer):
        length, kind = struct.unpack_from("=HH", buffer, at)
        found[kind & 0x3FFF] = buffer[at + 4 : at + length]
        at += max(length, 4) + 3 & ~3
    return found


def files() -> dict[str, str]:
    paths = sorted(path for top in FILES for path in top.rglob("*") if path.is_symlink() or not path.is_dir())
    return {str(path): content(path) for path in paths}


def content(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else "special file"


def state() -> dict[str, Any]:
    links, addresses = ip("link show", "addr show")
    inet, inet6 = (ip("route show table all", "rule show", family=family) for family in ("-4", "-6"))
    return {
        "pci": network_devices(),
        "links": links,
        "addresses": addresses,
        "routes": {"ipv4": inet[0], "ipv6": inet6[0]},
        "rules": {"ipv4": inet[1], "ipv6": inet6[1]},
        "sysctls": sysctls([*(entry["ifname"] for entry in links), "all", "default"]),
        "ethtool": {entry["ifname"]: ethtool(entry["ifname"]) for entry in links},
        "stacked": stacked_elsewhere(),
        "netns": sorted(os.listdir("/run/netns")),
        "files": files(),
    }


if __name__ == "__main__":
    print(json.dumps(state()))
