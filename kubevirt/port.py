"""The plan for a vhost-user interface of the domain, from the machine and the facts about its network. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from cni import pci
from cni.errors import InvalidConfig
from cni.names import is_ifname, shown
from cni.paths import is_plain_path
from cni.value import Value
from kubevirt.podnames import pod_interface

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kubevirt.facts import Fact
    from kubevirt.machine import Interface, Machine, Network

SOCKETS = "/var/run/kubevirt/sockets"
"""The mount path of the volume `sockets` in each virt-launcher."""
LONGEST_PATH = 107
"""The maximum length of the path of a Unix socket, in bytes, without the final null byte."""
QUEUES = 128
"""The maximum number of pairs of queues of a port in DPDK's vhost library. QEMU does not start with more."""

ABSENT, DOWN = "absent", "down"
"""States of an interface in KubeVirt: to be removed, and with its link down."""

OF_KUBEVIRT = frozenset(("launcher-sock", "launcher-init-sock", "launcher-unresponsive"))
"""The names of KubeVirt's own files in that volume: sockets, and the mark of a launcher that does not respond."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
"""The form of names of networks, for which KubeVirt and libvirt's aliases allow the same characters."""
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


class Port(Value):
    """`network` is the name in the machine, `ifname` the name in the pod. `queues` is None without multiqueue."""

    network: str
    ifname: str
    path: str
    mac: str
    model: str
    queues: int | None = None
    mtu: int | None = None
    boot_order: int | None = None
    option_rom: bool = True
    acpi_index: int = 0
    pci_address: str = ""
    link_down: bool = False


class Sight(Value):
    """The facts by the name of the network, of network-info and of claims, and the directory of the sockets."""

    info: Mapping[str, Fact]
    claims: Mapping[str, Fact]
    sockets: str = SOCKETS


def ports(
    machine: Machine, interfaces: Iterable[Interface], sight: Sight, macs: Mapping[str, str], vcpus: int
) -> list[Port]:
    """The ports of these interfaces of the machine, in their order.

    `macs` are the addresses in the domain by network, and `vcpus` is its number of CPUs. Raises `InvalidConfig`.
    """
    found = [_port(machine, interface, sight, macs, vcpus) for interface in interfaces]
    paths: dict[str, str] = {}
    for port in found:
        if (other := paths.setdefault(port.path, port.network)) != port.network:
            raise InvalidConfig(f"interfaces {other} and {port.network} have one socket, {port.path}")
    return found


def _port(machine: Machine, interface: Interface, sight: Sight, macs: Mapping[str, str], vcpus: int) -> Port:
    name = interface.name
    if not _NAME.fullmatch(name):
        raise InvalidConfig(f"{shown(name)} is no interface's name")
    network = machine.network(name)
    if network is None:
        raise InvalidConfig(
            f"interface {name}: the machine has no network of that name", hint="write it into spec.networks"
        )
    ifname = pod_interface(machine, network)
    if not is_ifname(ifname) or ifname in OF_KUBEVIRT:
        raise InvalidConfig(f"interface {name}: {shown(ifname)} is no name of an interface in the pod")
    known = sight.claims.get(name) or sight.info.get(name)
    given = interface.mac_address or macs.get(name)
    return Port(
        network=name,
        ifname=ifname,
        path=_path(name, network, ifname, sight),
        mac=judged_mac(name, given) if given else made_mac(machine, name),
        model=_model(machine, interface),
        queues=_queues(machine, vcpus),
        mtu=known.mtu if known else None,
        boot_order=interface.boot_order,
        option_rom=interface.boot_order is not None or machine.spec.architecture not in ("", "amd64"),
        acpi_index=interface.acpi_index,
        pci_address=_pci_address(interface),
        link_down=interface.state == DOWN,
    )


def _path(name: str, network: Network, ifname: str, sight: Sight) -> str:
    """The socket of the claim, if the network has one; otherwise that of network-info, or of the convention."""
    fact = sight.claims.get(name) if network.resource_claim else sight.info.get(name)
    path = (fact.path if fact else "") or f"{sight.sockets}/{ifname}"
    if not is_plain_path(path) or not path.isprintable():
        raise InvalidConfig(f"interface {name}: {shown(path)} is no absolute path")
    if path.rpartition("/")[2] in OF_KUBEVIRT:
        raise InvalidConfig(f"interface {name}: {shown(path)} is a socket of virt-launcher")
    if len(path.encode()) > LONGEST_PATH:
        raise InvalidConfig(
            f"interface {name}: the socket's path {shown(path)} has {len(path.encode())} bytes, and {LONGEST_PATH} is the limit",
            hint="mount the sockets at a shorter path",
        )
    return path


def judged_mac(name: str, mac: str) -> str:
    """The address with colons, in lower case. Raises `InvalidConfig`."""
    text = mac.replace("-", ":").lower()
    if not _MAC.fullmatch(text) or int(text[:2], 16) & 1 or text == "00:00:00:00:00:00":
        raise InvalidConfig(f"interface {name}: {shown(mac)} is not the MAC address of one interface")
    return text


def made_mac(machine: Machine, name: str) -> str:
    """The address of an interface without `macAddress`: the same at each start of the machine, on each node."""
    firmware = machine.spec.domain.firmware
    owner = f"{firmware.uuid if firmware else ''}/{machine.metadata.namespace}/{machine.metadata.name}/{name}"
    digest = hashlib.sha256(owner.encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (digest[0] & 0xFC | 0x02, *digest[1:6]))


def _model(machine: Machine, interface: Interface) -> str:
    """KubeVirt's name of virtio on that architecture. Raises `InvalidConfig` for another model than virtio."""
    if interface.model not in ("", "virtio"):
        raise InvalidConfig(
            f"interface {interface.name}: a vhost-user interface cannot be a card of model {shown(interface.model)}",
            hint="leave out the model, or write virtio",
        )
    if machine.spec.architecture == "s390x":
        return "virtio"
    return "virtio-transitional" if machine.spec.domain.devices.use_virtio_transitional else "virtio-non-transitional"


def _queues(machine: Machine, vcpus: int) -> int | None:
    if not machine.spec.domain.devices.network_interface_multiqueue:
        return None
    wanted = machine.spec.domain.cpu.count if machine.spec.domain.cpu else 0
    return min(wanted or vcpus or 1, QUEUES)


def _pci_address(interface: Interface) -> str:
    if not interface.pci_address:
        return ""
    try:
        return pci.parse(interface.pci_address)
    except ValueError as error:
        raise InvalidConfig(f"interface {interface.name}: {error}") from error
