"""Fakes of the ports, with the behaviour of the real things as measured on igb: they refuse what those refuse.

`tests/contract/kernel_contract.py` holds FakeKernel and the real kernel to the same behaviour.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from cni.delegate import IpamCall
from cni.errors import DelegateFailed, InvalidNetns, KernelRefused, VfNotFound
from cni.host.addressing import network
from cni.host.netlink import IFF_MULTICAST, IFF_UP, InterfaceAddress, Link, VfInfo
from cni.host.netns import Netns
from cni.pci import PciAddress
from cni.result import IpConfig, Result, Route
from cni.vf import Vf, VfSettings

HOST = ""
NO_MAC = "00:00:00:00:00:00"
MAX_MTU = 9216


def refused(number: int, words: str = "", what: str = "change") -> KernelRefused:
    """The kernel's refusal as the real adapter tells it."""
    error = KernelRefused(f"{what}: the kernel refused: {errno.errorcode[number]}: {words}")
    error.number = number
    return error


class FakeNetns(Netns):
    """A pod's namespace that exists in a FakeKernel only."""

    def __init__(self, path: str, identity: str) -> None:
        self.path = path
        self.identity = identity

    def close(self) -> None:
        pass


class FakeVf:
    """One VF: what the PF holds, where its link is, and igb's hidden flag that the PF has set the address."""

    def __init__(self, device: str, index: int) -> None:
        mac = f"aa:00:00:00:00:{index:02x}"
        self.device = PciAddress(device)
        self.info = VfInfo(
            index=index, mac=mac, spoofchk=True, trust=False, min_tx_rate=0, max_tx_rate=0, link_state="auto"
        )
        self.link: Link = Link(
            index=10 + index,
            name=f"eth{1 + index}",
            flags=IFF_MULTICAST,
            queue=1000,
            mac=mac,
            permanent=mac,
            mtu=1500,
            parent=device,
        )
        self.place = HOST
        self.mac_set_by_pf = False


