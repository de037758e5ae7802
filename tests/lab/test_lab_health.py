"""The lab itself, as the other lab tests rely on it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab.attaching import wait_for
from tests.lab.errors import GuestFailed, GuestTimeout, LabError, VmGone
from tests.lab.health import require_health
from tests.lab.image import REPOSITORY
from tests.lab.lab import Lab
from tests.lab.session import Machines
from tests.lab.snapshot import difference, host_snapshot
from tests.lab.topology import pfs
from tests.lab.vm import Vm
from tests.lab.wire import ETHERTYPE_ARP, Frame

BROADCAST = "ff:ff:ff:ff:ff:ff"


# The machine


def test_the_machine_is_healthy(lab_vm: Vm) -> None:
    require_health(lab_vm)


def test_each_vf_has_a_name_a_driver_and_its_own_iommu_group(lab_vm: Vm) -> None:
    pf = pfs(lab_vm)[0]
    assert [vf.index for vf in pf.vfs] == list(range(7))
    assert {vf.driver for vf in pf.vfs} == {"igbvf"}
    assert len({vf.netdev for vf in pf.vfs}) == len({vf.iommu_group for vf in pf.vfs}) == 7


@pytest.mark.leaves_traces("a VF without an admin MAC has another MAC when its driver comes back")
def test_a_vf_can_be_given_to_vfio_and_comes_back(lab: Lab) -> None:
    vf = lab.vfs[3]
    script = """
    cd /sys/bus/pci/devices/$0
    echo "$1" >driver_override
    echo $0 >driver/unbind
    echo $0 >/sys/bus/pci/drivers_probe
    """
    lab.vm.run("bash", "-c", script, vf.address, "vfio-pci")
    assert pfs(lab.vm)[0].vfs[3].driver == "vfio-pci"
    lab.vm.run("bash", "-c", script, vf.address, "")
    again = pfs(lab.vm)[0].vfs[3]
    assert (again.driver, again.netdev) == ("igbvf", vf.netdev)


# Commands


def test_a_command_gets_stdin_and_environment_and_gives_both_outputs_and_its_code(lab_vm: Vm) -> None:
    script = 'cat; echo "$COLOUR" >&2; exit 3'
    done = lab_vm.sh(script, stdin="hello", env={"COLOUR": "blue"}, check=False)
    assert (done.rc, done.out, done.err) == (3, "hello", "blue\n")


def test_a_failing_command_raises_with_its_outputs(lab_vm: Vm) -> None:
    with pytest.raises(GuestFailed, match=r"(?s)ended with 2.*the reason.*the output"):
        lab_vm.sh("echo the output; echo the reason >&2; exit 2")


def test_a_command_that_hangs_is_killed_with_its_children_and_shows_its_output(lab_vm: Vm) -> None:
    with pytest.raises(GuestTimeout, match="so far"):
        lab_vm.sh("echo so far; sleep 4711 & wait", timeout=0.5)
    assert lab_vm.run("pgrep", "-f", "sleep 4711", check=False).rc == 1


def test_a_program_that_is_not_there_is_a_clear_error(lab_vm: Vm) -> None:
    with pytest.raises(LabError, match=r"No such file.*nonesuch"):
        lab_vm.run("nonesuch")


def test_a_background_process_does_not_hold_up_the_command_that_left_it(lab_vm: Vm) -> None:
    started = time.monotonic()
    child = lab_vm.sh("sleep 60 & echo $!").out.strip()
    assert time.monotonic() - started < 10
    lab_vm.run("kill", child)


def test_commands_run_side_by_side(lab_vm: Vm) -> None:
    """Each of four commands waits until all four have started."""
    script = 'touch /run/lab/side$0; while [ "$(ls /run/lab/side? | wc -l)" != 4 ]; do sleep 0.02; done; echo $0'
    with ThreadPoolExecutor(4) as pool:
        done = pool.map(lambda number: lab_vm.run("bash", "-c", script, str(number)), range(4))
        assert [one.out.strip() for one in done] == ["0", "1", "2", "3"]
    lab_vm.sh("rm /run/lab/side?")


def test_a_started_command_can_be_watched_and_killed(lab_vm: Vm) -> None:
    running = lab_vm.start("bash", "-c", "echo ready; exec sleep 60")
    assert running.poll() is None
    running.kill()
    done = running.wait(10)
    assert done.rc == -9
    assert running.poll() == done


def test_waiting_for_output_ends_when_it_is_there_and_when_the_command_has_ended_without(lab_vm: Vm) -> None:
    running = lab_vm.start("bash", "-c", "echo -n rea; echo dy; exec sleep 60")
    running.wait_for_output("ready")
    running.kill()
    with pytest.raises(GuestTimeout, match="did not print 'steady'"):
        running.wait_for_output("steady")


def test_python_code_finds_pyroute2_loaded(lab_vm: Vm) -> None:
    done = lab_vm.python("import sys; print('pyroute2' in sys.modules); sys.exit(4)", check=False)
    assert (done.rc, done.out) == (4, "True\n")


def test_an_exception_of_python_code_comes_back_as_its_traceback(lab_vm: Vm) -> None:
    with pytest.raises(GuestFailed, match="ZeroDivisionError"):
        lab_vm.python("1 / 0")


# Files


def test_a_file_comes_back_as_it_was_put(lab_vm: Vm) -> None:
    data = os.urandom(300_000)
    lab_vm.put("/run/lab/folder/file", data, 0o600)
    assert lab_vm.get("/run/lab/folder/file") == data
    assert lab_vm.run("stat", "-c", "%a", "/run/lab/folder/file").out == "600\n"


def test_a_tree_keeps_modes_and_symlinks(lab_vm: Vm, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "program").write_text("#!/bin/sh\necho it runs\n")
    (tmp_path / "inner" / "program").chmod(0o755)
    (tmp_path / "link").symlink_to("inner/program")
    lab_vm.put_tree(tmp_path, "/run/lab/tree")
    assert lab_vm.run("/run/lab/tree/link").out == "it runs\n"


# Snapshots

CHANGES = {
    "mtu": ("ip link set {vf} mtu 1400", "ip link set {vf} mtu 1500", "links.{address}.mtu: 1500 -> 1400"),
    "name": ("ip link set {vf} name other", "ip link set other name {vf}", 'links.{address}.ifname: "{vf}" -> "other"'),
    "altname": (
        "ip link property add dev {vf} altname other",
        "ip link property del dev {vf} altname other",
        'links.{address}.altnames: [] -> ["other"]',
    ),
    "alias": ("ip link set {vf} alias mark", "ip link set {vf} alias ''", 'links.{address}.ifalias: absent -> "mark"'),
    "flags": ("ip link set {vf} up", "ip link set {vf} down", '-> ["BROADCAST", "MULTICAST", "UP"]'),
    "vlan": (
        "ip link set {pf} vf 2 vlan 100 qos 3",
        "ip link set {pf} vf 2 vlan 0",
        "links.{pf_address}.vfinfo_list.vf 2.vlan_list",
    ),
    "trust": (
        "ip link set {pf} vf 2 trust on",
        "ip link set {pf} vf 2 trust off",
        "links.{pf_address}.vfinfo_list.vf 2.trust: false -> true",
    ),
    "spoofchk": (
        "ip link set {pf} vf 2 spoofchk off",
        "ip link set {pf} vf 2 spoofchk on",
        "links.{pf_address}.vfinfo_list.vf 2.spoofchk: true -> false",
    ),
    "rate": (
        "ip link set {pf} vf 2 max_tx_rate 100",
        "ip link set {pf} vf 2 max_tx_rate 0",
        "links.{pf_address}.vfinfo_list.vf 2.rate.max_tx: 0 -> 100",
    ),
    "address": ("ip addr add 192.0.2.1/24 dev {vf}", "ip addr del 192.0.2.1/24 dev {vf}", "addresses.{address}: "),
    "route": ("ip route add 192.0.2.0/24 dev {pf}", "ip route del 192.0.2.0/24", "192.0.2.0/24"),
    "route of IPv6": (
        "ip -6 route add blackhole 2001:db8::/64 table 77",
        "ip -6 route del blackhole 2001:db8::/64 table 77",
        "2001:db8::/64",
    ),
    "rule": ("ip -6 rule add table 77", "ip -6 rule del table 77", "rules.ipv6."),
    "sysctl": (
        "sysctl -qw net.ipv4.conf.{vf}.arp_ignore=1",
        "sysctl -qw net.ipv4.conf.{vf}.arp_ignore=0",
        'sysctls.net.ipv4.conf.{vf}.arp_ignore: "0" -> "1"',
    ),
    "netns": ("ip netns add stray", "ip netns del stray", 'netns.stray: absent -> "present"'),
    "record": (
        "mkdir -p /var/lib/cni/x; echo 1 >/var/lib/cni/x/y",
        "rm -r /var/lib/cni/x",
        "files./var/lib/cni/x/y: absent",
    ),
    "driver_override": (
        "echo vfio-pci >/sys/bus/pci/devices/{address}/driver_override",
        "echo >/sys/bus/pci/devices/{address}/driver_override",
        'pci.{address}.driver_override: "(null)" -> "vfio-pci"',
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_snapshot_shows_a_change_and_its_undoing(lab: Lab, name: str) -> None:
    words = {"pf": lab.pf.netdev, "vf": lab.vfs[2].netdev, "address": lab.vfs[2].address, "pf_address": lab.pf.address}
    change, undo, line = (text.format(**words) if "[" not in text else _fill(text, words) for text in CHANGES[name])
    lab.vm.sh(change)
    shown = lab.changes()
    lab.vm.sh(undo)
    assert any(line in one for one in shown), shown
    assert lab.changes() == []


def test_a_snapshot_shows_what_a_pod_can_set_on_its_vf(lab: Lab) -> None:
    vf, tamper = lab.vfs[2], (REPOSITORY / "tests/tamper.py").read_text()
    name = vf.netdev
    lab.vm.sh(
        f"ip link set {name} mode dormant gso_max_size 4096; echo 7 >/sys/class/net/{name}/gro_flush_timeout;"
        f"ip netns add stray; ip link add link {name} name st0 type macvlan; ip link set st0 netns stray"
    )
    lab.vm.python(f"{tamper}\nattach_xdp({name!r}); set_gro({name!r}, on=False); set_rx_ring({name!r}, 128)")
    shown = "\n".join(lab.changes())
    lab.vm.sh(
        "ip -n stray link del st0; ip netns del stray;"
        f"ip link set {name} mode default gso_max_size 65536; echo 0 >/sys/class/net/{name}/gro_flush_timeout;"
        f"ip link set {name} xdpgeneric off"
    )
    lab.vm.python(f"{tamper}\nset_gro({name!r}, on=True); set_rx_ring({name!r}, 1024)")
    assert lab.changes() == []
    for part in ("linkmode", "gso_max_size", "xdp"):
        assert f"links.{vf.address}.{part}" in shown
    for part in ("features", "rings", "gro_flush_timeout"):
        assert f"ethtool.{vf.address}.{part}" in shown
    assert "stacked.macvlan st0" in shown


def _fill(text: str, words: dict[str, str | None]) -> str:
    for key, value in words.items():
        text = text.replace("{" + key + "}", str(value))
    return text


def test_a_vf_that_was_in_a_pod_and_came_home_shows_no_difference(lab: Lab) -> None:
    """The kernel's part of a DEL: only attributes that a test changed are different."""
    pod, vf = lab.pod(), lab.vfs[1]
    lab.vm.run("ip", "link", "set", str(vf.netdev), "netns", pod.name)
    assert pod.link(str(vf.netdev))["parentdev"] == vf.address
    assert f"links.{vf.address}: " in "\n".join(lab.changes())
    pod.ip("link", "set", str(vf.netdev), "netns", "1")
    assert not [line for line in lab.changes() if not line.startswith("netns.")]


