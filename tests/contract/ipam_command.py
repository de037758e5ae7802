"""A node for tests of the command `barewire-ipam`: its own folders, real namespaces, and the stores of its calls."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cni.attachment.record import IPAM, Key, Record
from ipam.cluster.store import Journal, Journaled
from ipam.command.main import Host, command
from ipam.command.networks import Folders
from ipam.local.store import Local
from ipam.ranges import Range
from ipam.store import Owner
from ipam.stores import open_living_cluster
from tests.contract.ipam_cluster_contract import range_of
from tests.trusting import POLICY

if TYPE_CHECKING:
    from ipam.store import ClusterConf

SECONDS = 20.0
NETWORK = "flat"
V4 = range_of("10.77.0.0", 24, "10.77.0.1", "10.77.0.254")
V6 = range_of("fd00:77::", 64, "fd00:77::1", "fd00:77::ffff")


def owner(name: str, ifname: str = "net1", network: str = NETWORK) -> Owner:
    return Owner(network=network, container_id=name, ifname=ifname, pod=f"default/{name}")


class Namespace:
    """A named network namespace with addresses on its loopback interface: the kind of device is irrelevant."""

    def __init__(self, *addresses: str) -> None:
        self.name = f"bw-{uuid.uuid4().hex[:8]}"
        self._addresses = addresses

    def __enter__(self) -> Self:
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        for address in self._addresses:
            subprocess.run(["ip", "-n", self.name, "address", "add", address, "dev", "lo"], check=True)
        return self

    def __exit__(self, *_exc: object) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=True)


def last_of(path: Path) -> dict[str, Any]:
    """An entry of the journal: the last line of its file."""
    found: dict[str, Any] = json.loads(path.read_text().splitlines()[-1])
    return found


class Node:
    """`cluster_conf` describes its cluster; None for backend local."""

    def __init__(self, folder: Path, name: str = "", cluster_conf: ClusterConf | None = None, sets=((V4,),)) -> None:
        self.name = name or os.uname().nodename
        self.cluster_conf = cluster_conf
        self.seconds = SECONDS
        self.sets: tuple[tuple[Range, ...], ...] = sets
        self.results = str(folder / "results")
        self.folders = Folders(
            data=str(folder / "nets"),
            state=str(folder / "state"),
            run=str(folder / "run"),
            results=("/nowhere", self.results),
            policy=POLICY,
        )
        for path in (self.folders.data, self.folders.state, self.folders.run, self.folders.journal, self.results):
            os.makedirs(path, mode=0o700)

    def store(self, network: str = NETWORK, *, configured: bool = True) -> Any:
        """The store as the plugin opens it in a call; with `configured=False`, for an empty configuration."""
        if self.cluster_conf is None:
            return Local(f"{self.folders.data}/{network}", self.folders.index, lock_seconds=SECONDS)
        journal = Journal(self.folders.journal, self.folders.run)
        return Journaled(
            journal,
            self.name,
            network,
            self.cluster_conf if configured else None,
            partial(open_living_cluster, run=self.folders.index, policy=POLICY, entries=journal.entries),
            seconds=self.seconds,
        )

    def add(self, name: str, ifname: str = "net1", network: str = NETWORK) -> list[str]:
        claims = self.store(network).allocate(owner(name, ifname, network), self.sets, (None,) * len(self.sets))
        return [str(claim.address) for claim in claims]

    def delete(self, name: str, ifname: str = "net1", network: str = NETWORK, **how: bool) -> None:
        self.store(network, **how).release(owner(name, ifname, network))

    def leases(self, network: str = NETWORK) -> dict[str, str]:
        return {str(lease.address): lease.owner.container_id for lease in self.store(network).leases()}

    def attach(self, name: str, ifname: str = "net1") -> None:
        """Writes the record that `sriov` or `userspace` keeps of an attachment."""
        key = Key(network=NETWORK, container_id=name, ifname=ifname)
        record = Record(
            key=key,
            plugin="sriov",
            device="",
            netns="/run/netns/none",
            netns_identity="0:0",
            boot_id="",
            left=(IPAM,),
            found={},
            wanted={},
        )
        os.makedirs(f"{self.folders.state}/{NETWORK}", mode=0o700, exist_ok=True)
        Path(f"{self.folders.state}/{NETWORK}/{name}:{ifname}.json").write_bytes(record.encoded())

    def keep_result(self, name: str, netns: str = "", ifname: str = "net1", **told: Any) -> None:
        """Writes the result of an ADD to libcni's cache."""
        kept = {"kind": "cniCacheV1", "containerId": name, "ifName": ifname, "networkName": NETWORK, "netns": netns}
        Path(self.results, f"{NETWORK}-{name}-{ifname}").write_text(json.dumps({**kept, **told}))

    def entries(self) -> dict[str, str]:
        """The journal: name of the file, and phase."""
        found = {}
        for path in sorted(Path(self.folders.journal).glob("*/*.json")):
            found[path.name] = last_of(path)["phase"]
        return found

    def files(self) -> dict[str, bytes]:
        """All stored files except the locks and indexes of calls."""
        tops = (self.folders.data, self.folders.state)
        paths = [Path(folder, name) for top in tops for folder, _, names in os.walk(top) for name in names]
        return {str(path): path.read_bytes() for path in paths}

    def run(self, *arguments: str, host: Host | None = None) -> int:
        return command([*arguments], host or Host(folders=self.folders))

    def fsck(self, *arguments: str) -> int:
        """Runs `fsck` regardless of the age of leases."""
        return self.run("fsck", "--older-than", "0", *arguments)
