"""Network devices of one namespace: look them up, change them, move them."""

from __future__ import annotations

import errno
import time

from cni.host import netlink as nl
from cni.host.rtnetlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.host.rtnetlink import RouteSocket

CARRIER_SECONDS = 1.0
"""A VF gets its carrier about 0.2 s after it was set up; earlier announcements are lost."""

_ABSENT = (errno.ENODEV, errno.ENOENT)


def by_name(socket: RouteSocket, name: str, *, with_vfs: bool = False) -> nl.Link | None:
    """The link that has `name` as its name or as one of its alternative names."""
    # IFLA_IFNAME also finds alternative names, but the kernel accepts 15 bytes at most.
    kind = nl.IFLA_IFNAME if len(name.encode()) < 16 else nl.IFLA_ALT_IFNAME
    return _get(socket, nl.link_body(0, nl.text(kind, name)), with_vfs=with_vfs)


def by_index(socket: RouteSocket, index: int, *, with_vfs: bool = False) -> nl.Link | None:
    """The link with that interface index."""
    return _get(socket, nl.link_body(index), with_vfs=with_vfs)


def every(socket: RouteSocket, having: bytes = b"") -> list[nl.Link]:
    """All links of the namespace.

    With `having` those whose message contains these bytes, which is a fast first look.
    """
    return [nl.link(body) for body in socket.dump(nl.RTM_GETLINK, _all_body(), (having,))]


def bodies_once(socket: RouteSocket, having: tuple[bytes, ...], deadline: float) -> list[bytes]:
    """The messages about all links of the namespace that contain one of these texts; one try. Raises `Unsettled`."""
    return socket.dump(nl.RTM_GETLINK, _all_body(), having, deadline=deadline, tries=1)


def _all_body() -> bytes:
    return nl.link_body(0, nl.u32(nl.IFLA_EXT_MASK, nl.RTEXT_FILTER_SKIP_STATS))


def by_parent(socket: RouteSocket, device: str) -> nl.Link | None:
    """The link whose parent is the PCI device. Names do not identify it, because a pod can change them."""
    return next((link for link in every(socket, device.encode()) if link.parent == device), None)


def change(  # noqa: PLR0913 - one parameter per attribute of a link
    socket: RouteSocket,
    index: int,
    *,
    name: str | None = None,
    mac: str | None = None,
    mtu: int | None = None,
    alias: str | None = None,
    txqlen: int | None = None,
    group: int | None = None,
    up: bool | None = None,
    flags: tuple[int, int] = (0, 0),
    netns_fd: int | None = None,
) -> None:
    """Changes a link in one message. None leaves a value; `flags` are (values, mask). Raises `NetlinkError`.

    The message is not atomic: the kernel moves the link first, and a later refusal leaves it moved.
    """
    numbers = (
        (nl.IFLA_NET_NS_FD, netns_fd),
        (nl.IFLA_MTU, mtu),
        (nl.IFLA_TXQLEN, txqlen),
        (nl.IFLA_GROUP, group),
    )
    attrs = [nl.u32(kind, number) for kind, number in numbers if number is not None]
    if name is not None:
        attrs.append(nl.text(nl.IFLA_IFNAME, name))
    if mac is not None:
        attrs.append(nl.attribute(nl.IFLA_ADDRESS, nl.packed_mac(mac)))
    if alias is not None:
        # No NUL: an empty alias clears the old one, "\0" would be an alias of length one.
        attrs.append(nl.attribute(nl.IFLA_IFALIAS, alias.encode()))
    values, which = flags
    if up is not None:
        values, which = values & ~nl.IFF_UP | (nl.IFF_UP if up else 0), which | nl.IFF_UP
    socket.change(nl.RTM_SETLINK, nl.link_body(index, *attrs, flags=values, change=which))


def remove(socket: RouteSocket, index: int) -> None:
    """Deletes a virtual link; a missing link is not an error. Raises `NetlinkError`."""
    try:
        socket.change(nl.RTM_DELLINK, nl.link_body(index))
    except NetlinkError as error:
        if error.errno not in _ABSENT:
            raise


def add_altnames(socket: RouteSocket, index: int, names: Iterable[str]) -> None:
    """Adds alternative names to the link; an existing one is not an error. Raises `NetlinkError`."""
    for name in names:
        try:
            _change_altname(socket, nl.RTM_NEWLINKPROP, index, name)
        except NetlinkError as error:
            # udev adds the same names again when the link appears.
            holder = by_name(socket, name) if error.errno == errno.EEXIST else None
            if holder is None or holder.index != index:
                raise


def remove_altnames(socket: RouteSocket, index: int, names: Iterable[str]) -> None:
    """Removes alternative names from the link; a missing one is not an error. Raises `NetlinkError`."""
    for name in names:
        try:
            _change_altname(socket, nl.RTM_DELLINKPROP, index, name)
        except NetlinkError as error:
            if error.errno not in _ABSENT:
                raise


def await_carrier(events: RouteSocket, socket: RouteSocket, index: int) -> bool:
    """Whether the link has a carrier; awaits it for at most `CARRIER_SECONDS`. `events` hears RTNLGRP_LINK."""
    deadline = time.monotonic() + CARRIER_SECONDS
    while True:
        link = by_index(socket, index)
        if link is None or link.flags & nl.IFF_LOWER_UP:
            return link is not None
        if not events.await_event(lambda message: message.kind == nl.RTM_NEWLINK, deadline):
            return False


def _change_altname(socket: RouteSocket, kind: int, index: int, name: str) -> None:
    flags = nl.NLM_F_CREATE | nl.NLM_F_EXCL if kind == nl.RTM_NEWLINKPROP else 0
    properties = nl.nested(nl.IFLA_PROP_LIST, nl.text(nl.IFLA_ALT_IFNAME, name))
    socket.change(kind, nl.link_body(index, properties), flags)


def _get(socket: RouteSocket, body: bytes, *, with_vfs: bool) -> nl.Link | None:
    mask = nl.RTEXT_FILTER_SKIP_STATS | (nl.RTEXT_FILTER_VF if with_vfs else 0)
    try:
        return nl.link(socket.get(nl.RTM_GETLINK, body + nl.u32(nl.IFLA_EXT_MASK, mask)))
    except NetlinkError as error:
        if error.errno in _ABSENT:
            return None
        raise
