"""Adapter of the `Kernel` port: virtual functions through their PF, network devices through netlink."""

from __future__ import annotations

import errno
import os
import time

from cni.errors import DeviceNotFound, KernelRefused, LinksUnsettled, TryAgainLater
from cni.host import addressing, links, netlink as nl, tuning, vf_settings
from cni.host.announce import announce
from cni.host.binding import Drivers
from cni.host.device import Device
from cni.host.files import read_file
from cni.host.netns import find_netns, is_inhabited, named_namespaces, open_netns
from cni.host.resets import Resets, is_passing
from cni.host.rtnetlink import RTNLGRP_IPV6_IFADDR, RTNLGRP_LINK, NetlinkError, RouteSocket, Unsettled
from cni.host.sysfs import Sysfs
from cni.pci import PciAddress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cni.host.netns import Netns
    from cni.host.vf_settings import VfSettings
    from cni.log import Log
    from cni.protocol.result import IpConfig, Route

_RENAME_TRIES = 5
_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21
_UNUSUAL = {
    errno.EOPNOTSUPP: "the driver does not support it",
    errno.EPROTONOSUPPORT: "the driver does not know this VLAN protocol",
    errno.EINVAL: "the driver does not take this value, or not while the PF's link is down",
    errno.EPERM: "the plugin needs CAP_NET_ADMIN in the host's network namespace",
}


