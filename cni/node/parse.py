"""Parses the node configuration. Pure. Unknown keys are refused, because they could be misspelt limits."""

from __future__ import annotations

from cni import jsontext
from cni.config import validation as configuration
from cni.errors import InvalidConfig
from cni.node.conf_table import REQUIRED, TABLE
from cni.node.node import AddressPolicy, CredentialPolicy, DevicePolicy, EtcdAccess, NodeConf, SocketPolicy
from cni.node.rules import cross_check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from cni.node.conf_sections import NodeFileDict

_NODE = {
    "nodeName": "node_name",
    "kubeletRoot": "kubelet_root",
    "cniConfDirs": "cni_conf_dirs",
    "cniBinDirs": "cni_bin_dirs",
    "logDirs": "log_roots",
    "delegateSeconds": "delegate_seconds",
    "strictStatus": "strict_status",
    "trustedOwners": "trusted_owners",
}
_DEVICES = {
    "drivers": "drivers",
    "pfs": "pfs",
    "pfOnly": "pf_only",
    "master": "by_pf",
    "promisc": "promisc",
    "rebind": "rebind",
}
_SOCKETS = {"ovsdb": "ovsdb", "roots": "roots", "kubeletRoots": "kubelet_roots", "vhostDir": "vhost_dir"}
_KUBERNETES = {"kubeconfig": "kubeconfig", "kubeconfigs": "kubeconfigs"}
_ETCD = {
    "endpoints": "endpoints",
    "prefix": "prefix",
    "caFile": "ca_file",
    "certFile": "cert_file",
    "keyFile": "key_file",
}
_ADDRESSES = {
    "backend": "backend",
    "networkEtcd": "network_etcd",
    "dataDirs": "data_roots",
    "resolvConfs": "resolv_confs",
    "credentials": "credentials",
}


def parse_node(content: bytes) -> NodeConf:
    """The configuration. Raises `InvalidConfig` with all problems, `UnsupportedField` and `DecodeFailure`."""
    document = jsontext.loads(content)
    if not isinstance(document, dict):
        raise InvalidConfig("the document is not an object")
    values: NodeFileDict = configuration.parse(TABLE, REQUIRED, document, cross_check, strict=True).values
    addresses = values.get("addresses") or {}
    return NodeConf(
        **_fields(_NODE, values),
        devices=DevicePolicy(**_fields(_DEVICES, values.get("devices"))),
        sockets=SocketPolicy(**_fields(_SOCKETS, values.get("sockets"))),
        kubernetes=CredentialPolicy(**_fields(_KUBERNETES, values.get("kubernetes"))),
        addresses=AddressPolicy(
            **_fields(_ADDRESSES, addresses), etcd=EtcdAccess(**_fields(_ETCD, addresses.get("etcd")))
        ),
    )


def _fields(names: dict[str, str], section: Mapping[str, object] | None) -> dict[str, Any]:
    """The fields of a value that the section contains; a list becomes a tuple."""
    given = {names[key]: value for key, value in (section or {}).items() if key in names}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