class FakeKernel:
    """A host with one PF `eth0` and its VFs, and any number of pods.

    `refuse(n)` makes the n-th change from now on fail, `refuse_from(n)` that one and all later ones.
    """

    def __init__(self, vfs: int = 2) -> None:
        self.vfs = {f"0000:01:10.{2 * index}": FakeVf(f"0000:01:10.{2 * index}", index) for index in range(vfs)}
        self.others: dict[str, dict[str, Link]] = {HOST: {"eth0": Link(index=2, name="eth0", flags=IFF_UP)}}
        self.configured: dict[str, tuple[tuple[IpConfig, ...], tuple[Route, ...]]] = {}
        self.namespaces: dict[str, str] = {}
        self.changes = 0
        self.refused_settings: set[str] = set()
        self.knows_zero_mac = True
        self._refused: Callable[[int], bool] = lambda _change: False

    def refuse(self, change: int) -> None:
        start = self.changes
        self._refused = lambda count: count == start + change

    def refuse_from(self, change: int) -> None:
        start = self.changes
        self._refused = lambda count: count >= start + change

    def refuse_nothing(self) -> None:
        self._refused = lambda _change: False

    def snapshot(self) -> dict[str, Any]:
        """Everything a user can see of the VFs, and the hidden flag."""
        return {vf.device: (vf.info, vf.link, vf.place, vf.mac_set_by_pf) for vf in self.vfs.values()}

    def add_netns(self, path: str) -> FakeNetns:
        """Makes a pod's namespace."""
        self.namespaces[path] = f"4:{1000 + len(self.namespaces)}"
        self.others[self.namespaces[path]] = {"lo": Link(index=1, name="lo", flags=IFF_UP)}
        return self.netns(path)

    def delete_netns(self, path: str) -> None:
        """What the kernel does with a dying namespace: the links come back under the pod's names, down."""
        netns = self.netns(path)
        del self.namespaces[path]
        for vf in self.vfs.values():
            if vf.place == netns.identity:
                vf.place = HOST
                vf.link = vf.link.replace(flags=vf.link.flags & ~IFF_UP)

    # The port.

    def netns(self, path: str) -> FakeNetns:
        if path not in self.namespaces:
            raise InvalidNetns(f"CNI_NETNS {path}: No such file or directory")
        return FakeNetns(path, self.namespaces[path])

    def is_inhabited(self, path: str, identity: str) -> bool:
        return self.namespaces.get(path) == identity

    def find_netns(self, path: str, identity: str = "") -> FakeNetns | None:
        for known, present in self.namespaces.items():
            if (identity and present == identity) or (not identity and known == path):
                return FakeNetns(known, present)
        return None

    def exists(self, device: PciAddress) -> bool:
        return device in self.vfs

    def vf(self, device: PciAddress) -> Vf:
        if device not in self.vfs:
            raise VfNotFound(f"the host has no PCI device {device}")
        fake = self.vfs[device]
        return Vf(
            device=fake.device,
            index=fake.info.index,
            driver="igbvf",
            pf=PciAddress("0000:01:00.0"),
            pf_name="eth0",
            pf_index=2,
            pf_driver="igb",
            settings=fake.info,
            link=self.link(device, None),
        )

    def set_vf(self, vf: Vf, setting: str, wanted: VfSettings) -> None:
        fake = self.vfs[vf.device]
        refusal = _igb_refusal(setting, wanted)
        if setting in self.refused_settings or (wanted.mac == NO_MAC and not self.knows_zero_mac):
            refusal = "EINVAL"
        if refusal is not None or self._counted():
            raise KernelRefused(f"{setting} of VF {vf.index}: driver igb of PF eth0 refused: {refusal or 'EIO'}")
        fields = {"vlan": ("vlan", "qos", "proto"), "rate": ("min_tx_rate", "max_tx_rate")}.get(setting, (setting,))
        asked = {field: getattr(wanted, field) for field in fields if getattr(wanted, field) is not None}
        fake.info = fake.info.replace(**asked)
        if setting == "mac":
            fake.mac_set_by_pf = wanted.mac != NO_MAC

    def link(self, device: PciAddress, netns: Netns | None) -> Link | None:
        fake = self.vfs.get(device)
        return fake.link if fake is not None and fake.place == _identity(netns) else None

    def named(self, name: str, netns: Netns | None) -> Link | None:
        return next((link for link in self.everywhere(netns) if name in (link.name, *link.altnames)), None)

    def everywhere(self, netns: Netns | None) -> list[Link]:
        place = _identity(netns)
        mine = [vf.link for vf in self.vfs.values() if vf.place == place]
        return [*mine, *self.others.get(place, {}).values()]

    def move(self, link: Link, source: Netns | None, target: Netns | None, **attributes: Any) -> None:
        fake = self._there(link, source)
        self._refuse_if_counted()
        if attributes.get("name") == "dev%d":
            attributes["name"] = f"dev{link.index}"
        name = attributes.pop("name", link.name)
        if any(self.named(taken, target) for taken in (name, *link.altnames)):
            raise refused(errno.EEXIST)
        self._go_down(fake)
        fake.place = _identity(target)
        fake.link = fake.link.replace(name=name)
        # As in the kernel, the move stays when one of these is refused.
        self._apply(fake, attributes)

    def change(self, link: Link, netns: Netns | None, **attributes: Any) -> None:
        fake = self._there(link, netns)
        self._refuse_if_counted()
        self._apply(fake, attributes)

    def remove_stacked(self, link: Link, netns: Netns) -> None:
        self._there(link, netns)

    def set_altnames(self, link: Link, netns: Netns | None, wanted: tuple[str, ...]) -> None:
        fake = self._there(link, netns)
        if fake.link.altnames != wanted:
            self._refuse_if_counted()
            fake.link = fake.link.replace(altnames=wanted)

    def bring_up(self, link: Link, netns: Netns) -> None:
        self.change(link, netns, up=True)

    def configure(self, link: Link, netns: Netns, ips: tuple[IpConfig, ...], routes: tuple[Route, ...]) -> None:
        self._there(link, netns)
        self._refuse_if_counted()
        self.configured[netns.identity] = (ips, routes)

    def addresses(self, link: Link, netns: Netns) -> list[InterfaceAddress]:
        self._there(link, netns)
        ips, _ = self.configured.get(netns.identity, ((), ()))
        parsed = [network(ip.address, "ips") for ip in ips]
        return [
            InterfaceAddress(index=link.index, family=family, prefix=prefix, flags=0, scope=0, address=packed)
            for family, packed, prefix in parsed
        ]

    def announce(self, link: Link, netns: Netns, ips: tuple[IpConfig, ...]) -> None:
        self._there(link, netns)

    # What igb and the kernel do.

    def _there(self, link: Link, netns: Netns | None) -> FakeVf:
        for fake in self.vfs.values():
            if fake.link.index == link.index and fake.place == _identity(netns):
                return fake
        raise refused(errno.ENODEV)

    def _apply(  # noqa: C901, PLR0912 - one branch per attribute of a link
        self, fake: FakeVf, attributes: dict[str, Any]
    ) -> None:
        if "name" in attributes:
            holder = next((vf.link for vf in self.vfs.values() if vf is not fake and vf.place == fake.place), None)
            if holder is not None and holder.name == attributes["name"]:
                raise refused(errno.EEXIST)
            fake.link = fake.link.replace(name=attributes["name"])
        if "mtu" in attributes:
            if not 68 <= attributes["mtu"] <= MAX_MTU:
                raise refused(errno.EINVAL, "mtu greater than device maximum", f"mtu {attributes['mtu']}")
            fake.link = fake.link.replace(mtu=attributes["mtu"])
        if "mac" in attributes:
            if fake.mac_set_by_pf and not fake.info.trust:
                raise refused(errno.EADDRNOTAVAIL)
            if fake.link.mac != attributes["mac"]:
                fake.link = fake.link.replace(mac=attributes["mac"])
                fake.info = fake.info.replace(mac=attributes["mac"])
        for name in ("alias", "queue", "group"):
            if name in attributes:
                fake.link = fake.link.replace(**{name: attributes[name]})
        if "flags" in attributes:
            values, which = attributes["flags"]
            fake.link = fake.link.replace(flags=fake.link.flags & ~which | values & which)
        if "up" in attributes and attributes["up"] != fake.link.up:
            if attributes["up"]:
                fake.link = fake.link.replace(flags=fake.link.flags | IFF_UP)
            else:
                self._go_down(fake)

    def _go_down(self, fake: FakeVf) -> None:
        if fake.link.up and fake.info.mac != NO_MAC:
            fake.link = fake.link.replace(mac=fake.info.mac, permanent=fake.info.mac)
        fake.link = fake.link.replace(flags=fake.link.flags & ~IFF_UP)

    def _counted(self) -> bool:
        self.changes += 1
        return self._refused(self.changes)

    def _refuse_if_counted(self) -> None:
        if self._counted():
            raise refused(errno.EIO, "refused by the test")