class HostKernel:
    """The kernel that the plugin runs on. One netlink socket per namespace is opened when first needed."""

    def __init__(self, log: Log, sysfs: Sysfs | None = None, resets: Resets | None = None) -> None:
        self._log = log
        self._resets = resets or Resets()
        self._sysfs = sysfs or Sysfs()
        self._drivers = Drivers(self._sysfs)
        self._sockets: dict[str, RouteSocket] = {}
        self._indexes: dict[tuple[str, PciAddress], int] = {}

    # PCI devices, their drivers, and the VFs of PFs.

    def device(self, address: PciAddress) -> Device:
        """The device as found. Raises `DeviceNotFound` if the host has none, or its PF does not report it."""
        if not self._sysfs.exists(address):
            raise DeviceNotFound(
                f"the host has no PCI device {address}", hint="are the VFs created? see sriov_numvfs of the PF"
            )
        pf = self._sysfs.physfn(address)
        return Device(
            address=address,
            instance=self._sysfs.instance(address),
            driver=self._sysfs.driver(address),
            driver_override=self._sysfs.override(address),
            userspace=self._sysfs.in_user_space(address),
            is_network=self._sysfs.is_network(address),
            is_infiniband=self._sysfs.is_infiniband(address),
            link=self.link(address, None),
            netdevs=len(self._sysfs.netdevs(address)),
            num_vfs=self._sysfs.number(address, "sriov_numvfs"),
            total_vfs=self._sysfs.number(address, "sriov_totalvfs"),
            **(self._told_by_pf(pf, address) if pf else {"settings": vf_settings.VfInfo(index=-1)}),
        )

    def exists(self, device: PciAddress) -> bool:
        """Whether the host has the device at all."""
        return self._sysfs.exists(device)

    def instance(self, device: PciAddress) -> int:
        """A number that identifies the device with this address during a boot; 0 if there is none."""
        return self._sysfs.instance(device)

    def set_vf(self, device: Device, setting: str, wanted: VfSettings) -> None:
        """Sends one setting of the VF to the PF; the driver may be resetting the VF.

        Raises `KernelRefused` with field, value, driver and reason, and `TryAgainLater` if a reset does not end.
        """
        what, body, older = vf_settings.request(setting, device.index, wanted, device.settings)
        socket = self._socket(None)

        def send() -> None:
            try:
                socket.change(nl.RTM_SETLINK, nl.vf_body(device.pf_index, body))
            except NetlinkError as error:
                # Some drivers do not support tag protocols, and refuse even the default one.
                if error.errno != errno.EPROTONOSUPPORT or not older:
                    raise
                socket.change(nl.RTM_SETLINK, nl.vf_body(device.pf_index, older))

        told = f"{what} of VF {device.index}: driver {device.pf_driver} of PF {device.pf_name} refused"
        with _refusals(told):
            self._outlasting_resets(told, send)
        self._log.debug(f"PF {device.pf_name} VF {device.index}: {what}")

    def _outlasting_resets(self, told: str, action: Callable[[], None]) -> None:
        """Repeats a request that a driver refuses while it resets the VF.

        Raises `TryAgainLater` if the reset does not end.
        """
        reason = ""
        for _ in self._resets.tries():
            try:
                return action()
            except NetlinkError as error:
                if not is_passing(error.errno):
                    raise
                reason = error.reason
        raise TryAgainLater(f"{told}: {reason}", hint="it resets the VF, or has another operation pending; see dmesg")

    def pf_of_name(self, name: str) -> PciAddress:
        """The PF whose network device has that name. Raises `DeviceNotFound`."""
        address = self._sysfs.parent(name)
        if address is None:
            raise DeviceNotFound(
                f"the host has no network device {name} on the PCI bus", hint="name a PF as `ip link` shows it"
            )
        return address

    def vfs(self, pf: PciAddress) -> list[PciAddress]:
        """The VFs of a PF, by their number."""
        return self._sysfs.vfs(pf)

    def bind(self, device: PciAddress, driver: str, override: str) -> None:
        """Binds another driver to the device; see `Drivers.bind`."""
        self._drivers.bind(device, driver, override)

    def viability_problems(self, device: PciAddress) -> list[str]:
        """The reasons why VFIO cannot give the device to user space."""
        return self._drivers.viability_problems(device)

    def driver(self, device: PciAddress) -> str:
        """The name of the driver that the device is bound to, or empty."""
        return self._sysfs.driver(device)

    def in_user_space(self, device: PciAddress) -> bool:
        """Whether its driver gives the device to user space."""
        return self._sysfs.in_user_space(device)

    def in_use(self, device: PciAddress) -> bool:
        """Whether a process has the device open."""
        return self._drivers.in_use(device)

    def host_uses(self, link: nl.Link, *, leftovers: bool = True) -> list[str]:
        """How the host itself uses the device's link; empty if it does not.

        `leftovers`: includes things that a pod may have left and the host may need: XDP programs, links in other
        namespaces.
        """
        socket, found = self._socket(None), []
        with _refusals(f"look at the use of {link.name}: the kernel refused"):
            if link.master:
                found.append("it is enslaved to a bridge, bond or VRF")
            found += [f"{upper} is stacked on it" for upper in self._sysfs.uppers(link.name)]
            if link.xdp and leftovers:
                found.append("an XDP program is attached to it")
            scopes = [address.scope for address in addressing.addresses(socket, link.index)]
            if any(scope < nl.SCOPE_LINK for scope in scopes):
                found.append("it has a global address")
            # The kernel removes the routes of a link that goes down.
            if link.up and any(addressing.is_own(route) for route in addressing.routes(socket, link.index)):
                found.append("a route goes through it")
            if leftovers and not found and self._may_carry_others(link):
                found += self._stacked_elsewhere(link)
        return found

    def stacked(self, link: nl.Link) -> list[str]:
        """The links stacked on a link of the host, in any namespace, and a note about unsearched namespaces."""
        from cni.host import stacked  # noqa: PLC0415 - as in `_stacked_elsewhere`

        with _refusals(f"look for what is stacked on {link.name}: the kernel refused"):
            look = stacked.look(link.index)
        hidden = [f"something that cannot be seen ({reason})" for reason in (*look.failed, *look.unseen)][:1]
        return [*self._sysfs.uppers(link.name), *map(str, look.found), *hidden]

    def netdev_instance(self, device: PciAddress) -> str:
        """A value that changes when the device gets a new network device; empty while it has none."""
        return self._sysfs.netdev_instance(device)

    def tuning(self, link: nl.Link, *, quick: bool = False) -> dict[str, str]:
        """The settings of a link on the host that a pod can change and a move does not reset.

        `quick`: assumes that only the node's administrator can have changed them.
        """
        with _refusals(f"look at the tuning of {link.name}: the kernel refused"):
            return tuning.read(self._socket(None), link, quick=quick)

    def tune(self, link: nl.Link, wanted: dict[str, str]) -> None:
        """Restores these parts of the tuning. Raises `KernelRefused` with all failures."""
        with _refusals(f"put back the tuning of {link.name}: the kernel refused"):
            failures = tuning.put_back(self._socket(None), link, wanted)
        if failures:
            raise KernelRefused(f"tuning of {link.name}: the kernel refused: {'; '.join(failures)}")

    def _may_carry_others(self, link: nl.Link) -> bool:
        """Whether links in other namespaces that are in use can be stacked on it.

        The search takes milliseconds. A VF that is down carries no traffic of such a link. A link that stays on the VF
        makes it promiscuous, if the driver has no address filter.
        """
        is_vf = not link.parent or self._sysfs.physfn(PciAddress(link.parent)) is not None
        return link.up or link.promiscuity > 0 or not is_vf

    def _stacked_elsewhere(self, link: nl.Link) -> list[str]:
        from cni.host import stacked  # noqa: PLC0415 - the ADD of a VF that is down does not pay for it

        look = stacked.look(link.index)
        # Not if only a pod hides links in its own namespace: one pod would block the node's devices.
        if look.failed and not look.found:
            raise TryAgainLater(
                f"whether links in other network namespaces are stacked on {link.name} cannot be seen within "
                f"{stacked.LOOK_SECONDS:g} s: {look.failed[0]}",
                hint="the node is overloaded, or has very many network namespaces",
            )
        return [f"{one} is stacked on it" for one in look.found]

    def _told_by_pf(self, pf: PciAddress, address: PciAddress) -> dict[str, Any]:
        index = self._sysfs.vf_index(pf, address)
        if index is None:
            raise DeviceNotFound(f"PF {pf} does not list {address}", hint="the VFs may just have been created again")
        # The kernel omits a VF whose settings the driver does not report, as i40e during a reset of the VF.
        for _ in self._resets.tries():
            link = self._pf_link(pf)
            with _refusals(f"look at the VFs of PF {link.name}"):
                info = vf_settings.report_of(link, index)
            if info is not None:
                break
        else:
            raise TryAgainLater(
                f"PF {link.name} ({pf}) does not report VF {index} ({address})",
                hint="its driver resets the VF, or was reloaded; compare: ip link show " + link.name,
            )
        return {
            "settings": info,
            "index": index,
            "pf": pf,
            "pf_name": link.name,
            "pf_index": link.index,
            "pf_driver": self._sysfs.driver(pf),
            "pf_mtu": link.mtu,
        }

    def _pf_link(self, pf: PciAddress) -> nl.Link:
        """The PF's link with its VFs. It is looked up by name and verified, because udev can rename it in between."""
        for _ in range(_RENAME_TRIES):
            name = self._sysfs.uplink(pf)
            if name is None:
                raise DeviceNotFound(
                    f"PF {pf} has no network device here",
                    hint="the PF needs its network driver, and its device must be in the host's network namespace",
                )
            with _refusals(f"look at PF {name}: the kernel refused"):
                link = links.by_name(self._socket(None), name, with_vfs=True)
            if link is not None and link.parent == pf:
                return link
        raise TryAgainLater(f"the network device of PF {pf} is being renamed", hint="see: udevadm monitor")

    # Namespaces and network devices.

    def netns(self, path: str) -> Netns:
        """Opens the namespace. Raises `InvalidNetns`."""
        return open_netns(path)

    def named_namespaces(self) -> list[str]:
        """The paths of named namespaces; the pods of most runtimes have one."""
        return named_namespaces()

    def is_inhabited(self, path: str, identity: str) -> bool:
        """Whether the namespace is still in use."""
        return is_inhabited(path, identity)

    def find_netns(self, path: str, identity: str = "") -> Netns | None:
        """The namespace at the path, or the one with that identity that a process keeps alive, or None."""
        return find_netns(path, identity)

    def link(self, device: PciAddress, netns: Netns | None) -> nl.Link | None:
        """The device's link in that namespace, or None."""
        with _refusals(f"look for {device}: the kernel refused"):
            if netns is not None:
                return self._in_namespace(device, netns)
            for _ in range(_RENAME_TRIES):
                names = self._sysfs.netdevs(device)
                if not names:
                    return None
                # A PF in switchdev mode has its VFs' representors beside its own.
                name = names[0] if len(names) == 1 else self._sysfs.uplink(device) or names[0]
                link = links.by_name(self._socket(None), name)
                # udev can rename the device between the two requests, and another device can have got its name.
                if link is not None and link.parent == device:
                    return link
        raise TryAgainLater(f"the network device of {device} is being renamed", hint="see: udevadm monitor")

    def _in_namespace(self, device: PciAddress, netns: Netns) -> nl.Link | None:
        """Checks the last known index first, and then all links, of which a pod can create tens of thousands."""
        socket, key = self._socket(netns), (netns.identity, device)
        link = links.by_index(socket, self._indexes[key]) if key in self._indexes else None
        if link is None or link.parent != device:
            link = links.by_parent(socket, device)
        if link is not None:
            self._indexes[key] = link.index
        return link

    def await_home(self, device: PciAddress, seconds: float) -> bool:
        """Whether the device's link is on the host; awaits it for at most `seconds`.

        The kernel destroys a namespace in the background, and returns its devices at the end.
        """
        deadline = time.monotonic() + seconds
        with _refusals(f"wait for {device}: the kernel refused"), RouteSocket(RTNLGRP_LINK) as events:
            while self.link(device, None) is None:
                if not events.await_event(lambda message: message.kind == nl.RTM_NEWLINK, deadline):
                    return self.link(device, None) is not None
        return True

    def link_by_name(self, name: str, netns: Netns | None) -> nl.Link | None:
        """The link with that name or alternative name, or None."""
        with _refusals(f"look for {name}: the kernel refused"):
            return links.by_name(self._socket(netns), name)

    def links(self, netns: Netns | None, alias: str = "") -> list[nl.Link]:
        """All links of the namespace, or those whose alias contains a text."""
        with _refusals("list the links: the kernel refused"):
            found = links.every(self._socket(netns), alias.encode())
        return [link for link in found if alias in link.alias]

    def move(self, link: nl.Link, source: Netns | None, target: Netns | None, **attributes: Any) -> None:
        """Moves the link, and changes name, mtu and alias on the way.

        Raises `KernelRefused`, possibly after the move.
        """
        what = _described({"move between network namespaces": link.name, **attributes})
        with _refusals(f"{what}: the kernel refused"), _Host(target) as fd:
            links.change(self._socket(source), link.index, netns_fd=fd, **attributes)

    def change(self, link: nl.Link, netns: Netns | None, **attributes: Any) -> None:
        """Changes attributes of the link (see `links.change`). Raises `KernelRefused`."""
        with _refusals(f"{_described(attributes)} of {link.name}: the kernel refused"):
            if attributes == {"up": True}:
                self._open(link, netns)
            else:
                links.change(self._socket(netns), link.index, **attributes)

    def _open(self, link: nl.Link, netns: Netns | None) -> None:
        # The VF's own driver refuses that, too, while the VF is reset.
        told = f"link up of {link.name}: the kernel refused"
        self._outlasting_resets(told, lambda: links.change(self._socket(netns), link.index, up=True))

    def remove_stacked(self, link: nl.Link, netns: Netns) -> None:
        """Deletes links that a pod stacked on the link (VLANs, macvlans), because they would follow it.

        Raises `KernelRefused`.
        """
        with _refusals("list the links: the kernel refused"):
            others = links.every(self._socket(netns), nl.lower_attribute(link.index))
        for other in others:
            if other.lower == link.index and other.index != link.index:
                self._log.info(f"deleting {other.name}, which the pod stacked on {link.name}")
                with _refusals(f"deletion of {other.name}: the kernel refused"):
                    links.remove(self._socket(netns), other.index)

    def set_altnames(self, link: nl.Link, netns: Netns | None, wanted: tuple[str, ...]) -> None:
        """Sets the alternative names of the link. Raises `KernelRefused`."""
        with _refusals(f"alternative names of {link.name}: the kernel refused"):
            socket = self._socket(netns)
            links.remove_altnames(socket, link.index, [name for name in link.altnames if name not in wanted])
            links.add_altnames(socket, link.index, [name for name in wanted if name not in link.altnames])

    # In the pod.

    def bring_up(self, link: nl.Link, netns: Netns) -> None:
        """Sets the link up; the kernel then announces later changes of its addresses. Raises `KernelRefused`."""
        with _refusals(f"link up of {link.name}: the kernel refused"):
            with netns.entered():
                for family, names in (("ipv4", ("arp_notify",)), ("ipv6", ("ndisc_notify", "optimistic_dad"))):
                    for name in names:
                        self._sysctl(f"net/{family}/conf/{link.name}/{name}", "1")
            self._open(link, netns)

    def configure(self, link: nl.Link, netns: Netns, ips: tuple[IpConfig, ...], routes: tuple[Route, ...]) -> None:
        """Adds addresses, awaits carrier and duplicate address detection, adds routes. Raises `KernelRefused`, ..."""
        socket = self._socket(netns)
        with netns.entered():
            if any(":" in ip.address for ip in ips):
                self._sysctl(f"net/ipv6/conf/{link.name}/disable_ipv6", "0")
                self._sysctl(f"net/ipv6/conf/{link.name}/keep_addr_on_down", "1")
            events = RouteSocket(RTNLGRP_LINK, RTNLGRP_IPV6_IFADDR)
        with events:
            for ip in ips:
                with _refusals(f"address {ip.address}: the kernel refused"):
                    addressing.add_address(socket, link.index, ip)
            with _refusals("look at the addresses: the kernel refused"):
                tentative = addressing.settle(events, socket, link.index, ips)
                carrier = links.await_carrier(events, socket, link.index)
        if tentative or not carrier:
            self._log.warning(f"no carrier on {link.name}, or not yet; tentative: {', '.join(tentative) or 'none'}")
        gateways = addressing.gateways(ips)
        for route in routes:
            with _refusals(f"route {route.dst}: the kernel refused"):
                addressing.add_route(socket, link.index, route, gateways)

    def announce(self, link: nl.Link, netns: Netns, ips: tuple[IpConfig, ...]) -> None:
        """Announces the addresses to the neighbours; problems are only logged."""
        with netns.entered():
            for problem in announce(link.index, link.mac, [ip.address.partition("/")[0] for ip in ips]):
                self._log.warning(f"announcement: {problem}")

    def addresses(self, link: nl.Link, netns: Netns) -> list[nl.InterfaceAddress]:
        """The addresses of the link."""
        with _refusals("look at the addresses: the kernel refused"):
            return addressing.addresses(self._socket(netns), link.index)

    def routes(self, link: nl.Link, netns: Netns) -> list[nl.InterfaceRoute]:
        """The routes through the link."""
        with _refusals("look at the routes: the kernel refused"):
            return addressing.routes(self._socket(netns), link.index)

    def tells_devices(self) -> bool:
        """Whether the kernel reports the PCI addresses of network devices (Linux 5.14, or a backport)."""
        major, _, rest = os.uname().release.partition(".")
        minor = rest.partition(".")[0]
        known = major.isdigit() and minor.isdigit() and (int(major), int(minor)) >= (5, 14)
        return known or any(link.parent for link in self.links(None))

    def has_admin_capabilities(self) -> bool:
        """Whether this process may change the host's network and enter other namespaces."""
        wanted = 1 << _CAP_NET_ADMIN | 1 << _CAP_SYS_ADMIN
        # Not only its beginning: the supplementary groups come first, and can be thousands.
        for line in (read_file("/proc/self/status") or b"").splitlines():
            if line.startswith(b"CapEff:"):
                return int(line.split()[1], 16) & wanted == wanted
        return False

    def _sysctl(self, name: str, value: str) -> None:
        # Only refinements: a kernel without IPv6 or without the sysctl must not fail the call.
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
                # If the way back fails, this process stays in the pod's namespace. A later socket would be the pod's.
                self._socket(None)
                with netns.entered():
                    self._sockets[identity] = RouteSocket()
        return self._sockets[identity]


class _Host:
    """Descriptor of the target namespace; the host's own namespace is opened for the duration of the call."""

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


def _described(attributes: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in attributes.items())


class _refusals:  # noqa: N801 - reads as a statement: `with _refusals("what was tried"):`
    """Converts errors of the kernel into ours, so that callers see no `OSError`."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, TimeoutError):
            raise TryAgainLater(
                f"{self._what} to answer in time", hint="a driver holds the RTNL lock; see dmesg"
            ) from error
        if isinstance(error, Unsettled):
            raise LinksUnsettled(
                f"{self._what} a consistent answer: {error.words}", hint="something adds or removes links all the time"
            ) from error
        if isinstance(error, NetlinkError):
            refused = KernelRefused(f"{self._what}: {error.reason}", hint=_UNUSUAL.get(error.errno or 0, ""))
            refused.number = error.errno or 0
            raise refused from error
        if isinstance(error, OSError):
            raise KernelRefused(f"{self._what}: {error.strerror}") from error
        if isinstance(error, ValueError):
            raise KernelRefused(f"{self._what}: its answer is malformed: {error}") from error
