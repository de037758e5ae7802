"""Moves a VF into a pod and back, with two examples from conf-examples/, on a real kernel with an emulated igb."""

from __future__ import annotations

import json
from typing import Any

from tests.demo.stage import Stage
from tests.examples import EXAMPLES
from tests.lab.cni import Pod, Runtime
from tests.lab.health import require_health
from tests.lab.session import install_bundle
from tests.lab.snapshot import difference, host_snapshot
from tests.lab.topology import Vf, pfs
from tests.lab.vm import Vm


def run(stage: Stage) -> None:
    """Demonstrates the plugin `sriov`."""
    stage.step("sriov: booting a machine with an SR-IOV NIC (software emulation, about 10 s)")
    with Vm(pfs=1, say=stage.say) as vm:
        require_health(vm)
        install_bundle(vm)
        stage.say("the frozen plugins are installed in /opt/cni/bin")
        _told(stage, vm)


def example(name: str, vf: Vf, **changes: Any) -> dict[str, Any]:
    """A configuration of conf-examples/ with the VF that Multus would add."""
    return {**json.loads((EXAMPLES / name).read_text()), "deviceID": vf.address, **changes}


def address(result: dict[str, Any]) -> str:
    return str(result["ips"][0]["address"]).partition("/")[0]


def attach(stage: Stage, runtime: Runtime, pod: Pod, conf: dict[str, Any]) -> dict[str, Any]:
    """Runs ADD, and shows its time and its result."""
    outcome = runtime.add(conf, pod).required()
    assert outcome.result is not None
    stage.say(
        f"ADD {conf['deviceID']} -> {pod.name} as net1, VLAN {conf.get('vlan', '-')}: {outcome.seconds * 1000:.0f} ms"
    )
    stage.show(json.dumps(outcome.result, indent=2))
    return outcome.result


def traffic(stage: Stage, one: Pod, other: Pod, isolated: Pod, addresses: dict[str, str]) -> None:
    """Pings within the VLAN, and between two VLANs."""
    stage.step("traffic")
    for source, target in ((one, other), (other, one)):
        stage.expect(
            source.pings(addresses[target.name]) == 3, f"{source.name} pings {target.name} in VLAN 100: 3 of 3"
        )
    stage.expect(
        one.pings(addresses[isolated.name]) == 0, f"{one.name} does not reach {isolated.name} in VLAN 200: 0 of 3"
    )


def _told(stage: Stage, vm: Vm) -> None:
    runtime = Runtime(vm)
    (pf, *_) = pfs(vm)
    before = host_snapshot(vm)
    stage.step(f"the PF {pf.netdev} ({pf.address}) and its {len(pf.vfs)} VFs")
    stage.show(vm.run("ip", "link", "show", pf.netdev).out)

    stage.step("two pods from conf-examples/sriov-vlan.conf and sriov-all-settings.conf, and one in another VLAN")
    confs = [
        example("sriov-vlan.conf", pf.vfs[0]),
        example("sriov-all-settings.conf", pf.vfs[1]),
        example("sriov-vlan.conf", pf.vfs[2], vlan=200),
    ]
    pods = [Pod(vm, name) for name in ("pod-a", "pod-b", "pod-c")]
    results = [attach(stage, runtime, pod, conf) for pod, conf in zip(pods, confs, strict=True)]
    stage.say("the same VFs at the PF now:")
    stage.show(vm.run("ip", "link", "show", pf.netdev).out)
    traffic(
        stage, pods[0], pods[1], pods[2], {pod.name: address(result) for pod, result in zip(pods, results, strict=True)}
    )

    stage.step("deleting the pods' attachments")
    for pod, conf in zip(pods, confs, strict=True):
        outcome = runtime.delete(conf, pod).required()
        stage.say(f"DEL {conf['deviceID']} <- {pod.name}: {outcome.seconds * 1000:.0f} ms")
        pod.delete()
    stage.show(vm.run("ip", "link", "show", pf.netdev).out)
    left = difference(before, host_snapshot(vm))
    stage.show("\n".join(left))
    stage.expect(not left, "PF and VFs are as they were, attribute by attribute, and no file is left")
