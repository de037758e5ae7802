"""The modules that the helper imports before it serves: all that a call could import later.

A test compares the list with the sources. The helper opens no file of the node and no connection, so nothing that it
keeps can be out of date.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_LATE = (
    "cni.attachment.records cni.config.unknown_keys cni.host.kernel cni.host.netns cni.host.program"
    " cni.host.stacked cni.kube.access cni.kube.pods cni.logfile cni.node.parse cni.node.start cni.protocol.result"
    " cni.rollback cni.sriov.check cni.sriov.model cni.sriov.plugin cni.sriov.removal cni.sriov.sriov_cni"
    " cni.sriov.status cni.trace cni.userspace.adapters cni.userspace.attachment cni.userspace.check"
    " cni.userspace.plugin cni.userspace.publish cni.userspace.removal cni.userspace.request"
    " cni.userspace.sockets.sockets cni.userspace.vswitch.ovs grp hashlib ipam.cluster.occupied"
    " ipam.cluster.retaking ipam.cluster.store ipam.cluster.succession ipam.config.flat_file ipam.config.location"
    " ipam.config.node_name ipam.config.policy ipam.config.request ipam.config.resolvconf ipam.config.rules"
    " ipam.embedded ipam.etcd.cluster ipam.etcd.heartbeat ipam.kubernetes.cluster ipam.kubernetes.names"
    " ipam.local.store ipam.plugin ipam.stores yaml"
)
LATE = tuple(_LATE.split())
"""The modules that functions import in a call of a plugin."""


def load_all(names: Iterable[str] = LATE) -> list[str]:
    """Imports the modules, and returns the names of those that do not exist.

    A call that needs another module imports it itself, as without a helper.
    """
    _ = os.__all__  # This completes build/lean_os.py, so that no child has to.
    missing = []
    for name in names:
        try:
            __import__(name)
        except ModuleNotFoundError:
            missing.append(name)
    return missing
