"""Consumers that listen on vhost-user sockets get traffic through the ports of OvsDpdk, which proves that the engine
works.

A test takes 2 to 5 s on two CPUs without KVM.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from cni.userspace.vswitch.model import Owner, Port
from cni.userspace.vswitch.ovs import OvsDpdk
from kubevirt import domain as domains, machine as machines
from kubevirt.facts import Fact
from kubevirt.port import Sight
from tests.kubevirt_hooks.domains import BINDING, DATAPLANE, bound, machine
from tests.kubevirt_hooks.schema import read_back
from tests.ovs.daemon import Daemon, until
from tests.ovs.domain import Domain, Interface
from tests.ovs.guests import Guest
from tests.ovs.machine import MachineError
from tests.ovs.testpmd import BURST, Testpmd

MACS = ("02:00:00:00:01:01", "02:00:00:00:01:02")
ONE, TWO, NOBODY = "10.9.0.1", "10.9.0.2", "10.9.0.99"


class Vswitch:
    """The daemon with the bridge br0, and ports on it that are removed after a test."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.engine = OvsDpdk(daemon.remote)
        self._ports = ExitStack()

    def plug(self, name: str, **settings: Any) -> str:
        """Creates a port, and returns the path of its socket."""
        owner = Owner(container_id=f"c-{name}", ifname="net1", network="fast")
        path = str(self.daemon.folder / f"{name}.sock")
        self.engine.plug(Port(name=name, bridge="br0", path=path, owner=owner, **settings))
        self._ports.callback(self.engine.unplug, owner, name=name)
        return path

    def link_state(self, name: str) -> str:
        (seen,) = self.engine.show(name=name)
        return seen.link_state

    def await_link(self, name: str) -> None:
        until(f"link_state up of {name}", lambda: self.link_state(name) == "up")

    def queues(self, name: str) -> int:
        """The number of queue pairs that the consumer requested, as the port reports it."""
        return int(self.daemon.vsctl("get", "Interface", name, "status:num_of_vrings").strip('"')) // 2

    def clear(self) -> None:
        self._ports.close()


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon(bridge="br0") as daemon:
        yield daemon


@pytest.fixture
def vswitch(daemon) -> Iterator[Vswitch]:
    vswitch = Vswitch(daemon)
    yield vswitch
    vswitch.clear()


def pair(vswitch: Vswitch, one: dict[str, Any], two: dict[str, Any]) -> tuple[Guest, Guest]:
    """Guests, not yet started, on two ports with these settings."""
    paths = vswitch.plug("vhu1", **one), vswitch.plug("vhu2", **two)
    return Guest(paths[0], MACS[0], f"{ONE}/24"), Guest(paths[1], MACS[1], f"{TWO}/24")


def test_guests_on_one_bridge_ping_each_other(vswitch):
    one, two = pair(vswitch, {}, {})
    with one, two:
        assert (two.ready().link().mac, two.link().up) == (MACS[1], True)
        assert one.reaches(TWO)
        assert one.ping(TWO, 5) == 5
        assert one.ping(NOBODY, 1) == 0
        vswitch.await_link("vhu1")


def test_guests_in_one_vlan_ping_each_other_until_one_moves_to_another(vswitch):
    one, two = pair(vswitch, {"tag": 100}, {"tag": 100})
    with one, two:
        two.ready()
        assert one.reaches(TWO)
        assert one.ping(TWO) == 3
        vswitch.daemon.vsctl("set", "Port", "vhu2", "tag=200")
        vswitch.daemon.await_vswitchd()
        assert one.ping(TWO) == 0
        assert two.ping(ONE) == 0


def test_guests_in_two_vlans_do_not_ping_each_other(vswitch):
    one, two = pair(vswitch, {"tag": 100}, {"tag": 200})
    with one, two:
        assert (one.link().up, two.link().up) == (True, True)
        assert (one.ping(TWO), two.ping(ONE)) == (0, 0)
        vswitch.daemon.vsctl("set", "Port", "vhu2", "tag=100")  # nothing else was in the way
        assert one.reaches(TWO)


def test_guests_ping_each_other_again_after_the_vswitch_was_killed(vswitch):
    one, two = pair(vswitch, {"tag": 100}, {"tag": 100})
    with one, two:
        two.ready()
        assert one.reaches(TWO)
        assert one.ping(TWO) == 3
        vswitch.daemon.kill("ovs-vswitchd")
        one.await_link(up=False)
        two.await_link(up=False)
        assert one.ping(TWO, 1) == 0
        vswitch.daemon.start_vswitchd()
        one.await_link()
        two.await_link()
        assert one.reaches(TWO)
        assert one.ping(TWO) == 3


