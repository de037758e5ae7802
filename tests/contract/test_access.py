"""Which credentials a network's author can make root use: real files, and real listeners that must receive nothing."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import pytest

from cni.errors import InvalidConfig
from cni.kube.access import USUAL, Access, access_of
from cni.kube.config import Cluster, open_cluster
from cni.kube.connection import Connection
from cni.kube.pods import open_pods
from cni.node.node import AddressPolicy, CredentialPolicy, NodeConf
from ipam.config.policy import Policy
from ipam.etcd.cluster import keys_of, open_etcd
from ipam.etcd.gateway import servers
from tests.kube.apiserver import ApiServer
from tests.kube.authority import certificates
from tests.trusting import TOP

POD = ("default", "pod1")
UID = "d5b1"
SECRET = "the-cluster-admin-s-token"
SECONDS = 10.0


@pytest.fixture
def api():
    with ApiServer() as api:
        api.add_pod(*POD, uid=UID)
        yield api


@pytest.fixture
def usual(tmp_path):
    """The directory of kubeconfigs that networks may name."""
    folder = tmp_path / "net.d"
    folder.mkdir(mode=0o755)
    return folder


@pytest.fixture
def access(usual):
    return Access(usual=(str(usual),), start=TOP)


@pytest.fixture
def secret(tmp_path):
    """A file that only root can read, outside the directories for credentials."""
    path = tmp_path / "token"
    path.write_text(SECRET)
    path.chmod(0o600)
    return str(path)


def test_a_kubeconfig_in_the_usual_place_is_used_with_the_files_beside_it(api, usual, access):
    (usual / "token").write_text(api.token)
    path = api.kubeconfig(usual / "multus.kubeconfig", user={"tokenFile": "token"})
    assert open_pods(str(path), access, SECONDS).get(*POD)["metadata"]["uid"] == UID


def test_the_kubeconfigs_of_multus_and_whereabouts_are_in_usual_places():
    allowed = access_of(NodeConf()).kubeconfigs().allowed
    for path in (
        "/etc/cni/net.d/multus.d/multus.kubeconfig",
        "/etc/cni/net.d/whereabouts.d/whereabouts.kubeconfig",
        "/etc/kubernetes/cni/net.d/whereabouts.d/whereabouts.kubeconfig",
        "/var/lib/rancher/k3s/agent/etc/cni/net.d/multus.d/multus.kubeconfig",
    ):
        assert any(path.startswith(f"{root}/") for root in allowed)
    for path in ("/etc/kubernetes/admin.conf", "/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/kubeconfig"):
        assert not any(path.startswith(root) for root in allowed)
        with pytest.raises(InvalidConfig, match=r"is not below|does not exist"):
            open_cluster(path, access_of(NodeConf()))
    assert set(USUAL) <= set(allowed)


@pytest.mark.parametrize("what", ("folder", "file"))
def test_a_kubeconfig_that_a_pod_can_write_is_refused_and_no_request_is_sent(api, usual, access, what):
    (usual / "volume").mkdir()
    path = api.kubeconfig(usual / "volume" / "kubeconfig")
    os.chown(usual / "volume" if what == "folder" else path, 1000, 1000)
    with pytest.raises(InvalidConfig, match="belongs to user 1000"):
        open_pods(str(path), access, SECONDS).get(*POD)
    assert api.requests == []


def test_a_kubeconfig_elsewhere_is_refused_unless_the_node_configuration_names_it(api, tmp_path, access):
    path = str(api.kubeconfig(tmp_path / "admin.conf"))
    with pytest.raises(InvalidConfig, match=r"admin\.conf is not below") as raised:
        open_pods(path, access, SECONDS)
    assert "kubernetes.kubeconfigs in /etc/barewire/node.json" in raised.value.hint
    for named in (path, str(tmp_path)):
        assert open_pods(path, access.replace(named=(named,)), SECONDS).get(*POD)
    assert open_pods(path, access.replace(default=path), SECONDS).get(*POD)


@pytest.mark.parametrize("key", ("tokenFile", "client-key", "client-certificate", "certificate-authority"))
@pytest.mark.parametrize("way", ("{top}/token", "../token", "link"))
def test_a_network_s_kubeconfig_names_no_file_outside_of_the_places_of_credentials(
    api, usual, access, secret, tmp_path, key, way
):
    (usual / "link").symlink_to(secret)
    name = way.format(top=tmp_path)
    user = {"client-certificate-data": "QUFB", "client-key-data": "QUFB", key: name}
    user.pop(f"{key}-data", None)
    kind = {"cluster": {key: name, f"{key}-data": ""}} if key == "certificate-authority" else {"user": user}
    if key == "tokenFile":
        kind = {"user": {key: name}}
    path = api.kubeconfig(usual / "kubeconfig", **kind)
    with pytest.raises(InvalidConfig, match=f"{tmp_path}/token .*is not below") as raised:
        open_pods(str(path), access, SECONDS).get(*POD)
    assert SECRET not in f"{raised.value.msg}{raised.value.details}"
    assert api.requests == []


def test_the_administrator_s_kubeconfig_may_name_files_anywhere(api, access, tmp_path, secret):
    api.token = SECRET
    path = str(api.kubeconfig(tmp_path / "admin.conf", user={"tokenFile": secret}))
    assert open_pods("", access.replace(default=path), SECONDS).get(*POD)
    assert open_pods(path, access.replace(named=(path,)), SECONDS).get(*POD)


def test_a_directory_of_credentials_can_be_added(api, usual, access, tmp_path, secret):
    api.token = SECRET
    path = str(api.kubeconfig(usual / "kubeconfig", user={"tokenFile": secret}))
    node = NodeConf(cni_conf_dirs=(str(usual),), addresses=AddressPolicy(credentials=(str(tmp_path),)))
    assert open_pods(path, access_of(node, TOP), SECONDS).get(*POD)


def test_the_node_s_kubeconfig_is_for_networks_that_name_none(api, access, tmp_path, usual):
    path = str(api.kubeconfig(tmp_path / "node.conf"))
    node = NodeConf(kubernetes=CredentialPolicy(kubeconfig=path))
    assert open_pods("", access_of(node, TOP), SECONDS).get(*POD)
    other = api.kubeconfig(usual / "own.kubeconfig")
    assert open_cluster(str(other), access.replace(default=path)).origin == str(other)


@pytest.mark.parametrize("path", ("kubeconfig", "{usual}/../net.d/kubeconfig", "{usual}/./kubeconfig"))
def test_a_kubeconfig_s_path_is_plain(api, usual, access, path):
    api.kubeconfig(usual / "kubeconfig")
    with pytest.raises(InvalidConfig, match="is not an absolute path without"):
        open_pods(path.format(usual=usual), access, SECONDS)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def heard(listener) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize("kind", ("token", "tokenFile"))
def test_no_token_goes_over_http(usual, access, listener, kind):
    (usual / "token").write_text(SECRET)
    user = {kind: SECRET if kind == "token" else "token"}
    with ApiServer(secure=False) as api:
        cluster = {"server": f"http://127.0.0.1:{listener.getsockname()[1]}"}
        path = api.kubeconfig(usual / "kubeconfig", user=user, cluster=cluster)
    with pytest.raises(InvalidConfig, match="http://, which would show the token"):
        open_pods(str(path), access, SECONDS).get(*POD)
    assert not heard(listener)


def test_a_connection_sends_no_token_over_http_however_it_came_to_have_one(listener):
    cluster = Cluster(host="127.0.0.1", port=listener.getsockname()[1], secure=False, token=SECRET)
    with Connection(cluster, time.monotonic() + SECONDS) as connection, pytest.raises(InvalidConfig, match="over http"):
        connection.ask("GET", "/")
    assert not heard(listener)


@pytest.mark.parametrize("key", ("tokenFile", "client-key"))
def test_a_fifo_in_the_place_of_a_credential_holds_no_call(api, usual, access, key):
    os.mkfifo(usual / "fifo", 0o600)
    certificate, _key = certificates().client
    (usual / "crt").write_bytes(certificate.read_bytes())
    user = {key: "fifo"} if key == "tokenFile" else {"client-certificate": "crt", key: "fifo"}
    path = api.kubeconfig(usual / "kubeconfig", user=user)
    with pytest.raises(InvalidConfig, match="fifo is not a regular file"):
        open_pods(str(path), access, SECONDS).get(*POD)


# etcd

ETCD: Any = {"endpoints": ["https://127.0.0.1:2379"], "node": "a"}
FOREIGN = (
    "/registry",
    "/registry/",
    "/registry/secrets",
    "/Registry/secrets",
    "/kubernetes.io",
    "/kubernetes.io/pods/x",
    "/openshift.io/routes",
    "/calico/ipam/v2",
    "/cilium/state",
    "/coreos.com/network",
    "/",
    "//",
    "//registry",
    "/registry/../x",
    "/x/../registry",
    "/x//y",
    "registry",
    "",
    "/a\nb",
)


def with_prefix(prefix: str) -> Any:
    return {**ETCD, "prefix": prefix}


@pytest.mark.parametrize("prefix", [one for one in FOREIGN if one])
def test_no_key_is_built_in_a_part_of_etcd_that_is_another_s(prefix):
    with pytest.raises(InvalidConfig, match="prefix"):
        keys_of(with_prefix(prefix), "kube-system")


@pytest.mark.parametrize("prefix", ("/barewire/ipam", "/barewire", "/our/registry", "/registry-of-ours", "/ipam/"))
def test_other_prefixes_are_allowed(prefix):
    assert keys_of(with_prefix(prefix), "net").prefix == prefix.rstrip("/")


@pytest.mark.parametrize("key", ("caFile", "certFile", "keyFile"))
def test_a_file_of_etcd_is_judged_before_it_is_opened(usual, tmp_path, secret, key):
    policy = Policy(node=NodeConf(addresses=AddressPolicy(credentials=(str(usual),))), start=TOP)
    os.mkfifo(usual / "fifo", 0o600)
    (usual / "good").write_bytes(certificates().authority.certificate.read_bytes())
    for name, words in ((f"{usual}/fifo", "fifo is not a regular file"), (secret, "token is not below")):
        document: Any = {**ETCD, "certFile": f"{usual}/good", "keyFile": f"{usual}/good", key: name}
        with pytest.raises(InvalidConfig, match=f"etcd: {key}: .*{words}"):
            open_etcd(document, "net", 1.0, policy.certificates(document))


def test_the_certificates_of_the_node_s_etcd_serve_its_own_description_only(tmp_path):
    certificate, key = certificates().client
    files = {"certFile": f"{tmp_path}/crt", "keyFile": f"{tmp_path}/key"}
    (tmp_path / "crt").write_bytes(certificate.read_bytes())
    (tmp_path / "key").write_bytes(key.read_bytes())
    access = AddressPolicy().etcd.replace(
        endpoints=("https://10.0.0.1:2379",), prefix="/ours", cert_file=files["certFile"], key_file=files["keyFile"]
    )
    policy = Policy(node=NodeConf(addresses=AddressPolicy(etcd=access)), start=TOP)
    ours: Any = policy.defaults().etcd or {}
    assert ours == {"endpoints": ["https://10.0.0.1:2379"], "prefix": "/ours", **files}
    named: Any = {**ours, "node": "a", "kind": "etcd"}
    assert servers(named, policy.certificates(ours))
    for change in ({"prefix": "/theirs"}, {"endpoints": ["https://10.6.6.6:2379"]}):
        changed: Any = {**ours, **change}
        with pytest.raises(InvalidConfig, match="or to the node itself"):
            servers(changed, policy.certificates(changed))


@pytest.mark.parametrize("change", ({"prefix": "/otherteam"}, {"endpoints": ["https://10.6.6.6:2379"]}, {"caFile": ""}))
@pytest.mark.parametrize("name", ("crt", "link"))
def test_the_node_s_own_certificates_are_withheld_from_networks_also_in_a_usual_place(tmp_path, change, name):
    certificate, key = certificates().client
    (tmp_path / "crt").write_bytes(certificate.read_bytes())
    (tmp_path / "key").write_bytes(key.read_bytes())
    (tmp_path / "link").symlink_to("crt")
    access = AddressPolicy().etcd.replace(
        endpoints=("https://10.0.0.1:2379",),
        prefix="/ours",
        ca_file=f"{tmp_path}/crt",
        cert_file=f"{tmp_path}/{name}",
        key_file=f"{tmp_path}/key",
    )
    policy = Policy(node=NodeConf(addresses=AddressPolicy(etcd=access, credentials=(str(tmp_path),))), start=TOP)
    ours: Any = policy.defaults().etcd or {}
    assert servers(ours, policy.certificates(ours))
    theirs: Any
    for theirs in ({**ours, **change}, {**ours, **change, "certFile": f"{tmp_path}/crt"}):
        with pytest.raises(InvalidConfig, match=r"etcd: .* belongs to another program, or to the node itself"):
            servers(theirs, policy.certificates(theirs))
    (tmp_path / "own").write_bytes(b"a network's")
    own: Any = {**ours, **change, "caFile": "", "certFile": f"{tmp_path}/own", "keyFile": f"{tmp_path}/own"}
    assert servers(own, policy.certificates(own))


def test_owners_whom_the_node_configuration_trusts_are_trusted_with_kubeconfigs_and_etcd_s_files(tmp_path):
    node = NodeConf(
        cni_conf_dirs=(str(tmp_path),), trusted_owners=(997,), addresses=AddressPolicy(credentials=(str(tmp_path),))
    )
    path = tmp_path / "file"
    path.write_bytes(b"content")
    os.chown(tmp_path, 997, 0)
    path.chmod(0o660)
    os.chown(path, 0, 997)
    access, policy = access_of(node, TOP), Policy(node=node, start=TOP)
    for places in (access.kubeconfigs(), access.files(str(path)), policy.certificates({})):
        assert places.content(str(path), "it") == b"content"
    assert policy.replace(node=node.replace(addresses=AddressPolicy(resolv_confs=(str(path),)))).resolv_conf(
        str(path), 99
    )
    leases = policy.replace(node=node.replace(addresses=AddressPolicy(data_roots=(str(tmp_path),))))
    assert leases.data_directory(f"{tmp_path}/leases")
