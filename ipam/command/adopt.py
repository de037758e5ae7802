"""Moves this node's leases of a network from former locations to the location that is configured now.

Each interface is moved separately, and has its addresses in the new location before they are released in the old one.
The next run completes an interrupted one, and a DEL frees the addresses in both.
"""

from __future__ import annotations

import os
from functools import partial

from cni import jsontext
from cni.errors import CniError, DecodeFailure, InvalidConfig, NotAvailable
from cni.host.files import read_file
from cni.host.folders import entries as names_in
from cni.names import file_name
from cni.protocol.cni_args import cni_arguments
from cni.value import Value
from ipam.address import Address, parse
from ipam.cluster.journal import Journal
from ipam.cluster.journal_entry import HELD, INTENT, TOMBSTONE, Entry, cluster_location
from ipam.cluster.release import PendingReleases
from ipam.cluster.succession import remaining_claims
from ipam.command.networks import describe, entries, records
from ipam.kubernetes.cluster import open_kubernetes
from ipam.local.directory import Directory
from ipam.ranges import range_of
from ipam.store import Claim, Owner, claim_on, ignore, owner_fault
from ipam.stores import LOCK_SECONDS, open_living_cluster

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ipam.command.networks import Folders, Network
    from ipam.kubernetes.cluster import Kubernetes
    from ipam.store import Cluster

    Pods = dict[str, tuple[str, str]]


class NotAdopted(NotAvailable):
    """An interface keeps its leases in the former location."""


class Move(Value):
    """The leases of an interface in a former location.

    `former` describes the location, unless it is host-local's `directory`. `entry` is the entry in the journal; leases
    of other plugins have none. Addresses that a later sandbox of the pod holds by now are in the entry, but not in
    `addresses`.
    """

    owner: Owner
    addresses: tuple[Address, ...]
    former: Entry | None = None
    entry: Entry | None = None
    directory: str = ""

    def __str__(self) -> str:
        who = f"{self.owner.container_id}/{self.owner.ifname}" + (f" of {self.owner.pod}" if self.owner.pod else "")
        location = self.directory if self.former is None else describe(self.former.cluster_conf)
        return f"{_texts(self.addresses) or 'no addresses'}  {who}  {location}"