def test_a_guest_uses_both_of_its_queue_pairs_and_the_mtu_of_its_card(vswitch):
    one, two = vswitch.plug("vhu1", mtu=1400), vswitch.plug("vhu2", mtu=1400)
    with (
        Guest(one, MACS[0], f"{ONE}/24", queues=2, mtu=1400) as many,
        Guest(two, MACS[1], f"{TWO}/24", mtu=1400) as single,
    ):
        single.ready()
        assert many.reaches(TWO)
        assert many.ping(TWO) == 3
        assert (many.link().queues, many.link().mtu) == (2, 1400)
        assert (single.link().queues, single.link().mtu) == (1, 1400)
        assert (vswitch.queues("vhu1"), vswitch.queues("vhu2")) == (2, 1)


def test_testpmd_takes_a_port_and_answers_a_guest(vswitch):
    paths = vswitch.plug("vhu1"), vswitch.plug("vhu2")
    with Guest(paths[0], MACS[0], f"{ONE}/24") as one, Testpmd(paths[1], MACS[1], queues=2) as testpmd:
        testpmd.await_link()
        vswitch.await_link("vhu2")
        assert vswitch.queues("vhu2") == 2
        assert testpmd.send(3) == testpmd.statistics().sent == 3 * BURST * 2
        assert one.ping(TWO, 1) == 0
        testpmd.answer_pings()
        assert one.reaches(TWO)
        assert one.ping(TWO) == 3
        testpmd.stop()
        assert one.ping(TWO, 1) == 0
        assert testpmd.statistics().received >= 3


def test_libvirt_starts_a_domain_on_two_ports(vswitch):
    peer, path1, path2 = vswitch.plug("vhu1"), vswitch.plug("vhu2", tag=7), vswitch.plug("vhu3")
    interfaces = [
        Interface(MACS[1], path1, "pod1", network="blue", queues=2, address="10.9.1.2/24"),
        Interface("02:00:00:00:01:03", path2, "pod2", network="red", address=f"{TWO}/24"),
    ]
    with Guest(peer, MACS[0], f"{ONE}/24") as guest, Domain("vm1", interfaces) as domain:
        assert domain.state() == "running"
        assert [alias.get("name") for alias in domain.xml().findall("devices/interface/alias")] == ["ua-blue", "ua-red"]
        assert domain.ready().link().mac == MACS[1]
        assert guest.reaches(TWO)
        assert guest.ping(TWO) == 3
        assert guest.ping("10.9.1.2", 1) == 0
        assert (vswitch.queues("vhu2"), vswitch.queues("vhu3")) == (2, 1)
        vswitch.await_link("vhu2")
        domain.destroy()
        with pytest.raises(MachineError, match="failed to get domain 'vm1'"):
            domain.state()
        until("link_state down", lambda: vswitch.link_state("vhu3") == "down")


def test_libvirt_starts_a_domain_that_kubevirts_sidecar_has_changed(vswitch):
    """The domain has no NUMA cells, as KubeVirt writes it, and has the MTU, for which libvirt's own element does not
    work.
    """
    peer, path = vswitch.plug("vhu1", mtu=1400), vswitch.plug("vhu2", mtu=1400)
    vmi = machine(bound(macAddress=MACS[1]), devices={"networkInterfaceMultiqueue": True})
    sight = Sight(info={"dataplane": Fact(path=path, mtu=1400)}, claims={})

    def hook(text: bytes) -> bytes:
        return domains.change(text, machines.parse(json.dumps(vmi).encode()), BINDING, sight)

    interfaces = [Interface(MACS[1], path, DATAPLANE, network="dataplane", queues=2, address=f"{TWO}/24")]
    with Guest(peer, MACS[0], f"{ONE}/24") as guest, Domain("vm1", interfaces, hook=hook) as domain:
        assert domain.ready().link().mac == MACS[1]
        assert guest.reaches(TWO)
        assert (domain.link().mtu, domain.link().queues) == (1400, 2)
        assert vswitch.queues("vhu2") == 2
        vswitch.await_link("vhu2")
        again = ET.fromstring(hook(read_back(ET.tostring(domain.xml()))))
        kept = [again.find(f"devices/interface/{name}") for name in ("source", "address")]
        assert [element.attrib for element in kept if element is not None] == [
            {"type": "unix", "path": path, "mode": "server"},
            domain.xml().find("devices/interface/address").attrib,  # type: ignore[union-attr] # it has one
        ]
        domain.destroy()


def test_a_guest_that_cannot_start_says_why(tmp_path):
    with (
        pytest.raises(MachineError, match="Failed to bind"),
        Guest(tmp_path / "no/x.sock", MACS[0]) as one,
    ):
        one.ready()
