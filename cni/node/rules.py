"""Rules for the values of the node configuration. Pure.

The pydantic model and the fast path's table call the same functions.
"""

from __future__ import annotations

from cni.names import is_identifier
from cni.paths import is_plain_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from cni.node.conf_sections import NodeFileDict

    Problem = tuple[str, str]

_PATHS = (
    "kubeletRoot",
    "cniConfDirs",
    "cniBinDirs",
    "logDirs",
    "sockets.roots",
    "sockets.kubeletRoots",
    "sockets.vhostDir",
    "kubernetes.kubeconfig",
    "kubernetes.kubeconfigs",
    "addresses.dataDirs",
    "addresses.resolvConfs",
    "addresses.credentials",
    "addresses.etcd.prefix",
    "addresses.etcd.caFile",
    "addresses.etcd.certFile",
    "addresses.etcd.keyFile",
)
_NAMES = ("nodeName", "devices.drivers", "devices.pfs")
_ENDPOINTS = ("http://", "https://")
_REMOTES = ("unix:/", "tcp:")


def cross_check(conf: NodeFileDict, refused: frozenset[str] = frozenset()) -> list[Problem]:
    """Problems, as (JSON path, text); a key that was already `refused` is not checked again."""
    problems = [problem for path in _PATHS for problem in _path_problems(conf, path)]
    problems += [problem for path in _NAMES for problem in _name_problems(conf, path)]
    problems += _prefix_problems(conf, "addresses.etcd.endpoints", _ENDPOINTS, "neither http:// nor https://")
    problems += _prefix_problems(conf, "sockets.ovsdb", _REMOTES, "neither unix:/PATH nor tcp:IP:PORT")
    problems += _certificate_problems(conf)
    return [problem for problem in problems if problem[0] not in refused]


def _path_problems(conf: Mapping[str, Any], path: str) -> list[Problem]:
    return [
        (where, f"{text!r} is not an absolute path without . and ..")
        for where, text in _texts(conf, path)
        if not is_plain_path(text) or not text.strip("/")
    ]


def _name_problems(conf: Mapping[str, Any], path: str) -> list[Problem]:
    return [
        (where, f"{text!r} is not a name of letters, digits, and _ . : -")
        for where, text in _texts(conf, path)
        if not is_identifier(text.replace(":", "_"))
    ]


def _prefix_problems(conf: Mapping[str, Any], path: str, prefixes: tuple[str, ...], text: str) -> list[Problem]:
    return [(where, f"{value!r} is {text}") for where, value in _texts(conf, path) if not value.startswith(prefixes)]


def _certificate_problems(conf: NodeFileDict) -> list[Problem]:
    etcd = (conf.get("addresses") or {}).get("etcd") or {}
    if bool(etcd.get("certFile")) == bool(etcd.get("keyFile")):
        return []
    return [("addresses.etcd.certFile", "goes together with keyFile")]


def _texts(conf: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """The texts at a dotted path, each with its own path: a text, or the elements of a list."""
    *sections, key = path.split(".")
    for section in sections:
        conf = conf.get(section) or {}
    value = conf.get(key)
    if isinstance(value, str):
        yield path, value
    elif value is not None:
        yield from ((f"{path}[{i}]", text) for i, text in enumerate(value))