class Adoption:
    """Moves the leases of one network, as it is configured now.

    With `abandon`, leases are given up in former locations that cannot be reached.
    """

    def __init__(
        self,
        folders: Folders,
        network: Network,
        warn: Callable[[str], None],
        seconds: float,
        *,
        abandon: bool = False,
    ) -> None:
        self._folders = folders
        self._network = network
        self._warn = warn
        self._seconds = seconds
        self._abandon = abandon
        self._journal = Journal(folders.journal, folders.run, warn=warn)
        open_living = partial(
            open_living_cluster, run=folders.index, policy=folders.policy, entries=self._journal.entries
        )
        self._releases = PendingReleases(self._journal, open_living, seconds)

    def found(self) -> list[Move]:
        """The leases to be moved. Raises `CniError` if the configured location does not respond."""
        cluster = None if self._network.cluster_conf is None else self._cluster()
        identity = ""
        if cluster is not None:
            cluster.reach()
            identity = cluster.identity().cluster
        read = entries(self._folders, [self._network.name])
        held = [entry for entry in read if isinstance(entry, Entry) and entry.phase == HELD and entry.claims]
        moves = [
            Move(owner=entry.owner, addresses=tuple(claim.address for claim in claims), former=entry, entry=entry)
            for entry, claims in remaining_claims(held, held, self._journal.modified)
            if not self._is_here(entry, identity)
        ]
        return moves + list(self._of_directories())

    def of_pods(self, former: Network) -> list[Move]:
        """The leases of this node's pods in whereabouts' resources that are not in the journal."""
        cluster_conf = former.cluster_conf or {}
        cluster = open_kubernetes(cluster_conf, former.name, self._seconds, self._folders.policy.api_servers())
        journal = [entry for entry in entries(self._folders, [self._network.name]) if isinstance(entry, Entry)]
        # An entry with an unknown outcome may be left over from an interrupted run.
        known = {
            (entry.owner.container_id, entry.owner.ifname) for entry in journal if entry.phase in (HELD, TOMBSTONE)
        }
        leased: dict[Owner, list[Address]] = {}
        # The pools are read first: a pod exists before it has an address.
        for lease in list(cluster.leases(self._network.name)):
            if (lease.owner.container_id, lease.owner.ifname) not in known and lease.owner.pod:
                leased.setdefault(lease.owner, []).append(lease.address)
        return [
            Move(owner=owner, addresses=tuple(addresses), former=_former(owner, addresses, former))
            for owner, addresses in leased.items()
            if self._is_of_node(cluster, owner, addresses, former.node)
        ]

    def _is_of_node(self, cluster: Kubernetes, owner: Owner, addresses: Iterable[Address], node: str) -> bool:
        try:
            return cluster.node_of(owner.pod) == node
        except InvalidConfig:
            who = f"{owner.container_id}/{owner.ifname}"
            self._warn(f"{_texts(addresses)} of {who} is not moved: {owner.pod!r} is not a valid name of a pod")
            return False

    def take_over(self, move: Move) -> None:
        """Raises `NotAdopted`, and the errors of both locations."""
        fault = owner_fault(move.owner)
        if fault:
            raise NotAdopted(f"{_texts(move.addresses)} cannot be moved: its owner is invalid: {fault}")
        with self._journal.locked(move.owner, self._seconds):
            entry = self._journal.find(move.owner)
            if move.entry is not None and entry != move.entry:
                raise NotAdopted(f"{move.owner.container_id} has changed meanwhile", hint="run it again")
            if self._network.cluster_conf is None:
                self._into_directory(move)
            else:
                self._into_cluster(move, entry)

    def _into_cluster(self, move: Move, entry: Entry | None) -> None:
        cluster = self._cluster()
        owner = move.owner if entry is None else entry.owner
        if entry is not None and entry.phase != HELD and not self._is_resumable(entry):
            raise NotAdopted(
                f"{owner.container_id} is being changed by a call, or waits to be released", hint="run it again"
            )
        kept = _kept(move, entry)
        known = {claim.address for claim in kept}
        new = tuple(self._claim(address) for address in move.addresses if address not in known)
        intent = self._entry(owner, (*kept, *new))
        if entry is None:
            self._journal.save(intent)
        refused = cluster.take(intent.claims or (), owner)
        if refused:
            if entry is None:
                self._journal.forget(owner)
            raise NotAdopted(
                f"{_texts(claim.address for claim in refused)} belongs to another owner in {self._network}"
            )
        if move.former is not None:
            self._leave(move.former, cluster)
        self._journal.save(intent.replace(phase=HELD, identity=cluster.identity().cluster))
        if move.directory:
            self._remove_files(move)

    def _into_directory(self, move: Move) -> None:
        expected = (move.owner.container_id, move.owner.ifname)
        with self._directory(self._folders.directory_of(self._network)) as directory:
            for name in map(str, move.addresses):
                directory.take([name], *expected)
                if (directory.lease_file(name) or ("", "", ""))[1:] != expected:
                    raise NotAdopted(f"{name} belongs to another owner in {directory.path}")
        if move.directory:
            self._remove_files(move)
        elif move.former is not None and not self._releases.release_or_keep(move.former):
            self._warn(
                f"{move.owner.container_id}: a later call releases its leases in {describe(move.former.cluster_conf)}"
            )

    def _leave(self, entry: Entry, now: Cluster) -> None:
        """Releases the leases in the former location, unless it has become the configured one."""
        try:
            before = self._releases.cluster(entry.cluster_conf, entry.shared)
            before.reach()
            name = now.identity().cluster
            if name and before.identity().cluster == name and self._is_located(entry):
                return
            before.give_back(entry.claims or (), entry.owner)
        except CniError as error:
            if not self._abandon:
                raise NotAdopted(
                    f"cannot release leases in {describe(entry.cluster_conf)}: {error.msg}",
                    hint="use --abandon if that cluster is gone for good",
                ) from error
            self._warn(
                f"the leases of {entry.owner.container_id} in {describe(entry.cluster_conf)} stay there: {error.msg}"
            )

    def _remove_files(self, move: Move) -> None:
        with self._directory(move.directory) as directory:
            for name in map(str, move.addresses):
                if (directory.lease_file(name) or ("", "", ""))[1:] == (move.owner.container_id, move.owner.ifname):
                    directory.remove(name)

    def _of_directories(self) -> Iterator[Move]:
        path = f"{self._folders.data}/{file_name(self._network.name)}"
        if path == self._network.directory or not os.path.isdir(path):
            return
        with self._directory(path) as directory:
            files = list(directory.checked_files(ignore))
        pods = _pods(self._folders) if files else {}
        holders: dict[tuple[str, str], list[Address]] = {}
        for name, container_id, ifname in files:
            holders.setdefault((container_id, ifname), []).append(parse(name, path))
        for (container_id, ifname), addresses in holders.items():
            pod, uid = pods.get(container_id, ("", ""))
            owner = Owner(network=self._network.name, container_id=container_id, ifname=ifname, pod=pod, pod_uid=uid)
            yield Move(owner=owner, addresses=tuple(addresses), directory=path)

    def _is_resumable(self, entry: Entry) -> bool:
        """Whether an interrupted run can have left the entry. The owner's lock is held, so no call is working on it."""
        return entry.phase == INTENT and self._is_located(entry)

    def _is_here(self, entry: Entry, identity: str) -> bool:
        return self._is_located(entry) and entry.identity in ("", identity)

    def _is_located(self, entry: Entry) -> bool:
        cluster_conf = self._network.cluster_conf
        if cluster_conf is None or entry.shared != self._network.shared:
            return False
        return cluster_location(entry.cluster_conf) == cluster_location(cluster_conf)

    def _entry(self, owner: Owner, claims: tuple[Claim, ...]) -> Entry:
        network = self._network
        return Entry(
            owner=owner,
            phase=INTENT,
            claims=claims,
            cluster_conf=network.cluster_conf or {},
            shared=network.shared,
            node=network.node,
        )

    def _claim(self, address: Address) -> Claim:
        homes = (range_of(ranges, address) for ranges in self._network.sets)
        home = next((range_ for range_ in homes if range_ is not None), None)
        return claim_on(address) if home is None else Claim(range=home, address=address)

    def _cluster(self) -> Cluster:
        return self._releases.cluster(self._network.cluster_conf or {}, self._network.shared)

    def _directory(self, path: str) -> Directory:
        return Directory(path, min(self._seconds, LOCK_SECONDS))


