"""Codec of the rtnetlink messages that the plugins exchange with the kernel. Pure: bytes in, values out.

Written by hand because an import of pyroute2 costs 60 to 100 ms in each plugin call (docs/adr). The constants and
structures are those of linux/netlink.h, rtnetlink.h, if_link.h and if_addr.h; the tests compare it with pyroute2.
All integers are in host byte order unless the name says otherwise.
"""

from __future__ import annotations

from struct import Struct, error as struct_error

from cni.value import Value

# Message types and header flags.
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_NEWNSID, RTM_GETNSID = 88, 90
RTM_NEWLINKPROP, RTM_DELLINKPROP = 108, 109
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x4, 0x10
NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE = 0x300, 0x200, 0x400
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200

# Link attributes.
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_TXQLEN, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK = 13, 18, 20, 27, 28, 29
IFLA_PROMISCUITY, IFLA_XDP = 30, 43
IFLA_INFO_KIND, IFLA_XDP_ATTACHED = 1, 2
IFLA_NUM_VF, IFLA_VFINFO_LIST = 21, 22
IFLA_LINK_NETNSID, IFLA_PROP_LIST, IFLA_ALT_IFNAME, IFLA_PERM_ADDRESS = 37, 52, 53, 54
IFLA_PARENT_DEV_NAME, IFLA_PARENT_DEV_BUS_NAME = 56, 57
IFLA_VF_INFO = 1
RTEXT_FILTER_VF, RTEXT_FILTER_SKIP_STATS = 1, 8
IFF_UP, IFF_NOARP, IFF_PROMISC, IFF_ALLMULTI, IFF_MULTICAST, IFF_LOWER_UP = 0x1, 0x80, 0x100, 0x200, 0x1000, 0x10000
KEPT_FLAGS = IFF_NOARP | IFF_PROMISC | IFF_ALLMULTI | IFF_MULTICAST
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF

# Address and route attributes.
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_DADFAILED, IFA_F_TENTATIVE = 0x08, 0x40
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_METRICS, RTA_MULTIPATH, RTA_TABLE = 1, 4, 5, 6, 8, 9, 15
RTAX_MTU, RTAX_ADVMSS = 2, 8
RT_TABLE_UNSPEC, RT_TABLE_MAIN, RT_TABLE_LOCAL, RTPROT_BOOT, RTN_UNICAST = 0, 254, 255, 3, 1
SCOPE_UNIVERSE, SCOPE_LINK = 0, 253

# Attributes of messages about the numbers of other namespaces.
NETNSA_NSID, NETNSA_FD = 1, 3
NSID_NONE = 0xFFFFFFFF

# Attributes of an acknowledgement (extended acks).
NLMSGERR_ATTR_MSG = 1

_HEADER = Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = Struct("=HH")  # length with header, type
_IFINFO = Struct("=BxHiII")  # family, ARPHRD type, index, flags, change mask
_IFADDR = Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG = Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NEXTHOP = Struct("=HBBi")  # length, flags, hops, interface index
_U32 = Struct("=I")


class Message(Value):
    """One netlink message: type, header flags, sequence number and body."""

    kind: int
    flags: int
    sequence: int
    body: bytes


class Link(Value):
    """A network device as seen in one namespace.

    `parent` is its PCI address, `permanent` the driver's own MAC address, `lower` the index of the link that it is
    stacked on, as a VLAN or macvlan is (0: none in this namespace), `txqlen` the transmit queue's length in packets.
    `promiscuity` counts who wants it promiscuous; `xdp` is how an XDP program is attached (0: none is). `vfs` are its
    VFs as the kernel reports them, for `vf_settings.reported`.
    """

    index: int
    name: str
    flags: int
    mac: str = ""
    permanent: str = ""
    mtu: int = 0
    alias: str = ""
    altnames: tuple[str, ...] = ()
    master: int = 0
    lower: int = 0
    txqlen: int = 0
    group: int = 0
    parent: str = ""
    promiscuity: int = 0
    xdp: int = 0
    vfs: tuple[bytes, ...] = ()

    @property
    def kept_flags(self) -> int:
        """The flags that a pod can change and that survive a move (`KEPT_FLAGS`)."""
        return self.flags & KEPT_FLAGS

    @property
    def up(self) -> bool:
        """Whether the link is administratively up."""
        return bool(self.flags & IFF_UP)


class InterfaceRoute(Value):
    """A route's way through one interface: packed destination (empty: default) and gateway (empty: on the link)."""

    index: int
    family: int
    destination: bytes
    prefix: int
    gateway: bytes
    table: int
    priority: int
    kind: int