def test_two_snapshots_of_an_idle_host_are_equal(lab_vm: Vm) -> None:
    first = host_snapshot(lab_vm)
    assert difference(first, host_snapshot(lab_vm)) == []
    assert len(first["links"]) == 1 + lab_vm.pfs * (1 + lab_vm.vfs)


@pytest.mark.leaves_traces("to see that the next test starts clean")
def test_a_test_that_leaves_traces_is_cleaned_up_after(lab: Lab) -> None:
    lab.vm.sh(f"ip link set {lab.pf.netdev} vf 1 vlan 77; echo 1 >/var/lib/cni/stray; ip netns add stray")
    left = "\n".join(lab.clean_up())
    assert "vlan_list" in left
    assert "/var/lib/cni/stray" in left
    assert lab.vm.run("test", "-e", "/var/lib/cni/stray", check=False).rc == 1
    lab.before = host_snapshot(lab.vm)


def test_a_crash_of_the_kernel_is_seen_and_reported(lab: Lab) -> None:
    words = "BUG: kernel NULL pointer dereference, address: 0"
    lab.vm.sh(f"echo '<1>{words}' >/dev/kmsg")
    wait_for(lab.crashes, "the line on the console")
    (told,) = lab.crashes()
    assert told.endswith(words)
    lab._console = lab.vm.console()
    assert lab.crashes() == []


