"""An IPPool is deleted while pods use its addresses: no other pod gets them once the pods' node has made a call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ipam.kubernetes import whereabouts
from ipam.kubernetes.whereabouts import PoolLocation
from tests.contract.ipam_cluster_contract import V6, owner
from tests.kube.apiserver import ApiServer
from tests.kube.node import FEW, SETS, Node
from tests.kube.resources import POOLS, RESERVATIONS
from tests.kube.routes import RIGHTS

SPACE = "kube-system"
SECONDS = 20.0


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.rights = RIGHTS
        yield api


def nodes_of(api, tmp_path, *, overlapping: bool) -> list[Node]:
    kubeconfig = str(api.kubeconfig(tmp_path / "kubeconfig"))
    subnets = whereabouts.subnets_of([(FEW,), (V6,)])
    cluster_conf = whereabouts.cluster_conf(
        PoolLocation(kubeconfig=kubeconfig, subnets=subnets, overlapping=overlapping)
    )
    return [Node(name, tmp_path / name, tmp_path / "held", cluster_conf, SECONDS) for name in ("n1", "n2")]


@pytest.fixture
def nodes(api, tmp_path) -> list[Node]:
    """Nodes without reservations, which would protect the addresses."""
    return nodes_of(api, tmp_path, overlapping=False)


def lease(node: Node, container: str) -> None:
    """Leases for a sandbox; all sandboxes are of one pod."""
    node.store.allocate(of_one_pod(container), SETS, (None, None))


def of_one_pod(container: str):
    return owner(container).replace(pod="default/pod")


def forget_pools(api) -> None:
    for name in api.resources.names(POOLS, SPACE):
        api.resources.forget(POOLS, SPACE, name)


def entries(api) -> dict[str, str]:
    """The container of each pool and offset."""
    found: dict[str, str] = {}
    for name in api.resources.names(POOLS, SPACE):
        allocations = api.resources.get(POOLS, SPACE, name)["spec"]["allocations"]
        found |= {f"{name} {key}": entry["id"] for key, entry in allocations.items()}
    return found


@pytest.mark.parametrize("names", (["10.9.0.0-24"], ["10.9.0.0-24", "fd00-9---64"]))
@pytest.mark.parametrize("recreated", (False, True))
def test_what_the_journal_holds_in_a_pool_that_was_deleted_is_taken_again_before_anything_is_leased(
    api, nodes, names, recreated
):
    here, elsewhere = nodes
    for container in ("c1", "c2"):
        here.add(container)
    before = entries(api)
    for name in names:
        api.resources.forget(POOLS, SPACE, name)
        if recreated:
            cidr = {"10.9.0.0-24": "10.9.0.0/24", "fd00-9---64": "fd00:9::/64"}[name]
            api.resources.create(POOLS, SPACE, whereabouts.pool(name, cidr))
    here.add("c3")
    after = entries(api)
    assert {key: one for key, one in after.items() if one != "c3"} == before
    # Raises an error if another owner believes it has the address.
    for number in range(20):
        elsewhere.add(f"other{number}")
    patches = [request for request in api.requests if request.method == "PATCH"]
    here.add("c4")
    more = [request for request in api.requests if request.method == "PATCH"][len(patches) :]
    assert not any("c1" in str(request.body) for request in more), "it is taken again once"
    for container, paths in here.attachments().items():
        here.delete(container, paths)
    assert not any(one.startswith("c") for one in entries(api).values())


@pytest.mark.parametrize("overlapping", (False, True))
def test_what_a_later_sandbox_has_taken_over_is_not_taken_again_for_the_earlier_one(api, tmp_path, overlapping):
    here, _ = nodes_of(api, tmp_path, overlapping=overlapping)
    # The DEL of the earlier one is lost, and by its name it is the last one in the journal.
    lease(here, "z-earlier")
    lease(here, "a-later")
    before = entries(api)
    assert set(before.values()) == {"a-later"}
    forget_pools(api)
    for container in ("c3", "c4"):
        here.add(container)
        assert {key: one for key, one in entries(api).items() if not one.startswith("c")} == before
    here.store.release(of_one_pod("z-earlier"))
    assert before.items() <= entries(api).items()


def test_what_only_the_earlier_sandbox_has_is_taken_again_for_it(api, nodes):
    here, _ = nodes
    here.store.allocate(of_one_pod("z-earlier"), SETS, (None, None))
    here.store.allocate(of_one_pod("a-later"), SETS[:1], (None,))
    before = entries(api)
    assert set(before.values()) == {"z-earlier", "a-later"}
    forget_pools(api)
    here.add("c3")
    assert {key: one for key, one in entries(api).items() if one != "c3"} == before


def test_a_reservation_that_names_the_earlier_sandbox_does_not_keep_the_later_from_what_it_has(api, tmp_path):
    here, _ = nodes_of(api, tmp_path, overlapping=True)
    lease(here, "earlier")
    lease(here, "later")
    here.store.release(of_one_pod("earlier"))
    before = entries(api)
    forget_pools(api)
    here.add("c3")
    assert {key: one for key, one in entries(api).items() if one != "c3"} == before
    here.store.release(of_one_pod("later"))
    assert set(entries(api).values()) == {"c3"}
    assert len(api.resources.names(RESERVATIONS, SPACE)) == 2


def test_what_another_owner_got_meanwhile_is_taken_again_when_it_is_free(api, nodes):
    here, _ = nodes
    here.add("c1")
    before = entries(api)
    (offset,) = (key.partition(" ")[2] for key in before if key.startswith("10.9.0.0-24 "))
    forget_pools(api)
    pool = whereabouts.pool("10.9.0.0-24", "10.9.0.0/24")
    theirs = {"id": "theirs", "podref": "default/theirs", "ifname": "net1"}
    api.resources.create(POOLS, SPACE, {**pool, "spec": {**pool["spec"], "allocations": {offset: theirs}}})
    here.add("c2")
    assert entries(api)[f"10.9.0.0-24 {offset}"] == "theirs"
    found = api.resources.get(POOLS, SPACE, "10.9.0.0-24")
    del found["spec"]["allocations"][offset]
    api.resources.put(POOLS, SPACE, found)
    here.add("c3")
    assert before.items() <= entries(api).items()