class InterfaceAddress(Value):
    """An address of an interface: packed address, prefix length, IFA_F_* flags."""

    index: int
    family: int
    prefix: int
    flags: int
    scope: int
    address: bytes


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A whole message, with NLM_F_REQUEST set."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | NLM_F_REQUEST, sequence, 0) + body


def messages(buffer: bytes) -> list[Message]:
    """The messages of one datagram. Raises `ValueError` if it is truncated or malformed."""
    found, at = [], 0
    while at + _HEADER.size <= len(buffer):
        length, kind, flags, sequence, _port = _HEADER.unpack_from(buffer, at)
        if length < _HEADER.size or at + length > len(buffer):
            raise ValueError(f"netlink message of {length} bytes at {at} does not fit the datagram")
        found.append(Message(kind=kind, flags=flags, sequence=sequence, body=buffer[at + _HEADER.size : at + length]))
        at += _aligned(length)
    return found


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(_aligned(length) - length)


def attributes(buffer: bytes, start: int = 0) -> list[tuple[int, bytes]]:
    """The attributes from `start` on, as (type without flag bits, payload). A truncated tail is ignored."""
    # `_attribute_at` is not used here: a call for each of forty attributes would double the time.
    found, at, end = [], start, len(buffer)
    while at + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(buffer, at)
        if length < _ATTRIBUTE.size or at + length > end:
            break
        found.append((kind & NLA_TYPE_MASK, buffer[at + _ATTRIBUTE.size : at + length]))
        at += (length + 3) & ~3
    return found


def _attribute_at(buffer: bytes, at: int) -> tuple[int, bytes, int] | None:
    """Type, payload, and where the next attribute starts; None when no whole attribute starts at `at`."""
    if at + _ATTRIBUTE.size > len(buffer):
        return None
    length, kind = _ATTRIBUTE.unpack_from(buffer, at)
    if length < _ATTRIBUTE.size or at + length > len(buffer):
        return None
    return kind & NLA_TYPE_MASK, buffer[at + _ATTRIBUTE.size : at + length], at + _aligned(length)


def u32(kind: int, value: int) -> bytes:
    """An attribute that holds an unsigned 32-bit integer."""
    return attribute(kind, _U32.pack(value))


def text(kind: int, value: str) -> bytes:
    """An attribute that holds a NUL-terminated string (names, aliases)."""
    return attribute(kind, value.encode() + b"\0")


def nested(kind: int, *inner: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(inner))


def link_body(index: int, *attrs: bytes, flags: int = 0, change: int = 0) -> bytes:
    """Body of a message about a link; the flags in the mask `change` are set to those in `flags`."""
    return _IFINFO.pack(0, 0, index, flags, change) + b"".join(attrs)


def lower_attribute(index: int) -> bytes:
    """The bytes in a message about a link that is stacked on the link with that index."""
    return u32(IFLA_LINK, index)


def lower(body: bytes) -> tuple[int, int | None, str, str]:
    """(index of the link below, number of its namespace or None for the link's own, name, kind) of an RTM_NEWLINK.

    The kernel omits the index of the link below if it equals the link's own: for a link without one, or if the lower
    link has the same index in another namespace.
    """
    attrs = link_attributes(body)
    kind = dict(attributes(attrs.get(IFLA_LINKINFO, b""))).get(IFLA_INFO_KIND, b"")
    netnsid = attrs.get(IFLA_LINK_NETNSID)
    return (
        _number(attrs[IFLA_LINK]) if IFLA_LINK in attrs else _IFINFO.unpack_from(body)[2],
        None if netnsid is None else _number(netnsid),
        _text(attrs.get(IFLA_IFNAME, b"")),
        _text(kind),
    )


def nsid_body(fd: int) -> bytes:
    """Body of RTM_GETNSID about the namespace of a descriptor."""
    return bytes(4) + u32(NETNSA_FD, fd)


def nsid(body: bytes) -> int:
    """The number of an RTM_NEWNSID; `NSID_NONE` if the namespace has none."""
    return _number(dict(attributes(body, 4)).get(NETNSA_NSID))


def vf_body(pf_index: int, setting: bytes) -> bytes:
    """Body of RTM_SETLINK on a PF that changes one VF; `setting` is an attribute of `vf_settings`."""
    return link_body(pf_index, nested(IFLA_VFINFO_LIST, nested(IFLA_VF_INFO, setting)))


