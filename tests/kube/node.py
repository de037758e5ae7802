"""A node of the tests: a process with its own journal, which leases from Kubernetes and frees, and may be killed.

    python -m tests.kube.node <description> <command> ...

The description is a file, written by `Node.describe`. Commands: `add NAME`, `del NAME`, and `churn SEED TURNS`, which
makes both at random. The shared folder `held` has a file for each address that a node believes it has. The file is
created after the address was leased, and removed before it is freed, so a second file of the same name would be a
duplicate.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cni.errors import AddressesExhausted, TryAgainLater
from ipam.cluster.store import Journal, Journaled
from tests.contract.ipam_cluster_contract import NETWORK, V6, owner, range_of
from tests.trusting import opened_kubernetes

if TYPE_CHECKING:
    from ipam.store import ClusterConf

FEW = range_of("10.9.0.0", 24, "10.9.0.1", "10.9.0.32")
"""So few addresses that nodes compete for them."""

SETS = ((FEW,), (V6,))
MOST = 5
"""The approximate number of attachments of a node."""


class Node:
    """`folder` belongs to the node, and all nodes share `held`."""

    def __init__(self, name: str, folder: Path, held: Path, document: ClusterConf, seconds: float) -> None:
        self.name = name
        self._held = held
        self._folder = folder
        self._told = {"name": name, "folder": str(folder), "held": str(held), "document": document, "seconds": seconds}
        for part in (held, folder / "journal", folder / "run"):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        journal = Journal(str(folder / "journal"), str(folder / "run"))
        self.store = Journaled(journal, name, NETWORK, document, opened_kubernetes, seconds=seconds)

    def describe(self) -> Path:
        path = self._folder / "description.json"
        path.write_text(json.dumps(self._told))
        return path

    @classmethod
    def read(cls, path: str) -> Node:
        told = json.loads(Path(path).read_text())
        return cls(told["name"], Path(told["folder"]), Path(told["held"]), told["document"], told["seconds"])

    def attachments(self) -> dict[str, list[Path]]:
        """The attachments that this node believes it has, by container."""
        found: dict[str, list[Path]] = {}
        for path in self._held.iterdir():
            try:
                node, _, container = path.read_text().partition(" ")
            except FileNotFoundError:
                continue  # Another node's, which is being freed.
            if node == self.name:
                found.setdefault(container, []).append(path)
        return found

    def add(self, container: str) -> None:
        """Raises `FileExistsError` if another owner believes it has one of the addresses."""
        for claim in self.store.allocate(owner(container), SETS, (None, None)):
            draft = self._held.parent / f".{self.name}.{claim.address}"
            draft.write_text(f"{self.name} {container}")
            try:
                os.link(draft, self._held / str(claim.address))
            finally:
                draft.unlink()

    def delete(self, container: str, believed: list[Path]) -> None:
        for path in believed:
            path.unlink()
        self.store.release(owner(container))

    def forget_halves(self) -> None:
        """Forgets attachments of which a killed call has created, or removed, only some of the files."""
        for paths in self.attachments().values():
            if len(paths) < len(SETS):
                for path in paths:
                    path.unlink()

    def churn(self, seed: int, turns: int) -> None:
        """Behaves like a runtime: a failed ADD is followed by a DEL."""
        chance = random.Random(seed)
        for turn in range(turns):
            attachments = self.attachments()
            if chance.random() * 2 * MOST < len(attachments):
                self.delete(*chance.choice(sorted(attachments.items())))
                continue
            container = f"{self.name}-{seed}-{turn}"
            try:
                self.add(container)
            except (TryAgainLater, AddressesExhausted):
                self.delete(container, [])


def main(arguments: list[str]) -> None:
    node, command, *told = Node.read(arguments[0]), *arguments[1:]
    if command == "add":
        node.add(told[0])
    elif command == "del":
        node.delete(told[0], node.attachments().get(told[0], []))
    else:
        node.churn(int(told[0]), int(told[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
