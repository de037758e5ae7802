"""A virt-launcher pod on a simulated node: the volumes that the kubelet makes for it, and the view of its containers.

    with LauncherPod(node) as pod:
        node.add(conf, pod.pod, ifname)                      # the CNI plugin, before any container
        sidecar = pod.start(program, CONTAINER_NAME="hook-sidecar-0", ...)
        with Domain("vm1", [interface], within=pod.within, user=USER, hook=pod.hook(vmi)) as domain: ...

The container sees its volumes where KubeVirt mounts them, and neither the node's /run nor that of another pod. Hook
sockets and vhost-user sockets have the paths that they have in a cluster.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.ovs.daemon import LEASH
from tests.ovs.domain import as_user
from tests.ovs.node import Node, Pod

USER = 107
"""User, group and fsGroup of a virt-launcher pod."""

HOOKS = "/run/kubevirt-hooks"
SOCKETS = "/var/run/kubevirt/sockets"
VOLUMES = {
    "private": "/run/kubevirt-private",
    "public": "/run/kubevirt",
    "sockets": "/run/kubevirt/sockets",
    "libvirt-runtime": "/run/libvirt",
    "ephemeral-disks": "/run/kubevirt-ephemeral-disks",
    "virt-bin-share-dir": "",
    "hook-sidecar-sockets": HOOKS,
}
"""The emptyDir volumes of each virt-launcher pod with a sidecar, and where `compute` has them; /var/run is /run."""

FOLDER_MODE = "2777"
"""Of a volume with an fsGroup: files in it get the group."""

END_SECONDS = 30.0


class LauncherPod:
    """Created with `with`; `within` starts a program in the pod's container, as root, unless `as_user` follows it.

    `pod` is the pod as the CNI plugin gets it. The kubelet's folder of the pod stays when it ends, as its network
    namespace does: a runtime's DEL comes later, and `Node.end_pods` removes both.
    """

    def __init__(self, node: Node, name: str = "") -> None:
        self.node = node
        self.pod: Pod = make_pod(node, name)
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        binds = [
            f"mkdir -p {place}; mount --bind {self.pod.volume(name)} {place}"
            for name, place in VOLUMES.items()
            if place
        ]
        # In a /run of its own nothing of the node's changes.
        script = "; ".join(["mount -t tmpfs -o mode=0755 tmpfs /run", *binds, "echo ready; exec sleep infinity"])
        spaces = [*self.node.within, "unshare", "--mount", "--propagation", "private"]
        holder = subprocess.Popen([*LEASH, *spaces, "sh", "-ec", script], stdout=subprocess.PIPE)
        self._ends.callback(_end, holder)
        assert holder.stdout is not None
        with holder.stdout as ready:
            assert ready.readline() == b"ready\n"
        self.within = ("nsenter", f"--target={holder.pid}", "--mount", "--wdns=/")
        self.root = Path(f"/proc/{holder.pid}/root")
        return self

    def __exit__(self, *_exc: object) -> None:
        """Ends the container, and whatever `start` has started in it."""
        self._ends.close()

    def port(self, ifname: str) -> str:
        """The name of the port of an interface in the vswitch."""
        return f"{self.pod.container_id[:12]}-{ifname}"

    def seen(self, path: str) -> Path:
        """A path of the container, as the tests reach it. /var/run is a link, which would lead to the tests' own."""
        return self.root / path.removeprefix("/var").lstrip("/")

    @property
    def hooks(self) -> Path:
        """The folder of the hooks' sockets, as the tests reach it."""
        return self.seen(HOOKS)

    def start(self, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        """A program in a container of the pod, as its user and without capabilities; it ends with the pod."""
        process = subprocess.Popen(
            [*LEASH, *self.within, *as_user(USER), *command],
            env={"PATH": os.environ["PATH"], **environment},
            stdin=subprocess.DEVNULL,
        )
        self._ends.callback(_end, process)
        return process

    def hook(self, vmi: dict[str, Any], sidecars: int = 1) -> Callable[[bytes], bytes]:
        """The change of a domain by the sidecars that have been started: `Domain(hook=...)`."""
        # gRPC keeps threads: a process that only needs the layout does not load it.
        from tests.kubevirt_hooks.launcher import Launcher

        launcher = Launcher(self.hooks)
        launcher.collect(sidecars)
        return lambda text: launcher.define(text, vmi)


def make_pod(node: Node, name: str = "") -> Pod:
    """The pod as the CNI plugin finds it: with its volumes and a network namespace, and before any container."""
    pod = node.pod(*VOLUMES, name=name)
    folders = [pod.volume(name) for name in VOLUMES]
    node.run("chown", f"0:{USER}", *folders)
    node.run("chmod", FOLDER_MODE, *folders)
    return pod


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(END_SECONDS)