def test_a_machine_that_is_gone_is_replaced_for_the_next_test(lab: Lab, machines: Machines) -> None:
    lab.runtime.version({}).required()
    lab.vm._qemu.end()
    with pytest.raises(VmGone, match="QEMU ended with status"):
        lab.vm.run("true")
    again = Lab(machines.machine(), machines)
    assert again.runtime.version({}).required().rc == 0
    lab.before = again.before


# Pods and the wire


def test_a_pod_that_is_deleted_gives_its_vf_back(lab: Lab) -> None:
    pod, vf = lab.pod(), lab.vfs[0]
    sleeper = pod.start("sleep", "60")
    lab.vm.run("ip", "link", "set", str(vf.netdev), "netns", pod.name)
    pod.delete()
    assert sleeper.wait(10).rc == -9
    assert lab.wait_until_home() == ""
    assert not pod.exists()


@pytest.fixture
def two_pods(lab: Lab) -> Iterator[tuple[str, str]]:
    """The names of two pods with VF 0 and VF 1 as net1, up, with addresses 10.9.0.1 and .2. PF VLANs are removed
    afterwards.
    """
    pods = (lab.pod(), lab.pod())
    for number, pod in enumerate(pods):
        lab.vm.sh(f"ip link set {lab.vfs[number].netdev} netns {pod.name} name net1")
        pod.ip("addr", "add", f"10.9.0.{number + 1}/24", "dev", "net1")
        pod.ip("link", "set", "net1", "up")
    for pod in pods:
        lab.vm.sh(f"timeout 10 sh -c 'until ip -n {pod.name} link show net1 | grep -q LOWER_UP; do sleep 0.05; done'")
    yield pods[0].name, pods[1].name
    for number, pod in enumerate(pods):
        lab.vm.run("ip", "link", "set", lab.pf.netdev, "vf", str(number), "vlan", "0")
        pod.ip("link", "set", "net1", "down")
        pod.ip("link", "set", "net1", "netns", "1", "name", str(lab.vfs[number].netdev))


