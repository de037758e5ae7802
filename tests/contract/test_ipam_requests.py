"""The number of requests of an ADD, and what it decodes: constant, however many leases the cluster and the node have.

A second read of a pool, or a decoded journal, made an ADD four times as expensive, and no other test noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from cni.errors import AddressTaken
from cni.kube.answers import document
from ipam.address import parse
from ipam.cluster.journal import Journal
from ipam.cluster.journal_entry import decode
from ipam.cluster.store import Journaled
from ipam.etcd.gateway import Gateway
from ipam.kubernetes import whereabouts
from ipam.kubernetes.whereabouts import PoolLocation
from ipam.store import Owner
from tests.contract.ipam_cluster_contract import NETWORK, V6, owner, range_of
from tests.kube.apiserver import ApiServer
from tests.kube.resources import POOLS
from tests.kube.routes import RIGHTS
from tests.trusting import opened_etcd, opened_kubernetes

if TYPE_CHECKING:
    from ipam.store import ClusterConf

V4 = range_of("10.9.0.0", 24, "10.9.0.1", "10.9.0.254")
TINY = range_of("10.9.0.0", 24, "10.9.0.1", "10.9.0.4")
SPACE = "kube-system"
CREATED, FOUND = ("POST", "overlapping", 201), ("GET", "ippools", 200)
LEASED, RESERVED = ("PATCH", "ippools", 200), ("POST", "overlapping", 409)
READ_RESERVATION = ("GET", "overlapping", 200)
NEXT = owner("next").replace(pod="default/a")


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.rights = RIGHTS
        yield api


@pytest.fixture
def open_store(api, tmp_path) -> Callable[[], Journaled]:
    """Opens a store as each call of a plugin does: with a connection of its own."""
    place = PoolLocation(
        kubeconfig=str(api.kubeconfig(tmp_path / "kubeconfig")), subnets=whereabouts.subnets_of([(V4,), (V6,)])
    )
    for name in ("journal", "run"):
        (tmp_path / name).mkdir(mode=0o700)
    journal = Journal(str(tmp_path / "journal"), str(tmp_path / "run"))
    cluster_conf = whereabouts.cluster_conf(place)
    return lambda: Journaled(journal, "n1", NETWORK, cluster_conf, opened_kubernetes)


def fill(api: ApiServer, offsets: range) -> None:
    """Leases of other pods, in one pool; the other pool is empty."""
    entries = {
        str(offset): {"id": f"c{offset}", "podref": f"default/p{offset}", "ifname": "net1"} for offset in offsets
    }
    put(api, entries)
    api.resources.put(POOLS, SPACE, whereabouts.pool("fd00-9---64", "fd00:9::/64"))


def put(api: ApiServer, entries: dict[str, dict[str, str]]) -> None:
    pool = whereabouts.pool("10.9.0.0-24", "10.9.0.0/24")
    pool["spec"]["allocations"] = entries
    api.resources.put(POOLS, SPACE, pool)


def requests(api: ApiServer, call: Callable[[], object]) -> list[tuple[str, str, int]]:
    """Method, resource and status of each request of the call."""
    api.requests.clear()
    call()
    return [
        (request.method, "ippools" if "/ippools" in request.path else "overlapping", request.status)
        for request in api.requests
    ]


def add(store: Journaled, who: Owner, ranges=V4, wanted=None):
    return store.allocate(who, ((ranges,),), (wanted,))


# Backend kubernetes


@pytest.mark.parametrize("leased", (0, 250))
def test_an_add_with_a_pod_reads_each_pool_once_and_leases_with_two_requests_more(api, open_store, leased):
    fill(api, range(1, 1 + leased))
    assert requests(api, lambda: add(open_store(), owner("a"))) == [FOUND, FOUND, LEASED, CREATED]


def test_an_add_without_a_pod_reads_no_pool(api, open_store):
    fill(api, range(0))
    who = owner("a").replace(pod="")
    assert requests(api, lambda: add(open_store(), who)) == [LEASED, CREATED]


def test_a_refused_attempt_without_a_pod_reads_the_pool_once(api, open_store):
    fill(api, range(1, 250))
    who = owner("a").replace(pod="")
    refused = ("PATCH", "ippools", 422)
    assert requests(api, lambda: add(open_store(), who)) == [refused, FOUND, LEASED, CREATED]


def test_the_next_sandbox_of_a_pod_takes_its_address_over_without_another_read_of_the_pool(api, open_store):
    fill(api, range(100, 250))
    (first,) = add(open_store(), owner("a"))
    expected = [FOUND, FOUND, LEASED, RESERVED, READ_RESERVATION]
    assert requests(api, lambda: add(open_store(), NEXT)) == expected
    entry = api.resources.get(POOLS, SPACE, "10.9.0.0-24")["spec"]["allocations"][whereabouts.offset(first)]
    assert entry["id"] == "next"


def test_a_requested_address_that_is_leased_is_refused_by_the_first_read(api, open_store):
    fill(api, range(1, 50))

    def refused() -> None:
        with pytest.raises(AddressTaken):
            add(open_store(), owner("a"), wanted=parse("10.9.0.7", ""))

    assert requests(api, refused) == [FOUND, FOUND]


def test_an_address_that_another_node_takes_after_the_read_is_replaced_after_one_more_read(
    api, open_store, monkeypatch
):
    fill(api, range(0))
    patch = api.resources.patch
    taken: list[str] = []

    def taken_first(kind, namespace, name, operations):
        if not taken:
            taken.append(operations[0]["path"].rpartition("/")[2])
            put(api, {taken[0]: {"id": "z", "podref": "default/z", "ifname": "net1"}})
        return patch(kind, namespace, name, operations)

    monkeypatch.setattr(api.resources, "patch", taken_first)
    got = requests(api, lambda: add(open_store(), owner("a"), TINY))
    assert got == [FOUND, FOUND, ("PATCH", "ippools", 422), FOUND, LEASED, CREATED]


def test_a_pool_without_a_lease_of_the_pod_is_not_decoded(api, open_store, monkeypatch):
    fill(api, range(100, 250))
    decoded: list[bytes] = []

    def counted(content: bytes) -> dict[str, Any]:
        decoded.append(content)
        return document(content)

    monkeypatch.setattr("ipam.kubernetes.pool_text.document", counted)
    wanted = parse("10.9.0.7", "")
    add(open_store(), owner("a"), wanted=wanted)
    assert decoded == []
    assert add(open_store(), NEXT)[0].address == wanted
    assert len(decoded) == 1


def test_an_add_decodes_no_entry_of_other_owners_in_the_journal(open_store, monkeypatch):
    for number in range(8):
        add(open_store(), owner(f"other{number}"))
    decoded: list[bytes] = []

    def counted(content: bytes):
        decoded.append(content)
        return decode(content)

    for module in ("journal", "occupied"):
        monkeypatch.setattr(f"ipam.cluster.{module}.decode", counted)
    add(open_store(), owner("a"))
    assert decoded == []


# Backend etcd


@pytest.mark.parametrize("pod", ("default/a", ""))
@pytest.mark.parametrize("others", (0, 40))
def test_an_add_is_one_request_to_etcd(etcd, tmp_path, monkeypatch, pod, others):
    for name in ("journal", "run"):
        (tmp_path / name).mkdir(mode=0o700)
    journal = Journal(str(tmp_path / "journal"), str(tmp_path / "run"))
    cluster_conf: ClusterConf = {"kind": "etcd", "endpoints": [etcd.endpoint], "prefix": f"/{tmp_path.name}"}
    store = Journaled(journal, "n1", NETWORK, cluster_conf, opened_etcd)
    for number in range(others):
        add(store, owner(f"other{number}"), V6)
    asked: list[str] = []
    ask = Gateway.ask

    def counted(self, path, question):
        asked.append(path)
        return ask(self, path, question)

    monkeypatch.setattr(Gateway, "ask", counted)
    add(store, owner("a").replace(pod=pod), V6)
    assert len(asked) == 1
