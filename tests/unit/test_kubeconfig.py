"""kubeconfig files: accepted and refused documents. No secret appears in a message."""

from __future__ import annotations

import base64
import os

import pytest
import yaml

from cni.errors import InvalidConfig
from cni.kube.config import Cluster, from_kubeconfig, in_cluster, token_of
from tests.trusting import ACCESS

SECRET = "s3cr3t-of-the-file"
PEM = b"-----BEGIN CERTIFICATE-----\n"


def document(*, cluster=None, user=None, **top):
    return {
        "current-context": "here",
        "contexts": [{"name": "other"}, {"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://api.example:6443", **(cluster or {})}}],
        "users": [{"name": "u", "user": user if user is not None else {"token": SECRET}}],
        **top,
    }


@pytest.fixture
def load(tmp_path):
    """Writes the document as a kubeconfig and reads it."""

    def loaded(content):
        path = tmp_path / "kubeconfig"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return from_kubeconfig(str(path), ACCESS)

    return loaded


def test_server_and_token_of_the_current_context_are_taken(load, tmp_path):
    expected = Cluster(host="api.example", port=6443, token=SECRET, origin=str(tmp_path / "kubeconfig"))
    assert load(document()) == expected


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("https://api.example", ("api.example", 443, "", True)),
        ("http://api.example", ("api.example", 80, "", False)),
        ("https://10.0.0.1:6443/", ("10.0.0.1", 6443, "", True)),
        ("https://[fd00::1]:6443", ("fd00::1", 6443, "", True)),
        ("https://[fd00::1]", ("fd00::1", 443, "", True)),
        ("https://[10.96.0.1]:443", ("10.96.0.1", 443, "", True)),  # as Multus writes it
        ("https://proxy.example/k8s/clusters/c-abc/", ("proxy.example", 443, "/k8s/clusters/c-abc", True)),
    ],
)
def test_the_server_s_url_is_understood(load, server, expected):
    found = load(document(cluster={"server": server}, user={}))
    assert (found.host, found.port, found.prefix, found.secure) == expected


def test_data_stands_above_files_and_paths_are_relative_to_the_kubeconfig(load, tmp_path):
    for name in ("ca.crt", "client.crt", "client.key", "token"):
        (tmp_path / name).write_bytes(PEM + name.encode())
    data = base64.encodebytes(PEM + b"from data" * 20).decode()  # in lines, as an editor may leave it
    user = {"client-certificate": "client.crt", "client-key": str(tmp_path / "client.key")}
    found = load(document(cluster={"certificate-authority": "ca.crt"}, user=user))
    assert (found.authority, found.certificate, found.key) == (
        PEM + b"ca.crt",
        PEM + b"client.crt",
        PEM + b"client.key",
    )
    both = {"certificate-authority": "absent.crt", "certificate-authority-data": data}
    assert load(document(cluster=both)).authority == PEM + b"from data" * 20


def test_a_token_file_stands_above_a_token_and_is_read_each_time(load, tmp_path):
    (tmp_path / "token").write_text("first\n")
    cluster = load(document(user={"token": "fixed", "tokenFile": "token"}))
    assert token_of(cluster) == "first"
    (tmp_path / "token").write_text("second\n")
    assert token_of(cluster) == "second"


@pytest.mark.parametrize("content", ("", "\n", "two\nlines", "caf\u00e9", "a b"))
def test_a_token_file_without_a_token_is_refused_and_not_shown(load, tmp_path, content):
    (tmp_path / "token").write_text(content)
    with pytest.raises(InvalidConfig) as raised:
        token_of(load(document(user={"tokenFile": "token"})))
    assert raised.value.msg == f"{tmp_path}/token contains no token"


