"""The node configuration: accepted and refused documents, and the conditions for trusting the file."""

from __future__ import annotations

import json
import os

import pytest
from pydantic import ValidationError

from cni.errors import CniError, DecodeFailure, InvalidConfig, IoFailure, UnsupportedField
from cni.node.conf import NodeFile
from cni.node.load import LARGEST, load_for, load_node
from cni.node.node import NodeConf
from cni.node.parse import parse_node
from tests.examples import EXAMPLES

WHOLE = {
    "nodeName": "worker-3",
    "kubeletRoot": "/data/kubelet",
    "cniConfDirs": ["/etc/cni/net.d"],
    "cniBinDirs": ["/opt/cni/bin"],
    "logDirs": ["/var/log/cni"],
    "delegateSeconds": 130,
    "strictStatus": True,
    "trustedOwners": [997],
    "devices": {
        "drivers": ["vfio-pci"],
        "pfs": ["ens1f0", "0000:3b:00.1"],
        "pfOnly": False,
        "master": False,
        "promisc": False,
        "rebind": True,
    },
    "sockets": {
        "ovsdb": ["tcp:127.0.0.1:6640"],
        "roots": ["/srv/sockets"],
        "kubeletRoots": ["/data/k0s/kubelet"],
        "vhostDir": "/run/vhost",
    },
    "kubernetes": {"kubeconfig": "/etc/barewire/kubeconfig", "kubeconfigs": ["/etc/kubernetes/cni"]},
    "addresses": {
        "backend": "etcd",
        "etcd": {
            "endpoints": ["https://192.0.2.1:2379"],
            "prefix": "/barewire",
            "caFile": "/etc/barewire/ca.crt",
            "certFile": "/etc/barewire/client.crt",
            "keyFile": "/etc/barewire/client.key",
        },
        "networkEtcd": False,
        "dataDirs": ["/srv/leases"],
        "resolvConfs": ["/run/systemd/resolve"],
        "credentials": ["/etc/barewire"],
    },
}


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "barewire"
    folder.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    return folder / "node.json"


def written(path, document):
    path.write_text(json.dumps(document))
    path.chmod(0o644)
    return str(path)


def fields(value):
    """Every leaf of a nested value, by name."""
    for name, field in value.as_dict().items():
        if hasattr(field, "as_dict"):
            yield from ((f"{name}.{inner}", leaf) for inner, leaf in fields(field))
        else:
            yield name, field


