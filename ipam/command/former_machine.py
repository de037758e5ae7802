"""Frees the leases of machines that had this node's name before: it was replaced or reinstalled.

These leases have this node's name and another machine's ID. GC leaves them alone, because two living machines can have
one name.
"""

from __future__ import annotations

from cni.errors import NotAvailable
from ipam.cluster.journal import known_machine
from ipam.command.free_node import Freed, gateway_to, places_in_etcd
from ipam.command.networks import describe
from ipam.etcd import dead_node
from ipam.etcd.heartbeat import seconds_left

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from ipam.command.networks import Folders, Network
    from ipam.store import ClusterConf


class NotFormer(NotAvailable):
    """The node cannot determine which of the machines is alive."""


class FormerMachines:
    """The leases of other machines under the node name `name`, in the clusters of the networks."""

    def __init__(self, folders: Folders, networks: Iterable[Network], name: str, seconds: float) -> None:
        networks = list(networks)
        self._folders = folders
        self._name = name
        self._seconds = seconds
        self._own = {
            folders.policy.node_name(),
            *(network.node for network in networks if network.cluster_conf is not None),
        }
        self._machine = known_machine(folders.journal)
        self._places = places_in_etcd(networks)
        self.alive: set[str] = set()
        """The machines whose sign of life `leases` found. Their leases are not freed."""

    @property
    def has_clusters(self) -> bool:
        return bool(self._places)

    def require_here(self) -> None:
        """Raises `NotFormer` for another node's name, and if this machine has no identity."""
        if self._name not in self._own:
            raise NotFormer(
                f"{self._name} is not this node", hint="run it on that node, or without --former once it is dead"
            )
        if not self._machine:
            raise NotFormer(
                "this machine has no ID: /etc/machine-id is empty, and the journal has none",
                hint="systemd-machine-id-setup",
            )

    def leases(self) -> list[Freed]:
        """The leases that `free` would free."""
        return [Freed(cluster=describe(cluster_conf), lease=lease) for cluster_conf, lease in self._leases()]

    def free(self) -> Iterator[Freed]:
        """Frees the leases, and yields each. Raises `Alive` if its machine has left a sign of life meanwhile."""
        machines = [(cluster_conf, lease.machine) for cluster_conf, lease in self._leases()]
        for count, (cluster_conf, machine) in enumerate(machines):
            if (cluster_conf, machine) in machines[:count]:
                continue
            gateway, keys = gateway_to(self._folders, cluster_conf, self._name, self._seconds)
            for lease in dead_node.free(gateway, keys.replace(machine=machine), self._seconds):
                yield Freed(cluster=describe(cluster_conf), lease=lease)

    def _leases(self) -> Iterator[tuple[ClusterConf, Any]]:
        for cluster_conf in self._places:
            gateway, keys = gateway_to(self._folders, cluster_conf, self._name, self._seconds)
            dead: dict[str, bool] = {self._machine: False, "": False}
            for lease in dead_node.leases(gateway, keys):
                machine = lease.machine
                if machine not in dead:
                    dead[machine] = seconds_left(gateway, keys.replace(machine=machine)) is None
                    self.alive.update(() if dead[machine] else (machine,))
                if dead[machine]:
                    yield cluster_conf, lease
