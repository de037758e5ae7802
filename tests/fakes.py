"""Fakes of the ports. They behave like the real ones as measured on igb, and refuse what those refuse.

`tests/contract/kernel_contract.py` tests FakeKernel and the real kernel alike.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Callable
from typing import Any

from cni.attachment.delegate import IpamCall
from cni.errors import DelegateFailed, DeviceNotFound, DriverUnfit, InvalidNetns, KernelRefused, TryAgainLater
from cni.host import netlink as nl
from cni.host.addressing import gateways, network, resolved
from cni.host.device import Device
from cni.host.drivers import gives_to_user_space
from cni.host.netlink import IFF_MULTICAST, IFF_UP, InterfaceAddress, InterfaceRoute, Link
from cni.host.netns import Netns
from cni.host.rtnetlink import NetlinkError
from cni.host.vf_settings import IFLA_VF_MAC, IFLA_VF_VLAN, SETTINGS, VfInfo, VfSettings
from cni.pci import PciAddress
from cni.protocol.result import IpConfig, Result, Route
from tests.vf_samples import igb_refusal

HOST = ""
NO_MAC = "00:00:00:00:00:00"
MAX_MTU = 9216


def refused(number: int, words: str = "", what: str = "change") -> KernelRefused:
    """The kernel's refusal, as the real adapter reports it."""
    error = KernelRefused(f"{what}: the kernel refused: {errno.errorcode[number]}: {words}")
    error.number = number
    return error


class FakeNetns(Netns):
    """A pod's namespace that exists only in a FakeKernel."""

    def __init__(self, path: str, identity: str) -> None:
        self.path = path
        self.identity = identity

    def close(self) -> None:
        pass


PF, NIC = "0000:01:00.0", "0000:03:00.0"


TUNING = {"xdp": "0", "promiscuity": "0", "gso_max_size": "65536", "features": "ff", "channels": "04"}
"""The tuning of a new network device."""


class FakeDevice:
    """A VF, the PF, or a NIC without either, with the PF's settings for it, the namespace of its link, and its driver.

    `mac_set_by_pf` is igb's hidden flag that the PF has set the VF's address. `enslaving_mac` is the address that a
    bond restores when it releases the link. `instance` changes when the device is created again. `stacked` are links on
    it in other namespaces, and `tuning` the settings that a pod can change on the network device; both end with the
    network device.
    """

    def __init__(self, address: str, number: int, name: str, mac: str, driver: str, info: VfInfo | None) -> None:
        self.address = PciAddress(address)
        self.info = info
        self.driver = driver
        self.network_driver = driver
        self.override = ""
        self.address_of_its_own = mac
        self.home: Link | None = Link(
            index=number,
            name=name,
            flags=IFF_MULTICAST,
            txqlen=1000,
            mac=mac,
            permanent=mac,
            mtu=1500,
            parent=address,
        )
        self.place = HOST
        self.instance = 7000 + number
        self.netdev_instance = f"n{number}"
        self.tuning = dict(TUNING)
        self.stacked: list[str] = []
        self.enslaving_mac = ""
        self.mac_set_by_pf = False
        self.open = False

    @property
    def link(self) -> Link:
        assert self.home is not None, f"{self.address} has no network device"
        return self.home

    @link.setter
    def link(self, link: Link) -> None:
        self.home = link


def _vf(index: int) -> FakeDevice:
    mac = f"aa:00:00:00:00:{index:02x}"
    clean = {field.name: field.clean for row in SETTINGS.values() for field in row.fields}
    info = VfInfo(index=index, **{**clean, "mac": mac, "spoofchk": True})
    return FakeDevice(f"0000:01:10.{2 * index}", 10 + index, f"eth{1 + index}", mac, "igbvf", info)


