"""The driver host on real VFs, whose PF has the kernel's driver. tests/unit/test_driver*.py has a simulated
card.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.lab.attaching import wait_for
from tests.lab.image import REPOSITORY
from tests.lab.test_sriov_devices import bind
from tests.lab.testpmd import put_testpmd

SOURCE = "/run/source"
KILLING = "tests/lab/driver_host_kills.py"
FIXED = "02:00:00:00:15:01"
KILLS = 100 if os.environ.get("BAREWIRE_MATRIX") else 3
TRACES = pytest.mark.leaves_traces("a VF without an admin MAC has another MAC when its driver comes back")


def python(lab):
    """The guest's interpreter that has bytecode; Debian's compiles each module at each start."""
    return "env", f"PYTHONPATH={SOURCE}", lab.vm.python("import sys\nprint(sys.executable)").out.strip()


class DriverPod:
    """A pod with a VF: the driver host and its applications run in the network namespace of the pod."""

    def __init__(self, lab, vf) -> None:
        self.vf, self.pod = vf, lab.pod()
        self.program = (*python(lab), "-m", "driverhost")
        self.start()

    def start(self) -> None:
        self.host = self.pod.start(*self.program, "serve", "--device", self.vf.address)
        self.host.wait_for_output("the driver is ready", timeout=60)

    def run(self, *arguments, timeout=60):
        return self.pod.run(*self.program, *arguments, timeout=timeout)

    def application(self, *arguments):
        return self.pod.start(*self.program, *arguments)

    @property
    def mac(self) -> str:
        return str(self.device["mac"])

    @property
    def device(self):
        [device] = json.loads(self.run("list", "--json").out)
        return device


@pytest.fixture
def sources(lab):
    for package in ("cni", "driverhost"):
        lab.vm.put_tree(REPOSITORY / package, f"{SOURCE}/{package}")
    lab.vm.put(f"{SOURCE}/{KILLING}", (REPOSITORY / KILLING).read_text())
    lab.vm.run("modprobe", "vfio-pci")
    for vf in lab.vfs[:2]:
        set_mac(lab, vf, "00:00:00:00:00:00")  # an earlier test may have fixed another one
        bind(lab, vf.address, "vfio-pci")


@pytest.fixture
def pods(lab, sources) -> Iterator[list[DriverPod]]:
    set_mac(lab, lab.vfs[0], FIXED)
    pods = [DriverPod(lab, vf) for vf in lab.vfs[:2]]
    yield pods
    for pod in pods:
        pod.host.kill()
        pod.host.ended(10)


@TRACES
def test_our_drivers_keep_the_contract_on_real_devices(lab, sources):
    found = lab.vm.sh("grep -l 0x1041 /sys/bus/pci/devices/*/device").out.split()
    virtual = [path.split("/")[-2] for path in found]
    assert len(virtual) == 2
    for address in virtual:
        bind(lab, address, "vfio-pci")
    for pair in ([vf.address for vf in lab.vfs[:2]], virtual):
        done = lab.vm.run(*python(lab), "-m", "driverhost", "verify", *pair, timeout=120, check=False)
        assert (done.rc, done.err, "broken" in done.out) == (0, "", False), done.out


@TRACES
def test_two_pods_exchange_frames_by_the_interface_in_one_vlan_and_not_across_two(lab, pods):
    one, other = pods
    assert one.mac == FIXED
    answering = other.application("test", "--count", "10", "--seconds", "120")
    wait_for(lambda: other.device["port"], "the answering application", seconds=60)
    set_vlans(lab, 100, 100)
    assert "5 frames answered" in one.run("test", "--target", other.mac, "--count", "5").out
    set_vlans(lab, 100, 200)
    refused = one.pod.run(*one.program, "test", "--target", other.mac, "--count", "1", check=False)
    assert (refused.rc, refused.err.splitlines()[0]) == (1, "driverhost: 1 of 1 frames have no answer")
    set_vlans(lab, 0, 0)
    assert "5 frames answered" in one.run("test", "--target", other.mac, "--count", "5").out
    assert answering.wait(30).out.strip() == "10 frames answered"


@TRACES
def test_applications_notice_that_their_driver_host_was_killed_and_go_on_with_the_next(lab, sources):
    addresses = [vf.address for vf in lab.vfs[:2]]
    program = (*python(lab), f"{SOURCE}/{KILLING}", str(KILLS), *addresses)
    seen = json.loads(lab.vm.run(*program, timeout=120 + 10 * KILLS).out)
    print(f"noticed after at most {max(seen.pop('noticed')):.3f} s")
    assert all(seen.pop("frames"))
    assert seen == {"the other host": [None, 0], "exit codes": [0, 0]}


# Sends frames until one comes back, with the addresses exchanged.
PING = """
import sys, time
from driverhost.client import connect
own, target = (bytes.fromhex(mac.replace(":", "")) for mac in sys.argv[1:])
deadline = time.monotonic() + 60
with connect() as client, client.open() as port:
    while time.monotonic() < deadline:
        port.send([target + own + b"\\x88\\xb5" + bytes(50)])
        if port.wait(1.0) and any(frame[:12] == own + target for frame in port.receive()):
            sys.exit("back")
"""


@TRACES
@pytest.mark.skipif(
    not os.environ.get("BAREWIRE_MATRIX"), reason="runs in make matrix: DPDK polls, for two minutes here"
)
def test_an_application_has_the_vf_of_a_dpdk_process_by_vhost_user(lab, sources):
    """Two DPDK programs: the driver host's with the VF, and the application with virtio-user, which swaps addresses."""
    vf, folder, testpmd = lab.vfs[0], "/run/vhost", put_testpmd(lab.vm)
    set_mac(lab, vf, FIXED)
    options = ("--no-huge", "--dpdk-memory", "64", "--vhost-directory", folder, "--dpdk-program", " ".join(testpmd))
    program = (*python(lab), "-m", "driverhost")
    host = lab.vm.start(*program, "serve", "--device", vf.address, "--socket", "/run/dpdk.sock", "--dpdk", *options)
    other = DriverPod(lab, lab.vfs[1])
    try:
        host.wait_for_output("DPDK is ready", timeout=60)
        [device] = json.loads(lab.vm.run(*program, "list", "--socket", "/run/dpdk.sock", "--json").out)
        assert (device["mac"], device["vhost-user"]) == (FIXED, f"{folder}/{vf.address}.sock")
        vdev = f"net_virtio_user0,path={device['vhost-user']},mac={FIXED}"
        eal = "--no-huge --no-shconf --no-telemetry --no-pci -m 64 --lcores 0@0,1@0 --vdev"
        own = "-- --forward-mode=macswap --auto-start --total-num-mbufs=2048"
        application = lab.vm.start("sh", "-c", f"tail -f /dev/null | {' '.join(testpmd)} {eal} {vdev} {own}")
        ping = other.pod.run(*python(lab), "-c", PING, other.mac, FIXED, timeout=90, check=False)
        assert ping.err.strip() == "back"
        statistics = json.loads(lab.vm.run(*program, "stats", "--socket", "/run/dpdk.sock", "--json").out)
        assert statistics["rx_packets"] > 0
        application.kill()
    finally:
        host.kill()
        other.host.kill()
        other.host.ended(10)


def set_mac(lab, vf, mac):
    lab.vm.run("ip", "link", "set", lab.pf.netdev, "vf", str(vf.index), "mac", mac)


def set_vlans(lab, *vlans):
    for number, vlan in enumerate(vlans):
        lab.vm.run("ip", "link", "set", lab.pf.netdev, "vf", str(lab.vfs[number].index), "vlan", str(vlan))