def pings(lab: Lab, source: str, address: str) -> bool:
    argv = ["ip", "netns", "exec", source, "ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", address]
    return lab.vm.run(*argv, check=False).rc == 0


def test_two_pods_with_vfs_of_one_vlan_reach_each_other_and_those_of_two_do_not(
    lab: Lab, two_pods: tuple[str, str]
) -> None:
    assert pings(lab, two_pods[0], "10.9.0.2")
    lab.vm.run("ip", "link", "set", lab.pf.netdev, "vf", "0", "vlan", "100")
    assert not pings(lab, two_pods[0], "10.9.0.2")
    lab.vm.run("ip", "link", "set", lab.pf.netdev, "vf", "1", "vlan", "100")
    assert pings(lab, two_pods[0], "10.9.0.2")


def test_the_wire_sees_the_tag_that_the_pf_puts_on_a_vfs_frames(lab: Lab, two_pods: tuple[str, str]) -> None:
    lab.vm.run("ip", "link", "set", lab.pf.netdev, "vf", "0", "vlan", "100", "qos", "3")
    wire = lab.wire()
    assert not pings(lab, two_pods[0], "10.9.0.77")
    frame = wire.wait_for(lambda one: one.ethertype == ETHERTYPE_ARP and one.destination == BROADCAST)
    assert (frame.tag, frame.vlan, frame.qos) == (0x8100, 100, 3)


