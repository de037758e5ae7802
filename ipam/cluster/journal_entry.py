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
    from typing import Any

SCHEMA = 1

INTENT, HELD, TOMBSTONE = "intent", "held", "tombstone"
"""Asked for, with an outcome that nobody has noted; the owner's; to be freed, which could not be done yet."""

_PLACE = ("kind", "prefix", "namespace", "network_name")
"""What of a document says where leases are; the rest says how one gets there, and may change while they are there."""

_ACCESS = ("endpoints", "caFile", "certFile", "keyFile", "kubeconfig")


class Entry(Value):
    """What a node wants of a cluster for an owner, or has there.

    `claims` is None where nobody knows what it is. `cluster_conf` describes the cluster, and `shared` is the network's name
    there; `node` is the name under which the node has asked. `identity` is the name that the cluster gives itself, `parts` what those of
    its parts are called in which the claims were taken, as pairs (`Cluster.parts`).
    """

    owner: Owner
    phase: str
    claims: tuple[Claim, ...] | None
    cluster_conf: dict[str, Any]
    shared: str
    node: str
    identity: str = ""
    parts: tuple[tuple[str, str], ...] = ()

    def encoded(self) -> bytes:
        document = {
            "schema": SCHEMA,
            "phase": self.phase,
            "owner": self.owner.as_dict(),
            "node": self.node,
            "cluster": self.cluster_conf,
            "clusterNetwork": self.shared,
            **({"identity": self.identity} if self.identity else {}),
            **({"parts": dict(self.parts)} if self.parts else {}),
            "claims": None if self.claims is None else [_claim_document(claim) for claim in self.claims],
        }
        return jsontext.dumps(document).encode() + b"\n"


class Present(Value):
    """What a request's configuration says now of its network's cluster; `cluster_conf` is None where it says nothing."""

    network: str
    cluster_conf: dict[str, Any] | None

    def is_place_of(self, entry: Entry) -> bool:
        """Whether the entry's leases are where the configuration has the network's."""
        if self.cluster_conf is None or entry.owner.network != self.network:
            return False
        return cluster_location(entry.cluster_conf) == cluster_location(self.cluster_conf)

    def cluster_confs(self, entry: Entry) -> list[dict[str, Any]]:
        """The descriptions by which the entry's cluster may be reached, the best first."""
        confs = []
        if self.is_place_of(entry):
            confs.append(self._with_access(entry.cluster_conf))
        if entry.cluster_conf not in confs:
            confs.append(entry.cluster_conf)
        if self.cluster_conf is not None and self._is_guess(entry):
            confs.append({**self.cluster_conf, "node": entry.node})
        return confs

    def _is_guess(self, entry: Entry) -> bool:
        """Whether nobody knows that the entry's document was ever right: it was noted for a DEL without an entry."""
        kinds = entry.cluster_conf.get("kind"), (self.cluster_conf or {}).get("kind")
        return entry.claims is None and entry.owner.network == self.network and kinds[0] == kinds[1]

    def _with_access(self, cluster_conf: dict[str, Any]) -> dict[str, Any]:
        present = self.cluster_conf or {}
        conf = {key: value for key, value in cluster_conf.items() if key not in _ACCESS}
        conf |= {key: present[key] for key in _ACCESS if key in present}
        if "subnets" in conf:
            # What an owner has is looked for in the pools of before, and in those of now.
            conf["subnets"] = list(dict.fromkeys((*conf["subnets"], *present.get("subnets", ()))))
        return conf


def decode(content: bytes) -> Entry:
    """Of the last line that is whole. Raises `ValueError` for a file that is none of ours, or of a later version's."""
    try:
        document = jsontext.loads(content.rpartition(b"\n")[0].rpartition(b"\n")[2])
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
    """Why an entry cannot be one that we wrote; empty when it can."""
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


def cluster_location(cluster_conf: dict[str, Any]) -> tuple[str, ...]:
    """Where leases are by the document, however one gets there."""
    return tuple(str(cluster_conf.get(key) or "").rstrip("/") for key in _PLACE)


def _claim_document(claim: Claim) -> dict[str, Any]:
    """Enough of the range to find it again: what it leaves out matters only where an address is chosen."""
    range_ = claim.range
    return {
        "version": claim.address.version,
        "address": claim.address.number,
        "subnet": range_.subnet.number,
        "prefix": range_.prefix,
        "first": range_.first,
        "last": range_.last,
        "text": str(claim.address),  # for people
    }


def _claim(document: dict[str, Any]) -> Claim:
    version, prefix = document["version"], document["prefix"]
    numbers = [document[name] for name in ("subnet", "first", "last", "address")]
    if not all(isinstance(number, int) and 0 <= number < 1 << BITS[version] for number in numbers):
        raise ValueError("not an entry: a number in it is no address")
    if not isinstance(prefix, int) or not 0 <= prefix <= BITS[version]:
        raise ValueError("not an entry: a prefix in it is none")
    subnet, first, last, address = numbers
    range_ = Range(subnet=Address(version=version, number=subnet), prefix=prefix, first=first, last=last)
    return Claim(range=range_, address=range_.address(address))
