"""Links that are stacked on a device (macvlan, ipvlan, VLAN, ...), in any network namespace.

The device does not show those in other namespaces: sysfs shows only its own namespace, and netlink shows a link's
lower link, but not the upper ones. So every namespace with a path here or a process in it is searched. A namespace that
only a descriptor, a socket or a thread keeps alive is not found (docs/adr/0025-what-a-pod-leaves-on-its-device.md).
"""

from __future__ import annotations

import errno
import os
import time

from cni.errors import InvalidNetns
from cni.host import links, netlink as nl
from cni.host.netns import named_namespaces, open_netns
from cni.host.processes import PROC, pids
from cni.host.rtnetlink import NetlinkError, RouteSocket, Unsettled
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cni.host.netns import Netns

LOOK_SECONDS = 3.0
"""Time limit for one search. A hundred namespaces take about 20 ms, and so do a thousand processes."""

SETTLE_SECONDS = 0.3
_ROUNDS = 10
"""How often a namespace is searched whose links change meanwhile. It is retried after all the others."""

_GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV)
_OWN = f"{PROC}/thread-self/ns/net"
_PEERS = ("veth", "netkit")
"""Kinds of links that come in pairs: their lower link is the other end."""

_UNNUMBERED = "ipvtap"
"""The kind of links whose message does not contain the namespace of the lower link."""


class Stacked(Value):
    """A link that is stacked on a device; `place` is a path of its namespace."""

    name: str
    kind: str
    place: str

    def __str__(self) -> str:
        return f"{self.name} ({self.kind or 'unknown kind'}) in the network namespace {self.place}"


class Look(Value):
    """The result of one search.

    `unseen` lists namespaces whose processes can hide links, `failed` lists failures of the search itself.
    """

    found: tuple[Stacked, ...]
    unseen: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


def look(index: int, seconds: float = LOOK_SECONDS) -> Look:
    """The links in all other namespaces that are stacked on the link with that index in ours. Raises `OSError`."""
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _Walk(index, home, time.monotonic() + seconds).look(os.readlink(_OWN))
    finally:
        os.close(home)


class _Walk:
    """One search of all namespaces except `home`, until the deadline (monotonic seconds)."""

    def __init__(self, index: int, home: int, deadline: float) -> None:
        self._index = index
        self._home = home
        self._deadline = deadline
        self._found: list[Stacked] = []
        self._unseen: list[str] = []
        self._failed: list[str] = []

    def look(self, own: str) -> Look:
        """Searches each namespace once, and those whose links changed again: they must not hide the others."""
        unsettled = [path for path in self._in_time(self._paths(own)) if not self._settled(path)]
        self._deadline = min(self._deadline, time.monotonic() + SETTLE_SECONDS)
        for _ in range(1, _ROUNDS):
            unsettled = [path for path in unsettled if not self._settled_now(path)]
        unseen = [*self._unseen, *[f"the links of {path} change all the time" for path in unsettled]]
        return Look(found=tuple(self._found), unseen=tuple(unseen), failed=tuple(self._failed))

    def _in_time(self, paths: Iterable[str]) -> Iterator[str]:
        for path in paths:
            if time.monotonic() > self._deadline:
                self._failed.append("the time is over")
                return
            yield path

    def _settled(self, path: str) -> bool:
        """Searches the namespace; False if its links changed meanwhile."""
        try:
            return self._look_into(path)
        except OSError as error:
            self._note(path, error)
            return True

    def _settled_now(self, path: str) -> bool:
        """The same for one that has answered before: by a failure it hides no more than by its changes."""
        try:
            return time.monotonic() <= self._deadline and self._look_into(path)
        except OSError as error:
            return error.errno in _GONE

    def _note(self, path: str, error: OSError) -> None:
        """What is gone holds nothing any more; everything else hides what it holds."""
        if error.errno not in _GONE:
            self._failed.append(f"{path}: {error.strerror or error}")

    def _look_into(self, path: str) -> bool:
        """Notes what the namespace holds; False when its links changed meanwhile. Raises `OSError`."""
        netns = _opened(path)
        if netns is None:
            return True
        settled = True
        with netns, netns.entered(), RouteSocket() as socket:
            having = (nl.lower_attribute(self._index), _UNNUMBERED.encode())
            try:
                bodies = links.bodies_once(socket, having, self._deadline)
            except Unsettled as error:
                bodies, settled = error.seen, False
            here = [lower for lower in map(nl.lower, bodies) if lower[0] == self._index and lower[3] not in _PEERS]
            # The kernel assigns numbers to other namespaces when such links are requested, so this comes second.
            ours = _number_of(socket, self._home, self._deadline) if here else nl.NSID_NONE
        for _index, netnsid, name, kind in here:
            one = Stacked(name=name, kind=kind, place=path)
            if netnsid is None and kind == _UNNUMBERED:
                self._unseen.append(f"the lower link of {one} may be this one")
            elif netnsid == ours != nl.NSID_NONE and one not in self._found:
                self._found.append(one)
        return settled

    def _paths(self, own: str) -> Iterator[str]:
        """A path of each network namespace except our own. `own` is the kernel's name of ours: net:[4026531840]."""
        seen = {own}
        for path, name in self._named():
            if name not in seen:
                seen.add(name)
                yield path

    def _named(self) -> Iterator[tuple[str, str]]:
        """Paths of network namespaces with the kernel's names for them."""
        for path in (*named_namespaces(), *_mounted()):
            try:
                yield path, f"net:[{os.stat(path).st_ino}]"
            except OSError as error:
                self._note(path, error)
        for pid in pids():
            path = f"{PROC}/{pid}/ns/net"
            try:
                yield path, os.readlink(path)
            except PermissionError:
                continue  # Where a process is out of our reach, it always is, and so are its links.
            except OSError as error:
                self._note(path, error)


def _number_of(socket: RouteSocket, netns: int, deadline: float) -> int:
    try:
        return nl.nsid(socket.get(nl.RTM_GETNSID, nl.nsid_body(netns), deadline))
    except NetlinkError as error:
        if error.errno != errno.ENOENT:
            raise
        return nl.NSID_NONE


def _mounted() -> Iterator[str]:
    """The mount points of namespaces, which keep them alive: each runtime has its own directory."""
    with open(f"{PROC}/self/mountinfo", "rb") as mounts:
        for line in mounts:
            if b" net:[" in line:
                yield os.fsdecode(line.split(b" ")[4])


def _opened(path: str) -> Netns | None:
    """None if it is not a namespace. Raises `OSError`."""
    try:
        return open_netns(path)
    except InvalidNetns as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from error
        return None
