"""A guest migrates between the virt-launcher pods of two nodes while a ping runs. If the migration fails, it stays.

Each pod has a port of the frozen plugin, the frozen sidecar and a libvirt of its own. Each node has its own vswitch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self
from xml.etree import ElementTree as ET

import pytest

from tests.cli.program import from_bundle
from tests.examples import EXAMPLES, network
from tests.kubevirt_hooks.domains import DATAPLANE, MAC, bound, domain, machine
from tests.kubevirt_hooks.schema import read_back
from tests.ovs.daemon import until
from tests.ovs.domain import Interface
from tests.ovs.launcher_pod import SOCKETS, LauncherPod
from tests.ovs.libvirtd import Libvirtd, MovableDomain
from tests.ovs.machine import MachineError
from tests.ovs.migration import Migration
from tests.ovs.node import KUBELET, STATE, Node, changes
from tests.ovs.two_nodes import ENDS, Hearing, TwoNodes

GUEST, OUTSIDE = "10.9.0.1", ("10.9.0.8", "10.9.0.9")
VLAN, MTU, QUEUES = 100, 1400, 2
INFO = "/run/podinfo/network-info"
MOST_SECONDS_OF_GAP = 30.0
"""Without an answer, on a busy machine. A quiet machine needs less than a second."""

in_matrix = pytest.mark.skipif(not os.environ.get("BAREWIRE_MATRIX"), reason="runs in make matrix")


class Place:
    """A virt-launcher pod with its port, its sidecar and its libvirt. Created with `with`."""

    def __init__(self, node: Node, program: list[str]) -> None:
        self.node, self._program = node, program
        (plugin,) = network(EXAMPLES / "nad-userspace-kubevirt.yaml")["plugins"]
        self._conf = {**plugin, "mtu": MTU, "runtimeConfig": {"mac": MAC}}
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        self._before = self._state()
        self.pod = self._ends.enter_context(LauncherPod(self.node))
        self.node.add(self._conf, self.pod.pod, DATAPLANE)
        info = self.pod.root / INFO.lstrip("/")
        info.parent.mkdir()
        info.write_text(json.dumps({"interfaces": [{"network": "dataplane", "mtu": MTU}]}))
        names = {"CONTAINER_NAME": "hook-sidecar-0", "NETWORK_BINDING_PLUGIN_NAME": "vhostuser"}
        self.pod.start(self._program, **names, BAREWIRE_NETWORK_INFO=INFO)
        self.libvirt = self._ends.enter_context(Libvirtd(self.pod))
        vmi = machine(bound(macAddress=MAC), devices={"networkInterfaceMultiqueue": True})
        self.hook = self.pod.hook(vmi)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end()

    @property
    def port(self) -> str:
        return self.pod.port(DATAPLANE)

    def has_socket(self) -> bool:
        return (self.pod.root / SOCKETS.removeprefix("/var/") / DATAPLANE).is_socket()

    def end(self) -> None:
        """The containers end. The runtime calls DEL later."""
        self._ends.close()

    def delete(self) -> None:
        self.node.delete(self._conf, self.pod.pod, DATAPLANE)

    def left(self) -> list[str]:
        """What is not as it was before the pod."""
        return changes(self._before, self._state())

    def _state(self) -> dict[str, Any]:
        """Without the kubelet's volumes and the directory of the network's records, which outlive a DEL."""
        found = self.node.snapshot()
        return {
            path: what
            for path, what in found.items()
            if not path.startswith(KUBELET) and path != f"{STATE}/vm-dataplane"
        }


class Travel:
    """The guest, and the place where it is."""

    def __init__(self, two: TwoNodes, home: Place, place: Callable[[int], Place], guest: MovableDomain) -> None:
        self.two, self.home, self.guest = two, home, guest
        self._place = place

    def place(self) -> Place:
        """A new place on the other node."""
        return self._place(1 - self._number)

    def hearing(self) -> Hearing:
        """The announcements that this node receives from the other one."""
        return self.two.hearing(self._number, MAC)

    def arrive(self, place: Place) -> None:
        """Returns when both vswitches know that the guest is at the place."""
        self.home = place
        self.await_known()
        assert self.guest.reaches(OUTSIDE[0])
        assert (self.guest.link().queues, self.guest.link().mtu) == (QUEUES, MTU)

    def await_known(self) -> None:
        until("the MAC address at the guest's port", lambda: self._known(self._number) == self.home.port)
        other = 1 - self._number
        until("the MAC address between the nodes", lambda: self._known(other) == ENDS[other])

    def stay(self, target: Place) -> None:
        """The guest has not moved, and its network works. DEL removes all that the target has had."""
        assert self.guest.state() == "running"
        assert self.guest.reaches(OUTSIDE[1 - self._number])
        assert self._known(self._number) == self.home.port
        target.end()
        target.delete()
        assert target.left() == []
        assert self.guest.reaches(OUTSIDE[1 - self._number])

    @property
    def _number(self) -> int:
        return self.two.nodes.index(self.home.node)

    def _known(self, number: int) -> str:
        return self.two.port_of(number, MAC)


@contextmanager
def travelling(program: list[str], change: Callable[[bytes], bytes] = lambda text: text) -> Iterator[Travel]:
    """A guest on the first node; `change` is for its domain, after the sidecar."""
    card = Interface(MAC, f"{SOCKETS}/{DATAPLANE}", DATAPLANE, "dataplane", queues=QUEUES, address=f"{GUEST}/24")
    with ExitStack() as ends:
        two = ends.enter_context(TwoNodes(from_bundle("userspace"), OUTSIDE, VLAN))

        def place(number: int) -> Place:
            return ends.enter_context(Place(two.nodes[number], program))

        home = place(0)
        hook: Callable[[bytes], bytes] = lambda text: change(home.hook(text))  # noqa: E731
        guest = ends.enter_context(MovableDomain(home.libvirt, "default_router", [card], hook))
        guest.await_link()
        # Both vswitches learn where the guest is.
        assert all(guest.reaches(address) for address in OUTSIDE)
        yield Travel(two, home, place, guest)


@pytest.fixture(scope="module")
def travel(program) -> Iterator[Travel]:
    with travelling(program) as travel:
        yield travel


def our_interface(text: bytes) -> dict[str, dict[str, str]]:
    (found,) = ET.fromstring(text).iterfind("devices/interface[@type='vhostuser']")
    return {child.tag: child.attrib for child in found if child.tag != "address"}


def test_a_guest_moves_and_comes_back_while_it_is_pinged(travel, capsys):
    """The first pod's DEL comes when the guest is back on its node: the new pod's port, record and socket stay."""
    first, there = travel.home, travel.place()
    with travel.two.pinging(GUEST) as pings:
        with travel.hearing() as heard, Migration(travel.guest, there.libvirt) as migration:
            migration.finish()
            travel.arrive(there)
            until("the announcement", lambda: heard.announcements)
        back = travel.place()
        with Migration(travel.guest, back.libvirt) as migration:
            migration.finish()
            travel.arrive(back)
        first.end()
        first.delete()
        assert list(back.node.ports()) == [back.port]
        assert back.has_socket()
        assert travel.guest.reaches(OUTSIDE[1])
        there.end()
        there.delete()
        assert there.left() == []
        assert travel.guest.reaches(OUTSIDE[1])
    with capsys.disabled():
        print(f"\nmigrations: longest gap {pings.gap:.2f} s, {pings.lost} of {pings.sent} pings lost")
    assert pings.gap < MOST_SECONDS_OF_GAP
    # The guest's driver announces its address: virtio's VIRTIO_NET_F_GUEST_ANNOUNCE.
    assert set(heard.announcements) == {"ARP"}


def test_the_targets_sidecar_makes_the_interface_that_the_source_has(travel):
    """KubeVirt calls the hooks of the target, and takes the source's domain: both must have one path."""
    target = travel.place()
    made = our_interface(target.hook(domain("plain")))
    running = our_interface(ET.tostring(travel.guest.xml()))
    assert made == {name: running[name] for name in made}
    travel.stay(target)