def keys(document, prefix=""):
    """Every leaf of a nested document, by its path."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def without(document, path):
    first, _, rest = path.partition(".")
    inner = {key: value for key, value in document.items() if key != first}
    return {**inner, first: without(document[first], rest)} if rest else inner


def replaced(document, path, value):
    first, _, rest = path.partition(".")
    return {**document, first: replaced(document[first], rest, value) if rest else value}


def test_a_node_without_a_file_has_the_defaults(path):
    assert load_node(str(path)) == NodeConf()
    assert load_node(str(path.parent / "no" / "node.json")) == NodeConf()


def test_every_key_reaches_a_field_of_its_own(path):
    whole = dict(fields(load_node(written(path, WHOLE))))
    for key in keys(WHOLE):
        if key in ("addresses.etcd.certFile", "addresses.etcd.keyFile"):
            continue  # one without the other is refused
        fewer = dict(fields(parse_node(json.dumps(without(WHOLE, key)).encode())))
        assert len([name for name in whole if whole[name] != fewer[name]]) == 1, key
    assert not [name for name, value in fields(NodeConf()) if whole[name] == value and name != "cni_bin_dirs"]


def test_the_example_is_a_valid_configuration():
    content = (EXAMPLES / "node.json").read_bytes()
    assert parse_node(content) != NodeConf()
    NodeFile.model_validate_json(content)


def test_an_empty_list_of_drivers_is_not_the_default():
    assert parse_node(b'{"devices": {"drivers": []}}').devices.drivers == ()
    assert NodeConf().devices.drivers is None


BAD = [
    ("nodeName", "a/b"),
    ("kubeletRoot", "var/lib/kubelet"),
    ("kubeletRoot", "/"),
    ("cniConfDirs", ["/etc/../etc"]),
    ("cniBinDirs", "/opt/cni/bin"),
    ("logDirs", [1]),
    ("delegateSeconds", 0),
    ("delegateSeconds", 1000),
    ("trustedOwners", [0]),
    ("trustedOwners", ["kube"]),
    ("devices.drivers", ["../vfio"]),
    ("devices.pfs", [""]),
    ("devices.pfOnly", "yes"),
    ("sockets.ovsdb", ["ssl:127.0.0.1:6640"]),
    ("sockets.roots", ["/run/./x"]),
    ("sockets.vhostDir", "run"),
    ("kubernetes.kubeconfig", "kubeconfig"),
    ("addresses.backend", "redis"),
    ("addresses.etcd.endpoints", ["127.0.0.1:2379"]),
    ("addresses.etcd.certFile", ""),
    ("addresses.dataDirs", ["/"]),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_bad_value_is_refused_by_table_and_model_and_its_path_is_named(key, value):
    document = replaced(WHOLE, key, value)
    with pytest.raises(InvalidConfig) as refused:
        parse_node(json.dumps(document).encode())
    assert key in refused.value.msg
    with pytest.raises(ValidationError):
        NodeFile.model_validate(document)


def test_all_problems_are_named_at_once():
    document = {"nodeName": "a/b", "devices": {"promisc": 1}, "sockets": {"roots": ["x"]}}
    with pytest.raises(InvalidConfig) as refused:
        parse_node(json.dumps(document).encode())
    assert [text.partition(":")[0] for text in refused.value.msg.split("; ")] == [
        "devices.promisc",
        "nodeName",
        "sockets.roots[0]",
    ]


@pytest.mark.parametrize("document", [{"devices": {"driver": []}}, {"sockets": {"zzzzzzzz": 1}}, {"pf": ["a"]}])
def test_an_unknown_key_is_refused_because_it_may_be_a_misspelt_limit(document):
    with pytest.raises((InvalidConfig, UnsupportedField)) as refused:
        parse_node(json.dumps(document).encode())
    assert "unknown key" in refused.value.msg


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"{} {}"])
def test_a_document_that_is_no_object_is_refused_with_the_files_name(path, content):
    path.write_bytes(content)
    with pytest.raises(InvalidConfig, match=r"node\.json: "):
        load_node(str(path))


def test_a_file_that_others_may_write_is_refused(path):
    written(path, {})
    path.chmod(0o664)
    with pytest.raises(IoFailure, match="others may write"):
        load_node(str(path))


@pytest.mark.parametrize("levels", [1, 2])
def test_a_file_below_a_directory_that_others_may_write_is_refused(path, levels):
    written(path, {})
    (path.parent if levels == 1 else path.parent.parent).chmod(0o777)
    with pytest.raises(IoFailure, match="others may write"):
        load_node(str(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(path):
    written(path, {})
    os.chown(path, 1000, 1000)
    with pytest.raises(IoFailure, match="another user"):
        load_node(str(path))


def test_a_link_is_refused(path):
    target = path.with_name("elsewhere.json")
    written(target, {})
    path.symlink_to(target)
    with pytest.raises(IoFailure, match=r"node\.json"):
        load_node(str(path))


def test_a_fifo_is_refused_and_nothing_waits_for_its_writer(path):
    os.mkfifo(path, 0o600)
    with pytest.raises(IoFailure, match="not a regular file"):
        load_node(str(path))


def test_a_file_that_would_delay_every_call_is_refused(path):
    path.write_bytes(b" " * (LARGEST + 1))
    with pytest.raises(InvalidConfig, match="larger"):
        load_node(str(path))


@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_what_undoes_goes_on_with_the_defaults_and_a_warning_when_the_file_is_bad(path, command):
    warnings: list[str] = []
    assert load_for(command, warnings.append, written(path, {"nodeName": 1})) == NodeConf()
    assert len(warnings) == 1
    assert "nodeName" in warnings[0]


@pytest.mark.parametrize("command", ["ADD", "CHECK", "STATUS"])
def test_other_commands_are_refused_when_the_file_is_bad(path, command):
    with pytest.raises(CniError, match="nodeName"):
        load_for(command, pytest.fail, written(path, {"nodeName": 1}))


def test_text_that_is_no_json_is_refused():
    with pytest.raises(DecodeFailure):
        parse_node(b"{")
