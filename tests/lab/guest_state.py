"""Runs in the guest: the state of the host there, read only with `ip`, /proc and /sys, never with product code.

Prints one JSON object on stdout. `snapshot.py` and `topology.py` send this file and describe its parts. It runs on an
emulated processor a thousand times in `make test`, so it starts only one program, and the host parses the text.
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
from collections.abc import Iterable, Iterator
from typing import Any

PCI = "/sys/bus/pci/devices"
NETWORK_CLASS = "0x020000"
SYSCTLS = ("ipv4/conf", "ipv4/neigh", "ipv6/conf", "ipv6/neigh")
ETHTOOL = {"coalescing": (0x0E, 23), "rings": (0x10, 9), "channels": (0x3C, 9), "features": (0x3A, 18)}
"""Reading commands of SIOCETHTOOL, and the number of 32-bit words that each returns."""

QUEUES = ("gro_flush_timeout", "napi_defer_hard_irqs", "threaded", "queues/rx-0/rps_cpus", "queues/rx-0/rps_flow_cnt")
FILES = ("/var/lib/cni", "/run/barewire")


def ip(*commands: str) -> str:
    """The output of the commands: a JSON list for each."""
    argv = ["ip", "-d", "-j", "-batch", "-"]
    return subprocess.run(argv, input="\n".join(commands), stdout=subprocess.PIPE, check=True, text=True).stdout


def text(path: str, folder: int | None = None, size: int = 4096) -> str | None:
    """The content of a file; None if it cannot be read. It avoids Python's file objects, because there are a thousand
    files.
    """
    try:
        fd = os.open(path, os.O_RDONLY, dir_fd=folder)
    except OSError:
        return None
    try:
        return os.read(fd, size).decode().strip()
    except (OSError, UnicodeDecodeError):
        return None
    finally:
        os.close(fd)


def link(path: str) -> str | None:
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return None


def entries(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def network_devices() -> dict[str, dict[str, Any]]:
    return {name: pci_device(f"{PCI}/{name}") for name in entries(PCI) if text(f"{PCI}/{name}/class") == NETWORK_CLASS}


def pci_device(path: str) -> dict[str, Any]:
    """`bars` are the start addresses of the regions in use; `vfs` are the addresses in the order of their index."""
    resource = (text(path + "/resource") or "").splitlines()
    vfs = [name for name in entries(path) if name.startswith("virtfn")]
    return {
        "driver": link(path + "/driver"),
        "driver_override": text(path + "/driver_override"),
        "sriov_numvfs": text(path + "/sriov_numvfs"),
        "sriov_drivers_autoprobe": text(path + "/sriov_drivers_autoprobe"),
        "iommu_group": link(path + "/iommu_group"),
        "physfn": link(path + "/physfn"),
        "vfs": [link(f"{path}/{vf}") for vf in sorted(vfs, key=lambda vf: int(vf.removeprefix("virtfn")))],
        "netdevs": entries(path + "/net"),
        "bars": [start for line in resource if (start := int(line.split()[0], 16))],
    }


def sysctls() -> dict[str, dict[str, str]]:
    """The values of the files of each folder."""
    folders = [f"/proc/sys/net/{kind}/{name}" for kind in SYSCTLS for name in os.listdir(f"/proc/sys/net/{kind}")]
    return {folder: values(folder) for folder in folders}


def values(folder: str, files: Iterable[str] = ()) -> dict[str, str]:
    """The content of those files, or of all in a folder, except those that cannot be read.

    Files are opened relative to their folder, which is faster, and a sysctl is read in small pieces, because the kernel
    clears as much memory as is requested.
    """
    where = os.open(folder, os.O_RDONLY)
    found = {file: text(file, where, 256) for file in files or os.listdir(where)}
    os.close(where)
    return {file: value for file, value in found.items() if value is not None}


def ethtool(name: str, any_socket: socket.socket) -> dict[str, str]:
    """The results of SIOCETHTOOL as numbers, without those that the driver does not support."""
    found = {}
    for what, (command, words) in ETHTOOL.items():
        # The kernel returns as many blocks of features, of four words each, as the caller has room for.
        data = array.array("I", [command, 4 if what == "features" else 0, *[0] * (words - 2)])
        request = struct.pack("16sP16x", name.encode(), data.buffer_info()[0])
        try:
            fcntl.ioctl(any_socket, 0x8946, request)
        except OSError:
            continue
        found[what] = " ".join(map(str, data[1:]))
    return found | values(f"/sys/class/net/{name}", QUEUES)


def all_ethtool() -> dict[str, dict[str, str]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        return {name: ethtool(name, any_socket) for _, name in socket.if_nameindex()}


def stacked_elsewhere() -> list[str]:
    """The links in all namespaces whose lower link is in another one, except veths, which come in pairs."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    # The text of the link identifies a process's namespace; reading it takes one call.
    paths = {link(path): path for path in (f"/proc/{pid}/ns/net" for pid in os.listdir("/proc") if pid.isdigit())}
    found, seen = [], set()
    for path in [*paths.values(), *(f"/run/netns/{name}" for name in os.listdir("/run/netns"))]:
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
    """The same for one namespace: IFLA_IFNAME 3, IFLA_LINK 5, IFLA_LINKINFO 18, IFLA_LINK_NETNSID 37."""
    found: list[str] = []
    for message in dump(18):
        attrs = attributes(message[16:])
        if 5 in attrs and 37 in attrs:
            kind = attributes(attrs.get(18, b"")).get(1, b"").rstrip(b"\0")
            if kind != b"veth":
                found.append(f"{kind.decode()} {attrs[3].rstrip(bytes(1)).decode()}")
    return found


def rules(family: int) -> list[str]:
    """The routing rules of that family (RTM_GETRULE), as bytes in hexadecimal: `struct fib_rule_hdr` and attributes."""
    return sorted(message.hex() for message in dump(34, family))


def dump(request: int, family: int = 0) -> Iterator[bytes]:
    """The responses of rtnetlink, without their headers, to a dump request."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.send(struct.pack("=IHHIIB15x", 32, request, 0x301, 1, 0, family))
        while True:
            buffer, at = kernel.recv(1 << 18), 0
            while at < len(buffer):
                length, kind = struct.unpack_from("=IH", buffer, at)
                if kind == 3:
                    return
                yield buffer[at + 16 : at + length]
                at += length + 3 & ~3


def attributes(buffer: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(buffer):
        length, kind = struct.unpack_from("=HH", buffer, at)
        found[kind & 0x3FFF] = buffer[at + 4 : at + length]
        at += max(length, 4) + 3 & ~3
    return found


def files() -> dict[str, str]:
    found: dict[str, str] = {}
    for top in FILES:
        for folder, folders, names in os.walk(top):
            paths = [f"{folder}/{name}" for name in (*folders, *names)]
            found |= {path: content(path) for path in paths if os.path.islink(path) or not os.path.isdir(path)}
    return found


def content(path: str) -> str:
    if os.path.islink(path):
        return f"-> {os.readlink(path)}"
    if not os.path.isfile(path):
        return "special file"
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()[:16]


def state() -> dict[str, Any]:
    return {
        "pci": network_devices(),
        "ip": ip("link show", "addr show", "route show table all"),
        "rules": {"ipv4": rules(socket.AF_INET), "ipv6": rules(socket.AF_INET6)},
        "sysctls": sysctls(),
        "ethtool": all_ethtool(),
        "stacked": stacked_elsewhere(),
        "netns": entries("/run/netns"),
        "files": files(),
    }


if __name__ == "__main__":
    print(json.dumps(state()))