def test_the_flags_of_tls_are_understood(load):
    found = load(document(cluster={"insecure-skip-tls-verify": True, "tls-server-name": "kubernetes"}))
    assert (found.verify, found.server_name) == (False, "kubernetes")
    assert load(document()).verify


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (document(**{"current-context": "absent"}), "contexts has no 'absent'"),
        (document(**{"current-context": None}), "current-context is missing"),
        (document(contexts=None), "contexts has no 'here'"),
        (document(contexts=[{"name": "here"}]), "context 'here' is empty"),
        (document(contexts=[{"name": "here", "context": {"user": "u"}}]), "cluster is missing"),
        (document(clusters=[]), "clusters has no 'c'"),
        (document(users={"u": {}}), "users has no 'u'"),
        (document(cluster={"server": ""}), "server is missing"),
        (document(cluster={"server": 6443}), "server is not text"),
        (document(cluster={"server": "api.example:6443"}), "neither https:// nor http://"),
        (document(cluster={"server": "ftp://api.example"}), "neither https:// nor http://"),
        (document(cluster={"server": "https://"}), "not the name or address of a host"),
        (document(cluster={"server": "https://user@api.example"}), "not the name or address of a host"),
        (document(cluster={"server": "https://api.example:0"}), "invalid port"),
        (document(cluster={"server": "https://api.example:65536"}), "invalid port"),
        (document(cluster={"server": "https://api.example:" + "9" * 5000}), "invalid port"),
        (document(cluster={"server": "https://api.example/a b"}), "is not a path"),
        (document(cluster={"server": "https://api.example/a\r\nX: y"}), "is not a path"),
        (document(cluster={"server": "https://api.example/../x"}), "is not a path"),
        (document(cluster={"server": "https://api.example/?x"}), "is not a path"),
        (document(cluster={"tls-server-name": "a\nb"}), "not the name or address of a host"),
        (document(cluster={"proxy-url": "http://proxy"}), "cluster 'c': not supported: proxy-url"),
        (document(cluster={"insecure-skip-tls-verify": "false"}), "neither true nor false"),
        (document(cluster={"certificate-authority-data": "%%"}), "certificate-authority-data is not base64"),
        (
            document(cluster={"certificate-authority-data": "QUFB", "insecure-skip-tls-verify": True}),
            "exclude each other",
        ),
        (document(cluster={"certificate-authority": "absent"}), "certificate-authority: .*/absent does not exist"),
        (document(cluster={"certificate-authority-data": " "}), "certificate-authority is empty"),
        (document(user={"client-certificate-data": " ", "client-key-data": " "}), "client-certificate is empty"),
        (document(cluster={"certificate-authority": "a\0b"}), "is not an absolute path"),
        (document(user={"client-certificate-data": "QUFB"}), "go together"),
        (document(user={"token": 123}), "token is not text: put it in quotes"),
        (document(user={"token": f"{SECRET}\r\nX: y"}), "token contains invalid characters"),
        (document(user={"exec": {"command": "/bin/sh"}}), "user 'u': not supported: exec"),
        (document(user={"auth-provider": {"name": "oidc"}}), "not supported: auth-provider"),
        (document(user={"username": "u", "password": SECRET}), "not supported: username, password"),
        (document(user={"token": SECRET, "as": "somebody"}), "not supported: as"),
        ("[]", "not a kubeconfig"),
        ("", "not a kubeconfig"),
        (f"token: {SECRET}\n\tx", "not YAML, line 2"),
        (f'token: "{SECRET}', "not YAML, line 1"),
        (f"- !!python/object/apply:os.system ['{SECRET}']", "not YAML, line 1"),
        ("[" * 1000, "not YAML"),
        ("- " * 2000, "not"),
        ("{" * 1500, "not YAML"),
        ("\0", "not YAML"),
        ("a: 2026-99-99", "not YAML"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name_and_shows_no_secret(load, tmp_path, broken, words):
    with pytest.raises(InvalidConfig, match=words) as raised:
        load(broken)
    assert SECRET not in raised.value.msg + raised.value.details
    assert "\n" not in raised.value.msg
    assert str(tmp_path) in raised.value.msg


def test_a_fifo_a_device_and_a_folder_are_no_kubeconfigs(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(InvalidConfig, match=f"kubeconfig: {path} is not a regular file"):
            from_kubeconfig(str(path), ACCESS)
    with pytest.raises(InvalidConfig, match=r"kubeconfig: /dev/tty is not below|others may write to /dev/tty"):
        from_kubeconfig("/dev/tty", ACCESS.replace(start="/"))


def test_a_file_of_more_than_a_mebibyte_is_refused(load):
    with pytest.raises(InvalidConfig, match="larger than 1048576 bytes"):
        load("#" * (1 << 20) + "\n")


@pytest.mark.parametrize("content", ("", "\n"))
def test_an_authority_that_is_named_and_empty_does_not_let_the_system_s_decide(load, tmp_path, content):
    (tmp_path / "ca.crt").write_text(content)
    with pytest.raises(InvalidConfig, match="certificate-authority is empty"):
        load(document(cluster={"certificate-authority": "ca.crt"}))


def test_a_service_account_without_an_authority_does_not_let_the_system_s_decide(tmp_path):
    (tmp_path / "ca.crt").write_bytes(b"")
    (tmp_path / "token").write_text("mounted")
    with pytest.raises(InvalidConfig, match=r"ca\.crt is empty"):
        in_cluster({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}, str(tmp_path))


def test_a_pod_s_service_account_gives_access(tmp_path):
    (tmp_path / "ca.crt").write_bytes(PEM)
    (tmp_path / "token").write_text("mounted\n")
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    cluster = in_cluster(environment, str(tmp_path))
    assert (cluster.host, cluster.port, cluster.authority, cluster.secure) == ("fd00::1", 443, PEM, True)
    assert token_of(cluster) == "mounted"


@pytest.mark.parametrize("environment", ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "x"}))
def test_outside_of_a_pod_there_is_no_service_account(environment, tmp_path):
    with pytest.raises(InvalidConfig, match="no API access"):
        in_cluster(environment, str(tmp_path))
