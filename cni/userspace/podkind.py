"""The kinds of pods that the plugin distinguishes by their volumes, and the defaults of each kind.

Only the pod's own directory of the kubelet is read, whose path contains the UID from the runtime. A pod that declares
the volumes of another kind gets the other defaults for its own volumes, and no access to anything else.
"""

from __future__ import annotations

import os

from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.userspace.conf_sections import UserspaceConfDict


class PodKind(Value):
    """`volume` is the volume for sockets, mounted on `seen` in the containers, and `naming` a value of `socketNaming`.

    Files with the names in `reserved` are the pod's own, and so is all in the volumes `private`. `admits_vswitch`: the
    containers need nothing in this volume that Open vSwitch may not connect to, so a user of Open vSwitch that is not
    root gets access by default.
    """

    volume: str
    seen: str
    naming: str
    reserved: frozenset[str] = frozenset()
    private: frozenset[str] = frozenset()
    admits_vswitch: bool = False


APPLICATION = PodKind(volume="shared-dir", seen="/var/lib/cni/usrspcni", naming="attachment")
"""A pod with a DPDK program; names and paths are userspace-cni's."""

VIRT_LAUNCHER = PodKind(
    volume="sockets",
    seen="/var/run/kubevirt/sockets",
    naming="interface",
    reserved=frozenset(("launcher-sock", "launcher-init-sock", "launcher-unresponsive")),
    private=frozenset(("libvirt-runtime",)),
    admits_vswitch=True,
)
"""A pod of a virtual machine of KubeVirt, whose sidecar computes the socket's name from the machine."""

VOLUMES = (VIRT_LAUNCHER.volume, "private", "public", "libvirt-runtime", "ephemeral-disks")
"""emptyDir volumes that each virt-launcher pod of KubeVirt 1.5 to 1.9 has."""


def kind_of(volumes: str, conf: UserspaceConfDict) -> PodKind:
    """The kind of the pod whose emptyDir volumes are in the directory `volumes`.

    The volume `shared-dir` and `sharedDir` have precedence: a patched KubeVirt of older configurations uses them.
    """
    if conf.get("sharedDir") or os.path.isdir(f"{volumes}/{APPLICATION.volume}"):
        return APPLICATION
    if all(os.path.isdir(f"{volumes}/{name}") for name in VOLUMES):
        return VIRT_LAUNCHER
    return APPLICATION


def seen_by_containers(volume: str) -> str:
    """The usual mount path of a volume with that name; empty if there is none."""
    return next((kind.seen for kind in (APPLICATION, VIRT_LAUNCHER) if kind.volume == volume), "")
