"""The directories and databases that networks may name: the usual ones, and those that the administrator adds. Pure.

The author of a network is not trusted with the host, so they are defined here and in the node configuration.
"""

from __future__ import annotations

from cni.paths import is_below, is_plain_path
from cni.userspace.vswitch.remote import REMOTE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.node.node import NodeConf
    from cni.userspace.conf_sections import UserspaceConfDict

    Problem = tuple[str, str]

VHOST_DIRECTORY = "/run/barewire/vhost"
"""The directory where the vswitch finds the sockets, each in a short directory."""

_RUN = ("/run", "/var/run")
"""One directory with two names."""

ROOTS = (
    *(f"{run}/{name}" for run in _RUN for name in ("vhostuser", "vhost-user", "vhost", "vhost_sockets", "usrspcni")),
    "/var/lib/cni/usrspcni",
    "/var/lib/cni/vhostuser",
    "/var/lib/vhost_sockets",
    "/usr/local/var/run/openvswitch",
)
"""Directories for sockets: the usual ones in /run, and those of userspace-cni, its documentation and its examples."""

DATABASES = tuple(f"{run}/openvswitch" for run in _RUN)
"""Directories with sockets of OVSDB servers. They never contain sockets of pods."""

REMOTES = (REMOTE, "unix:/usr/local/var/run/openvswitch/db.sock")
"""The database of distributions, and of an Open vSwitch built from source, whose directory may also hold pods'
sockets."""

_OURS = (*(f"{run}/barewire" for run in _RUN), "/var/lib/cni/barewire")
"""Directories that are never for sockets of pods, whatever the node configuration allows."""


def problems(conf: UserspaceConfDict, node: NodeConf) -> list[Problem]:
    """The values of a configuration that networks may not use, as (JSON path, text)."""
    shared, vhost, kubelet = conf.get("sharedDir"), conf.get("vhostDir"), conf.get("kubeletRoot")
    found = []
    if shared is not None and is_plain_path(shared) and not socket_root(shared, node):
        found.append(("sharedDir", f"{shared!r} is not in a place for sockets: {places(node)}; {_widen('roots')}"))
    if vhost is not None and is_plain_path(vhost) and not _is_vhost_directory(vhost, node):
        text = f"{vhost!r} is not in {default_vhost_directory(node)}"
        found.append(("vhostDir", f"{text}; {_widen('vhostDir')}"))
    if kubelet is not None and is_plain_path(kubelet) and kubelet.rstrip("/") not in _kubelet_roots(node):
        text = f"{kubelet!r} is not the kubelet's directory, {node.kubelet_root}"
        found.append(("kubeletRoot", f"{text}; {_widen('kubeletRoots')}, or kubeletRoot for the whole node"))
    return [*found, *remote_problems(conf.get("ovsdb") or REMOTE, node)]


def remote_problems(remote: str, node: NodeConf) -> list[Problem]:
    """Whether networks may name the database: a problem as (JSON path, text), or none."""
    if is_remote(remote, node):
        return []
    usual = ", ".join((*(f"unix:{place}/..." for place in DATABASES), REMOTES[1]))
    return [("ovsdb", f"{remote!r} is not the usual database, {usual}; {_widen('ovsdb')}")]


def socket_root(path: str, node: NodeConf) -> str:
    """The directory for sockets that contains the path, or is the path; empty if there is none."""
    if not is_plain_path(path) or is_below(path, _OURS):
        return ""
    return next((root for root in _roots(node) if is_below(path, (root,))), "")


def is_shared_place(path: str, node: NodeConf) -> bool:
    """Whether the path is itself a directory for sockets, which many pods use, and not a directory in one."""
    return path.rstrip("/") in _roots(node)


def places(node: NodeConf) -> str:
    """The directories for sockets, for messages."""
    return ", ".join(root for root in _roots(node) if not root.startswith("/var/run/"))


def is_remote(remote: str, node: NodeConf) -> bool:
    """Whether networks may name that database. `parse_remote` checks its form."""
    if remote in (*REMOTES, *node.sockets.ovsdb):
        return True
    path = remote.removeprefix("unix:")
    return path != remote and is_plain_path(path) and path.rstrip("/") not in DATABASES and is_below(path, DATABASES)


def default_vhost_directory(node: NodeConf) -> str:
    """The parent of the short directories for networks that do not name one."""
    return node.sockets.vhost_dir.rstrip("/") or VHOST_DIRECTORY


def vhost_directory(named: object, node: NodeConf) -> str:
    """The parent of the short directories: the named one if it is allowed, otherwise the default."""
    if isinstance(named, str) and _is_vhost_directory(named, node):
        return named.rstrip("/")
    return default_vhost_directory(node)


def kubelet_root(named: str | None, node: NodeConf) -> str:
    """The kubelet's directory according to the network or the node."""
    return (named or node.kubelet_root).rstrip("/")


def _is_vhost_directory(path: str, node: NodeConf) -> bool:
    own = (default_vhost_directory(node), *(f"{run}/barewire/vhost" for run in _RUN))
    # A directory for sockets is refused: a pod's root may create links there, and a short directory is made by its
    # path.
    return is_plain_path(path) and is_below(path, own)


def _roots(node: NodeConf) -> tuple[str, ...]:
    return (*ROOTS, *(root.rstrip("/") for root in node.sockets.roots))


def _kubelet_roots(node: NodeConf) -> tuple[str, ...]:
    return tuple(root.rstrip("/") for root in (node.kubelet_root, *node.sockets.kubelet_roots))


def _widen(key: str) -> str:
    return f"the node's administrator can allow it (sockets.{key} in /etc/barewire/node.json)"
