"""Adapter of the `Kernel` port: virtual functions through their PF, network devices through netlink."""

from __future__ import annotations

import errno
import os

from cni.errors import KernelRefused, TryAgainLater, VfNotFound
from cni.host import addressing, links, netlink as nl
from cni.host.announce import announce
from cni.host.netns import find_netns, open_netns
from cni.host.rtnetlink import RTNLGRP_IPV6_IFADDR, NetlinkError, RouteSocket
from cni.host.sysfs import Sysfs
from cni.vf import Vf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.host.netns import Netns
    from cni.log import Log
    from cni.pci import PciAddress
    from cni.result import IpConfig, Route
    from cni.vf import VfSettings

_RENAME_TRIES = 5
_UNUSUAL = {
    errno.EOPNOTSUPP: "the driver does not support it",
    errno.EPROTONOSUPPORT: "the driver does not know this VLAN protocol",
    errno.EINVAL: "the driver does not take this value, or not while the PF's link is down",
    errno.EPERM: "the plugin needs CAP_NET_ADMIN in the host's network namespace",
}


class HostKernel:
    """The kernel that the plugin runs on. One netlink socket per namespace is opened when first needed."""

    def __init__(self, log: Log, sysfs: Sysfs | None = None) -> None:
        self._log = log
        self._sysfs = sysfs or Sysfs()
        self._sockets: dict[str, RouteSocket] = {}

    # What a PF says and does about its VFs.

    def vf(self, device: PciAddress) -> Vf:
        """The VF as found. Raises `VfNotFound` when the device is none, or its PF cannot be asked."""
        pf, index, pf_name = self._place_on_pf(device)
        link = links.by_name(self._socket(None), pf_name, with_vfs=True)
        info = next((vf for vf in link.vfs if vf.index == index), None) if link else None
        if link is None or info is None:
            raise VfNotFound(
                f"PF {pf_name} ({pf}) does not report VF {index} ({device})",
                hint="the PF's driver was perhaps reloaded; compare: ip link show " + pf_name,
            )
        return Vf(
            device=device,
            index=index,
            driver=self._sysfs.driver(device),
            pf=pf,
            pf_name=pf_name,
            pf_index=link.index,
            pf_driver=self._sysfs.driver(pf),
            settings=info,
            link=self.link(device, None),
        )

    def exists(self, device: PciAddress) -> bool:
        """Whether the host has the device at all."""
        return self._sysfs.exists(device)

    def set_vf(self, vf: Vf, setting: str, wanted: VfSettings) -> None:
        """Sends one setting of the VF to the PF. Raises `KernelRefused`, naming field, value, driver and reason."""
        what, body = _vf_request(vf, setting, wanted)
        try:
            self._socket(None).change(nl.RTM_SETLINK, nl.vf_body(vf.pf_index, body))
        except NetlinkError as error:
            raise KernelRefused(
                f"{what} of VF {vf.index}: driver {vf.pf_driver} of PF {vf.pf_name} refused: {error.reason}",
                hint=_UNUSUAL.get(error.errno or 0, ""),
            ) from error
        self._log.debug(f"PF {vf.pf_name} VF {vf.index}: {what}")

    def _place_on_pf(self, device: PciAddress) -> tuple[PciAddress, int, str]:
        if not self._sysfs.exists(device):
            raise VfNotFound(
                f"the host has no PCI device {device}", hint="are the VFs created? see sriov_numvfs of the PF"
            )
        pf = self._sysfs.physfn(device)
        if pf is None:
            raise VfNotFound(
                f"PCI device {device} is not a virtual function of a PF on this host",
                hint="deviceID must name a VF, not a PF; inside a virtual machine a VF has no visible PF",
            )
        index, pf_name = self._sysfs.vf_index(pf, device), self._sysfs.uplink(pf)
        if index is None or pf_name is None:
            raise VfNotFound(
                f"PF {pf} of {device} " + ("does not list it" if index is None else "has no network device here"),
                hint="the PF needs its network driver, and its device must be in the host's network namespace",
            )
        return pf, index, pf_name

    # Namespaces and network devices.

    def netns(self, path: str) -> Netns:
        """Opens the namespace. Raises `InvalidNetns`."""
        return open_netns(path)

    def find_netns(self, path: str, identity: str = "") -> Netns | None:
        """The namespace at the path, or wherever a process keeps the one with that identity alive, or None."""
        return find_netns(path, identity)

    def link(self, device: PciAddress, netns: Netns | None) -> nl.Link | None:
        """The device's link in that namespace, or None."""
        if netns is not None:
            return links.by_parent(self._socket(netns), device)
        for _ in range(_RENAME_TRIES):
            names = self._sysfs.netdevs(device)
            if not names:
                return None
            link = links.by_name(self._socket(None), names[0])
            # udev can rename the device between the two looks, and another can have got its name.
            if link is not None and link.parent == device:
                return link
        raise TryAgainLater(f"the network device of {device} is being renamed", hint="see: udevadm monitor")

    def named(self, name: str, netns: Netns | None) -> nl.Link | None:
        """The link that has that name or alternative name, or None."""
        return links.by_name(self._socket(netns), name)

    def everywhere(self, netns: Netns | None) -> list[nl.Link]:
        """All links of the namespace."""
        return links.every(self._socket(netns))

    def move(self, link: nl.Link, source: Netns | None, target: Netns | None, **attributes: Any) -> None:
        """Moves the link, and changes name, mtu and alias on the way. Raises `NetlinkError`: it may have moved then."""
        with _Host(target) as fd:
            links.change(self._socket(source), link.index, netns_fd=fd, **attributes)

    def change(self, link: nl.Link, netns: Netns | None, **attributes: Any) -> None:
        """Changes name, mac, mtu, alias or up. Raises `NetlinkError`."""
        links.change(self._socket(netns), link.index, **attributes)

    def remove_stacked(self, link: nl.Link, netns: Netns) -> None:
        """Deletes what a pod stacked on the link (VLANs, macvlans): it would follow the link home. Raises `NetlinkError`."""
        socket = self._socket(netns)
        for other in links.every(socket):
            if other.lower == link.index and other.index != link.index:
                self._log.info(f"deleting {other.name}, which the pod stacked on {link.name}")
                links.remove(socket, other.index)

    def set_altnames(self, link: nl.Link, netns: Netns | None, wanted: tuple[str, ...]) -> None:
        """Makes the link's alternative names those that are wanted. Raises `NetlinkError`."""
        socket = self._socket(netns)
        links.remove_altnames(socket, link.index, [name for name in link.altnames if name not in wanted])
        links.add_altnames(socket, link.index, [name for name in wanted if name not in link.altnames])

    # In the pod.

    def bring_up(self, link: nl.Link, netns: Netns) -> None:
        """Sets the link up; the kernel then announces later changes of its addresses by itself. Raises `NetlinkError`."""
        with netns.entered():
            for family, names in (("ipv4", ("arp_notify",)), ("ipv6", ("ndisc_notify", "optimistic_dad"))):
                for name in names:
                    self._sysctl(f"net/{family}/conf/{link.name}/{name}", "1")
        links.change(self._socket(netns), link.index, up=True)

    def configure(self, link: nl.Link, netns: Netns, ips: tuple[IpConfig, ...], routes: tuple[Route, ...]) -> None:
        """Adds addresses, awaits duplicate address detection, adds routes."""
        socket = self._socket(netns)
        with netns.entered():
            if any(":" in ip.address for ip in ips):
                self._sysctl(f"net/ipv6/conf/{link.name}/disable_ipv6", "0")
                self._sysctl(f"net/ipv6/conf/{link.name}/keep_addr_on_down", "1")
            events = RouteSocket(RTNLGRP_IPV6_IFADDR)
        with events:
            for ip in ips:
                _naming(f"address {ip.address}", addressing.add_address, socket, link.index, ip)
            tentative = addressing.settle(events, socket, link.index, ips)
        if tentative:
            self._log.warning(f"duplicate address detection of {', '.join(tentative)} is not finished: no carrier?")
        gateways = addressing.gateways(ips)
        for route in routes:
            _naming(f"route {route.dst}", addressing.add_route, socket, link.index, route, gateways)

    def announce(self, link: nl.Link, netns: Netns, ips: tuple[IpConfig, ...]) -> None:
        """Tells the neighbours about the addresses; what hinders that is logged only."""
        with netns.entered():
            for problem in announce(link.index, link.mac, [ip.address.partition("/")[0] for ip in ips]):
                self._log.warning(f"announcement: {problem}")

    def addresses(self, link: nl.Link, netns: Netns) -> list[nl.InterfaceAddress]:
        """The addresses of the link."""
        return addressing.addresses(self._socket(netns), link.index)

    def _sysctl(self, name: str, value: str) -> None:
        # Refinements only: a kernel without IPv6 or without the knob is no reason to fail.
        try:
            fd = os.open(f"/proc/sys/{name}", os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            self._log.debug(f"sysctl {name}: {error.strerror}")
            return
        try:
            os.write(fd, value.encode())
        except OSError as error:
            self._log.warning(f"sysctl {name}={value}: {error.strerror}")
        finally:
            os.close(fd)

    def _socket(self, netns: Netns | None) -> RouteSocket:
        identity = netns.identity if netns else ""
        if identity not in self._sockets:
            if netns is None:
                self._sockets[identity] = RouteSocket()
            else:
                with netns.entered():
                    self._sockets[identity] = RouteSocket()
        return self._sockets[identity]


class _Host:
    """Descriptor of the target namespace; the host's own is opened for the time of the call."""

    def __init__(self, target: Netns | None) -> None:
        self._target = target
        self._own = -1

    def __enter__(self) -> int:
        if self._target is not None:
            return self._target.fd
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        return self._own

    def __exit__(self, *_exc: object) -> None:
        if self._own >= 0:
            os.close(self._own)


def _vf_request(vf: Vf, setting: str, wanted: VfSettings) -> tuple[str, bytes]:
    """(field and value as the message shows them, netlink attribute) of one setting."""
    if setting == "vlan":
        vlan, qos, proto = wanted.vlan or 0, wanted.qos or 0, wanted.proto or "802.1q"
        return f"vlan {vlan} (vlanQoS {qos}, vlanProto {proto})", nl.vf_vlan(vf.index, vlan, qos, proto)
    if setting == "rate":
        low = _chosen(wanted.min_tx_rate, vf.settings.min_tx_rate)
        high = _chosen(wanted.max_tx_rate, vf.settings.max_tx_rate)
        shown = [(name, getattr(wanted, name)) for name in ("min_tx_rate", "max_tx_rate")]
        return ", ".join(f"{name} {value}" for name, value in shown if value is not None), nl.vf_rate(vf.index, low, high)
    value = getattr(wanted, setting)
    encode = {"mac": nl.vf_mac, "spoofchk": nl.vf_spoofchk, "trust": nl.vf_trust, "link_state": nl.vf_link_state}[setting]
    shown_value = value if isinstance(value, str) else "on" if value else "off"
    return f"{setting} {shown_value}", encode(vf.index, value)


def _chosen(wanted: int | None, found: int | None) -> int:
    return wanted if wanted is not None else found or 0


def _naming(what: str, action: Any, *args: Any) -> None:
    try:
        action(*args)
    except NetlinkError as error:
        raise KernelRefused(f"{what}: the kernel refused: {error.reason}") from error