def _kept(move: Move, entry: Entry | None) -> tuple[Claim, ...]:
    """The claims of the entry that the owner keeps."""
    claims = (entry.claims or ()) if entry is not None else ()
    return claims if move.entry is None else tuple(claim for claim in claims if claim.address in move.addresses)


def _former(owner: Owner, addresses: Iterable[Address], network: Network) -> Entry:
    """The entry that the journal would have."""
    return Entry(
        owner=owner,
        phase=HELD,
        claims=tuple(map(claim_on, addresses)),
        cluster_conf=network.cluster_conf or {},
        shared=network.shared,
        node=network.node,
    )


def _texts(addresses: Iterable[Address]) -> str:
    return ", ".join(map(str, addresses))


def _pods(folders: Folders) -> Pods:
    """The pods of containers, from the CNI_ARGS in our records and in the runtime's results."""
    pods: Pods = {}
    for folder in folders.results:
        for name in names_in(folder):
            kept = _object_in(f"{folder}/{name}")
            arguments = kept.get("cniArgs")
            pairs = (
                [pair for pair in arguments if isinstance(pair, list) and len(pair) == 2]
                if isinstance(arguments, list)
                else []
            )
            _note(pods, kept.get("containerId"), {str(key): str(value) for key, value in pairs})
    for record in records(folders):
        if not isinstance(record, str):
            _note(pods, record.key.container_id, _arguments(str((record.ipam or {}).get("args") or "")))
    return pods


def _note(pods: Pods, container_id: object, arguments: dict[str, str]) -> None:
    namespace, name = arguments.get("K8S_POD_NAMESPACE"), arguments.get("K8S_POD_NAME")
    if isinstance(container_id, str) and namespace and name:
        pods[container_id] = (f"{namespace}/{name}", arguments.get("K8S_POD_UID", ""))


def _arguments(text: str) -> dict[str, str]:
    try:
        return dict(cni_arguments(text))
    except CniError:
        return {}


def _object_in(path: str) -> dict[str, object]:
    try:
        content = jsontext.loads(read_file(path) or b"")
    except (CniError, DecodeFailure):
        return {}
    return content if isinstance(content, dict) else {}