def test_a_cancelled_migration_leaves_the_guest_and_its_port(travel):
    target = travel.place()
    with Migration(travel.guest, target.libvirt, bandwidth=1) as migration:
        migration.await_data()
        migration.cancel()
        with pytest.raises(MachineError, match="canceled by client"):
            migration.finish()
    travel.stay(target)


def test_a_target_without_a_port_waits_until_its_pod_is_deleted_and_the_guest_goes_on(travel):
    target = travel.place()
    target.node.daemon.vsctl("del-port", target.port)
    with Migration(travel.guest, target.libvirt) as migration:
        until("the target's socket", target.has_socket)
        # libvirt accepts this, and does it when the target is ready.
        migration.cancel()
        assert travel.guest.reaches(OUTSIDE[0])
        assert migration.running
        target.end()
        with pytest.raises(MachineError, match="socket is closed"):
            migration.finish()
    travel.stay(target)


def test_a_target_whose_vswitch_is_down_waits_until_it_is_up(travel):
    home, target = travel.home, travel.place()
    target.node.daemon.kill("ovs-vswitchd")
    with Migration(travel.guest, target.libvirt) as migration:
        until("the target's socket", target.has_socket)
        assert travel.guest.state() == "running"
        target.node.daemon.start_vswitchd()
        travel.two.join()
        migration.finish()
    # The announcement may have come before the bridges were joined again.
    until("the ping's answer", lambda: travel.guest.reaches(OUTSIDE[0]))
    travel.arrive(target)
    home.end()
    home.delete()


