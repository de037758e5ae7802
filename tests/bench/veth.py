"""Calls on a veth of this machine: the frozen plugin, alone and with its helper, against the Go plugin `host-device`.

The calls are interleaved.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cni.attachment.record import Key, Record
from cni.attachment.records import RUN_DIRECTORY, STATE_DIRECTORY
from cni.host.netns import open_netns
from tests.bench.measure import Contender, report
from tests.bench.veth_program import NAME, VFS_VARIABLE, host_name
from tests.launched import Helper, entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"
ROUNDS = 30
AT_A_TIME = {10: 15, 50: 6}
"""Calls at a time, and rounds."""
VFS = 7, 256
RECORDS = 0, 1000
GO = "/usr/lib/cni/host-device"
PEER = os.environ.get("BENCH_PEER", "")
"""Another `host-device` to compare with, such as that of Debian's newest package."""


def address(number: int) -> str:
    return f"0000:ff:{number // 8:02x}.{number % 8}"


def common() -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": f"bench{uuid.uuid4().hex[:8]}"}


def ours(name: str, program: Path | None = None, **settings: Any) -> Contender:
    config = {**common(), "type": "sriov", "deviceID": address(0), **settings}
    return Contender(name, str(program or DIST / "bench" / NAME), config)


def plain(served: Served) -> list[Contender]:
    """The plugins without addresses. The Go plugin comes first, so ratios are relative to it."""
    programs = {"host-device (Go, Debian)": GO, **({f"host-device {PEER[:14]}..": PEER} if PEER else {})}
    go = [
        Contender(name, program, {**common(), "type": "host-device", "device": host_name(address(0))})
        for name, program in reversed(programs.items())
    ]
    return [*go, ours("sriov, stand-alone"), served.contender("sriov, with helper")]


def with_addresses(folder: str, served: Served) -> list[Contender]:
    """The same plugin with an address from Go's host-local, which runs as a process, and from our own IPAM plugin."""
    ranges = {"subnet": "10.99.0.0/16", "dataDir": folder}
    own = {"type": "barewire-ipam", **ranges}
    return [
        ours("with host-local (Go)", ipam={"type": "host-local", **ranges}),
        ours("with barewire-ipam", ipam=own),
        served.contender("the same, with helper", ipam=own),
    ]


class Served(NamedTuple):
    """A launcher and the helper that serves it."""

    launcher: Path
    helper: int

    def contender(self, name: str, **settings: Any) -> Contender:
        found = ours(name, self.launcher, **settings)
        found.helper = self.helper
        return found


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def run() -> str:
    """Measures and returns the reports."""
    with tempfile.TemporaryDirectory(dir="/run") as folder, helper(Path(folder)) as served:
        reports = [
            measured(f"natively on a veth, {ROUNDS} rounds, medians", plain(served)),
            *[
                parallel(f"{count} calls at a time, until the last has ended, {rounds} rounds", plain(served), count)
                for count, rounds in AT_A_TIME.items()
            ],
            measured(f"`sriov` on a veth with an address, {ROUNDS} rounds", with_addresses(folder, served)),
            grown_pf(served),
            grown_state(Path(folder), served),
        ]
    return "\n\n".join(reports)


def grown_pf(served: Served) -> str:
    """The plugin decodes the answer of a PF with that many VFs each time that it looks at the device.

    The kernel's part, which asks the driver about each VF, is not in it.
    """
    contenders = [served.contender(f"{count} VFs, with helper") for count in VFS]
    contenders += [ours(f"{count} VFs, stand-alone") for count in VFS]
    for one in contenders:
        one.environment[VFS_VARIABLE] = one.name.split()[0]
    return measured(f"VFs of the PF, {ROUNDS} rounds", contenders)


def grown_state(folder: Path, served: Served) -> str:
    """The plugin with that many other attachments on record, each with another device, in directories of their own."""
    with contextlib.ExitStack() as stack:
        contenders = [served.contender(f"{count} records, with helper") for count in RECORDS]
        for one, count in zip(contenders, RECORDS, strict=True):
            one.prefix = stack.enter_context(recorded(folder / f"state{count}", one.config["name"], count))
        return measured(f"records of other attachments, {ROUNDS} rounds", contenders)


def _write_records(state: Path, network: str, count: int) -> None:
    for name in (network, ".devices", ".pending"):
        (state / name).mkdir(mode=0o700, parents=True)
    state.chmod(0o700)
    for number in range(count):
        device = f"0000:aa:{number // 8:02x}.{number % 8}"
        record = Record(
            key=Key(network=network, container_id=f"c{number}", ifname="net1"),
            plugin="sriov",
            device=device,
            netns=f"/run/netns/c{number}",
            netns_identity=f"4:{number}",
            boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            left=("device",),
            found={},
            wanted={},
        )
        (state / network / f"c{number}:net1.json").write_bytes(record.encoded())
        (state / ".devices" / device).symlink_to(f"../{network}/c{number}:net1.json")