class FakeKernel:
    """A host with one PF `eth0` and its VFs, a NIC `nic0` without SR-IOV, and any number of pods.

    `refuse(n)` makes the n-th change from now on fail; `refuse_from(n)` also makes all later ones fail.
    """

    def __init__(self, vfs: int = 2) -> None:
        self.functions: dict[str, FakeDevice] = {vf.address: vf for vf in map(_vf, range(vfs))}
        pf = FakeDevice(PF, 2, "eth0", "aa:00:00:00:01:00", "igb", None)
        nic = FakeDevice(NIC, 3, "nic0", "aa:00:00:00:03:00", "e1000e", None)
        self.devices: dict[str, FakeDevice] = {**self.functions, pf.address: pf, nic.address: nic}
        self.others: dict[str, dict[str, Link]] = {HOST: {"lo": Link(index=1, name="lo", flags=IFF_UP)}}
        self.configured: dict[str, tuple[tuple[IpConfig, ...], tuple[Route, ...]]] = {}
        self.namespaces: dict[str, str] = {}
        self.changes = 0
        self.awaited = 0
        self.refused_settings: set[str] = set()
        self.refused_tuning: set[str] = set()
        self.takes_all_settings = False
        self.knows_zero_mac = True
        self.limits_offloads = False
        self.resetting = 0
        self.group_hindrances: list[str] = []
        self.used: dict[str, list[str]] = {}
        self.loaded = {"igbvf", "igb", "e1000e", "vfio-pci", "sfc"}
        self.privileged = True
        self.is_recent = True
        self.infiniband: set[str] = set()
        self._numbers = 100
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
        """The visible state of the devices."""
        return {
            # A network device gets another index when its driver is bound again.
            address: (
                one.info,
                one.home and one.home.replace(index=0),
                one.place,
                one.driver,
                one.override,
                dict(one.tuning) if one.home else None,
                tuple(one.stacked),
            )
            for address, one in self.devices.items()
        }

    def add_netns(self, path: str) -> FakeNetns:
        """Creates a pod's namespace."""
        self.namespaces[path] = f"4:{1000 + len(self.others)}"
        self.others[self.namespaces[path]] = {"lo": Link(index=1, name="lo", flags=IFF_UP)}
        return self.netns(path)

    def delete_netns(self, path: str) -> None:
        """Deletes a namespace as the kernel does: the links return to the host under the pod's names, and down."""
        netns = self.netns(path)
        del self.namespaces[path]
        for one in self.devices.values():
            if one.place == netns.identity:
                one.place = HOST
                one.link = one.link.replace(flags=one.link.flags & ~IFF_UP)

    def hide(self, device: str) -> None:
        """Moves the link to a namespace of the pod that no other process knows."""
        self.devices[device].place = "hidden"

    def reveal(self, device: str, place: Netns | None = None) -> None:
        """Moves the link back; on the host, this is the kernel's action when that namespace ends."""
        fake = self.devices[device]
        fake.place = _identity(place)
        self._go_down(fake)

    def recreate(self, device: str) -> None:
        """Replaces a VF, as setting `sriov_numvfs` to 0 and then to another number does."""
        old = self.devices[device]
        assert old.info is not None
        self._numbers += 1
        self.devices[device] = self.functions[device] = _vf(old.info.index)
        self.devices[device].instance = 7000 + self._numbers

    def enslave(self, link: Link, netns: Netns) -> None:
        """Adds a link to a pod's bond: the link is down meanwhile, and the bond keeps its address."""
        fake = self._there(link, netns)
        fake.enslaving_mac = fake.link.mac
        fake.link = fake.link.replace(master=99)

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

    def named_namespaces(self) -> list[str]:
        return sorted(self.namespaces)

    def tells_devices(self) -> bool:
        return self.is_recent

    def has_admin_capabilities(self) -> bool:
        return self.privileged

    def exists(self, device: PciAddress) -> bool:
        return device in self.devices

    def instance(self, device: PciAddress) -> int:
        return self.devices[device].instance if device in self.devices else 0

    def device(self, address: PciAddress) -> Device:
        if address not in self.devices:
            raise DeviceNotFound(f"the host has no PCI device {address}")
        fake = self.devices[address]
        with_pf: dict[str, Any] = {"settings": VfInfo(index=-1)}
        if fake.info is not None:
            pf = {"pf": PciAddress(PF), "pf_name": "eth0", "pf_index": 2, "pf_driver": "igb", "pf_mtu": 1500}
            with_pf = {"settings": fake.info, "index": fake.info.index, **pf}
        return Device(
            address=fake.address,
            instance=fake.instance,
            driver=fake.driver,
            driver_override=fake.override,
            userspace=gives_to_user_space(fake.driver),
            is_infiniband=address in self.infiniband,
            link=self.link(address, None),
            num_vfs=len(self.functions) if address == PF else 0,
            total_vfs=7 if address == PF else 0,
            **with_pf,
        )

    def pf_of_name(self, name: str) -> PciAddress:
        link = self.link_by_name(name, None)
        if link is None or not link.parent:
            raise DeviceNotFound(f"the host has no network device {name} on the PCI bus")
        return PciAddress(link.parent)

    def vfs(self, pf: PciAddress) -> list[PciAddress]:
        return [PciAddress(address) for address in self.functions] if pf == PF else []

    def driver(self, device: PciAddress) -> str:
        return self.devices[device].driver

    def in_user_space(self, device: PciAddress) -> bool:
        return gives_to_user_space(self.devices[device].driver)

    def in_use(self, device: PciAddress) -> bool:
        return self.devices[device].open and self.in_user_space(device)

    def viability_problems(self, device: PciAddress) -> list[str]:
        return self.group_hindrances

    def host_uses(self, link: Link, *, leftovers: bool = True) -> list[str]:
        fake = self._there(link, None)
        program = ["an XDP program is attached to it"] if fake.tuning["xdp"] != "0" else []
        stacked = [f"{one} is stacked on it" for one in fake.stacked]
        return self.used.get(link.parent, []) + (program + stacked if leftovers else [])

    def stacked(self, link: Link) -> list[str]:
        return self._there(link, None).stacked

    def netdev_instance(self, device: PciAddress) -> str:
        return self.devices[device].netdev_instance

    def tuning(self, link: Link, *, quick: bool = False) -> dict[str, str]:
        return dict(self._there(link, None).tuning)

    def tune(self, link: Link, wanted: dict[str, str]) -> None:
        fake = self._there(link, None)
        self._refuse_if_counted()
        refused_ones = self.refused_tuning & set(wanted)
        fake.tuning.update({name: value for name, value in wanted.items() if name not in refused_ones})
        self._limit_offloads(fake)
        if refused_ones:
            raise refused(errno.EINVAL, f"{refused_ones}")

    def bind(self, device: PciAddress, driver: str, override: str) -> None:
        fake = self.devices[device]
        if fake.driver != driver:
            if driver and driver not in self.loaded:
                raise DriverUnfit(f"driver {driver} for {device} is not loaded")
            if fake.open:
                raise TryAgainLater(f"{device} is still open in a process")
            forced = bool(driver) and (gives_to_user_space(driver) or driver == override)
            self._refuse_if_counted()
            if driver:
                fake.override = driver if forced else ""
            unfit = DriverUnfit(f"driver {driver} does not support {device}")
            fits = not driver or forced or driver == fake.network_driver
            if not fits and fake.driver and not gives_to_user_space(fake.driver):
                raise unfit
            self._refuse_if_counted()
            self._unbind(fake)
            # A refusal at this point leaves the device without a driver, as in the kernel.
            self._refuse_if_counted()
            if not fits:
                raise unfit
            self._probe(fake, driver)
        fake.override = override

    def set_vf(self, device: Device, setting: str, wanted: VfSettings) -> None:
        fake = self.devices[device.address]
        assert fake.info is not None, "only VFs have settings at a PF"
        refusal = None if self.takes_all_settings else igb_refusal(setting, wanted)
        if setting in self.refused_settings or (wanted.mac == NO_MAC and not self.knows_zero_mac):
            refusal = "EINVAL"
        if refusal is not None or self._counted():
            raise KernelRefused(f"{setting} of VF {device.index}: driver igb of PF eth0 refused: {refusal or 'EIO'}")
        fields = [field.name for field in SETTINGS[setting].fields]
        asked = {name: getattr(wanted, name) for name in fields if getattr(wanted, name) is not None}
        fake.info = fake.info.replace(**asked)
        if setting == "mac":
            fake.mac_set_by_pf = wanted.mac != NO_MAC
        self._limit_offloads(fake)

    def link(self, device: PciAddress, netns: Netns | None) -> Link | None:
        fake = self.devices.get(device)
        return fake.home if fake is not None and fake.place == _identity(netns) else None

    def await_home(self, device: PciAddress, seconds: float) -> bool:
        self.awaited += 1
        return self.link(device, None) is not None

    def link_by_name(self, name: str, netns: Netns | None) -> Link | None:
        return next((link for link in self.links(netns) if name in (link.name, *link.altnames)), None)

    def links(self, netns: Netns | None, alias: str = "") -> list[Link]:
        place = _identity(netns)
        mine = [one.home for one in self.devices.values() if one.home is not None and one.place == place]
        return [link for link in (*mine, *self.others.get(place, {}).values()) if alias in link.alias]

    def move(self, link: Link, source: Netns | None, target: Netns | None, **attributes: Any) -> None:
        fake = self._there(link, source)
        self._refuse_if_counted()
        if attributes.get("name") == "dev%d":
            attributes["name"] = f"dev{link.index}"
        name = attributes.pop("name", link.name)
        if any(self.link_by_name(taken, target) for taken in (name, *link.altnames)):
            raise refused(errno.EEXIST)
        self._go_down(fake)
        if fake.enslaving_mac:
            with contextlib.suppress(KernelRefused):
                self._apply(fake, {"mac": fake.enslaving_mac})
            fake.link, fake.enslaving_mac = fake.link.replace(master=0), ""
        fake.place = _identity(target)
        fake.link = fake.link.replace(name=name)
        # As in the kernel, the move is not undone if one of these is refused.
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

    def routes(self, link: Link, netns: Netns) -> list[InterfaceRoute]:
        self._there(link, netns)
        ips, routes = self.configured.get(netns.identity, ((), ()))
        return [
            InterfaceRoute(
                index=link.index,
                family=one.family,
                destination=one.destination if one.prefix else b"",
                prefix=one.prefix,
                gateway=one.gateway,
                table=route.table or nl.RT_TABLE_MAIN,
                priority=0,
                kind=nl.RTN_UNICAST,
            )
            for route, one in ((route, resolved(route, gateways(ips))) for route in routes)
        ]

    def announce(self, link: Link, netns: Netns, ips: tuple[IpConfig, ...]) -> None:
        self._there(link, netns)

    # The behaviour of igb and the kernel.

    def _there(self, link: Link, netns: Netns | None) -> FakeDevice:
        for fake in self.devices.values():
            if fake.home is not None and fake.home.index == link.index and fake.place == _identity(netns):
                return fake
        raise refused(errno.ENODEV)

    def _unbind(self, fake: FakeDevice) -> None:
        """The network device ends with its driver, in whatever namespace it is."""
        fake.driver = ""
        fake.home, fake.place = None, HOST
        fake.stacked, fake.netdev_instance = [], ""

    def _probe(self, fake: FakeDevice, driver: str) -> None:
        """A new network device has a new name; a VF gets the address that its PF has for it."""
        if driver and not gives_to_user_space(driver):
            assert driver == fake.network_driver, f"Oops: {driver} has crashed the kernel on {fake.address}"
        fake.driver = driver
        if not driver or gives_to_user_space(driver):
            return
        self._numbers += 1
        fake.tuning, fake.netdev_instance = dict(TUNING), f"n{self._numbers}"
        mac = fake.address_of_its_own
        if fake.info is not None:
            given = fake.info.mac if fake.mac_set_by_pf else None
            mac = given or f"da:00:00:00:00:{self._numbers & 0xFF:02x}"
            fake.info = fake.info.replace(mac=mac)
        fake.home = Link(
            index=self._numbers,
            name=f"eth{self._numbers}",
            flags=IFF_MULTICAST,
            txqlen=1000,
            mac=mac,
            permanent=mac,
            mtu=1500,
            parent=fake.address,
        )
        self._limit_offloads(fake)

    def _apply(  # noqa: C901, PLR0912 - one branch per attribute of a link
        self, fake: FakeDevice, attributes: dict[str, Any]
    ) -> None:
        if "name" in attributes:
            neighbours = [one for one in self.devices.values() if one is not fake and one.place == fake.place]
            if any(one.home is not None and one.home.name == attributes["name"] for one in neighbours):
                raise refused(errno.EEXIST)
            fake.link = fake.link.replace(name=attributes["name"])
        if "mtu" in attributes:
            if not 68 <= attributes["mtu"] <= MAX_MTU:
                raise refused(errno.EINVAL, "mtu greater than device maximum", f"mtu {attributes['mtu']}")
            fake.link = fake.link.replace(mtu=attributes["mtu"])
        if "mac" in attributes:
            if fake.mac_set_by_pf and fake.info is not None and not fake.info.trust:
                raise refused(errno.EADDRNOTAVAIL)
            if fake.link.mac != attributes["mac"]:
                fake.link = fake.link.replace(mac=attributes["mac"])
                if fake.info is not None:
                    fake.info = fake.info.replace(mac=attributes["mac"])
        for name in ("alias", "txqlen", "group"):
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

    def _go_down(self, fake: FakeDevice) -> None:
        if fake.link.up and fake.info is not None and fake.info.mac != NO_MAC:
            fake.link = fake.link.replace(mac=fake.info.mac, permanent=fake.info.mac)
        fake.link = fake.link.replace(flags=fake.link.flags & ~IFF_UP)

    def _limit_offloads(self, fake: FakeDevice) -> None:
        """Behaves like iavf: while the PF has set a VLAN for the VF, and in the reset after that, there are no VLAN
        offloads.
        """
        if not self.limits_offloads or fake.home is None or fake.info is None:
            return
        if fake.info.vlan or self.resetting:
            fake.tuning["features"] = "0f"
            self.resetting -= 0 if fake.info.vlan else 1

    def _counted(self) -> bool:
        self.changes += 1
        return self._refused(self.changes)

    def _refuse_if_counted(self) -> None:
        if self._counted():
            raise refused(errno.EIO, "refused by the test")


