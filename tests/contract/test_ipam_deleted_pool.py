"""An IPPool that somebody deletes while pods use what it held: nobody gets that, once their node has made a call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ipam import whereabouts
from ipam.whereabouts import Place
from tests.contract.ipam_cluster_contract import V6
from tests.kube.apiserver import ApiServer
from tests.kube.node import FEW, Node
from tests.kube.resources import POOLS
from tests.kube.routes import RIGHTS

SPACE = "kube-system"
SECONDS = 20.0


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.rights = RIGHTS
        yield api


@pytest.fixture
def nodes(api, tmp_path) -> list[Node]:
    """Without reservations, which would keep the addresses."""
    kubeconfig = str(api.kubeconfig(tmp_path / "kubeconfig"))
    subnets = whereabouts.subnets_of([(FEW,), (V6,)])
    document = whereabouts.document(Place(kubeconfig=kubeconfig, subnets=subnets, overlapping=False))
    return [Node(name, tmp_path / name, tmp_path / "held", document, SECONDS) for name in ("n1", "n2")]


def entries(api) -> dict[str, str]:
    """Container by pool and offset."""
    found: dict[str, str] = {}
    for name in api.resources.names(POOLS, SPACE):
        allocations = api.resources.get(POOLS, SPACE, name)["spec"]["allocations"]
        found |= {f"{name} {key}": entry["id"] for key, entry in allocations.items()}
    return found


@pytest.mark.parametrize("names", (["10.9.0.0-24"], ["10.9.0.0-24", "fd00-9---64"]))
@pytest.mark.parametrize("made_anew", (False, True))
def test_what_the_journal_holds_in_a_pool_that_was_deleted_is_taken_again_before_anything_is_leased(
    api, nodes, names, made_anew
):
    here, elsewhere = nodes
    for container in ("c1", "c2"):
        here.add(container)
    before = entries(api)
    for name in names:
        api.resources.forget(POOLS, SPACE, name)
        if made_anew:
            cidr = {"10.9.0.0-24": "10.9.0.0/24", "fd00-9---64": "fd00:9::/64"}[name]
            api.resources.create(POOLS, SPACE, whereabouts.pool(name, cidr))
    here.add("c3")
    after = entries(api)
    assert {key: one for key, one in after.items() if one != "c3"} == before
    # Raises when somebody believes to have what it gets.
    for number in range(20):
        elsewhere.add(f"other{number}")
    patches = [request for request in api.requests if request.method == "PATCH"]
    here.add("c4")
    more = [request for request in api.requests if request.method == "PATCH"][len(patches) :]
    assert not any("c1" in str(request.body) for request in more), "it is taken again once"
    for container, paths in here.attachments().items():
        here.delete(container, paths)
    assert not any(one.startswith("c") for one in entries(api).values())