def test_libvirt_refuses_the_link_refresh_of_kubevirt(travel):
    """The method `link-refresh` of a binding's `migration`: KubeVirt updates the interface after the migration.

    KubeVirt's own description lacks the socket. libvirt does not accept a complete one either.
    """
    complete = ET.tostring(travel.guest.xml())
    for text, reason in (
        (read_back(complete), "Missing required attribute 'type' in element 'source'"),
        (complete, "unable to change config on 'vhostuser' network type"),
    ):
        interface = ET.fromstring(text).find("devices/interface")
        assert interface is not None
        ET.SubElement(interface, "link", state="down")
        file = travel.guest.folder / "interface.xml"
        file.write_bytes(ET.tostring(interface))
        with pytest.raises(MachineError, match=reason):
            travel.guest.virsh(f"update-device {travel.guest.name} {file} --live")


@in_matrix
def test_a_connection_that_is_lost_leaves_the_guest_and_its_port(travel):
    target = travel.place()
    with Migration(travel.guest, target.libvirt, bandwidth=1) as migration:
        migration.await_data()
        migration.cut()
        with pytest.raises(MachineError):
            migration.finish()
    travel.stay(target)


@in_matrix
def test_a_target_with_another_number_of_queues_refuses_the_guest(travel):
    target = travel.place()
    with (
        Migration(
            travel.guest, target.libvirt, change=lambda text: text.replace(b'queues="2"', b'queues="1"')
        ) as migration,
        pytest.raises(MachineError, match="Failed to load virtio-net"),
    ):
        migration.finish()
    travel.stay(target)


@in_matrix
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_vswitch_that_is_killed_while_the_memory_moves_costs_only_time(travel, side):
    home, target = travel.home, travel.place()
    node = {"source": home, "target": target}[side].node
    with Migration(travel.guest, target.libvirt, bandwidth=4) as migration:
        migration.await_data()
        node.daemon.kill("ovs-vswitchd")
        node.daemon.start_vswitchd()
        travel.two.join()
        migration.finish()
    until("the ping's answer", lambda: travel.guest.reaches(OUTSIDE[0]))
    travel.arrive(target)
    home.end()
    home.delete()


@in_matrix
def test_the_vswitch_announces_a_guest_whose_driver_does_not(program):
    """By RARP, which QEMU asks it for: VHOST_USER_PROTOCOL_F_RARP."""
    off = b'<qemu:frontend><qemu:property name="guest_announce" type="bool" value="false"/>'
    with travelling(program, lambda text: text.replace(b"<qemu:frontend>", off)) as travel:
        target = travel.place()
        with travel.hearing() as heard, Migration(travel.guest, target.libvirt) as migration:
            migration.finish()
            travel.arrive(target)
        assert set(heard.announcements) == {"RARP"}
