"""An entry of the journal, as a value and as the content of its file. Pure."""

from __future__ import annotations

from cni import jsontext
from cni.errors import DecodeFailure
from cni.names import attachment_fault, shown
from cni.value import Value
from ipam.address import BITS, Address
from ipam.ranges import Range
from ipam.store import Claim, Owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, NotRequired, TypedDict

    from ipam.store import ClusterConf

    TextKey = Literal["caFile", "certFile", "keyFile", "kubeconfig"]

    class ClaimDict(TypedDict):
        """A claim in the file: addresses are numbers, and `text` is for readers of the file."""

        version: int
        address: int
        subnet: int
        prefix: int
        first: int
        last: int
        text: NotRequired[str]

    class EntryDict(TypedDict):
        """The file's content. Entries of earlier versions lack the keys that are not required."""

        schema: int
        phase: str
        owner: dict[str, str]
        node: str
        cluster: ClusterConf
        clusterNetwork: str
        identity: NotRequired[str]
        parts: NotRequired[dict[str, str]]
        claims: list[ClaimDict] | None


SCHEMA = 1

INTENT, HELD, TOMBSTONE = "intent", "held", "tombstone"
"""Requested, with unknown outcome; held by the owner; to be freed, which has failed so far."""

_PLACE = ("kind", "prefix", "namespace", "network_name")
"""The keys of a cluster_conf that determine where leases are. The others say how to reach the cluster, and may change.
"""

_ACCESS: tuple[TextKey, ...] = ("caFile", "certFile", "keyFile", "kubeconfig")
"""With `endpoints`, the keys that say how to reach the cluster."""


class Entry(Value):
    """The addresses that a node has requested from a cluster, or has there, for an owner.

    `claims` is None if they are unknown. `cluster_conf` describes the cluster, and `shared` is the network's name
    there; `node` is the node's name at the time of the request. `identity` is the cluster's own name; `parts` are the
    parts of it that hold the claims, as pairs of name and unique ID (`Cluster.parts`).
    """

    owner: Owner
    phase: str
    claims: tuple[Claim, ...] | None
    cluster_conf: ClusterConf
    shared: str
    node: str
    identity: str = ""
    parts: tuple[tuple[str, str], ...] = ()

    def encoded(self) -> bytes:
        document: EntryDict = {
            "schema": SCHEMA,
            "phase": self.phase,
            "owner": self.owner.as_dict(),
            "node": self.node,
            "cluster": self.cluster_conf,
            "clusterNetwork": self.shared,
            "claims": None if self.claims is None else [_claim_document(claim) for claim in self.claims],
        }
        if self.identity:
            document["identity"] = self.identity
        if self.parts:
            document["parts"] = dict(self.parts)
        return jsontext.dumps(document).encode() + b"\n"


class Present(Value):
    """The cluster of a network according to the current configuration; `cluster_conf` is None if it names none."""

    network: str
    cluster_conf: ClusterConf | None

    def is_place_of(self, entry: Entry) -> bool:
        """Whether the entry's leases are where the configuration keeps those of the network."""
        if self.cluster_conf is None or entry.owner.network != self.network:
            return False
        return cluster_location(entry.cluster_conf) == cluster_location(self.cluster_conf)

    def cluster_confs(self, entry: Entry) -> list[ClusterConf]:
        """The descriptions by which the entry's cluster may be reachable, the best first."""
        confs: list[ClusterConf] = []
        if self.is_place_of(entry):
            confs.append(self._with_access(entry.cluster_conf))
        if entry.cluster_conf not in confs:
            confs.append(entry.cluster_conf)
        if self.cluster_conf is not None and self._is_guess(entry):
            confs.append({**self.cluster_conf, "node": entry.node})
        return confs

    def _is_guess(self, entry: Entry) -> bool:
        """Whether the entry's description was never confirmed, because it was noted for a DEL without an entry."""
        kinds = entry.cluster_conf.get("kind"), (self.cluster_conf or {}).get("kind")
        return entry.claims is None and entry.owner.network == self.network and kinds[0] == kinds[1]

    def _with_access(self, cluster_conf: ClusterConf) -> ClusterConf:
        present: ClusterConf = self.cluster_conf or {}
        conf: ClusterConf = {**cluster_conf}
        conf.pop("endpoints", None)
        if "endpoints" in present:
            conf["endpoints"] = present["endpoints"]
        for key in _ACCESS:
            conf.pop(key, None)
            if key in present:
                conf[key] = present[key]
        if "subnets" in conf:
            # The owner's addresses may be in the pools of the old or of the new configuration.
            conf["subnets"] = list(dict.fromkeys((*conf["subnets"], *present.get("subnets", ()))))
        return conf


def decode(content: bytes) -> Entry:
    """Decodes the last complete line. Raises `ValueError` for files in another format or of a later version."""
    try:
        value: Any = jsontext.loads(content.rpartition(b"\n")[0].rpartition(b"\n")[2])
        document: EntryDict = value
        if document["schema"] != SCHEMA:
            raise ValueError(f"its schema is {document['schema']}")
        claims = document["claims"]
        entry = Entry(
            owner=Owner(**document["owner"]),
            phase=document["phase"],
            claims=None if claims is None else tuple(_claim(claim) for claim in claims),
            cluster_conf=document["cluster"],
            shared=document["clusterNetwork"],
            node=document["node"],
            identity=document.get("identity", ""),
            parts=tuple(sorted((str(name), str(uid)) for name, uid in document.get("parts", {}).items())),
        )
    except (DecodeFailure, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an entry: {error}") from error
    fault = _fault(entry)
    if fault:
        raise ValueError(f"not an entry: {fault}")
    return entry


def _fault(entry: Entry) -> str:
    """The reason why the entry cannot be one that we wrote; empty if it is valid."""
    owner = entry.owner
    fault = attachment_fault(owner.network, owner.container_id, owner.ifname)
    if fault:
        return fault
    if entry.phase not in (INTENT, HELD, TOMBSTONE):
        return f"its phase is {shown(entry.phase)}"
    cluster: object = entry.cluster_conf
    if not isinstance(cluster, dict):
        return "its cluster is no object"
    texts = (owner.pod, owner.pod_uid, entry.shared, entry.node, entry.identity)
    return "" if all(isinstance(text, str) for text in texts) else "a name in it is no text"


def cluster_location(cluster_conf: ClusterConf) -> tuple[str, ...]:
    """The location of the leases, regardless of how the cluster is reached."""
    return tuple(str(cluster_conf.get(key) or "").rstrip("/") for key in _PLACE)


def _claim_document(claim: Claim) -> ClaimDict:
    """The claim with as much of its range as is needed to find it again.

    Exclusions matter only when an address is chosen.
    """
    range_ = claim.range
    return {
        "version": claim.address.version,
        "address": claim.address.number,
        "subnet": range_.subnet.number,
        "prefix": range_.prefix,
        "first": range_.first,
        "last": range_.last,
        "text": str(claim.address),
    }


def _claim(document: ClaimDict) -> Claim:
    version, prefix = document["version"], document["prefix"]
    numbers = [document["subnet"], document["first"], document["last"], document["address"]]
    if not all(isinstance(number, int) and 0 <= number < 1 << BITS[version] for number in numbers):
        raise ValueError("not an entry: a number in it is no address")
    if not isinstance(prefix, int) or not 0 <= prefix <= BITS[version]:
        raise ValueError("not an entry: a prefix in it is none")
    subnet, first, last, address = numbers
    range_ = Range(subnet=Address(version=version, number=subnet), prefix=prefix, first=first, last=last)
    return Claim(range=range_, address=range_.address(address))
