"""The contract of clusters, with the tests' API server over TLS."""

from __future__ import annotations

import pytest

from ipam.kubernetes import whereabouts
from ipam.kubernetes.cluster import open_kubernetes
from ipam.kubernetes.whereabouts import PoolLocation
from tests.contract.ipam_cluster_contract import CONTRACT, NETWORK, V4, V6, Backend
from tests.kube.apiserver import ApiServer
from tests.kube.routes import RIGHTS
from tests.trusting import ACCESS

SECONDS = 30.0


@pytest.mark.parametrize("overlapping", (True, False))
@pytest.mark.parametrize("network_name", ("", "storage"))
@pytest.mark.parametrize("promise", CONTRACT)
def test_kubernetes_keeps_the_contract(promise, network_name, overlapping, tmp_path):
    with ApiServer() as api:
        api.rights = RIGHTS
        place = PoolLocation(
            kubeconfig=str(api.kubeconfig(tmp_path / "kubeconfig")),
            network_name=network_name,
            overlapping=overlapping,
            subnets=whereabouts.subnets_of([(V4,), (V6,)]),
        )
        backend = Backend(
            open=lambda _node: open_kubernetes(whereabouts.cluster_conf(place), NETWORK, SECONDS, ACCESS),
            names_nodes=False,
        )
        CONTRACT[promise](backend)
