"""The identities of the networks' clusters, which the journal keeps in `<folder>/.clusters/<network>`, one line each.

Every ADD writes this file without syncing it: a power failure ends all containers as well. A line has a fixed length
and is written in one operation, so a killed call leaves either the old or the new line.
"""

from __future__ import annotations

import fcntl
import os

from cni import jsontext
from cni.errors import DecodeFailure, IoFailure
from cni.host.files import component, make_directory
from ipam.cluster.identity import UNKNOWN, Identity
from ipam.cluster.journal_entry import cluster_location

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipam.store import ClusterConf

_LENGTH = 512
_DIGITS = 20


def load_identity(folder: str, network: str, cluster_conf: ClusterConf, shared: str) -> Identity:
    """Reads the known identity of the network's cluster; `UNKNOWN` if the leases were elsewhere then.

    `cluster_conf` includes the node and the machine: under another name or ID this node has not left a witness there
    yet.
    """
    try:
        fd = os.open(_path(folder, network), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return UNKNOWN
    try:
        return _read(fd, _location(cluster_conf, shared))
    finally:
        os.close(fd)


def save_identity(
    folder: str, network: str, cluster_conf: ClusterConf, shared: str, identity: Identity, *, replaced: bool = False
) -> None:
    """Saves the identity. A revision older than the saved one, for the same cluster, changes nothing.

    With `replaced` the cluster was replaced, and the saved identity is discarded; otherwise `left` is kept.
    """
    path, location = _path(folder, network), _location(cluster_conf, shared)
    make_directory(os.path.dirname(path))
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            known = _read(fd, location)
            if replaced or known.cluster != identity.cluster or known.revision < identity.revision:
                kept = identity if replaced else identity.replace(left=known.left)
                os.pwrite(fd, _line(location, kept), 0)
        finally:
            os.close(fd)
    except OSError as error:
        raise IoFailure(f"cannot write {path}: {os.strerror(error.errno or 0)}", hint="check free space") from error


def _path(folder: str, network: str) -> str:
    return f"{folder}/.clusters/{component(network)}"


def _location(cluster_conf: ClusterConf, shared: str) -> list[str]:
    names = (str(cluster_conf.get(key) or "") for key in ("node", "machine"))
    return [*cluster_location(cluster_conf), shared, *names]


def _line(location: list[str], identity: Identity) -> bytes:
    document = {
        "cluster": identity.cluster,
        "revision": f"{identity.revision:0{_DIGITS}}",
        "left": identity.left,
        "place": location,
    }
    return jsontext.dumps(document).encode().ljust(_LENGTH) + b"\n"


def _read(fd: int, location: list[str]) -> Identity:
    try:
        document = jsontext.loads(os.pread(fd, 1 << 14, 0).partition(b"\n")[0])
        if document["place"] != location:
            return UNKNOWN
        return Identity(
            cluster=str(document["cluster"]), revision=int(document["revision"]), left=bool(document.get("left"))
        )
    except (OSError, DecodeFailure, KeyError, TypeError, ValueError):
        return UNKNOWN
