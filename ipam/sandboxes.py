"""Who is alive on this node: the attachments that have a record, and the addresses in its network namespaces."""

from __future__ import annotations

import errno
import os

from cni.errors import CniError, InvalidNetns, IoFailure, KernelRefused
from cni.host import netlink as nl
from cni.host.netns import open_netns
from cni.host.processes import pids
from cni.host.rtnetlink import RouteSocket
from cni.value import Value
from ipam.address import Address
from ipam.known import Folders, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cni.host.netns import Netns

    Seen = dict[Address, tuple[str, ...]]

NAMED = ("/run/netns", "/var/run/netns")
_VERSIONS = {4: 4, 16: 6}


class Sandboxes(Value):
    """One look. `attached` has container ID and interface of each record; `places` the namespaces that have an address."""

    attached: frozenset[tuple[str, str]]
    places: Mapping[Address, tuple[str, ...]]

    def uses(self, container_id: str, ifname: str, addresses: Iterable[Address]) -> list[str]:
        """What shows that the container is alive; empty when nothing does.

        Old leases of host-local have no `ifname`: then any interface of the container counts.
        """
        named = {name for holder, name in self.attached if container_id and holder == container_id}
        matching = [name for name in sorted(named) if ifname in ("", name)]
        found = [f"record of {container_id}/{name}" for name in matching]
        return found + [f"{one} in {place}" for one in addresses for place in self.places.get(one, ())]


def look(folders: Folders) -> Sandboxes:
    """Raises `KernelRefused` and `IoFailure` when something cannot be seen: nobody can be said to be dead then."""
    attached = frozenset((record.key.container_id, record.key.ifname) for record in records(folders))
    places: dict[Address, list[str]] = {}
    for netns in _namespaces():
        with netns:
            for address in _addresses(netns):
                places.setdefault(address, []).append(netns.path)
    return Sandboxes(attached=attached, places={address: tuple(paths) for address, paths in places.items()})


def _namespaces() -> Iterator[Netns]:
    """Each namespace once, by a name where it has one."""
    seen: set[str] = set()
    for path in _paths():
        netns = _opened(path)
        if netns is not None and netns.identity not in seen:
            seen.add(netns.identity)
            yield netns
        elif netns is not None:
            netns.close()


def _opened(path: str) -> Netns | None:
    """None for what is gone, or is no namespace (any more)."""
    try:
        return open_netns(path)
    except InvalidNetns as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM):
            raise KernelRefused(f"cannot look into {path}: {cause.strerror}", hint="run it as root") from error
        return None


def _paths() -> Iterator[str]:
    for folder in NAMED:
        try:
            yield from (f"{folder}/{name}" for name in sorted(os.listdir(folder)))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise IoFailure(f"cannot list {folder}: {error.strerror}", hint="run it as root") from error
    # Init is in the node's own namespace, which we are in or see by others; it can have more rights than we, and hide.
    yield from (f"/proc/{pid}/ns/net" for pid in ("self", *pids()) if pid != "1")


def _addresses(netns: Netns) -> set[Address]:
    # The socket belongs to the namespace in which it is made.
    try:
        with netns.entered(), RouteSocket() as socket:
            found = [nl.address(body).address for body in socket.dump(nl.RTM_GETADDR, nl.address_dump_body())]
    except CniError:
        raise
    except OSError as error:
        raise KernelRefused(f"cannot list the addresses in {netns.path}: {error.strerror}") from error
    return {
        Address(version=_VERSIONS[len(packed)], number=int.from_bytes(packed, "big"))
        for packed in found
        if len(packed) in _VERSIONS
    }
