"""Ports of the frozen plugin carry traffic: for virtual machines and for a DPDK program."""

from __future__ import annotations

import json
import sys

from tests.cli.program import ROOT
from tests.ovs.daemon import until
from tests.ovs.guests import Guest
from tests.ovs.testpmd import Testpmd

CONTAINER = "/run/container"


def interface_of(result):
    (interface,) = result["interfaces"]
    return interface


def guest(node, result, address):
    interface = interface_of(result)
    return Guest(interface["socketPath"], interface["mac"], f"{address}/24", within=node.within)


def test_guests_reach_each_other_in_one_vlan_only_and_again_after_the_vswitch_was_killed(node):
    pods = [node.pod("shared-dir") for _ in range(3)]
    vlans = (100, 100, 200)
    results = [node.add(node.conf(vlan=vlan), pod) for vlan, pod in zip(vlans, pods, strict=True)]
    guests = [guest(node, result, f"10.9.0.{number}") for number, result in enumerate(results, 1)]
    with guests[0] as one, guests[1] as two, guests[2] as other:
        two.ready()
        other.ready()
        assert one.reaches("10.9.0.2")
        assert one.ping("10.9.0.2", 5) == 5
        assert one.ping("10.9.0.3") == 0
        node.daemon.kill("ovs-vswitchd")
        one.await_link(up=False)
        node.daemon.start_vswitchd()
        assert one.reaches("10.9.0.2", seconds=20)
        assert one.ping("10.9.0.3") == 0
    for pod in pods:
        node.delete(node.conf(), pod)


def test_a_dpdk_program_takes_its_port_from_the_result_alone(node):
    pods = [node.pod(), node.pod("shared-dir")]
    results = [node.add(node.conf(), pod) for pod in pods]
    echo, asking = (interface_of(result) for result in results)
    with Testpmd(echo["socketPath"], echo["mac"], within=node.within) as program:
        program.await_link()
        until("OVS's view of it", lambda: node.link_up(f"{pods[0].container_id[:12]}-net1"))
        program.answer_pings()
        with guest(node, results[1], "10.9.0.2") as one:
            assert one.reaches("10.9.0.77")
        program.stop()
        assert program.statistics().sent > 0
    assert asking["mac"] != echo["mac"]
    for pod in pods:
        node.delete(node.conf(), pod)


def test_podinfo_finds_the_socket_by_the_file_beside_it_and_a_program_can_listen_there(node):
    pod = node.pod("shared-dir")
    node.add(node.conf(), pod)
    # The volume as the container sees it.
    node.run("mkdir", CONTAINER)
    node.run("mount", "--bind", pod.volume("shared-dir"), CONTAINER)
    try:
        command = ("env", "-C", str(ROOT), sys.executable, "-m", "cni.podinfo", "--shared-dir", CONTAINER)
        (interface,) = json.loads(node.run(*command, "interfaces").stdout)["Interface"]
        told = interface["network-status"]["device-info"]["vhost-user"]
        assert told["mode"] == "server"
        with Testpmd(told["path"], "02:00:00:00:00:09", within=node.within) as program:
            program.await_link()
    finally:
        node.run("umount", CONTAINER)
        node.run("rmdir", CONTAINER)
    node.delete(node.conf(), pod)
