"""Leftovers of a pod on its VF do not reach the next pod, and a device that the host uses is not given to a pod."""

from __future__ import annotations

import json

import pytest

from tests.lab.attaching import changes, conf, netdev
from tests.lab.image import REPOSITORY

TAMPER = (REPOSITORY / "tests/tamper.py").read_text()


def tamper(lab, pod, calls: str) -> None:
    """Runs code with `tests/tamper.py` in the pod's network."""
    lab.vm.python(f"{TAMPER}\nenter({pod.netns!r})\n{calls}")


def index(lab, vf):
    return lab.vm.get(f"/sys/class/net/{netdev(lab, vf)}/ifindex")


@pytest.mark.parametrize("is_gone", [False, True], ids=["namespace there", "namespace gone"])
def test_a_macvlan_that_a_pod_moved_elsewhere_ends_with_the_pods_attachment(lab, is_gone):
    vf, pod, accomplice, successor = lab.vfs[0], lab.pod(), lab.pod(), lab.pod()
    lab.runtime.add(conf(vf, vlan=100), pod).required()
    pod.ip("link", "add", "link", "net1", "name", "st0", "type", "macvlan", "mode", "passthru")
    pod.ip("link", "set", "st0", "netns", accomplice.name)
    accomplice.ip("link", "set", "st0", "up")
    if is_gone:
        pod.delete()
    lab.runtime.delete(conf(vf, vlan=100), pod).required()
    assert accomplice.interfaces() == []
    assert changes(lab) == []
    lab.runtime.add(conf(vf, vlan=7), successor).required()
    lab.runtime.delete(conf(vf, vlan=7), successor).required()
    assert changes(lab) == []


def test_programs_limits_and_offloads_of_a_pod_do_not_stay_on_its_vf(lab):
    vf, pod = lab.vfs[1], lab.pod()
    lab.runtime.add(conf(vf), pod).required()
    tamper(lab, pod, "attach_xdp('net1'); set_gro('net1', on=False); set_rx_ring('net1', 128)")
    pod.ip("link", "set", "net1", "mode", "dormant", "gso_max_size", "4096")
    lab.runtime.delete(conf(vf), pod).required()
    assert changes(lab) == []


def test_what_can_be_put_back_costs_no_new_network_device(lab):
    vf, pod, before = lab.vfs[2], lab.pod(), index(lab, lab.vfs[2])
    lab.runtime.add(conf(vf), pod).required()
    tamper(lab, pod, "set_gro('net1', on=False); set_rx_ring('net1', 128)")
    pod.run("sh", "-c", "ip link set net1 mode dormant; echo 7 >/sys/class/net/net1/gro_flush_timeout")
    lab.runtime.delete(conf(vf), pod).required()
    assert changes(lab) == []
    assert index(lab, vf) == before


def test_a_vf_that_is_the_hosts_uplink_is_refused_however_it_is_named(lab):
    vf, pod = lab.vfs[3], lab.pod()
    name = netdev(lab, vf)
    lab.vm.sh(
        f"ip link set {name} up; ip addr add 192.0.2.5/24 dev {name}; ip route add default via 192.0.2.1 metric 4711"
    )
    by_number = {**conf(vf), "deviceID": None, "master": lab.pf.netdev, "vf": vf.index}
    del by_number["deviceID"]
    for document in (conf(vf), conf(vf, driver="vfio-pci"), by_number):
        error = lab.runtime.add(document, pod).error
        assert error["code"] == 100
        assert "it has a global address, a route goes through it" in error["msg"]
    assert "metric 4711" in json.dumps(lab.vm.sh("ip route").out)
    lab.vm.sh(f"ip addr flush dev {name}; ip link set {name} down")
    assert changes(lab) == []
