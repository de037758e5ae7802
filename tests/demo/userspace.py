"""Connects virtual machines to ports of Open vSwitch with DPDK, in a VLAN, also after the vswitch was killed."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import Any

from tests.cli.program import from_bundle
from tests.demo.stage import Stage
from tests.examples import EXAMPLES
from tests.ovs.guests import Guest
from tests.ovs.node import Node, Pod, changes

ADDRESSES = ("10.9.0.1", "10.9.0.2", "10.9.0.3")
VLANS = (100, 100, 200)


def run(stage: Stage) -> None:
    """Demonstrates the plugin `userspace`."""
    stage.step("userspace: starting Open vSwitch with DPDK, without huge pages")
    with Node(from_bundle("userspace")) as node:
        pods = [node.pod("shared-dir") for _ in VLANS]
        before = node.snapshot()
        example = json.loads((EXAMPLES / "userspace-vlan.conf").read_text())
        stage.step("three pods with a port each from conf-examples/userspace-vlan.conf, one of them in another VLAN")
        results = [_attach(stage, node, pod, {**example, "vlan": vlan}) for pod, vlan in zip(pods, VLANS, strict=True)]
        stage.show(node.daemon.vsctl("show"))
        _traffic(stage, node, results)
        stage.step("deleting the pods' attachments")
        for pod in pods:
            started = time.monotonic()
            node.delete(example, pod)
            stage.say(f"DEL {pod.name}: {(time.monotonic() - started) * 1000:.0f} ms")
        stage.show(node.daemon.vsctl("show"))
        left = changes(before, node.snapshot())
        # The first attachment of a network leaves its folder of records.
        left = [line for line in left if not line.startswith(f"/var/lib/cni/barewire/{example['name']}: None")]
        stage.show("\n".join(left))
        stage.expect(not left, "Open vSwitch's database, files and mounts are as they were")


def _attach(stage: Stage, node: Node, pod: Pod, conf: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    result = node.add(conf, pod)
    stage.say(f"ADD {pod.name} as net1, VLAN {conf['vlan']}: {(time.monotonic() - started) * 1000:.0f} ms")
    stage.show(json.dumps(result, indent=2))
    return result


def _traffic(stage: Stage, node: Node, results: list[dict[str, Any]]) -> None:
    stage.step("a virtual machine on each port (software emulation, some seconds)")
    with ExitStack() as running:
        machines = []
        for result, address in zip(results, ADDRESSES, strict=True):
            (interface,) = result["interfaces"]
            guest = Guest(interface["socketPath"], interface["mac"], f"{address}/24", within=node.within)
            machines.append(running.enter_context(guest))
        one, two, other = (machine.ready() for machine in machines)
        stage.expect(one.reaches(ADDRESSES[1]), "they are up, and frames pass")
        stage.expect(one.ping(ADDRESSES[1]) == 3, "the first pings the second in VLAN 100: 3 of 3")
        stage.expect(two.ping(ADDRESSES[0]) == 3, "the second pings the first: 3 of 3")
        stage.expect(other.ping(ADDRESSES[0]) == 0, "the third, in VLAN 200, does not reach the first: 0 of 3")
        stage.say("ovs-vswitchd is killed, and started again")
        node.daemon.kill("ovs-vswitchd")
        one.await_link(up=False)
        node.daemon.start_vswitchd()
        stage.expect(one.reaches(ADDRESSES[1], seconds=20), "the first reaches the second again")
