"""Where the socket of an attachment is: looks at the kubelet's folders, at the pod, and at the configuration.

The order: the volume that the pod has for it, the configured shared directory, a directory of our own.
"""

from __future__ import annotations

import os

from cni.errors import InvalidConfig
from cni.kube.podspec import mount_path, volume_of
from cni.userspace import plan
from cni.userspace.asked import VHOST_DIRECTORY
from cni.userspace.directory import KUBELET_ROOT, ROOTS, SocketDirectory, allowed_root, kubelet_volumes, own, ownership

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.record import Key
    from cni.userspace.asked import Asked

DEFAULT_VOLUME = "shared-dir"
SEEN_BY_CONTAINERS = {DEFAULT_VOLUME: "/var/lib/cni/usrspcni", "sockets": "/var/run/kubevirt/sockets"}
"""Where the volumes are mounted by custom: userspace-cni's, and KubeVirt's in each virt-launcher."""


def locate(key: Key, asked: Asked, pod: dict[str, Any] | None) -> tuple[SocketDirectory, str]:
    """The directory, and how the pod's containers see it. `pod` is the pod's object, None without API access.

    Raises `InvalidConfig` when the pod lacks the volume that the configuration names.
    """
    volume = asked.conf.get("volume") or DEFAULT_VOLUME
    directory = _of_pod(asked, pod, volume)
    if directory is None and asked.conf.get("volume"):
        raise InvalidConfig(
            f"volume: the pod has no volume {volume} that can hold a socket",
            hint="give the pod an emptyDir of that name; without K8S_POD_UID in CNI_ARGS it is found with kubeconfig only",
        )
    seen = "" if directory is None else _seen(pod, volume)
    if directory is None:
        directory = _shared(key, asked.conf) or own(plan.port_name(key))
    directory = directory.replace(mount=_short_folder(key, asked.conf), **ownership(asked.conf))
    return directory, asked.conf.get("containerDir") or seen or directory.path


def _of_pod(asked: Asked, pod: dict[str, Any] | None, volume: str) -> SocketDirectory | None:
    kubelet = asked.conf.get("kubeletRoot") or KUBELET_ROOT
    uid = asked.pod_uid or ((pod or {}).get("metadata") or {}).get("uid") or ""
    if uid:
        root = kubelet_volumes(kubelet, uid)
        if os.path.isdir(f"{root}/{volume}"):
            return SocketDirectory(root=root, path=f"{root}/{volume}")
    host_path = volume_of(pod, volume).get("hostPath") if pod else None
    if not host_path:
        return None
    path = os.path.normpath(host_path.get("path") or "/")
    root = allowed_root(path)
    if not root:
        raise InvalidConfig(
            f"volume: the pod's {volume} is {path} of the host, where no sockets are put",
            hint=f"make it an emptyDir, or a hostPath below one of {', '.join(ROOTS)}",
        )
    # The root is reached by whatever name; two pods that share the directory must see that they do.
    real = os.path.realpath(root)
    path = real + path[len(root) :]
    return SocketDirectory(root=real, path=path, absent=not os.path.isdir(path))


def _shared(key: Key, conf: dict[str, Any]) -> SocketDirectory | None:
    shared = conf.get("sharedDir")
    if not shared:
        return None
    shared = shared.rstrip("/")
    return SocketDirectory(root=shared, path=f"{shared}/{plan.port_name(key)}", made=True)


def _short_folder(key: Key, conf: dict[str, Any]) -> str:
    if conf.get("allowUnsafeSocketDir"):
        return ""
    return f"{(conf.get('vhostDir') or VHOST_DIRECTORY).rstrip('/')}/{plan.port_name(key)}"


def _seen(pod: dict[str, Any] | None, volume: str) -> str:
    return (mount_path(pod, volume) if pod else "") or SEEN_BY_CONTAINERS.get(volume, "")
