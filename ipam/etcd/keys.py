"""The form of leases in etcd: keys and values. Pure."""

from __future__ import annotations

import binascii

from cni import jsontext
from cni.errors import DecodeFailure
from cni.value import Value
from ipam.address import BITS, Address
from ipam.store import Lease, Owner, owner_fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.jsontext import JsonObject


_HEX = frozenset("0123456789abcdef")


class StoredLease(Value):
    """A lease as stored in etcd, and the revision of its last change.

    `lease` is None if the value is not ours, or names an invalid owner; `fault` is the reason.
    """

    lease: Lease | None
    address: Address
    revision: str
    fault: str = ""


class Keys(Value):
    """The keys of one network below the prefix, for one node. `machine` distinguishes nodes of the same name.

    `<prefix>/<network>/ip/<4|6><hex>` holds a lease, and so does its index, `<prefix>/<network>/node/<node>/<container
    ID>/<interface>/<4|6><hex>`, which only speeds up the search. `<prefix>/<network>/witness/<node>/<machine>/<network
    on the node>` is written with each lease: an etcd in which its revision is older than the one that the node noted
    has been restored from a backup, or is another one.
    """

    prefix: str
    network: str
    node: str
    machine: str = ""

    def ip(self, address: Address) -> bytes:
        return f"{self.prefix}/{self.network}/ip/{_digits(address)}".encode()

    def ips(self) -> bytes:
        """The prefix of the keys of all addresses."""
        return f"{self.prefix}/{self.network}/ip/".encode()

    def index(self, owner: Owner, address: Address) -> bytes:
        return self.indexes(owner) + _digits(address).encode()

    def indexes(self, owner: Owner) -> bytes:
        return self.node_indexes() + f"{owner.container_id}/{owner.ifname}/".encode()

    def node_indexes(self) -> bytes:
        return f"{self.prefix}/{self.network}/node/{self.node}/".encode()

    def witness(self, network: str) -> bytes:
        return self.witnesses() + network.encode()

    def witnesses(self) -> bytes:
        """The prefix of the node's witnesses, or of those of one machine if it is known."""
        machine = f"{self.machine}/" if self.machine else ""
        return f"{self.prefix}/{self.network}/witness/{self.node}/{machine}".encode()

    def value(self, owner: Owner) -> bytes:
        document = {
            "container": owner.container_id,
            "ifname": owner.ifname,
            "machine": self.machine,
            "node": self.node,
            "network": owner.network,
            "pod": owner.pod,
            "uid": owner.pod_uid,
        }
        return jsontext.dumps(document).encode()

    def is_of(self, lease: Lease | None, owner: Owner) -> bool:
        """Whether the lease belongs to the owner on this node.

        The rest of what is known about the owner may have changed.
        """
        if lease is None:
            return False
        known = (lease.node, lease.owner.container_id, lease.owner.ifname)
        return known == (self.node, owner.container_id, owner.ifname)


def stored_lease(entry: JsonObject) -> StoredLease | None:
    """Decodes a key and value in the form of the gateway; None if the key is not that of an address."""
    address = address_of(entry)
    if address is None:
        return None
    revision = str(entry.get("mod_revision", ""))
    try:
        lease = _lease(entry.get("value", ""), address)
        fault = owner_fault(lease.owner)
    except (DecodeFailure, KeyError, TypeError, AttributeError, ValueError):
        return StoredLease(
            lease=None, address=address, revision=revision, fault="the value was not written by Barewire"
        )
    return StoredLease(lease=None if fault else lease, address=address, revision=revision, fault=fault)


def address_of(entry: JsonObject) -> Address | None:
    """The address in the last component of the key."""
    suffix = binascii.a2b_base64(entry["key"]).rpartition(b"/")[2].decode("ascii", "replace")
    version = {"4": 4, "6": 6}.get(suffix[:1], 0)
    if not version or len(suffix) != 1 + BITS[version] // 4 or not _HEX.issuperset(suffix[1:]):
        return None
    return Address(version=version, number=int(suffix[1:], 16))


def number_of(key: str) -> int:
    """The number in a key in base64; -1 if the key is not that of an address."""
    try:
        return int(binascii.a2b_base64(key).rpartition(b"/")[2][1:], 16)
    except ValueError:
        return -1


def after(prefix: bytes) -> bytes:
    """The first key after all keys with the prefix, which must not end with byte 255."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


def _digits(address: Address) -> str:
    # The width is fixed, so that keys and numbers have the same order.
    return f"{address.version}{address.number:0{BITS[address.version] // 4}x}"


def _lease(value: str, address: Address) -> Lease:
    document = jsontext.loads(binascii.a2b_base64(value))
    owner = Owner(
        network=document["network"],
        container_id=document["container"],
        ifname=document["ifname"],
        pod=str(document.get("pod", "")),
        pod_uid=str(document.get("uid", "")),
    )
    holder = {key: str(document.get(key, "")) for key in ("node", "machine")}
    return Lease(address=address, owner=owner, **holder)
