"""Addresses in whereabouts' resources: the written form, and the outcome if an API server misbehaves. Over TLS."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cni.errors import AddressesExhausted, InvalidConfig, KubeRefused, NotAvailable, RefusedForGood, TryAgainLater
from ipam.address import parse
from ipam.kubernetes import whereabouts
from ipam.kubernetes.cluster import open_kubernetes
from ipam.kubernetes.whereabouts import PoolLocation
from ipam.store import Claim, claim_on
from tests.contract.ipam_cluster_contract import NETWORK, V4, V6, claim, everything, owner, range_of, texts
from tests.kube.apiserver import ApiServer, Faults
from tests.kube.resources import POOLS, RESERVATIONS, WHEREABOUTS
from tests.kube.routes import RIGHTS
from tests.kube.store import Refused
from tests.trusting import ACCESS

SECONDS = 20.0
SHORT = 0.4
LATEST = 5.0
"""Seconds after which a call with the limit SHORT has certainly exceeded it, even on a busy machine."""

SPACE = "kube-system"
A, B = owner("a"), owner("b")
BOTH = (claim("10.9.0.5"), claim("fd00:9::5"))
OURS = {"10.9.0.5": ("a", "net1"), "fd00:9::5": ("a", "net1")}


def fault(kind: str, number: int) -> Faults:
    """A fault for the request of that number."""
    told: dict[str, Any] = {kind: {"status": 503, "cut": 1}.get(kind, True)}
    if kind == "late":
        told["status"] = 504
    return Faults(only=frozenset({number}), **told)


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.rights = RIGHTS
        yield api


@pytest.fixture
def open_one(api, tmp_path):
    """Opens the backend with the given fields of the location and the given time limit."""
    path = str(api.kubeconfig(tmp_path / "kubeconfig"))

    def opened(seconds=SECONDS, **fields):
        place = PoolLocation(kubeconfig=path, subnets=whereabouts.subnets_of([(V4,), (V6,)])).replace(**fields)
        return open_kubernetes(whereabouts.cluster_conf(place), NETWORK, seconds, ACCESS)

    return opened


@pytest.fixture
def cluster(open_one):
    return open_one()


def reservations(api):
    return api.resources.names(RESERVATIONS, SPACE)


def pool_of(api, name="10.9.0.0-24"):
    return api.resources.get(POOLS, SPACE, name)


def kept(api):
    """The content of the objects, without empty pools."""
    found = {key: one["spec"] for key, one in api.resources.snapshot().items()}
    return {key: spec for key, spec in found.items() if spec.get("allocations") != {}}


def put_pool(api, allocations, name="10.9.0.0-24", cidr="10.9.0.0/24"):
    found = whereabouts.pool(name, cidr)
    api.resources.put(POOLS, SPACE, {**found, "spec": {"range": cidr, **allocations}})


def put_reservation(api, name, **spec):
    found = whereabouts.reservation(name, A)
    api.resources.put(RESERVATIONS, SPACE, {**found, "spec": spec})


# The written form


def test_leases_are_written_as_whereabouts_writes_them(api, cluster):
    assert cluster.take(BOTH, A) == ()
    entry = {"id": "a", "podref": "default/a", "ifname": "net1"}
    assert pool_of(api)["spec"] == {"range": "10.9.0.0/24", "allocations": {"5": entry}}
    assert pool_of(api, "fd00-9---64")["spec"] == {"range": "fd00:9::/64", "allocations": {"5": entry}}
    assert reservations(api) == ["10.9.0.5", "fd00-9--5"]
    spec = api.resources.get(RESERVATIONS, SPACE, "10.9.0.5")["spec"]
    assert spec == {"podref": "default/a", "ifname": "net1", "containerid": "a"}


def test_a_lease_of_a_pool_that_exists_is_two_requests_whose_answers_are_small(api, cluster):
    cluster.take((claim("10.9.0.4"),), B)
    api.requests.clear()
    cluster.take((claim("10.9.0.5"),), A)
    patch, create = api.requests
    assert (create.method, create.status, patch.method, patch.status) == ("POST", 201, "PATCH", 200)
    assert patch.headers["accept"].startswith("application/json;as=PartialObjectMetadata;")
    path, entry = "/spec/allocations/5", {"id": "a", "podref": "default/a", "ifname": "net1"}
    assert patch.body == [{"op": "test", "path": path, "value": None}, {"op": "add", "path": path, "value": entry}]
    assert create.connection == patch.connection


@pytest.mark.parametrize("text", ("fd00:9::7fff:ffff:ffff:ffff", "fd00:9:0:0:8000::", "fd00:9::ffff:ffff:ffff:fffe"))
def test_an_offset_of_64_bits_is_kept_to_the_digit(api, cluster, text):
    taken = (claim(text),)
    assert cluster.take(taken, A) == ()
    distance = taken[0].address.number - V6.subnet.number
    assert list(pool_of(api, "fd00-9---64")["spec"]["allocations"]) == [str(distance)]
    assert texts(cluster.leases(NETWORK)) == [text]
    assert cluster.held(taken, A) == taken
    cluster.give_back(taken, A)
    assert everything(cluster) == {}


def test_leases_that_are_given_back_leave_empty_pools_and_no_reservations(api, cluster):
    cluster.take(BOTH, A)
    cluster.give_back(BOTH, A)
    assert reservations(api) == []
    assert api.resources.names(POOLS, SPACE) == ["10.9.0.0-24", "fd00-9---64"]
    assert pool_of(api)["spec"]["allocations"] == {}


def test_without_overlapping_ranges_there_are_no_reservations(api, open_one):
    cluster = open_one(overlapping=False)
    cluster.take(BOTH, A)
    assert reservations(api) == []
    cluster.give_back(BOTH, A)
    assert {request.method for request in api.requests} == {"PATCH", "POST"}
    assert everything(cluster) == {}


def test_two_claims_of_one_pool_are_one_patch(api, cluster):
    assert cluster.take((claim("10.9.0.5"), claim("10.9.0.6")), A) == ()
    assert [request.status for request in api.requests if request.method == "PATCH"] == [404, 200]
    assert sorted(pool_of(api)["spec"]["allocations"]) == ["5", "6"]


@pytest.mark.parametrize(
    ("configured", "context", "expected"), [("", "", SPACE), ("", "wherever", "wherever"), ("told", "wherever", "told")]
)
def test_the_namespace_is_configured_or_the_context_s_or_the_system_s(
    api, tmp_path, open_one, configured, context, expected
):
    api.resources.namespaces |= {"wherever", "told"}
    document = yaml.safe_load((tmp_path / "kubeconfig").read_text())
    document["contexts"][0]["context"]["namespace"] = context
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(document))
    open_one(namespace=configured).take(BOTH, A)
    assert api.resources.names(POOLS, expected) == ["10.9.0.0-24", "fd00-9---64"]


def test_an_address_is_given_back_by_who_knows_its_owner_and_not_its_range(api, open_one):
    cluster = open_one(subnets=("10.9.0.0/24", "10.9.0.0/16", "fd00:9::/64", "10.9.0.7/32"))
    single = Claim(range=range_of("10.9.0.7", 32, "10.9.0.7", "10.9.0.7"), address=parse("10.9.0.7", "test"))
    cluster.take((*BOTH, single), A)
    cluster.give_back(tuple(claim_on(one.address) for one in BOTH), A)
    assert texts(cluster.leases(NETWORK)) == ["10.9.0.7"]
    cluster.give_back((claim_on(single.address),), A)
    assert everything(cluster) == {}
    assert reservations(api) == []


def test_pools_are_queried_in_the_same_order_whatever_that_of_the_claims_is(api, open_one):
    for claims in (BOTH, BOTH[::-1]):
        cluster = open_one(overlapping=False)
        cluster.take(claims, A)
        cluster.give_back(claims, A)
    patched = [request.path for request in api.requests if request.method == "PATCH" and request.status == 200]
    asked = [path.partition("?")[0].rpartition("/")[2] for path in patched]
    assert asked[:2] == asked[4:6] == ["10.9.0.0-24", "fd00-9---64"]


# Leases of others


def test_an_address_that_another_range_leased_is_taken(api, open_one):
    wide = range_of("10.9.0.0", 16, "10.9.0.1", "10.9.255.254")
    open_one().take(BOTH, A)
    cluster = open_one(subnets=("10.9.0.0/16",))
    wanted = claim("10.9.0.5", wide)
    assert cluster.take((wanted,), B) == (wanted,)
    assert cluster.find_free(wide, wanted.address.number) == wanted.address.number + 1
    assert reservations(api) == ["10.9.0.5", "fd00-9--5"]


def test_an_allocation_of_whereabouts_without_a_reservation_is_taken_and_stays(api, cluster):
    put_pool(api, {"allocations": {"5": {"id": "theirs", "podref": "default/x"}}})
    before = pool_of(api)
    assert cluster.take(BOTH[:1], A) == BOTH[:1]
    cluster.give_back(BOTH, A)
    assert pool_of(api) == before
    assert reservations(api) == []


def test_an_interface_does_not_take_the_address_of_another_whose_name_is_not_kept(api, cluster):
    put_pool(api, {"allocations": {"5": {"id": "a", "podref": "default/a"}}})
    assert cluster.take(BOTH[:1], A) == BOTH[:1]
    cluster.give_back(BOTH[:1], A)
    assert everything(cluster) == {"10.9.0.5": ("a", "")}


def test_a_reservation_of_whereabouts_for_the_same_pod_and_interface_is_no_hindrance_and_goes_with_the_lease(
    api, cluster
):
    put_reservation(api, "10.9.0.5", podref="default/a", ifname="net1")
    assert cluster.take(BOTH[:1], A) == ()
    cluster.give_back(BOTH[:1], A)
    assert reservations(api) == []


NEXT = A.replace(container_id="next", pod_uid="")
"""The next sandbox of the pod of A."""

THEIRS = {"id": "theirs", "podref": "default/a", "ifname": "net1"}
"""The entry that whereabouts writes for a sandbox of that pod."""


def test_a_late_del_leaves_the_reservation_on_which_the_next_sandbox_relies(api, cluster):
    cluster.take(BOTH[:1], A)
    # As in whereabouts, the pod's reservation remains unchanged.
    api.resources.patch(
        POOLS, SPACE, "10.9.0.0-24", [{"op": "replace", "path": "/spec/allocations/5/id", "value": "theirs"}]
    )
    before = kept(api)
    cluster.give_back(BOTH, A)
    cluster.give_back((claim_on(BOTH[0].address),), A)
    cluster.give_back_all(A)
    assert kept(api) == before
    wide = range_of("10.9.0.0", 16, "10.9.0.1", "10.9.255.254")
    assert cluster.take((claim("10.9.0.5", wide),), B) != (), "another pool leases what the pod uses"
    cluster.give_back(BOTH, A.replace(container_id="theirs"))
    assert kept(api) == {}


@pytest.mark.parametrize("known", ("range", "address", "nothing"))
def test_what_a_del_has_begun_to_free_is_not_taken_over(api, open_one, monkeypatch, known):
    cluster, taker = open_one(), open_one()
    cluster.take(BOTH[:1], A)
    assert texts(taker.leases_of_pod(NEXT)) == ["10.9.0.5"]
    delete = api.resources.delete
    seen = []

    def taken_over_first(*arguments):
        # Whereabouts would look for this podref.
        seen.append(
            (pool_of(api)["spec"]["allocations"]["5"]["podref"], taker.leases_of_pod(NEXT), taker.take(BOTH[:1], NEXT))
        )
        assert texts(taker.leases(NETWORK)) == ["10.9.0.5"]
        assert [one.owner.pod for one in taker.leases(NETWORK)] == ["default/a"]
        return delete(*arguments)

    monkeypatch.setattr(api.resources, "delete", taken_over_first)
    if known == "nothing":
        cluster.give_back_all(A)
    else:
        cluster.give_back(BOTH[:1] if known == "range" else (claim_on(BOTH[0].address),), A)
    assert seen == [("freed:default/a", (), BOTH[:1])]
    assert kept(api) == {}


@pytest.mark.parametrize("by", ("us", "whereabouts"))
@pytest.mark.parametrize("pod", ("default/a", ""))
def test_a_del_that_was_killed_after_its_first_step_is_finished_by_the_next(api, cluster, by, pod):
    if by == "us":
        cluster.take(BOTH[:1], A)
    else:
        put_pool(api, {"allocations": {"5": {**THEIRS, "id": "a"}}})
        put_reservation(api, "10.9.0.5", podref="default/a", ifname="net1")
    cluster._api.begin()
    assert cluster._pools.give_up(BOTH[:1], A, "default/a")
    cluster.give_back(BOTH[:1], A.replace(pod=pod))
    assert kept(api) == {}


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("kind", ("loses_answer", "hangs_up"))
def test_the_next_sandbox_of_a_pod_gets_the_addresses_of_the_one_before_and_alone_frees_them(
    api, open_one, kind, number
):
    cluster = open_one()
    cluster.take(BOTH, A)
    api.faults = fault(kind, number) if number else Faults()
    assert cluster.take(BOTH, NEXT) == ()
    api.faults = Faults()
    ours = dict.fromkeys(OURS, ("next", "net1"))
    cluster.give_back(BOTH, A)
    cluster.give_back_all(A)
    assert everything(cluster) == ours
    assert reservations(api) == ["10.9.0.5", "fd00-9--5"]
    assert cluster.take(BOTH, NEXT) == (), "a repeated ADD"
    assert cluster.take(BOTH, B) != ()
    cluster.give_back(BOTH, NEXT)
    assert kept(api) == {}


def test_an_address_that_was_given_back_after_a_conflict_is_leased_again_by_the_next_attempt(api, cluster, monkeypatch):
    put_pool(api, {"allocations": {"5": {"id": "x", "podref": "default/x"}}}, "fd00-9---64", "fd00:9::/64")
    patch = api.resources.patch
    refused: list[str] = []

    def refused_once(kind, namespace, name, operations):
        if operations[-1]["op"] == "remove" and not refused:
            refused.append(name)
            raise Refused(422, "Invalid", "somebody has changed the pool")
        return patch(kind, namespace, name, operations)

    monkeypatch.setattr(api.resources, "patch", refused_once)
    assert cluster.take(BOTH, A) == BOTH[1:]
    assert cluster.take((BOTH[0], claim("fd00:9::6")), A) == ()
    assert refused == ["10.9.0.0-24"]
    assert everything(cluster) == {"10.9.0.5": ("a", "net1"), "fd00:9::5": ("x", ""), "fd00:9::6": ("a", "net1")}


@pytest.mark.parametrize("number", range(9))
def test_a_take_over_that_is_refused_in_part_hands_back(api, cluster, number):
    cluster.take(BOTH[:1], A)
    put_pool(api, {"allocations": {"5": {"id": "x", "podref": "default/x"}}}, "fd00-9---64", "fd00:9::/64")
    before = kept(api)
    api.faults = fault("loses_answer", number) if number else Faults()
    assert cluster.take(BOTH, NEXT) == BOTH[1:]
    assert kept(api) == before


def test_what_whereabouts_allocated_to_a_pod_is_its_next_sandbox_s_with_the_reservation(api, cluster):
    put_reservation(api, "10.9.0.5", podref="default/a", ifname="net1")
    put_pool(api, {"allocations": {"5": THEIRS}})
    assert cluster.take(BOTH[:1], A) == ()
    assert everything(cluster) == {"10.9.0.5": ("a", "net1")}
    cluster.give_back(BOTH[:1], A.replace(container_id="theirs"))
    assert reservations(api) == ["10.9.0.5"]
    cluster.give_back(BOTH[:1], A.replace(pod=""))
    assert kept(api) == {}


@pytest.mark.parametrize(
    "entry",
    [
        {"id": "theirs", "podref": "default/a", "ifname": "net2"},
        {"id": "theirs", "podref": "default/b", "ifname": "net1"},
        {"id": "theirs", "podref": "default/a"},
        {"id": "theirs", "podref": "", "ifname": "net1"},
    ],
)
def test_nothing_is_taken_over_from_another_pod_or_interface_or_from_an_unknown_owner(api, cluster, entry):
    put_pool(api, {"allocations": {"5": entry}})
    for one in (A, A.replace(pod="")):
        assert cluster.leases_of_pod(one) == ()
        assert cluster.take(BOTH[:1], one) == BOTH[:1]
    assert pool_of(api)["spec"]["allocations"] == {"5": entry}


def test_what_another_pool_has_reserved_for_the_earlier_sandbox_is_not_the_next_one_s(api, open_one):
    wide = range_of("10.9.0.0", 16, "10.9.0.1", "10.9.255.254")
    open_one().take(BOTH[:1], A)
    assert open_one(subnets=("10.9.0.0/16",)).take((claim("10.9.0.5", wide),), NEXT) != ()


def test_what_a_pod_s_interface_has_is_found_in_all_pools(api, cluster):
    cluster.take(BOTH, A)
    cluster.take((claim("10.9.0.6"),), B)
    cluster.take((claim("10.9.0.7"),), A.replace(ifname="net2"))
    found = cluster.leases_of_pod(NEXT)
    assert texts(found) == ["10.9.0.5", "fd00:9::5"]
    assert {one.owner.container_id for one in found} == {"a"}


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("known", ("range", "address", "nothing"))
def test_what_whereabouts_leased_is_given_back_with_its_reservation_without_a_pod_s_name(api, cluster, known, number):
    put_pool(api, {"allocations": {"5": {"id": "a", "podref": "default/a", "ifname": "net1"}}})
    put_reservation(api, "10.9.0.5", podref="default/a", ifname="net1")
    api.faults = fault("loses_answer", number) if number else Faults()
    if known == "nothing":
        cluster.give_back_all(A.replace(pod=""))
    else:
        cluster.give_back(BOTH if known == "range" else (claim_on(BOTH[0].address),), A.replace(pod=""))
    assert kept(api) == {}


@pytest.mark.parametrize(
    ("entry", "spec"),
    [
        ({"id": "a", "podref": "default/a", "ifname": "net1"}, {"podref": "default/b", "ifname": "net1"}),
        ({"id": "a", "podref": "default/a", "ifname": "net1"}, {"podref": "default/a", "ifname": "net2"}),
        ({"id": "a", "podref": "", "ifname": "net1"}, {"podref": "", "ifname": "net1"}),
        ({"id": "later", "podref": "default/a", "ifname": "net1"}, {"podref": "default/a", "ifname": "net1"}),
        ({"id": "a", "podref": "default/a", "ifname": "net2"}, {"podref": "default/a", "ifname": "net1"}),
    ],
)
def test_a_reservation_that_whereabouts_made_for_another_owners_allocation_stays(api, cluster, entry, spec):
    put_pool(api, {"allocations": {"5": entry}})
    put_reservation(api, "10.9.0.5", **spec)
    cluster.give_back(BOTH, A)
    cluster.give_back_all(A)
    assert reservations(api) == ["10.9.0.5"]


def test_a_lease_of_ours_is_given_back_without_reading_its_pool(api, cluster):
    cluster.take(BOTH[:1], A)
    api.requests.clear()
    cluster.give_back(BOTH[:1], A)
    asked = [(request.method, request.path.partition("?")[0].split("/")[-2]) for request in api.requests]
    assert asked == [
        ("GET", "overlappingrangeipreservations"), ("PATCH", "ippools"),
        ("DELETE", "overlappingrangeipreservations"), ("PATCH", "ippools"),
    ]  # fmt: skip


@pytest.mark.parametrize("spec", ({}, {"containerid": "", "podref": ""}, {"podref": "default/b", "ifname": "net1"}))
def test_a_reservation_without_an_owner_or_of_another_owner_is_left_alone(api, cluster, spec):
    put_reservation(api, "10.9.0.5", **spec)
    assert cluster.take(BOTH, owner("a")) == BOTH[:1]
    cluster.give_back(BOTH, A)
    assert reservations(api) == ["10.9.0.5"]


def test_a_reservation_that_is_rewritten_meanwhile_is_not_deleted(api, cluster, monkeypatch):
    cluster.take(BOTH[:1], A)
    look = api.resources.delete
    seen: list[str] = []

    def rewritten_first(kind, namespace, name, options):
        if not seen:
            seen.append(name)
            found = api.resources.get(kind, namespace, name)
            api.resources.replace(kind, namespace, name, {**found, "spec": {"podref": "default/b", "ifname": "net1"}})
        return look(kind, namespace, name, options)

    monkeypatch.setattr(api.resources, "delete", rewritten_first)
    cluster.give_back(BOTH[:1], A)
    assert seen == ["10.9.0.5"]
    assert api.resources.get(RESERVATIONS, SPACE, "10.9.0.5")["spec"]["podref"] == "default/b"


@pytest.mark.parametrize("spec", (None, {"range": "10.9.0.0/24"}, {"range": "10.9.0.0/24", "allocations": None}))
def test_a_pool_without_a_map_of_allocations_is_given_one(api, cluster, spec):
    found = whereabouts.pool("10.9.0.0-24", "10.9.0.0/24")
    api.resources.put(POOLS, SPACE, {**found, "spec": spec} if spec else {**found, "spec": None})
    assert cluster.take(BOTH[:1], A) == ()
    assert everything(cluster) == {"10.9.0.5": ("a", "net1")}


# Misbehaving servers


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("kind", ("loses_answer", "hangs_up", "status", "cut"))
def test_a_lease_survives_any_one_answer_that_does_not_come(api, open_one, kind, number):
    api.faults = fault(kind, number)
    cluster = open_one()
    assert cluster.take(BOTH, A) == ()
    assert open_one().take(BOTH, B) != ()
    assert everything(cluster) == OURS
    assert reservations(api) == ["10.9.0.5", "fd00-9--5"]


@pytest.mark.parametrize("number", range(1, 10))
@pytest.mark.parametrize("kind", ("loses_answer", "hangs_up"))
def test_giving_back_survives_any_one_answer_that_does_not_come(api, open_one, kind, number):
    cluster = open_one()
    cluster.take(BOTH, A)
    api.faults = fault(kind, number)
    cluster.give_back(BOTH, A)
    assert everything(open_one()) == {}
    assert reservations(api) == []


@pytest.mark.parametrize("theirs", (POOLS, RESERVATIONS))
@pytest.mark.parametrize("number", range(1, 14))
@pytest.mark.parametrize("kind", ("loses_answer", "hangs_up", "late"))
def test_when_a_refused_claim_is_undone_any_one_answer_may_not_come(api, open_one, kind, number, theirs):
    if theirs is POOLS:
        put_pool(api, {"allocations": {"5": {"id": "theirs", "podref": "default/x"}}}, "fd00-9---64", "fd00:9::/64")
    else:
        put_reservation(api, "fd00-9--5", podref="default/x")
    before = kept(api)
    api.faults = fault(kind, number)
    assert open_one().take(BOTH, A) == BOTH[1:]
    assert kept(api) == before


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("kind", ("loses_answer", "hangs_up"))
def test_whatever_a_take_that_broke_off_has_left_is_given_back(api, open_one, kind, number):
    api.faults = fault(kind, number)
    hasty = open_one(seconds=SHORT)
    hasty._api._connection.pause = lambda _seconds: False
    began = time.monotonic()
    with pytest.raises(TryAgainLater):
        hasty.take(BOTH, A)
    assert time.monotonic() - began < LATEST
    api.faults = Faults()
    cluster = open_one()
    cluster.give_back(BOTH, A)
    assert everything(cluster) == {}
    assert reservations(api) == []


@pytest.mark.parametrize(
    "faults", (Faults(status=503, every=2), Faults(status=429, every=3), Faults(hangs_up=True, every=3))
)
def test_a_storm_of_refusals_is_sat_out(api, open_one, faults):
    api.faults = faults
    cluster = open_one()
    for turn in range(5):
        assert cluster.take((claim(f"10.9.0.{turn + 10}"),), owner(f"c{turn}")) == ()
    cluster.give_back((claim("10.9.0.11"),), owner("c1"))
    api.faults = Faults()
    assert texts(cluster.leases(NETWORK)) == ["10.9.0.10", "10.9.0.12", "10.9.0.13", "10.9.0.14"]
    assert len(reservations(api)) == 4


@pytest.mark.parametrize("faults", (Faults(silent=True), Faults(status=503), Faults(hangs_up=True), Faults(mute=True)))
def test_a_server_that_is_out_of_order_is_reported_within_the_bound(api, open_one, faults):
    api.faults = faults
    hasty = open_one(seconds=SHORT)
    calls = (
        lambda: hasty.take(BOTH, A),
        lambda: hasty.give_back(BOTH, A),
        lambda: hasty.held(BOTH, A),
        lambda: list(hasty.leases(NETWORK)),
    )
    for call in calls:
        began = time.monotonic()
        with pytest.raises(TryAgainLater):
            call()
        assert time.monotonic() - began < LATEST
    with pytest.raises(NotAvailable):
        hasty.reach()


def test_the_request_contains_its_time_limit(api, open_one):
    open_one(seconds=7.0).take(BOTH[:1], A)
    told = [int(request.path.partition("?timeout=")[2].removesuffix("ms")) for request in api.requests]
    assert all(0 < one <= 7000 for one in told)
    assert told == sorted(told, reverse=True)


@pytest.mark.parametrize(
    ("missing", "verb"),
    [
        (("create", "overlappingrangeipreservations"), "create"),
        (("patch", "ippools"), "patch"),
        (("create", "ippools"), "create"),
    ],
)
def test_a_right_that_is_missing_is_named_and_nothing_stays(api, open_one, missing, verb):
    api.rights = RIGHTS - {missing}
    with pytest.raises(KubeRefused, match="403") as failure:
        open_one().take(BOTH, A)
    assert f"grant the verb {verb} on {missing[1]} to" in failure.value.details
    assert reservations(api) == []
    assert not any(pool_of(api, name)["spec"]["allocations"] for name in api.resources.names(POOLS, SPACE))


@pytest.mark.parametrize("gone", ([POOLS], [RESERVATIONS], [POOLS, RESERVATIONS]))
def test_definitions_that_are_not_installed_are_named(api, open_one, gone):
    for kind in gone:
        del api.resources.kinds[WHEREABOUTS, kind.plural]
    with pytest.raises(KubeRefused, match=f"has no {gone[0].plural} of {whereabouts.API}") as failure:
        open_one().take(BOTH, A)
    assert "install the definitions of whereabouts" in failure.value.details
    with pytest.raises(NotAvailable):
        open_one().reach()


def test_a_namespace_that_does_not_exist_is_named(open_one):
    with pytest.raises(KubeRefused, match='namespaces "nowhere" not found'):
        open_one(namespace="nowhere").take(BOTH, A)


def without_interfaces(api):
    """Uses the definition of reservations from before whereabouts 0.7."""
    schema = copy.deepcopy(RESERVATIONS.schema or {})
    del schema["properties"]["spec"]["properties"]["ifname"]
    api.resources.kinds[WHEREABOUTS, RESERVATIONS.plural] = RESERVATIONS._replace(schema=schema)


def test_definitions_that_know_no_interfaces_are_refused_and_nothing_stays(api, open_one):
    without_interfaces(api)
    with pytest.raises(KubeRefused, match="lack ifname"):
        open_one().take(BOTH, A)
    with pytest.raises(NotAvailable, match="lack ifname"):
        open_one().reach()
    assert reservations(api) == []
    assert pool_of(api)["spec"]["allocations"] == {}


def test_a_clean_up_that_is_not_permitted_is_a_note_on_the_cause(api, open_one):
    without_interfaces(api)
    api.rights = RIGHTS - {("delete", "overlappingrangeipreservations")}
    with pytest.raises(KubeRefused, match="lack ifname") as failure:
        open_one().take(BOTH[:1], A)
    assert "clean-up incomplete" in failure.value.details
    assert everything(open_one()) == {"10.9.0.5": ("a", "net1")}, "a reservation without it could be anybody's"


def test_a_token_that_is_not_valid_any_more_is_no_reason_to_wait(api, open_one):
    api.token = "another"
    with pytest.raises(KubeRefused, match="401"):
        open_one(seconds=3600.0).take(BOTH, A)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (500, "etcdserver: request is too large"),
        (
            500,
            "rpc error: code = ResourceExhausted desc = trying to send message larger than max (2098112 vs. 2097152)",
        ),
        (413, "Request entity too large: limit is 3145728"),
    ],
)
def test_a_pool_that_is_as_large_as_the_cluster_allows_is_exhausted_and_can_be_freed(api, open_one, status, words):
    cluster = open_one()
    cluster.take(BOTH[:1], B)
    api.resources.too_large = Refused(status, "", words)
    api.resources.most_bytes = len(json.dumps(pool_of(api))) + 10
    api.requests.clear()
    with pytest.raises(
        AddressesExhausted, match=r"the IPPool 10\.9\.0\.0-24 has reached the size limit of the cluster"
    ):
        cluster.take((claim("10.9.0.6"),), A)
    assert len(api.requests) == 1, "it is no reason to ask again"
    cluster.give_back(BOTH[:1], B)
    assert cluster.take((claim("10.9.0.6"),), A) == ()


def test_a_server_that_names_a_time_for_the_next_try_gets_no_earlier_request(api, open_one):
    api.faults = Faults(status=429, retry_after="1", only=frozenset({1}))
    began = time.monotonic()
    assert open_one().take(BOTH[:1], A) == ()
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("text", ("30", "9999999"))
def test_a_time_beyond_the_bound_ends_the_call_at_once(api, open_one, text):
    api.faults = Faults(status=429, retry_after=text)
    began = time.monotonic()
    with pytest.raises(TryAgainLater, match="429"):
        open_one().take(BOTH[:1], A)
    assert time.monotonic() - began < LATEST
    assert len(api.requests) == 1


@pytest.mark.parametrize("text", ("-1", "Wed, 21 Oct 2015 07:28:00 GMT", "1e9", "9" * 5000, "\u0661"))
def test_a_time_that_is_none_is_passed_over(api, open_one, text):
    api.faults = Faults(status=429, retry_after=text.encode().decode("latin-1"), only=frozenset({1}))
    assert open_one().take(BOTH[:1], A) == ()


@pytest.mark.parametrize("status", (400, 403, 404, 405, 415, 422))
def test_a_refusal_that_no_repetition_changes_says_so_and_nothing_stays(api, open_one, status):
    api.faults = Faults(status=status, methods=frozenset({"PATCH", "POST"}))
    with pytest.raises(RefusedForGood):
        open_one().take(BOTH, A)
    assert kept(api) == {}


def test_a_refusal_after_an_answer_that_was_lost_says_nothing_of_what_was_done(api, cluster):
    put_pool(api, {"allocations": {}})
    api.faults = Faults(
        loses_answer=True, only=frozenset({1}), met=lambda: setattr(api, "rights", RIGHTS - {("patch", "ippools")})
    )
    with pytest.raises(KubeRefused, match="403") as failure:
        cluster.take(BOTH[:1], A)
    assert not isinstance(failure.value, RefusedForGood)
    assert "5" in pool_of(api)["spec"]["allocations"]


def test_an_expired_token_is_no_refusal_for_good(api, open_one):
    api.token = "another"
    with pytest.raises(KubeRefused, match="401") as failure:
        open_one().take(BOTH, A)
    assert not isinstance(failure.value, RefusedForGood)


# Status, nodes and names


def test_whether_it_is_reached_is_found_out_without_a_change(api, open_one):
    cluster = open_one()
    cluster.take(BOTH[:1], A)
    before = pool_of(api)
    cluster.reach()
    open_one(overlapping=False, subnets=()).reach()
    assert pool_of(api) == before
    assert reservations(api) == ["10.9.0.5"]


@pytest.mark.parametrize("missing", (("patch", "ippools"), ("create", "overlappingrangeipreservations")))
def test_it_is_not_reached_without_the_right_to_lease(api, open_one, missing):
    api.rights = RIGHTS - {missing}
    with pytest.raises(NotAvailable, match="403"):
        open_one().reach()


def test_a_node_is_alive_that_exists_and_is_ready(api, open_one):
    api.rights = RIGHTS | {("get", "nodes")}
    for name, ready in (("up", "True"), ("down", "False"), ("silent", "Unknown")):
        api.add_node(name, ready)
    cluster = open_one()
    assert [cluster.node_is_alive(name) for name in ("up", "down", "silent", "gone")] == [True, False, False, False]
    api.rights = RIGHTS
    with pytest.raises(KubeRefused, match="403"):
        cluster.node_is_alive("up")


@pytest.mark.parametrize("fields", ({"network_name": "Upper"}, {"namespace": "a.b"}, {"namespace": "../x"}))
def test_an_impossible_name_in_kubernetes_is_refused_before_any_request(api, open_one, fields):
    with pytest.raises(InvalidConfig, match="name"):
        open_one(**fields).take(BOTH, A)
    assert api.requests == []


def test_nothing_is_leased_under_a_name_that_kubernetes_cannot_have_so_giving_it_back_is_done(api, open_one):
    cluster = open_one(network_name="Upper")
    cluster.give_back(BOTH, A)
    cluster.give_back_all(A)
    assert api.requests == []


def test_a_range_whose_name_would_begin_with_a_dash_wants_a_network_name(api, open_one):
    one = range_of("::", 64, "::1", "::ff")
    with pytest.raises(InvalidConfig, match="---64") as failure:
        open_one().take((claim("::5", one),), A)
    assert "network_name" in failure.value.details
    assert open_one(network_name="n").take((claim("::5", one),), A) == ()
    assert reservations(api) == ["n---5"]


def test_a_place_is_the_same_behind_its_description():
    place = PoolLocation(
        kubeconfig="/k", namespace="n", network_name="x", overlapping=False, subnets=("10.0.0.0/8", "fd00::/64")
    )
    cluster_conf = whereabouts.cluster_conf(place)
    assert cluster_conf["kind"] == "kubernetes"
    assert whereabouts.pool_location(cluster_conf) == place
    with pytest.raises(InvalidConfig, match="incomplete"):
        whereabouts.pool_location({"kind": "kubernetes"})
