"""Nodes with their own journals that share one fake cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cni.errors import InvalidConfig
from ipam.cluster.store import Journal, Journaled
from ipam.store import Owner
from tests.contract.ipam_cluster_contract import NETWORK, V4, V6
from tests.fake_cluster import FakeCluster, Shared

if TYPE_CHECKING:
    from ipam.store import ClusterConf

FAKE: ClusterConf = {"kind": "fake"}
SETS = ((V4,), (V6,))


class Node:
    """One node, whose journal is in `folder`. `clusters` are the clusters of its cluster_confs, by endpoint or kind."""

    def __init__(self, folder: Path, name: str, clusters: dict[str, Shared]) -> None:
        self.folder = folder / name
        self.name = name
        self.machine = name.encode().hex().ljust(32, "f")[:32]
        self.warnings: list[str] = []
        self.clusters = clusters
        self.folder.mkdir(parents=True, mode=0o700)

    def store(self, network: str = NETWORK, cluster_conf: ClusterConf | None = FAKE, **how) -> Journaled:
        return Journaled(self.journal(), self.name, network, cluster_conf, self.open, **how)

    def journal(self) -> Journal:
        (self.folder.parent / f"{self.folder.name}.id").write_text(f"{self.machine}\n")
        machine_id = f"{self.folder}.id"
        return Journal(
            str(self.folder / "journal"), str(self.folder / "run"), warn=self.warnings.append, machine_id=machine_id
        )

    def open(self, cluster_conf: ClusterConf, network: str, seconds: float) -> FakeCluster:
        assert seconds >= 0
        (name,) = cluster_conf.get("endpoints", [cluster_conf["kind"]])
        if name not in self.clusters:
            raise InvalidConfig(f"{name}: there is no such file")
        return FakeCluster(self.clusters[name], cluster_conf["node"], cluster_conf["machine"])

    def add(self, name: str, ifname: str = "net1", sets=SETS, **how) -> list[str]:
        pod = {key: how.pop(key) for key in ("pod", "pod_uid") if key in how}
        who = Owner(network=how.get("network", NETWORK), container_id=name, ifname=ifname, **pod)
        return [str(claim.address) for claim in self.store(**how).allocate(who, sets, (None,) * len(sets))]

    def files(self) -> list[str]:
        """The files in the journal, and the locks that are left."""
        places = [os.path.join(top, name) for top, _, names in os.walk(self.folder) for name in names]
        return sorted(os.path.relpath(place, self.folder) for place in places)
