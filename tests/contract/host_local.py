"""Go's host-local and ours side by side: calls of the real one, ranges that both accept, and a worker that mixes both.

`python -m tests.contract.host_local <data directory> <run> <seed> <cycles>` is such a worker.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from cni.errors import AddressesExhausted
from ipam import address
from ipam.local.store import Local
from ipam.ranges import Range
from ipam.store import Owner

PROGRAM = "/usr/lib/cni/host-local"
ROOT = Path(__file__).parents[2]
NETWORK = "wire"
SECONDS = 60


class Refused(Exception):
    """The error message of host-local."""


class Go:
    """Debian's host-local on a data directory."""

    def __init__(self, data: str) -> None:
        self.data = data

    def add(self, owner: Owner, sets: tuple[tuple[Range, ...], ...], requested: tuple[str, ...] = ()) -> list[str]:
        """The addresses, in the order of the sets. Raises `Refused`."""
        answer = self._call("ADD", owner, sets, requested)
        return [one["address"].partition("/")[0] for one in answer["ips"]]

    def delete(self, owner: Owner, sets: tuple[tuple[Range, ...], ...]) -> None:
        self._call("DEL", owner, sets)

    def check(self, owner: Owner, sets: tuple[tuple[Range, ...], ...]) -> None:
        """Raises `Refused` if the owner has no addresses."""
        self._call("CHECK", owner, sets)

    def _call(
        self, command: str, owner: Owner, sets: tuple[tuple[Range, ...], ...], requested: tuple[str, ...] = ()
    ) -> Any:
        ranges = [[_range_document(one) for one in ranges] for ranges in sets]
        config = {
            "cniVersion": "1.0.0",
            "name": owner.network,
            "type": "sriov",
            "args": {"cni": {"ips": list(requested)}},
            "prevResult": {"cniVersion": "1.0.0", "ips": []},
            "ipam": {"type": "host-local", "dataDir": self.data, "ranges": ranges},
        }
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": owner.container_id,
            "CNI_NETNS": "/proc/self/ns/net",
            "CNI_IFNAME": owner.ifname,
            "CNI_PATH": "/usr/lib/cni",
        }
        done = subprocess.run(
            [PROGRAM],
            input=json.dumps(config).encode(),
            env=environment,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        answer = json.loads(done.stdout or b"{}")
        if done.returncode:
            raise Refused(answer["msg"])
        return answer


def _range_document(one: Range) -> dict[str, str]:
    document = {
        "subnet": f"{one.subnet}/{one.prefix}",
        "rangeStart": str(one.address(one.first)),
        "rangeEnd": str(one.address(one.last)),
    }
    if one.gateway is not None:
        document["gateway"] = str(one.address(one.gateway))
    return document


def range_of_subnet(cidr: str, first: int = 1, last: int = -2, gateway: int = 1) -> Range:
    """Makes a range. Numbers count from the subnet's first address, or back from behind its last one."""
    net = ipaddress.ip_network(cidr)
    start, size = int(net.network_address), net.num_addresses
    return Range(
        subnet=address.parse(str(net.network_address), "test"),
        prefix=net.prefixlen,
        first=start + first % size,
        last=start + last % size,
        gateway=start + gateway % size,
    )


def owner(name: str, ifname: str = "net1") -> Owner:
    return Owner(network=NETWORK, container_id=name, ifname=ifname)


def ours(data: str, run: str) -> Local:
    return Local(f"{data}/{NETWORK}", run)


def contents(directory: str | Path) -> dict[str, tuple[str, bytes]]:
    """Name, mode and bytes of all files."""
    return {
        path.name: (stat.filemode(path.lstat().st_mode), path.read_bytes())
        for path in sorted(Path(directory).iterdir())
    }


def leased(directory: str | Path) -> dict[str, bytes]:
    """The files of addresses, with their content; empty if the directory does not exist."""
    if not Path(directory).exists():
        return {}
    return {
        name: content
        for name, (_mode, content) in contents(directory).items()
        if name != "lock" and not name.startswith("last_reserved_ip.")
    }


DUAL_STACK = ((range_of_subnet("10.9.0.0/27"),), (range_of_subnet("fd00:9::/123"),))
"""30 addresses each, 29 without the gateway: fewer than the workers want."""


class Worker:
    """Adds and deletes by both implementations in turn, and claims each leased address in a third directory.

    An address that was leased twice cannot be claimed there twice.
    """

    def __init__(self, data: str, run: str, seed: int) -> None:
        self._random = random.Random(seed)
        self._name = f"worker{seed}-{os.getpid()}"
        self._go = Go(data)
        self._ours = ours(data, run)
        self._claims = Path(data) / "claims"
        self._alive: dict[Owner, list[str]] = {}

    def run(self, cycles: int) -> None:
        for i in range(cycles):
            self._add(owner(f"{self._name}-{i}"))
            if len(self._alive) > self._random.randint(0, 9):
                self._delete(self._random.choice(list(self._alive)))
        for one in list(self._alive):
            self._delete(one)

    def _add(self, one: Owner) -> None:
        try:
            if self._random.random() < 0.4:
                got = self._go.add(one, DUAL_STACK)
            else:
                got = [str(claim.address) for claim in self._ours.allocate(one, DUAL_STACK, (None, None))]
        except AddressesExhausted:
            return
        except Refused as refused:
            if "no IP addresses available" not in str(refused):
                raise
            return
        self._alive[one] = got
        for name in got:
            # A symlink has its content from the start, and only one of a name can exist.
            (self._claims / name).symlink_to(one.container_id)

    def _delete(self, one: Owner) -> None:
        for name in self._alive.pop(one):
            (self._claims / name).unlink()
        if self._random.random() < 0.4:
            self._go.delete(one, DUAL_STACK)
        else:
            self._ours.release(one)


def start_worker(data: str, run: str, seed: int, cycles: int) -> subprocess.Popen[bytes]:
    """A worker in a process group of its own."""
    command = [sys.executable, "-m", "tests.contract.host_local", data, run, str(seed), str(cycles)]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE)


if __name__ == "__main__":
    Worker(sys.argv[1], sys.argv[2], int(sys.argv[3])).run(int(sys.argv[4]))