def link(body: bytes) -> Link:
    """Decodes the body of an RTM_NEWLINK. Raises `ValueError` when it is malformed."""
    try:
        _family, _arphrd, index, flags, _change = _IFINFO.unpack_from(body)
        attrs, vfs = _link_attributes(body)
        return Link(
            index=index,
            name=_text(attrs.get(IFLA_IFNAME, b"")),
            flags=flags,
            mac=mac_text(attrs.get(IFLA_ADDRESS, b"")),
            permanent=mac_text(attrs.get(IFLA_PERM_ADDRESS, b"")),
            mtu=_number(attrs.get(IFLA_MTU)),
            alias=_text(attrs.get(IFLA_IFALIAS, b"")),
            altnames=tuple(
                _text(name) for kind, name in attributes(attrs.get(IFLA_PROP_LIST, b"")) if kind == IFLA_ALT_IFNAME
            ),
            master=_number(attrs.get(IFLA_MASTER)),
            txqlen=_number(attrs.get(IFLA_TXQLEN)),
            group=_number(attrs.get(IFLA_GROUP)),
            lower=0 if IFLA_LINK_NETNSID in attrs else _number(attrs.get(IFLA_LINK)),
            parent=_text(attrs.get(IFLA_PARENT_DEV_NAME, b""))
            if attrs.get(IFLA_PARENT_DEV_BUS_NAME) == b"pci\0"
            else "",
            promiscuity=_number(attrs.get(IFLA_PROMISCUITY)),
            xdp=dict(attributes(attrs.get(IFLA_XDP, b""))).get(IFLA_XDP_ATTACHED, b"\0")[0],
            vfs=tuple(vfs),
        )
    except (struct_error, UnicodeDecodeError, LookupError) as error:
        raise ValueError(f"malformed link message: {error}") from error


def link_attributes(body: bytes) -> dict[int, bytes]:
    """The attributes of an RTM_NEWLINK without VFs."""
    return dict(attributes(body, _IFINFO.size))


def _link_attributes(body: bytes) -> tuple[dict[int, bytes], list[bytes]]:
    """The attributes of a link except its VF list, and the entries of that list."""
    attrs: dict[int, bytes] = {}
    vfs: list[bytes] = []
    at = _IFINFO.size
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if kind & NLA_TYPE_MASK == IFLA_VFINFO_LIST:
            vfs, at = _vf_list(body, at, length, _number(attrs.get(IFLA_NUM_VF)))
            continue
        one = _attribute_at(body, at)
        if one is None:
            break
        attrs[one[0]] = one[1]
        at = one[2]
    return attrs, vfs


def _vf_list(body: bytes, start: int, declared: int, expected: int) -> tuple[list[bytes], int]:
    """The entries of the VF list at `start`, and its end, independent of its length field.

    The length field has 16 bits, and the kernel ignores the overflow: Linux 6.12 declares 32468 for the 98004 bytes
    of 500 VFs. The list contains only VFs, and nothing after it has their type, so their types show its end; the
    low bits of the length confirm it.
    """
    entries: list[bytes] = []
    at = start + _ATTRIBUTE.size
    while (one := _attribute_at(body, at)) and one[0] == IFLA_VF_INFO:
        if at - start == declared and len(entries) >= expected:
            break
        entries.append(one[1])
        at = one[2]
    if one is None or (at - start) & 0xFFFF == declared:
        return entries, at
    inside = attributes(body[start + _ATTRIBUTE.size : start + declared])
    return [entry for kind, entry in inside if kind == IFLA_VF_INFO], start + _aligned(max(declared, _ATTRIBUTE.size))


def address_body(index: int, family: int, packed: bytes, prefix: int, broadcast: bytes = b"") -> bytes:
    """Body of RTM_NEWADDR."""
    attrs = attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    if broadcast:
        attrs += attribute(IFA_BROADCAST, broadcast)
    return _IFADDR.pack(family, prefix, 0, SCOPE_UNIVERSE, index) + attrs


def address_dump_body(family: int = 0, index: int = 0) -> bytes:
    """Body of an RTM_GETADDR dump, of all interfaces or of one."""
    return _IFADDR.pack(family, 0, 0, 0, index)


def address(body: bytes) -> InterfaceAddress:
    """Decodes the body of an RTM_NEWADDR."""
    family, prefix, flags, scope, index = _IFADDR.unpack_from(body)
    attrs = dict(attributes(body, _IFADDR.size))
    return InterfaceAddress(
        index=index,
        family=family,
        prefix=prefix,
        flags=_number(attrs.get(IFA_FLAGS)) or flags,
        scope=scope,
        # A point-to-point interface has its own address in IFA_LOCAL and the peer's in IFA_ADDRESS.
        address=attrs.get(IFA_LOCAL) or attrs.get(IFA_ADDRESS, b""),
    )


