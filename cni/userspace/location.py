"""Determines the socket's directory from the kubelet's directories, the pod, and the configuration.

The order: the pod's volume for sockets, the configured shared directory, a directory that the plugin creates.
"""

from __future__ import annotations

import os

from cni.errors import InvalidConfig
from cni.host.trusted import NotThere, Roots
from cni.kube.podspec import mount_path, volume_of
from cni.userspace import allowed, plan
from cni.userspace.podkind import APPLICATION, VIRT_LAUNCHER, kind_of, seen_by_containers
from cni.userspace.sockets.directory import SocketDirectory, kubelet_volumes, own, ownership
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.attachment.record import Key
    from cni.jsontext import JsonObject
    from cni.node.node import NodeConf
    from cni.userspace.conf_sections import UserspaceConfDict
    from cni.userspace.podkind import PodKind
    from cni.userspace.request import ParsedRequest

_OF_ONE_POD = frozenset(("owner", "mode", "acl", "selinuxLabel"))
"""Keys of `socketDirectory` that would exclude, or admit, the other pods that use a shared directory."""


class Place(Value):
    """The directory of a socket, its path in the pod's containers, and the socket's name in it.

    `admits_vswitch`: the user of Open vSwitch may get access to the directory without a key of the configuration.
    """

    directory: SocketDirectory
    seen: str
    socket: str
    admits_vswitch: bool = False


def locate(key: Key, request: ParsedRequest, pod: JsonObject | None, node: NodeConf) -> Place:
    """The place of the attachment's socket. `pod` is the pod's object, None without API access.

    Raises `InvalidConfig` when the pod lacks the volume that the configuration names, and for a name or a volume in a
    virt-launcher pod that KubeVirt uses.
    """
    uid = request.pod_uid or ((pod or {}).get("metadata") or {}).get("uid") or ""
    volumes = kubelet_volumes(request.kubelet_root, uid) if uid else ""
    kind = kind_of(volumes, request.conf) if uid else APPLICATION
    volume = request.conf.get("volume") or kind.volume
    if volume in kind.private:
        raise InvalidConfig(
            f"volume: {volume} has the sockets of libvirt in a virt-launcher pod, and cannot have those of ports",
            hint=f"remove volume from the network: the default is {kind.volume}",
        )
    directory = _of_pod(request, pod, volumes, volume, node)
    if directory is None and request.conf.get("volume"):
        raise InvalidConfig(
            f"volume: the pod has no volume {volume} that can hold a socket",
            hint="give the pod an emptyDir of that name; without K8S_POD_UID in CNI_ARGS it is found with kubeconfig only",
        )
    seen = "" if directory is None else _seen(pod, volume)
    if directory is None:
        directory = _shared(key, request.conf, node) or own(plan.port_name(key))
    directory = directory.replace(mount=_short_folder(key, request), **ownership(request.conf))
    is_default = directory.of_pod and volume == kind.volume
    return Place(
        directory=directory,
        seen=request.conf.get("containerDir") or seen or directory.path,
        socket=_socket(key, request.conf, kind if is_default else APPLICATION, volume),
        admits_vswitch=is_default and kind.admits_vswitch,
    )


def _socket(key: Key, conf: UserspaceConfDict, kind: PodKind, volume: str) -> str:
    name = plan.socket_name(key, conf, kind.naming)
    if volume == VIRT_LAUNCHER.volume and name in VIRT_LAUNCHER.reserved:
        raise InvalidConfig(
            f"{name} is the name of a socket of virt-launcher, and cannot be that of a port",
            hint="give the interface another name (networks annotation), or remove host.vhost.socketfile",
        )
    return name


def _of_pod(
    request: ParsedRequest, pod: JsonObject | None, volumes: str, volume: str, node: NodeConf
) -> SocketDirectory | None:
    if volumes and os.path.isdir(f"{volumes}/{volume}"):
        return SocketDirectory(root=volumes, path=f"{volumes}/{volume}", of_pod=True)
    host_path = volume_of(pod, volume).get("hostPath") if pod else None
    if not host_path:
        return None
    named = os.path.normpath(host_path.get("path") or "/")
    if not allowed.socket_root(named, node):
        raise InvalidConfig(
            f"volume: the pod's {volume} is {named} of the host, where no sockets are put",
            hint=f"make it an emptyDir, or a hostPath in one of {allowed.places(node)}; "
            "the node's administrator can allow more (sockets.roots in /etc/barewire/node.json)",
        )
    # The group in `host.vhost` is userspace-cni's key, and grants no more than the directory's mode.
    if allowed.is_shared_place(named, node) and _OF_ONE_POD & {*(request.conf.get("socketDirectory") or {})}:
        raise InvalidConfig(
            f"socketDirectory: the pod's {volume} is {named} of the host, which many pods use",
            hint="name a directory in it as hostPath, or set owner and permissions on the node",
        )
    root, path = _placed(named, f"volume {volume}", node)
    return SocketDirectory(root=root, path=path)


def _shared(key: Key, conf: UserspaceConfDict, node: NodeConf) -> SocketDirectory | None:
    shared = conf.get("sharedDir")
    if not shared:
        return None
    root, path = _placed(shared.rstrip("/"), "sharedDir", node)
    return SocketDirectory(root=root, path=f"{path}/{plan.port_name(key)}", made=True)


def _placed(named: str, what: str, node: NodeConf) -> tuple[str, str]:
    """The parent of a directory for sockets, and the named path in that directory; both without symlinks.

    A directory for sockets may be writable for pods, but its parent must not be: only root's symlinks are followed
    there, and two pods that use one directory by two names must get the same path.
    """
    parent = os.path.dirname(allowed.socket_root(named, node))
    try:
        root = Roots(allowed=(parent,), owners=node.trusted_owners).resolved(parent, what)
    except NotThere:
        root = parent  # A missing directory is created, and checked then.
    return root, os.path.join(root, named[len(parent) :].strip("/"))


def _short_folder(key: Key, request: ParsedRequest) -> str:
    if request.conf.get("allowUnsafeSocketDir"):
        return ""
    return f"{request.vhost_directory}/{plan.port_name(key)}"


def _seen(pod: JsonObject | None, volume: str) -> str:
    return (mount_path(pod, volume) if pod else "") or seen_by_containers(volume)