@contextlib.contextmanager
def recorded(state: Path, network: str, count: int) -> Iterator[tuple[str, ...]]:
    """The prefix of calls with so many records of other attachments, which are in that new directory."""
    _write_records(state, network, count)
    run = state.with_name(f"{state.name}-run")  # Marks of devices without a record here would disturb other calls.
    run.mkdir(mode=0o700)
    mounts = {state: STATE_DIRECTORY, run: RUN_DIRECTORY}
    script = "".join(f"mount --bind {source} {target} && " for source, target in mounts.items())
    script += "echo ready && exec sleep infinity"
    for target in mounts.values():
        Path(target).mkdir(mode=0o700, parents=True, exist_ok=True)
    holder = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script]
    with subprocess.Popen(holder, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            yield "nsenter", f"--mount=/proc/{process.pid}/ns/mnt"
        finally:
            process.kill()


@contextlib.contextmanager
def helper(folder: Path) -> Iterator[Served]:
    """Runs a helper that serves the plugin on a veth, and yields its launcher."""
    socket = folder / "helper.sock"
    with Helper(socket, [str(DIST / "bench" / NAME)]) as running:
        launcher = entry(DIST / "barewire/launcher", folder / NAME, DIST / "bench", NAME, socket)
        yield Served(launcher, running.pid)


def compared(before: Path) -> str:
    """Compares the same plugin from another `dist` and from this one, to show the cost of a change."""
    old = before / "bench" / NAME
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        ipam = {"type": "barewire-ipam", "subnet": "10.99.0.0/16", "dataDir": folder}
        reports = [
            measured(f"before and after on a veth, {ROUNDS} rounds, medians", [ours("before", old), ours("after")]),
            measured(
                f"the same with barewire-ipam, {ROUNDS} rounds, medians",
                [ours("before", old, ipam=ipam), ours("after", ipam=ipam)],
            ),
        ]
    return "\n\n".join(reports)


@contextlib.contextmanager
def stage(count: int) -> Iterator[list[str]]:
    """Yields the paths of pods' network namespaces. Meanwhile the process is in a namespace of its own with a link for
    each.

    So the measurement is independent of this machine's devices and does not disturb them.
    """
    mark = uuid.uuid4().hex[:6]
    host, pods = f"bwhost{mark}", [f"bwpod{number}-{mark}" for number in range(count)]
    for name in (host, *pods):
        ip("netns", "add", name)
    try:
        for number in range(count):
            link, peer = host_name(address(number)), f"bwpeer{number}"
            ip("-n", host, "link", "add", link, "type", "veth", "peer", "name", peer)
            # Without a carrier, an ADD with an address would wait for one before it announces the address.
            ip("-n", host, "link", "set", peer, "up")
        with open_netns(f"/run/netns/{host}") as netns, netns.entered():
            yield [f"/run/netns/{pod}" for pod in pods]
    finally:
        for name in (host, *pods):
            ip("netns", "del", name)


def measured(title: str, contenders: Sequence[Contender], rounds: int = ROUNDS) -> str:
    """Calls the contenders in turn, each time in another order; the report."""
    with stage(1) as (pod,), contextlib.ExitStack() as stack:
        for contender in contenders:
            stack.enter_context(contender.measured())
        for turn in range(rounds):
            for contender in random.sample(contenders, len(contenders)):
                for command in ("VERSION", "ADD", "DEL"):
                    contender.call(command, pod, f"bench{turn}")
    return report(title, contenders)


def parallel(title: str, contenders: Sequence[Contender], count: int) -> str:
    """Makes so many calls of one contender at a time, until the last of them has ended; the report."""
    with stage(count) as pods, contextlib.ExitStack() as stack:
        for contender in contenders:
            stack.enter_context(contender.measured())
        for turn in range(AT_A_TIME[count]):
            for contender in random.sample(contenders, len(contenders)):
                for command in ("ADD", "DEL"):
                    together(contender, command, pods, turn)
    return report(title, contenders)


def together(contender: Contender, command: str, pods: Sequence[str], turn: int) -> None:
    start = time.perf_counter()
    calls = []
    for number, pod in enumerate(pods):
        device = (
            {"device": host_name(address(number))} if "device" in contender.config else {"deviceID": address(number)}
        )
        calls.append(contender.start(command, pod, f"bench{turn}-{number}", {**contender.config, **device}))
    for call in calls:
        contender.ended(call, command)
    contender.keep(command, start)
