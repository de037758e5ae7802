"""Settings of a device that a pod with CAP_NET_ADMIN can change and a move to another namespace does not reset.

The limits of offloads, the link mode, an attached XDP program, timers of its queues, and the settings of `ethtool`. A
tuning is a dictionary of texts, as stored in records: two are compared, and the differences are restored.
"""

from __future__ import annotations

import os
import sys
from struct import error as StructError  # noqa: N812 - it is a class

from cni.host import netlink as nl
from cni.host.ethtool import Ethtool
from cni.host.files import read_small
from cni.host.rtnetlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.host.netlink import Link
    from cni.host.rtnetlink import RouteSocket

# name: (attribute, bytes of its payload)
_ATTRIBUTES = {
    "link mode": (17, 1),
    "protodown": (39, 1),
    "gso_max_segs": (40, 4),
    "gso_max_size": (41, 4),
    "gro_max_size": (58, 4),
    "gso_ipv4_max_size": (63, 4),
    "gro_ipv4_max_size": (64, 4),
}

_FILES = ("gro_flush_timeout", "napi_defer_hard_irqs", "threaded")
_QUEUE_FILES = ("rps_cpus", "rps_flow_cnt")
_QUEUES, _MOST_QUEUES = "queues/", 8
"""The number of receive queues that are read."""


def read(socket: RouteSocket, link: Link, net: str = "/sys/class/net", *, quick: bool = False) -> dict[str, str]:
    """The tuning of a link that is in the namespace of this process. Raises `NetlinkError`, `OSError`.

    `quick`: if the first queue has no RPS, the others are assumed to be equal: each costs about 20 microseconds.
    """
    mask = nl.u32(nl.IFLA_EXT_MASK, nl.RTEXT_FILTER_SKIP_STATS)
    (body,) = socket.get_each(nl.RTM_GETLINK, [nl.link_body(link.index, mask)], ())
    attrs = nl.link_attributes(body)
    found = {
        name: str(int.from_bytes(attrs[kind], sys.byteorder))
        for name, (kind, _size) in _ATTRIBUTES.items()
        if kind in attrs
    }
    others = link.promiscuity - bool(link.flags & nl.IFF_PROMISC)
    found |= {"xdp": str(link.xdp), "promiscuity": str(max(0, others))}
    found |= _files(f"{net}/{link.name}", quick=quick)
    ethtool = Ethtool()
    try:
        return {**found, **ethtool.settings(link.index)}
    finally:
        ethtool.close()


def put_back(socket: RouteSocket, link: Link, wanted: dict[str, str], net: str = "/sys/class/net") -> list[str]:
    """Restores each named part of the tuning; returns the reasons for failures.

    XDP programs and promiscuous mode are not restored: they are not among the names.
    """
    failures = []
    ethtool = Ethtool()
    try:
        # The files of a queue come with its channel.
        for name in sorted(wanted, key=lambda name: name.startswith(_QUEUES)):
            try:
                _change(socket, ethtool, link, name, wanted[name], net)
            except NetlinkError as error:
                failures.append(f"{name}: {error.reason}")
            except OSError as error:
                failures.append(f"{name}: {error.strerror}")
            except (LookupError, ValueError, OverflowError, StructError):
                failures.append(f"{name}: {wanted[name]!r} comes from a damaged record, or from a newer version's")
    finally:
        ethtool.close()
    return failures


def _change(socket: RouteSocket, ethtool: Ethtool, link: Link, name: str, value: str, net: str) -> None:
    if name in _ATTRIBUTES:
        kind, size = _ATTRIBUTES[name]
        payload = int(value).to_bytes(size, sys.byteorder)
        socket.change(nl.RTM_SETLINK, nl.link_body(link.index, nl.attribute(kind, payload)))
    elif name.rsplit("/", maxsplit=1)[-1] in (*_FILES, *_QUEUE_FILES):
        _write(f"{net}/{link.name}/{name}", value)
    else:
        ethtool.change(link.index, name, value)


def _files(folder: str, *, quick: bool) -> dict[str, str]:
    try:
        queues = [name for name in os.listdir(f"{folder}/queues") if name.startswith("rx-")]
    except OSError:
        queues = []
    looked_at = sorted(queues, key=lambda name: (len(name), name))[:_MOST_QUEUES]
    found = {name: _text(f"{folder}/{name}") for name in _FILES}
    first: dict[str, str] = {}
    for queue in looked_at:
        values = first or {name: _text(f"{folder}/{_QUEUES}{queue}/{name}") for name in _QUEUE_FILES}
        if quick and not any(value.strip("0,") for value in values.values()):
            first = values
        found |= {f"{_QUEUES}{queue}/{name}": value for name, value in values.items()}
        quick = False
    return {name: value for name, value in found.items() if value}


def _text(path: str) -> str:
    return read_small(path).decode(errors="replace").strip()


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