class FakeClock:
    """Monotonic seconds that pass only during `sleep`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class ResettingPf:
    """A PF's netlink socket whose driver, like i40e, resets the VF for `seconds` after each accepted setting.

    Meanwhile it refuses every setting with `number`, and does not report the VF. `taken` are the bodies of the accepted
    requests.
    """

    def __init__(self, clock: FakeClock, seconds: float, *, number: int = errno.EAGAIN, vf: int = 0) -> None:
        self.clock = clock
        self.seconds = seconds
        self.number = number
        self.vf = vf
        self.taken: list[bytes] = []
        self.ready = 0.0

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        if self.clock.now < self.ready:
            raise NetlinkError(self.number, "VF still in reset. Try again.")
        self.taken.append(body)
        self.ready = self.clock.now + self.seconds

    def get(self, kind: int, body: bytes) -> bytes:
        number, vlan = nl.attribute(IFLA_VF_MAC, struct.pack("=I32s", self.vf, b"\x02")), (self.vf, 7, 0)
        reported = nl.nested(nl.IFLA_VF_INFO, number, nl.attribute(IFLA_VF_VLAN, struct.pack("=III", *vlan)))
        vfs = nl.nested(nl.IFLA_VFINFO_LIST, *([reported] if self.clock.now >= self.ready else []))
        parent = nl.text(nl.IFLA_PARENT_DEV_NAME, PF) + nl.text(nl.IFLA_PARENT_DEV_BUS_NAME, "pci")
        return nl.link_body(2, nl.text(nl.IFLA_IFNAME, "eth0"), parent, nl.u32(nl.IFLA_NUM_VF, 1), vfs)


class FakeIpam:
    """An IPAM plugin with one address per attachment, and `routes`; it refuses the calls in `fail` ("lease",
    "release").
    """

    def __init__(self) -> None:
        self.leases: dict[tuple[str, str], str] = {}
        self.fail: set[str] = set()
        self.routes: tuple[Route, ...] = ()

    def preload(self, plugin: str) -> None:
        assert "preload" not in self.fail

    def lease(self, call: IpamCall) -> Result:
        self._refuse("lease")
        address = f"10.0.0.{len(self.leases) + 2}/24"
        self.leases[call.container_id, call.ifname] = address
        return Result(ips=(IpConfig(address=address),), routes=self.routes)

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
