"""`python -m tests.bench.ipam_calls`: whole calls of the frozen `barewire-ipam`, alone and with its helper.

They run 32 at a time. The leases are in an API server and in etcd, both over TLS. The API server is the strict one of
the tests, a Python process, so its CPU time is reported beside that of the calls; etcd is a real one. Each round
measures one batch of each contender, in random order. CPU time includes that of all processes of a call.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.alone import unshare_mounts
from tests.etcd.server import EtcdServer
from tests.kube.apiserver import ApiServer
from tests.kube.authority import certificates
from tests.kube.routes import RIGHTS
from tests.launched import Helper, entry
from tests.ovs.daemon import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "dist/barewire"
PLUGIN = "barewire-ipam"
AT_A_TIME, CALLS, ROUNDS = 32, 32, 3
BOUND = 6.0
WAITING = 2
"""How many children of a helper wait for a call."""
CREDENTIALS = Path("/etc/cni/net.d/barewire.d")
SECONDS = 300.0
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Contender:
    """An executable, and for each command the calls per second and the CPU time in ms of a call, of each batch."""

    name: str
    program: Path
    helper: Helper | None = None
    rates: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    server_cpu: dict[str, list[float]] = field(default_factory=dict)


class Server:
    """A server of leases: the section `ipam` of a configuration, and its process."""

    def __init__(self, name: str, ipam: dict[str, Any], pid: int) -> None:
        self.name = name
        self.ipam = ipam
        self.pid = pid


def main() -> None:
    unshare_mounts()
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm") as folder:
        _mount(Path(folder))
        with Helper(Path("/run/helper.sock"), [str(BUNDLE / "barewire-helper")]) as helper:
            launcher = entry(BUNDLE / "launcher", Path(folder) / PLUGIN, BUNDLE, PLUGIN, helper.socket)
            for server in (kubernetes, etcd):
                with server() as opened:
                    alone = Contender("stand-alone", BUNDLE / PLUGIN)
                    helped = Contender("with helper", launcher, helper)
                    _measure(opened, [alone, helped], Path(folder))
                    print(report(opened, alone, helped), flush=True)


def run() -> str:
    """The reports, of a process with mounts of its own."""
    command = [sys.executable, "-m", "tests.bench.ipam_calls"]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def _mount(folder: Path) -> None:
    for name in ("upper", "work"):
        (folder / name).mkdir()
    options = f"lowerdir=/etc,upperdir={folder}/upper,workdir={folder}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", "/etc"], check=True)
    for path in ("/var/lib/cni", "/run"):
        Path(path).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", path], check=True)
    CREDENTIALS.mkdir(parents=True, exist_ok=True)
    subprocess.run(["ip", "netns", "add", "pod"], check=True)


@contextlib.contextmanager
def kubernetes() -> Iterator[Server]:
    spawned = multiprocessing.get_context("spawn")
    ours, theirs = spawned.Pipe()
    path = CREDENTIALS / "barewire.kubeconfig"
    process = spawned.Process(target=_serve, args=(str(path), theirs))
    process.start()
    ours.recv()
    try:
        assert process.pid
        yield Server("kubernetes", {"backend": "kubernetes", "kubernetes": {"kubeconfig": str(path)}}, process.pid)
    finally:
        ours.send("end")
        process.join(SECONDS)


def _serve(path: str, pipe: Connection) -> None:
    with ApiServer() as api:
        api.rights = RIGHTS
        api.kubeconfig(Path(path)).chmod(0o600)
        pipe.send("ready")
        pipe.recv()


@contextlib.contextmanager
def etcd() -> Iterator[Server]:
    known = certificates()
    files = {"caFile": known.authority.certificate, "certFile": known.client.certificate, "keyFile": known.client.key}
    with EtcdServer(secure=True) as server:
        access = {key: shutil.copy(source, CREDENTIALS / key) for key, source in files.items()}
        conf = {"endpoints": [server.endpoint], **{key: str(path) for key, path in access.items()}}
        yield Server("etcd", {"backend": "etcd", "etcd": conf}, server.pid)


def _measure(server: Server, contenders: list[Contender], folder: Path) -> None:
    for turn in range(-1, ROUNDS):  # The first round is short, warms up, and is not kept.
        for one in random.sample(contenders, len(contenders)):
            names = [f"{one.name.replace(' ', '')}{turn}x{number}" for number in range(CALLS if turn >= 0 else 2)]
            for command in ("ADD", "DEL"):
                _batch(server, one, command, names, folder, keep=turn >= 0)


def _batch(server: Server, one: Contender, command: str, names: list[str], folder: Path, *, keep: bool) -> None:
    conf = folder / "conf"
    ipam = {"type": PLUGIN, **server.ipam, "range": "10.61.0.0/16"}
    conf.write_text(json.dumps({"cniVersion": "1.0.0", "name": "bench", "type": "any", "ipam": ipam}))
    helper = one.helper.pid if one.helper else 0
    before = _cpu(helper), _cpu(server.pid)
    start = time.perf_counter()
    spent = _calls(one.program, command, names, conf, folder)
    wall = time.perf_counter() - start
    if one.helper:
        # Only the time of children that the helper has waited for is in its sum.
        until("the end of the helper's children", lambda: one.helper is None or len(one.helper.children()) <= WAITING)
    spent += _cpu(helper) - before[0]
    if keep:
        one.rates.setdefault(command, []).append(len(names) / wall)
        one.cpu.setdefault(command, []).append(1000 * spent / len(names))
        one.server_cpu.setdefault(command, []).append(1000 * (_cpu(server.pid) - before[1]) / len(names))


def _calls(program: Path, command: str, names: list[str], conf: Path, folder: Path) -> float:
    """Makes the calls, and returns the CPU seconds of the processes. Raises `RuntimeError` with a failed output."""
    running: dict[int, str] = {}
    waiting, spent = list(names), 0.0
    while waiting or running:
        while waiting and len(running) < AT_A_TIME:
            name = waiting.pop()
            running[_started(program, command, name, conf, folder / f"out-{name}")] = name
        pid, status, usage = os.wait4(-1, 0)
        name = running.pop(pid)
        spent += usage.ru_utime + usage.ru_stime
        out = folder / f"out-{name}"
        if status:
            raise RuntimeError(f"{program} {command}: {out.read_text()}")
        out.unlink()
    return spent


def _started(program: Path, command: str, name: str, conf: Path, out: Path) -> int:
    """Without `subprocess`, which would take a tenth of the time of a call with the helper."""
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": name,
        "CNI_NETNS": "/run/netns/pod",
        "CNI_IFNAME": "net1",
        "CNI_PATH": str(BUNDLE),
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_UID={name}",
        "PATH": os.environ.get("PATH", ""),
    }
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, str(conf), os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(out), os.O_WRONLY | os.O_CREAT, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(program, [str(program)], environment, file_actions=actions)


def _cpu(pid: int) -> float:
    """CPU seconds of a process and of its children that have ended; 0 for no process."""
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICK


def report(server: Server, alone: Contender, helped: Contender) -> str:
    """Medians of the batches."""
    lines = [
        f"whole calls of {PLUGIN}, backend {server.name} over TLS, {AT_A_TIME} at a time, {ROUNDS} x {CALLS} calls"
    ]
    for command in alone.rates:
        for one in (alone, helped):
            values = [statistics.median(found[command]) for found in (one.rates, one.cpu, one.server_cpu)]
            lines.append(
                f"{command} {one.name:12}{values[0]:8.1f} a second{values[1]:8.1f} ms CPU,"
                f"{values[2]:6.1f} ms of the server"
            )
        rates, cpu = (statistics.median(h) / statistics.median(a) for h, a in _pairs(alone, helped, command))
        lines.append(f"{command} with helper: {rates:.2f} times as many calls a second, {1 / cpu:.2f} times less CPU")
    lines.append(f"bound: {BOUND} times as many (backend kubernetes)")
    return "\n".join(lines)


def _pairs(alone: Contender, helped: Contender, command: str) -> list[tuple[list[float], list[float]]]:
    return [(helped.rates[command], alone.rates[command]), (helped.cpu[command], alone.cpu[command])]


if __name__ == "__main__":
    main()
