"""The node's own files: its name in the kubelet's certificate, and whereabouts' second configuration file."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from typing import Any

import pytest

from cni.errors import CniError, InvalidConfig
from cni.log import Log
from cni.node.node import AddressPolicy, CredentialPolicy, NodeConf
from cni.protocol.request import Request, parse, parse_environment
from ipam.config import flat_file
from ipam.config.location import lease_location
from ipam.config.node_name import name_in, of_kubelet
from ipam.config.policy import Policy
from ipam.config.request import parse_request
from ipam.plugin import IpamPlugin
from ipam.stores import Stores
from tests.recording_log import RecordingLog
from tests.trusting import TOP

RANGE = {"type": "barewire-ipam", "range": "10.0.0.0/24"}


def certificate(path, subject: str, *more: str) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", "/dev/null", "-out", str(path),
         "-subj", subject, "-days", "1", *more],
        check=True, capture_output=True,
    )  # fmt: skip


@pytest.mark.parametrize("utf8", ((), ("-utf8",)))
@pytest.mark.parametrize("name", ("worker-3", "ip-10-0-0-1.eu-west-1.compute.internal", "n" * 52))
def test_the_node_s_name_is_that_of_the_kubelet_s_certificate(tmp_path, name, utf8):
    (tmp_path / "pki").mkdir()
    certificate(tmp_path / "pki" / "kubelet-client-2026.pem", f"/O=system:nodes/CN=system:node:{name}", *utf8)
    (tmp_path / "pki" / "kubelet-client-current.pem").symlink_to("kubelet-client-2026.pem")
    assert of_kubelet(str(tmp_path), TOP) == name
    node = NodeConf(kubelet_root=str(tmp_path))
    assert Policy(node=node, start=TOP).node_name() == name
    assert Policy(node=node.replace(node_name="told"), start=TOP).node_name() == "told"


@pytest.mark.parametrize("subject", ("/CN=somebody", "/CN=system:node:", "/CN=system:node:a\\/b", "/CN=system:node:.."))
def test_a_certificate_that_names_no_node_gives_no_name(tmp_path, subject):
    certificate(tmp_path / "crt", subject)
    assert name_in((tmp_path / "crt").read_bytes()) == ""


@pytest.mark.parametrize(
    "content", (b"", b"-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n", b"system:node:x")
)
def test_what_is_no_certificate_gives_no_name(content):
    assert name_in(content) == ""


def test_without_a_kubelet_the_node_has_the_host_s_name(tmp_path):
    import os

    assert Policy(node=NodeConf(kubelet_root=str(tmp_path)), start=TOP).node_name() == os.uname().nodename


# whereabouts.conf


def request(section: dict[str, Any], command: str = "ADD") -> Request:
    env = {
        "CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/n", "CNI_IFNAME": "net1", "CNI_PATH": "/x",
    }  # fmt: skip
    config = {"cniVersion": "1.0.0", "name": "net", "type": "sriov", "ipam": section}
    return parse(parse_environment(env), json.dumps(config).encode())


@pytest.fixture
def flat(tmp_path):
    path = tmp_path / "whereabouts.conf"
    path.write_text(
        json.dumps({"datastore": "kubernetes", "kubernetes": {"kubeconfig": "/etc/cni/net.d/w.kubeconfig"}})
    )
    return path


@pytest.fixture
def policy(tmp_path, flat):
    return Policy(node=NodeConf(cni_conf_dirs=(str(tmp_path),)), start=TOP, flat_files=(f"{tmp_path}/none", str(flat)))


def found(policy: Policy, section: dict[str, Any]):
    call = request(section)
    return lease_location(call, policy.defaults(call))


def test_a_network_with_whereabouts_ranges_needs_neither_backend_nor_kubeconfig(policy):
    for section in (RANGE, {**RANGE, "backend": "kubernetes"}, {"ipRanges": [{"range": "10.0.0.0/24"}]}):
        where = found(policy, section)
        assert where.backend == "kubernetes"
        assert (where.cluster_conf or {})["kubeconfig"] == "/etc/cni/net.d/w.kubeconfig"


def test_what_a_network_or_the_node_configuration_says_stands_above_whereabouts_file(policy):
    own = {**RANGE, "backend": "kubernetes", "kubernetes": {"kubeconfig": "/etc/cni/own"}}
    assert (found(policy, own).cluster_conf or {})["kubeconfig"] == "/etc/cni/own"
    assert found(policy, {**RANGE, "backend": "local"}).backend == "local"
    assert found(policy, {"subnet": "10.0.0.0/24"}).backend == "local"
    node = policy.node.replace(kubernetes=CredentialPolicy(kubeconfig="/etc/node"))
    where = found(policy.replace(node=node), RANGE)
    assert (where.backend, (where.cluster_conf or {})["kubeconfig"]) == ("kubernetes", "")
    etcd = policy.node.replace(addresses=AddressPolicy(backend="etcd"))
    assert found(policy.replace(node=etcd), RANGE).backend == "etcd"


def test_whereabouts_documented_configuration_is_in_kubernetes_with_any_source_of_the_kubeconfig(policy, flat):
    flat.unlink()
    own: dict[str, Any] = {
        "datastore": "kubernetes",
        "kubernetes": {"kubeconfig": "/etc/cni/net.d/whereabouts.d/w.kubeconfig"},
    }
    for section in ({**RANGE, **own}, {"type": "barewire-ipam", "ipRanges": [{"range": "10.0.0.0/24"}], **own}):
        where = found(policy, section)
        assert (where.backend, (where.cluster_conf or {})["kubeconfig"]) == (
            "kubernetes",
            own["kubernetes"]["kubeconfig"],
        )
        call = request(section)
        assert parse_request(call, Log({}), policy.defaults(call)).sets
    node = policy.node.replace(kubernetes=CredentialPolicy(kubeconfig="/etc/node"))
    assert found(policy.replace(node=node), {**RANGE, "datastore": "kubernetes"}).backend == "kubernetes"
    for section in (RANGE, {**RANGE, "datastore": "kubernetes"}, {**RANGE, **own, "datastore": "etcd"}):
        call = request(section)
        with pytest.raises(InvalidConfig, match=r"ipam\.backend: missing"):
            parse_request(call, Log({}), policy.defaults(call))


def test_whereabouts_file_is_not_read_where_the_kubeconfig_is_configured_elsewhere(policy, flat):
    flat.write_text("{")
    node = policy.node.replace(kubernetes=CredentialPolicy(kubeconfig="/etc/node"))
    for more in ({}, {"addresses": AddressPolicy(backend="kubernetes")}):
        assert found(policy.replace(node=node.replace(**more)), RANGE).backend == "kubernetes"
    own = {**RANGE, "kubernetes": {"kubeconfig": "/etc/cni/own"}}
    assert (found(policy, own).cluster_conf or {})["kubeconfig"] == "/etc/cni/own"


def test_where_the_file_that_a_network_names_does_not_exist_the_usual_ones_are_read(policy, tmp_path):
    where = found(policy, {**RANGE, "configuration_path": f"{tmp_path}/gone/whereabouts.conf"})
    assert (where.cluster_conf or {})["kubeconfig"] == "/etc/cni/net.d/w.kubeconfig"


def test_the_file_is_read_once_per_call(policy, tmp_path, monkeypatch):
    reads: list[str] = []
    real = flat_file.kubeconfig

    def counted(*told: Any) -> str:
        reads.append("read")
        return real(*told)

    monkeypatch.setattr(flat_file, "kubeconfig", counted)
    log = RecordingLog()
    plugin = IpamPlugin(Stores(log, journal=f"{tmp_path}/journal", run=f"{tmp_path}/run", policy=policy), log)
    whole = request(RANGE)
    for call in (plugin.add, plugin.check, plugin.status):
        with suppress(CniError):
            call(whole)
        assert reads.pop() == "read"
        assert not reads


def test_a_network_may_name_the_file_itself_in_the_same_places(policy, tmp_path):
    path = tmp_path / "other.conf"
    path.write_text(json.dumps({"kubernetes": {"kubeconfig": "/etc/cni/other"}}))
    where = found(policy, {**RANGE, "configuration_path": str(path)})
    assert (where.cluster_conf or {})["kubeconfig"] == "/etc/cni/other"


@pytest.mark.parametrize("content", ("{", "[]", '{"datastore": "etcd"}', '{"kubernetes": 5}', '{"kubernetes": {}}'))
def test_a_file_without_access_gives_none(policy, flat, content):
    flat.write_text(content)
    if content in ("{", "[]"):
        with pytest.raises(InvalidConfig, match=r"ipam\.configuration_path: .*whereabouts\.conf"):
            found(policy, RANGE)
    else:
        assert found(policy, RANGE).backend == "local"


@pytest.mark.parametrize("path", ("/etc/shadow", "/dev/null"))
def test_a_file_elsewhere_is_refused_at_add_and_a_warning_at_del(tmp_path, path):
    log = RecordingLog()
    plugin = IpamPlugin(Stores(log, journal=f"{tmp_path}/journal", run=f"{tmp_path}/run", policy=Policy()), log)
    section = {**RANGE, "configuration_path": path, "dataDir": "/var/lib/cni/networks-of-no-test"}
    with pytest.raises(InvalidConfig, match=r"ipam\.configuration_path: "):
        plugin.add(request(section))
    plugin.delete(request(section, "DEL"))
    assert [text for text in log.messages if "ipam.configuration_path" in text]
