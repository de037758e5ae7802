"""Links that are stacked on a device (macvlan, ipvlan, VLAN, ...), in whatever network namespace they are.

The device says nothing of those in other namespaces: sysfs shows its own namespace only, and netlink shows a link's
lower one, but not the upper ones. So every namespace is looked into that has a path here or a process in it. One that
only a descriptor, a socket or a thread keeps alive is not found (docs/adr/0025-what-a-pod-leaves-on-its-device.md).
"""

from __future__ import annotations

import errno
import os
import time

from cni.errors import CniError, InvalidNetns
from cni.host import links, netlink as nl
from cni.host.netns import named_namespaces, open_netns
from cni.host.processes import PROC, pids
from cni.host.rtnetlink import NetlinkError, RouteSocket, Unsettled
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cni.host.netns import Netns

LOOK_SECONDS = 3.0
"""Bound for one look. A hundred namespaces take some 20 ms, a thousand processes as much again."""

_OWN = f"{PROC}/thread-self/ns/net"
_PEERS = ("veth", "netkit")
"""Kinds of links that come in pairs: what they call their lower link is the other end."""


class Stacked(Value):
    """A link that is stacked on a device; `place` is a path of its namespace."""

    name: str
    kind: str
    place: str

    def __str__(self) -> str:
        return f"{self.name} ({self.kind or 'unknown kind'}) in the network namespace {self.place}"


class Look(Value):
    """What one look found; not `complete` when the time was over, or a namespace's links changed all the time."""

    found: tuple[Stacked, ...]
    complete: bool


def look(index: int, seconds: float = LOOK_SECONDS) -> Look:
    """What is stacked on the link with that index in our namespace, in all other namespaces. Raises `OSError`."""
    deadline, complete = time.monotonic() + seconds, True
    found: list[Stacked] = []
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for path in _paths(os.readlink(_OWN)):
            if time.monotonic() > deadline:
                return Look(found=tuple(found), complete=False)
            netns = _opened(path)
            if netns is not None:
                try:
                    with netns:
                        found += _stacked(netns, index, home)
                except Unsettled:
                    complete = False
    finally:
        os.close(home)
    return Look(found=tuple(found), complete=complete)


def _stacked(netns: Netns, index: int, home: int) -> list[Stacked]:
    """What the namespace holds that is stacked on the link with that index in the namespace `home`."""
    try:
        with netns.entered(), RouteSocket() as socket:
            lowers = [nl.lower(body) for body in links.bodies(socket, nl.lower_attribute(index))]
            # The kernel gives a namespace numbers for others when it is asked about such links: so this comes second.
            ours = _number_of(socket, home) if lowers else nl.NSID_NONE
    except (CniError, Unsettled):
        raise
    except OSError:
        return []  # it has ended meanwhile
    return [
        Stacked(name=name, kind=kind, place=netns.path)
        for lower, netnsid, name, kind in lowers
        if lower == index and netnsid == ours != nl.NSID_NONE and kind not in _PEERS
    ]


def _number_of(socket: RouteSocket, netns: int) -> int:
    try:
        return nl.nsid(socket.get(nl.RTM_GETNSID, nl.nsid_body(netns)))
    except NetlinkError as error:
        if error.errno != errno.ENOENT:
            raise
        return nl.NSID_NONE


def _paths(own: str) -> Iterator[str]:
    """A path of each network namespace but our own. `own` is what the kernel calls that: net:[4026531840]."""
    seen = {own}
    for path in (*named_namespaces(), *_mounted()):
        try:
            name = f"net:[{os.stat(path).st_ino}]"
        except OSError:
            continue
        if name not in seen:
            seen.add(name)
            yield path
    for pid in pids():
        path = f"{PROC}/{pid}/ns/net"
        try:
            name = os.readlink(path)
        except OSError:
            continue  # it has ended, or we may not look
        if name not in seen:
            seen.add(name)
            yield path


def _mounted() -> Iterator[str]:
    """Where namespaces are mounted, which keeps them alive: each runtime has its own folder for that."""
    with open(f"{PROC}/self/mountinfo", "rb") as mounts:
        for line in mounts:
            if b" net:[" in line:
                yield os.fsdecode(line.split(b" ")[4])


def _opened(path: str) -> Netns | None:
    """None for what is gone, what is no namespace, or what we may not look into."""
    try:
        return open_netns(path)
    except InvalidNetns:
        return None
