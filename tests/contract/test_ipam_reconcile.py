"""`barewire-ipam reconcile` frees leases of pods that are gone, and no lease that may be in use, of either plugin."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from ipam.kubernetes import whereabouts
from ipam.kubernetes.cluster import open_kubernetes
from ipam.kubernetes.whereabouts import PoolLocation
from ipam.store import Claim, Owner
from tests.contract.ipam_command import NETWORK, SECONDS, V4, V6, Namespace, Node
from tests.kube.apiserver import ApiServer, Faults
from tests.kube.resources import POOLS, RESERVATIONS
from tests.kube.routes import RIGHTS
from tests.trusting import ACCESS

SPACE = "kube-system"
OLD, YOUNG = "2026-01-01T00:00:00Z", "2999-01-01T00:00:00Z"
STATUS = "k8s.v1.cni.cncf.io/network-status"


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.rights = RIGHTS | {("get", "pods")}
        yield api


@pytest.fixture
def place(api, tmp_path) -> PoolLocation:
    return PoolLocation(
        kubeconfig=str(api.kubeconfig(tmp_path / "kubeconfig")), subnets=whereabouts.subnets_of([(V4,), (V6,)])
    )


@pytest.fixture
def node(tmp_path, place) -> Node:
    """A node that knows the network from its attachment `mine`, whose pod the API server does not know."""
    node = Node(tmp_path / "here", cluster_conf={**whereabouts.cluster_conf(place), "node": os.uname().nodename})
    node.add("mine")
    return node


@pytest.fixture
def lease(api, place):
    """Makes an interface of a pod lease 10.77.0.<number>; `made` is the time of its reservation."""
    cluster = open_kubernetes(whereabouts.cluster_conf(place), NETWORK, SECONDS, ACCESS)

    def leased(number: int, pod: str, uid: str = "", made: str = OLD, container: str = "") -> str:
        address = V4.address(V4.subnet.number + number)
        whose = Owner(network=NETWORK, container_id=container or f"c{number}", ifname="net1", pod=pod, pod_uid=uid)
        assert cluster.take((Claim(range=V4, address=address),), whose) == ()
        date(api, str(address), made)
        return str(address)

    return leased


def date(api, address: str, made: str) -> None:
    found = api.resources.get(RESERVATIONS, SPACE, address)
    metadata = {key: value for key, value in found["metadata"].items() if key != "resourceVersion"}
    api.resources.put(RESERVATIONS, SPACE, {**found, "metadata": {**metadata, "creationTimestamp": made}})


def by_whereabouts(api, number: int, pod: str, container: str = "theirs", made: str = OLD) -> str:
    """The same, leased by whereabouts: its reservation names no container."""
    address = f"10.77.0.{number}"
    entry = {"id": container, "podref": pod, "ifname": "net1"}
    path = f"/spec/allocations/{number}"
    api.resources.patch(POOLS, SPACE, "10.77.0.0-24", [{"op": "add", "path": path, "value": entry}])
    found = whereabouts.reservation(address, Owner(network="", container_id="", ifname="net1", pod=pod))
    api.resources.create(RESERVATIONS, SPACE, found)
    date(api, address, made)
    return address


def shown(*addresses: str, interface: str = "net1") -> dict[str, str]:
    told = [{"name": "default", "interface": "eth0", "ips": ["10.1.1.1"]}]
    return {STATUS: json.dumps([*told, {"name": "default/net", "interface": interface, "ips": list(addresses)}])}


def left(node) -> set[str]:
    return {address for address, container in node.leases().items() if container != "mine"}


def test_what_has_no_pod_any_more_is_freed_with_its_reservation_and_this_node_s_own_is_not_looked_at(
    api, node, lease, capsys
):
    ours, theirs = lease(10, "default/gone"), by_whereabouts(api, 11, "default/gone-too")
    assert node.run("reconcile", "--yes") == 0
    said = capsys.readouterr().out
    assert f"{ours}  c10/net1 of default/gone" in said
    assert "its pod does not exist" in said
    assert theirs in said
    assert "2 freed" in said
    assert set(node.leases().values()) == {"mine"}
    assert api.resources.names(RESERVATIONS, SPACE) == sorted(node.leases())
    assert node.run("reconcile", "--yes") == 0
    assert "no lease is known to be unused" in capsys.readouterr().out


def test_a_pod_that_was_recreated_under_its_name_is_recognized_by_its_uid(api, node, lease):
    api.add_pod("default", "sts-0", uid="second")
    api.add_pod("default", "sts-1", uid="first")
    lease(10, "default/sts-0", uid="first")
    kept = lease(11, "default/sts-1", uid="first")
    assert node.run("reconcile", "--yes") == 0
    assert left(node) == {kept}


def test_a_static_pod_is_known_by_the_hash_of_its_file(api, node, lease):
    api.add_pod("default", "static", uid="mirror", annotations={"kubernetes.io/config.mirror": "hash"})
    kept = lease(10, "default/static", uid="hash")
    assert node.run("reconcile", "--yes") == 0
    assert left(node) == {kept}


def test_an_earlier_sandbox_is_recognized_by_the_addresses_in_multus_status(api, node, lease):
    kept = lease(11, "default/p", container="next")
    api.add_pod("default", "p", annotations=shown(kept))
    path = "/spec/allocations/10"
    entry = {"id": "before", "podref": "default/p", "ifname": "net1"}
    api.resources.patch(POOLS, SPACE, "10.77.0.0-24", [{"op": "add", "path": path, "value": entry}])
    told = whereabouts.reservation(
        "10.77.0.10", Owner(network="", container_id="before", ifname="net1", pod="default/p")
    )
    api.resources.create(RESERVATIONS, SPACE, told)
    date(api, "10.77.0.10", OLD)
    assert node.run("reconcile", "--yes") == 0
    assert left(node) == {kept}
    assert "10.77.0.10" not in api.resources.names(RESERVATIONS, SPACE)


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        shown("10.77.0.10"),
        shown("10.77.0.10/24"),
        shown("10.77.0.10", interface="other"),
        shown("1.2.3.4", interface="x"),
    ],
)
def test_what_a_living_pod_may_use_is_kept_also_without_multus(api, node, lease, annotations):
    kept = lease(10, "default/p", uid="u")
    api.add_pod("default", "p", uid="u", annotations=annotations)
    assert node.run("reconcile", "--yes", "--older-than", "0") == 0
    assert left(node) == {kept}


def test_an_address_in_multus_status_is_in_use_whatever_the_uid_is(api, node, lease):
    kept = lease(10, "default/p", uid="other")
    api.add_pod("default", "p", uid="u", annotations=shown("10.77.0.10"))
    assert node.run("reconcile", "--yes", "--older-than", "0") == 0
    assert left(node) == {kept}


def test_the_uid_of_an_earlier_sandbox_s_reservation_does_not_count(api, node, lease, place):
    lease(10, "default/p", uid="first", container="before")
    kept = lease(10, "default/p", uid="second", container="after")
    assert api.resources.get(RESERVATIONS, SPACE, kept)["spec"]["containerid"] == "before"
    api.add_pod("default", "p", uid="second")
    assert node.run("reconcile", "--yes", "--older-than", "0") == 0
    assert left(node) == {kept}


def test_what_is_young_is_passed_over_and_what_is_of_unknown_age_is_reported(api, node, lease, capsys):
    lease(10, "default/gone", made=YOUNG)
    unknown = lease(11, "default/gone")
    api.resources.forget(RESERVATIONS, SPACE, unknown)
    assert node.run("reconcile", "--yes") == 1
    told = capsys.readouterr().out
    assert "10.77.0.10" not in told
    assert f"{unknown}" in told
    assert "the age of the lease is unknown" in told
    assert len(left(node)) == 2
    assert node.run("reconcile", "--yes", "--older-than", "0") == 0
    assert left(node) == set()


@pytest.mark.parametrize("pod", ("", "default", "../etc/x", "A/B"))
def test_a_lease_that_names_no_pod_is_reported_and_stays(api, node, capsys, pod):
    by_whereabouts(api, 10, pod)
    assert node.run("reconcile", "--yes", "--older-than", "0") == 1
    assert "10.77.0.10" in capsys.readouterr().out
    assert left(node) == {"10.77.0.10"}


@pytest.mark.parametrize(
    "text", ("{", "5", "[5]", '[{"interface":"net1","ips":5}]', '[{"interface":"net1","ips":["x"]}]')
)
def test_a_network_status_that_cannot_be_read_frees_nothing(api, node, lease, text):
    lease(10, "default/p")
    api.add_pod("default", "p", annotations={STATUS: text})
    assert node.run("reconcile", "--yes", "--older-than", "0") == 1
    assert left(node) == {"10.77.0.10"}


def test_what_this_node_uses_is_kept_without_a_journal(api, node, lease):
    lease(10, "default/gone")
    with Namespace("10.77.0.10/24"):
        assert node.run("reconcile", "--yes", "--older-than", "0") == 0
        assert left(node) == {"10.77.0.10"}
    node.attach("c10")
    assert node.run("reconcile", "--yes", "--older-than", "0") == 0
    assert left(node) == {"10.77.0.10"}


def test_nothing_is_freed_without_consent_or_without_a_terminal(api, node, lease, capsys):
    lease(10, "default/gone")
    assert node.run("reconcile") == 1
    assert "use --yes" in capsys.readouterr().err
    api.rights = RIGHTS
    assert node.run("reconcile", "--yes") == 1
    assert "grant the verb get on pods" in capsys.readouterr().err
    api.rights = RIGHTS | {("get", "pods")}
    api.faults = Faults(status=503)
    assert node.run("reconcile", "--yes", "--seconds", "0.3") == 1
    api.faults = Faults()
    assert left(node) == {"10.77.0.10"}


def test_another_kubeconfig_may_tell_of_pods(api, node, lease, tmp_path):
    lease(10, "default/gone")
    kept = lease(11, "default/p")
    with ApiServer() as pods:
        pods.rights = frozenset({("get", "pods")})
        pods.add_pod("default", "p")
        kubeconfig = str(pods.kubeconfig(tmp_path / "pods"))
        assert node.run("reconcile", "--yes", "--kubeconfig", kubeconfig) == 0
    assert left(node) == {kept}


def test_a_pod_that_comes_back_before_the_answer_keeps_its_address(api, node, lease):
    from ipam.command.main import Host

    lease(10, "default/p")

    class Slow(Host):
        def has_terminal(self) -> bool:
            return True

        def agrees(self, question: str) -> bool:
            assert "1 address" in question
            api.add_pod("default", "p")
            return True

    assert node.run("reconcile", host=Slow(folders=node.folders)) == 0
    assert left(node) == {"10.77.0.10"}


def test_a_node_without_such_a_network_says_so(tmp_path, capsys):
    assert Node(tmp_path / "else").run("reconcile", "--yes") == 2
    assert "no network here is in Kubernetes" in capsys.readouterr().err
