"""The form of whereabouts' leases in Kubernetes: names of objects, their content, and patches. Pure.

Its resources belong to the group whereabouts.cni.cncf.io/v1alpha1. An IPPool belongs to one subnet; `spec.allocations`
has an entry per leased address, keyed by the decimal offset from the subnet's address. An OverlappingRangeIPReservation
belongs to one address, across all pools.
"""

from __future__ import annotations

from cni.errors import InvalidConfig
from cni.value import Value
from ipam.address import BITS, Address, parse_cidr
from ipam.ranges import Range
from ipam.store import Claim, Lease, Owner, holder_fault, ignore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cni.jsontext import JsonObject
    from ipam.ranges import RangeSet
    from ipam.store import ClusterConf, Report

    Claims = tuple[Claim, ...]
    Patch = list[JsonObject]
    Allocated = tuple[Claim, JsonObject]
    """An address of a pool, and its allocation as it was read."""

API = "whereabouts.cni.cncf.io/v1alpha1"
POOLS = "ippools"
RESERVATIONS = "overlappingrangeipreservations"
ALLOCATIONS = "/spec/allocations"
GIVEN_UP = "freed:"
"""Prefix of the podref of an allocation that is about to be removed, which prevents later containers from using it."""

POD_UID = "barewire/pod-uid"
"""An annotation of our reservations, because a later pod may have the same name."""


class PoolLocation(Value):
    """The location of a network's leases: access to the API server, and settings that determine names of objects.

    An empty `namespace` stands for that of the kubeconfig. `subnets` are all subnets of the network, as CIDR.
    """

    kubeconfig: str
    namespace: str = ""
    network_name: str = ""
    overlapping: bool = True
    subnets: tuple[str, ...] = ()


def cluster_conf(location: PoolLocation) -> ClusterConf:
    """The cluster_conf of a location, from which `open_kubernetes` opens it."""
    return {
        "kind": "kubernetes",
        "kubeconfig": location.kubeconfig,
        "namespace": location.namespace,
        "network_name": location.network_name,
        "overlapping": location.overlapping,
        "subnets": list(location.subnets),
    }


def pool_location(cluster_conf: ClusterConf) -> PoolLocation:
    """The location in a cluster_conf. Raises `InvalidConfig`."""
    try:
        return PoolLocation(
            kubeconfig=cluster_conf["kubeconfig"],
            namespace=cluster_conf["namespace"],
            network_name=cluster_conf["network_name"],
            overlapping=cluster_conf["overlapping"],
            subnets=tuple(cluster_conf["subnets"]),
        )
    except (KeyError, TypeError) as error:
        raise InvalidConfig(f"the description of a Kubernetes backend is incomplete: {error}") from error


def subnets_of(sets: Iterable[RangeSet]) -> tuple[str, ...]:
    """The subnets of all ranges, without repetitions."""
    return tuple(dict.fromkeys(subnet(range_) for ranges in sets for range_ in ranges))


def subnet(range_: Range) -> str:
    # Like whereabouts, which names the pool of "first-last/24" by the subnet alone: ranges of one subnet share a pool.
    return f"{range_.subnet}/{range_.prefix}"


def pool_name(cidr: str, network_name: str) -> str:
    return _named(cidr.replace(":", "-").replace("/", "-"), network_name)


def reservation_name(address: Address, network_name: str) -> str:
    text = str(address)
    return _named((f"{text}0" if text.endswith(":") else text).replace(":", "-"), network_name)


def pool(name: str, cidr: str) -> JsonObject:
    """A pool without leases."""
    return {"apiVersion": API, "kind": "IPPool", "metadata": {"name": name}, "spec": {"range": cidr, "allocations": {}}}


def reservation(name: str, owner: Owner) -> JsonObject:
    """The object that reserves an address across all pools. whereabouts leaves containerid empty."""
    spec = {"containerid": owner.container_id, "podref": owner.pod, "ifname": owner.ifname}
    metadata: JsonObject = {"name": name}
    if owner.pod_uid:
        metadata["annotations"] = {POD_UID: owner.pod_uid}
    return {"apiVersion": API, "kind": "OverlappingRangeIPReservation", "metadata": metadata, "spec": spec}


def is_of_pod(entry: JsonObject, owner: Owner) -> bool:
    """Whether an allocation, or the spec of a reservation, is for the owner's pod and interface.

    The container does not matter.
    """
    return bool(owner.pod) and (entry.get("podref"), entry.get("ifname")) == (owner.pod, owner.ifname)


def is_for_pod(reserved: JsonObject, owner: Owner) -> bool:
    """Like `is_of_pod`, for a reservation."""
    return is_of_pod(_spec(reserved), owner)


