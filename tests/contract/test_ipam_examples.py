"""The examples with a cluster's store are run with that store: leased, checked, and freed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cni.log import Log
from cni.protocol.request import parse, parse_environment
from ipam.plugin import IpamPlugin
from ipam.stores import Stores
from tests.etcd.server import EtcdServer
from tests.examples import EXAMPLES, manifest, network, of_cluster
from tests.kube.apiserver import ApiServer
from tests.trusting import POLICY

POD = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod;K8S_POD_UID=u"


@contextmanager
def etcd(_folder) -> Iterator[dict[str, Any]]:
    with EtcdServer(secure=True) as server:
        told = {name: text for name, text in server.cluster_conf().items() if name != "kind"}
        # Members that do not respond are skipped.
        yield {**told, "endpoints": ["https://127.0.0.1:1", *told["endpoints"]]}


@contextmanager
def kubernetes(folder) -> Iterator[dict[str, Any]]:
    with ApiServer() as api:
        granted = manifest(EXAMPLES / "rbac-ipam-kubernetes.yaml")["rules"]
        api.rights = frozenset(
            (verb, resource) for rule in granted for resource in rule["resources"] for verb in rule["verbs"]
        )
        yield {"kubeconfig": str(api.kubeconfig(folder / "kubeconfig"))}


STORES = {"etcd": etcd, "kubernetes": kubernetes}


@pytest.mark.parametrize("path", of_cluster(), ids=lambda path: path.name)
def test_an_example_is_leased_checked_and_freed(path, tmp_path):
    conflist = network(path)
    (conf,) = conflist["plugins"]
    backend = conf["ipam"]["backend"]
    (tmp_path / "run").mkdir(mode=0o700)
    stores = Stores(Log({}, level="panic"), policy=POLICY, journal=str(tmp_path / "journal"), run=str(tmp_path / "run"))
    plugin = IpamPlugin(stores, Log({}, level="panic"))
    with STORES[backend](tmp_path) as access:
        network_conf = {**conf, "name": conflist["name"], "ipam": {**conf["ipam"], backend: access}}

        def request(command, **more):
            env = {
                "CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/n", "CNI_IFNAME": "net1",
                "CNI_PATH": "/x", "CNI_ARGS": POD,
            }  # fmt: skip
            new = {"cniVersion": "1.1.0"} if command == "STATUS" else {}
            return parse(parse_environment(env), json.dumps({**network_conf, **new, **more}).encode())

        plugin.status(request("STATUS"))
        added = plugin.add(request("ADD"))
        assert plugin.add(request("ADD")) == added
        (ip,) = added.ips
        plugin.check(request("CHECK", prevResult={"cniVersion": "1.0.0", "ips": [{"address": ip.address}]}))
        plugin.delete(request("DEL"))
        assert list((tmp_path / "journal").rglob("*.json")) == []