def route_body(  # noqa: PLR0913 - one parameter per field of a route
    *,
    index: int,
    family: int,
    destination: bytes,
    prefix: int,
    gateway: bytes = b"",
    table: int | None = None,
    scope: int | None = None,
    priority: int = 0,
    mtu: int = 0,
    advmss: int = 0,
) -> bytes:
    """Body of RTM_NEWROUTE for a unicast route through interface `index`; table None is the main table."""
    attrs = attribute(RTA_DST, destination) if prefix else b""
    if gateway:
        attrs += attribute(RTA_GATEWAY, gateway)
    attrs += u32(RTA_OIF, index)
    attrs += u32(RTA_PRIORITY, priority) if priority else b""
    metrics = (u32(RTAX_MTU, mtu) if mtu else b"") + (u32(RTAX_ADVMSS, advmss) if advmss else b"")
    attrs += nested(RTA_METRICS, metrics) if metrics else b""
    wanted = RT_TABLE_MAIN if table is None else table
    attrs += u32(RTA_TABLE, wanted)
    if scope is None:
        scope = SCOPE_UNIVERSE if gateway else SCOPE_LINK
    header = _RTMSG.pack(
        family, prefix, 0, 0, wanted if wanted < 256 else RT_TABLE_UNSPEC, RTPROT_BOOT, scope, RTN_UNICAST, 0
    )
    return header + attrs


def route_dump_body(family: int = 0, index: int = 0) -> bytes:
    """Body of an RTM_GETROUTE dump, of all tables; with an index, of the routes through that interface."""
    return _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + (u32(RTA_OIF, index) if index else b"")


def routes(body: bytes) -> list[InterfaceRoute]:
    """Decodes the body of an RTM_NEWROUTE: one entry for each interface that the route goes through."""
    family, prefix, _src, _tos, table, _protocol, _scope, kind, _flags = _RTMSG.unpack_from(body)
    attrs = dict(attributes(body, _RTMSG.size))
    ways = [(_number(attrs.get(RTA_OIF)), attrs.get(RTA_GATEWAY, b""))] if RTA_OIF in attrs else []
    ways += _next_hops(attrs.get(RTA_MULTIPATH, b""))
    return [
        InterfaceRoute(
            index=index,
            family=family,
            destination=attrs.get(RTA_DST, b""),
            prefix=prefix,
            gateway=gateway,
            table=_number(attrs.get(RTA_TABLE)) or table,
            priority=_number(attrs.get(RTA_PRIORITY)),
            kind=kind,
        )
        for index, gateway in ways
    ]


def _next_hops(payload: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at + _NEXTHOP.size <= len(payload):
        length, _flags, _hops, index = _NEXTHOP.unpack_from(payload, at)
        if length < _NEXTHOP.size:
            break
        found.append((index, dict(attributes(payload[at : at + length], _NEXTHOP.size)).get(RTA_GATEWAY, b"")))
        at += _aligned(length)
    return found


def failure(body: bytes, flags: int) -> tuple[int, str]:
    """(errno, the kernel's own words or "") of an NLMSG_ERROR; errno 0 is an acknowledgement."""
    (code,) = Struct("=i").unpack_from(body)
    words = ""
    if flags & NLM_F_ACK_TLVS:
        # With NLM_F_CAPPED only the request's header is echoed before the attributes, else the whole request.
        echoed = _HEADER.size if flags & NLM_F_CAPPED else _HEADER.unpack_from(body, 4)[0]
        attrs = dict(attributes(body, 4 + _aligned(echoed)))
        words = _text(attrs.get(NLMSGERR_ATTR_MSG, b""))
    return -code, words


def packed_mac(mac: str) -> bytes:
    """Bytes of a MAC address in colon form."""
    return bytes.fromhex(mac.replace(":", ""))


def mac_text(packed: bytes) -> str:
    """A MAC address in lower-case colon form."""
    return packed.hex(":")


def _text(payload: bytes) -> str:
    # A pod can write any bytes to an alias or a name.
    return payload.rstrip(b"\0").decode(errors="replace")


def _number(payload: bytes | None) -> int:
    return int(_U32.unpack_from(payload)[0]) if payload else 0


def _aligned(length: int) -> int:
    return (length + 3) & ~3