class FakeIpam:
    """An IPAM plugin with one address per attachment; `fail` names the calls that it refuses ("lease", "release")."""

    def __init__(self) -> None:
        self.leases: dict[tuple[str, str], str] = {}
        self.fail: set[str] = set()

    def lease(self, call: IpamCall) -> Result:
        self._refuse("lease")
        address = f"10.0.0.{len(self.leases) + 2}/24"
        self.leases[call.container_id, call.ifname] = address
        return Result(ips=(IpConfig(address=address),))

    def release(self, call: IpamCall, *, seconds: float | None = None) -> None:
        self._refuse("release")
        self.leases.pop((call.container_id, call.ifname), None)

    def check(self, call: IpamCall) -> None:
        if (call.container_id, call.ifname) not in self.leases:
            raise DelegateFailed("no address")

    def gc(self, call: IpamCall) -> None:
        self._refuse("gc")

    def status(self, call: IpamCall) -> None:
        self._refuse("status")

    def _refuse(self, name: str) -> None:
        if name in self.fail:
            raise DelegateFailed(f"{name} refused by the test")


def _identity(netns: Netns | None) -> str:
    return netns.identity if netns is not None else HOST


def _igb_refusal(setting: str, wanted: VfSettings) -> str | None:
    if setting == "vlan" and wanted.proto == "802.1ad":
        return "EPROTONOSUPPORT"
    if setting == "link_state":
        return "EOPNOTSUPP"
    if setting == "rate" and wanted.min_tx_rate:
        return "EINVAL"
    return None