def test_a_frame_sent_on_the_wire_reaches_the_vf_of_its_vlan_without_the_tag(
    lab: Lab, two_pods: tuple[str, str]
) -> None:
    lab.vm.run("ip", "link", "set", lab.pf.netdev, "vf", "0", "vlan", "100")
    sniffer = lab.vm.start("ip", "netns", "exec", two_pods[0], "tcpdump", "-i", "net1", "-e", "-n", "-c", "1", "arp")
    sniffer.wait_for_output("listening on net1")
    asked = arp_request(source="02:00:00:00:00:fe", sender="10.9.0.254", target="10.9.0.1", vlan=100)
    wire = lab.wire()
    lab.send(asked)
    answer = wire.wait_for(lambda one: one.ethertype == ETHERTYPE_ARP and one.destination == "02:00:00:00:00:fe")
    assert answer.vlan == 100
    assert "Request who-has 10.9.0.1 tell 10.9.0.254" in sniffer.wait(10).out


def arp_request(*, source: str, sender: str, target: str, vlan: int) -> bytes:
    mac = bytes.fromhex(source.replace(":", ""))
    addresses = [bytes(map(int, text.split("."))) for text in (sender, target)]
    head = b"\xff" * 6 + mac + bytes.fromhex("8100") + vlan.to_bytes(2, "big") + bytes.fromhex("0806")
    return head + bytes.fromhex("0001080006040001") + mac + addresses[0] + bytes(6) + addresses[1]


def test_waiting_for_a_frame_that_does_not_come_ends_and_says_what_came(lab: Lab) -> None:
    wire = lab.wire()
    with pytest.raises(LabError, match=r"no such frame on uplink of PF 0 in 0\.2 s"):
        wire.wait_for(lambda _frame: False, timeout=0.2)


def test_a_capture_holds_only_what_came_after_it_began(lab: Lab, two_pods: tuple[str, str]) -> None:
    early = lab.wire()
    pings(lab, two_pods[0], "10.9.0.78")
    late = lab.wire()
    assert any(asks_for(frame, "10.9.0.78") for frame in early.frames())
    assert not any(asks_for(frame, "10.9.0.78") for frame in late.frames())


def asks_for(frame: Frame, address: str) -> bool:
    return frame.ethertype == ETHERTYPE_ARP and frame.payload[24:28] == bytes(map(int, address.split(".")))


# More PFs, and the end


@pytest.mark.pfs(2)
def test_a_test_gets_the_pfs_that_it_asks_for(lab: Lab) -> None:
    assert [pf.uplink for pf in lab.pfs[:2]] == [0, 1]
    assert all(len(pf.vfs) == 7 for pf in lab.pfs)


def test_a_machine_keeps_its_folders_over_a_reboot_and_ends_with_its_block() -> None:
    with Vm(vfs=0) as vm:
        boot_id = vm.get("/proc/sys/kernel/random/boot_id")
        vm.put("/var/lib/cni/kept", "as it was")
        vm.put("/run/lost", "")
        vm.reboot()
        assert vm.get("/var/lib/cni/kept") == b"as it was"
        assert vm.run("test", "-e", "/run/lost", check=False).rc == 1
        assert vm.get("/proc/sys/kernel/random/boot_id") != boot_id
    with pytest.raises(LabError, match=r"gone|broken"):
        vm.run("true")


LEASHED = """
from pathlib import Path
import sys, time
from tests.lab.qemu import Qemu
Qemu(["sh", "-c", "echo $$; exec sleep 4713"], Path(sys.argv[1]))
time.sleep(60)
"""


def test_the_machine_dies_with_the_tests_even_when_these_are_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with subprocess.Popen([sys.executable, "-c", LEASHED, str(log)], cwd=REPOSITORY) as tests:
        deadline = time.monotonic() + 20
        while not (log.exists() and log.read_text().strip()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        machine = os.pidfd_open(int(log.read_text()))
        tests.send_signal(signal.SIGKILL)
    assert select.select([machine], [], [], 10)[0], "the leashed process still runs"
    os.close(machine)