def pod_uid(reserved: JsonObject) -> str:
    """The UID of the pod that one of our reservations was made for; empty if it has none."""
    metadata = reserved.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    uid = annotations.get(POD_UID) if isinstance(annotations, dict) else None
    return uid if isinstance(uid, str) else ""


def pod_of(reserved: JsonObject) -> str:
    """The pod (namespace/name) that a reservation belongs to; empty if it names none."""
    text = _spec(reserved).get("podref")
    return text if isinstance(text, str) else ""


def is_unsigned(reserved: JsonObject) -> bool:
    """Whether a reservation names no container, like all of whereabouts' own."""
    return not _spec(reserved).get("containerid")


def is_signed(reserved: JsonObject, owner: Owner) -> bool:
    """Whether a reservation names the owner's container, and not another interface of it."""
    spec = _spec(reserved)
    return spec.get("containerid") == owner.container_id and (spec.get("ifname") or owner.ifname) == owner.ifname


def keeps_interfaces(reserved: JsonObject) -> bool:
    """Whether the server stored the reservation's interface; the definitions before whereabouts 0.7 drop it."""
    return bool(_spec(reserved).get("ifname"))


def rehearsal() -> JsonObject:
    """A reservation for a dry run, which is never created."""
    return reservation("barewire-rehearsal", Owner(network="", container_id="rehearsal", ifname="rehearsal"))


def allocated_to(entry: JsonObject, owner: Owner) -> bool:
    """Whether an allocation belongs to the owner. Without ifname it may belong to another interface of the pod."""
    return (entry.get("id"), entry.get("ifname")) == (owner.container_id, owner.ifname)


def placed(claims: Claims, subnets: tuple[str, ...]) -> Claims:
    """The claims with the pools that can hold them. A claim on an unknown range gets all pools with its address."""
    expanded: list[Claim] = []
    for claim in claims:
        known = claim.range.prefix < BITS[claim.address.version] or subnet(claim.range) in subnets
        wholes = [claim.range] if known else [_whole(cidr, "subnets") for cidr in subnets]
        expanded += [Claim(range=range_, address=claim.address) for range_ in wholes if claim.address in range_]
    return tuple(expanded)


def offset(claim: Claim) -> str:
    return str(claim.address.number - claim.range.subnet.number)


def adding(claims: Claims, owner: Owner) -> Patch:
    """Adds the allocations if none of them exists. The pool must have a map of allocations."""
    paths = [f"{ALLOCATIONS}/{offset(claim)}" for claim in claims]
    # "add" would replace an existing value. A test for null succeeds on a missing one, as API servers and whereabouts
    # agree.
    tests = [{"op": "test", "path": path, "value": None} for path in paths]
    return tests + [{"op": "add", "path": path, "value": _entry(owner)} for path in paths]


def taking_over(earlier: Iterable[Allocated], owner: Owner) -> Patch:
    """Makes the owner take the allocations over, if they are unchanged."""
    patch: Patch = []
    for claim, entry in earlier:
        path = f"{ALLOCATIONS}/{offset(claim)}"
        patch.append({"op": "test", "path": path, "value": entry})
        patch.append({"op": "replace", "path": path, "value": _entry(owner)})
    return patch


def handing_back(claim: Claim, entry: JsonObject, owner: Owner) -> Patch:
    """Restores an allocation, if it belongs to the owner."""
    return [
        *testing((claim,), owner),
        {"op": "replace", "path": f"{ALLOCATIONS}/{offset(claim)}", "value": entry},
    ]


def giving_up(claim: Claim, owner: Owner, pod: str) -> Patch:
    """Marks an allocation as given up, if it belongs to the owner for that pod.

    Without a pod no other container can take it over.
    """
    path = f"{ALLOCATIONS}/{offset(claim)}/podref"
    marks = [{"op": "replace", "path": path, "value": f"{GIVEN_UP}{pod}"}] if pod else []
    return [*testing((claim,), owner), {"op": "test", "path": path, "value": pod}, *marks]


def is_given_up(entry: JsonObject, pod: str) -> bool:
    return bool(pod) and entry.get("podref") == f"{GIVEN_UP}{pod}"


def testing(claims: Claims, owner: Owner) -> Patch:
    """Changes nothing, and succeeds if all allocations exist and belong to the owner."""
    patch: Patch = []
    for claim in claims:
        path = f"{ALLOCATIONS}/{offset(claim)}"
        patch.append({"op": "test", "path": f"{path}/id", "value": owner.container_id})
        patch.append({"op": "test", "path": f"{path}/ifname", "value": owner.ifname})
    return patch


def removing(claims: Claims, owner: Owner) -> Patch:
    """Removes the allocations, if all of them exist and belong to the owner."""
    removals = [{"op": "remove", "path": f"{ALLOCATIONS}/{offset(claim)}"} for claim in claims]
    return testing(claims, owner) + removals


