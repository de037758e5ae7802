"""Finds the containers on this node, from records, runtimes' caches, and addresses in network namespaces."""

from __future__ import annotations

import errno
import os
import stat

from cni import jsontext
from cni.errors import CniError, DecodeFailure, InvalidNetns, KernelRefused
from cni.host import netlink as nl
from cni.host.files import read_file
from cni.host.folders import entries
from cni.host.netns import open_netns
from cni.host.processes import pids
from cni.host.rtnetlink import RouteSocket
from cni.names import is_identifier, is_ifname
from cni.value import Value
from ipam.address import Address
from ipam.command.networks import Folders, attached as of_records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cni.host.netns import Netns
    from cni.jsontext import JsonObject

    Seen = dict[Address, tuple[str, ...]]

_KEPT = "cniCacheV1"
NAMED = ("/run/netns", "/var/run/netns")
_VERSIONS = {4: 4, 16: 6}


class Sandboxes(Value):
    """The result of a scan.

    `attached` has the source for each known (container ID, interface); `namespaces` has the namespaces of each address.
    """

    attached: Mapping[tuple[str, str], str]
    namespaces: Mapping[Address, tuple[str, ...]]

    def uses(self, container_id: str, ifname: str, addresses: Iterable[Address]) -> list[str]:
        """The reasons why the container counts as alive; empty if there are none.

        Old leases of host-local have no `ifname`: then any interface of the container counts.
        """
        named = {name for holder, name in self.attached if container_id and holder == container_id}
        matching = [name for name in sorted(named) if ifname in ("", name)]
        signs = [self.attached[container_id, name] for name in matching]
        return signs + [f"{address} in {path}" for address in addresses for path in self.namespaces.get(address, ())]


def scan(folders: Folders) -> Sandboxes:
    """Raises `KernelRefused` and `IoFailure` if anything cannot be read: then no container can be called dead."""
    attached = dict(_cached(folders))
    attached |= {(key.container_id, key.ifname): f"record of {key}" for key in of_records(folders)}
    namespaces: dict[Address, list[str]] = {}
    for netns in _namespaces():
        with netns:
            for address in _addresses(netns):
                namespaces.setdefault(address, []).append(netns.path)
    return Sandboxes(attached=attached, namespaces={address: tuple(paths) for address, paths in namespaces.items()})


def _cached(folders: Folders) -> Iterator[tuple[tuple[str, str], str]]:
    """The results that libcni caches until DEL: other plugins have no records, and with DPDK no addresses either."""
    for folder in folders.results:
        for name in entries(folder):
            path = f"{folder}/{name}"
            cached = _document(path)
            container_id, ifname = cached.get("containerId"), cached.get("ifName")
            if cached.get("kind") == _KEPT and is_identifier(container_id) and is_ifname(ifname) and _is_there(cached):
                yield (container_id, ifname), f"result {path}"


def _is_there(cached: JsonObject) -> bool:
    """Whether a sandbox in the result exists. A result without any is left over, for example after a reboot."""
    result = cached.get("result")
    interfaces = result.get("interfaces") if isinstance(result, dict) else None
    sandboxes = (
        [interface.get("sandbox") for interface in interfaces if isinstance(interface, dict)]
        if isinstance(interfaces, list)
        else []
    )
    paths = [path for path in (*sandboxes, cached.get("netns")) if isinstance(path, str) and path and "\0" not in path]
    return not paths or any(map(os.path.lexists, paths))


def _document(path: str) -> JsonObject:
    try:
        content = jsontext.loads((read_file(path) if stat.S_ISREG(os.lstat(path).st_mode) else None) or b"")
    except FileNotFoundError:
        return {}
    except DecodeFailure:
        return {}  # An older libcni cached the bare result.
    return content if isinstance(content, dict) else {}


def _namespaces() -> Iterator[Netns]:
    """Each namespace once, by a name if it has one."""
    seen: set[str] = set()
    for path in _paths():
        netns = _opened(path)
        if netns is not None and netns.identity not in seen:
            seen.add(netns.identity)
            yield netns
        elif netns is not None:
            netns.close()


def _opened(path: str) -> Netns | None:
    """Opens a namespace; None if the path does not exist or is not a namespace (any more)."""
    try:
        return open_netns(path)
    except InvalidNetns as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM):
            raise KernelRefused(f"cannot look into {path}: {cause.strerror}", hint="run it as root") from error
        return None


def _paths() -> Iterator[str]:
    for folder in NAMED:
        yield from (f"{folder}/{name}" for name in entries(folder))
    # Init is in the node's own namespace, which is also found through others. It may have more rights than we have.
    yield from (f"/proc/{pid}/ns/net" for pid in ("self", *pids()) if pid != "1")


def _addresses(netns: Netns) -> set[Address]:
    # A socket belongs to the namespace in which it is created.
    try:
        with netns.entered(), RouteSocket() as socket:
            packed_addresses = [
                nl.address(body).address for body in socket.dump(nl.RTM_GETADDR, nl.address_dump_body())
            ]
    except CniError:
        raise
    except OSError as error:
        raise KernelRefused(f"cannot list the addresses in {netns.path}: {error.strerror}") from error
    return {
        Address(version=_VERSIONS[len(packed)], number=int.from_bytes(packed, "big"))
        for packed in packed_addresses
        if len(packed) in _VERSIONS
    }