def repairing(pool_object: JsonObject, cidr: str) -> Patch:
    """Adds a map of allocations to a pool without one; empty if the pool has one."""
    spec = pool_object.get("spec")
    if not isinstance(spec, dict):
        return _if_missing("/spec", {"range": cidr, "allocations": {}})
    return [] if isinstance(spec.get("allocations"), dict) else _if_missing(ALLOCATIONS, {})


def all_allocations(pool_object: JsonObject) -> JsonObject:
    """The allocations of a pool's object, by offset; each key and value may be malformed."""
    entries = _spec(pool_object).get("allocations")
    return entries if isinstance(entries, dict) else {}


def allocations(pool_object: JsonObject) -> dict[str, JsonObject]:
    """The well-formed allocations of a pool's object, by offset."""
    return {
        key: entry for key, entry in all_allocations(pool_object).items() if _is_offset(key) and isinstance(entry, dict)
    }


def claims_of(pool_object: JsonObject, owner: Owner) -> Claims:
    """The owner's addresses in a pool."""
    whole = _whole(_cidr(pool_object), _named_pool(pool_object))
    mine = (
        whole.address(whole.first + int(key))
        for key, entry in allocations(pool_object).items()
        if allocated_to(entry, owner)
    )
    return tuple(Claim(range=whole, address=lease) for lease in mine if lease in whole)


def leases_of_pod(pool_object: JsonObject, owner: Owner) -> list[Lease]:
    """The owner's leases in a pool, and those of other containers of its pod for the same interface."""
    whole = _whole(_cidr(pool_object), _named_pool(pool_object))
    return [
        Lease(
            address=whole.address(whole.first + int(key)),
            owner=owner.replace(container_id=str(entry.get("id") or "")),
        )
        for key, entry in _naming(all_allocations(pool_object), owner)
        if (allocated_to(entry, owner) or is_of_pod(entry, owner))
        and _is_offset(key)
        and whole.first + int(key) <= whole.last
    ]


def leases(pool_object: JsonObject, network: str, damaged: Report = ignore) -> Iterator[Lease]:
    """The leases of a pool's object, in the order of their addresses. Raises `InvalidConfig` for an invalid range.

    `damaged` is called for allocations with an invalid owner, or with an address outside the pool.
    """
    whole = _whole(_cidr(pool_object), _named_pool(pool_object))
    entries = allocations(pool_object)
    for key in sorted(entries, key=int):
        number, entry = whole.first + int(key), entries[key]
        holder = [entry.get(name) or "" for name in ("id", "ifname")]
        fault = holder_fault(*holder) if number <= whole.last else f"{key} is outside of {whole}"
        if fault:
            damaged(f"allocation {key} of IPPool {_name(pool_object)}: {fault}")
            continue
        pod = entry.get("podref")
        owner = Owner(
            network=network,
            container_id=holder[0],
            ifname=holder[1],
            pod=pod.removeprefix(GIVEN_UP) if isinstance(pod, str) else "",
        )
        yield Lease(address=whole.address(number), owner=owner)


def _naming(entries: JsonObject, owner: Owner) -> Iterator[tuple[str, JsonObject]]:
    """The allocations that name the owner's pod or container."""
    # Every ADD with a pod looks through whole pools, so almost all entries are passed over without a call.
    pod, container = owner.pod, owner.container_id
    for key, entry in entries.items():
        if isinstance(entry, dict) and (entry.get("podref") == pod or entry.get("id") == container):
            yield key, entry


def _entry(owner: Owner) -> JsonObject:
    return {"id": owner.container_id, "podref": owner.pod, "ifname": owner.ifname}


def _spec(kube_object: JsonObject) -> JsonObject:
    spec = kube_object.get("spec")
    return spec if isinstance(spec, dict) else {}


def _whole(cidr: str, where: str) -> Range:
    start, prefix = parse_cidr(cidr, where)
    last = start.number | ((1 << (BITS[start.version] - prefix)) - 1)
    return Range(subnet=start, prefix=prefix, first=start.number, last=last)


def _cidr(pool_object: JsonObject) -> str:
    return str(_spec(pool_object).get("range"))


def _named_pool(pool_object: JsonObject) -> str:
    return f"IPPool {_name(pool_object)}: range"


def _name(kube_object: JsonObject) -> str:
    metadata = kube_object.get("metadata")
    return str(metadata.get("name") if isinstance(metadata, dict) else None)


def _named(text: str, network_name: str) -> str:
    return f"{network_name}-{text}" if network_name else text


def _if_missing(path: str, value: JsonObject) -> Patch:
    return [{"op": "test", "path": path, "value": None}, {"op": "add", "path": path, "value": value}]


def _is_offset(key: str) -> bool:
    return key.isascii() and key.isdecimal() and len(key) < 40
