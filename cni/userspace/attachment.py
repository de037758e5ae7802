"""What an attachment of the `userspace` plugin is, and how its record says so. All values, no I/O."""

from __future__ import annotations

from cni.attachment.record import fit
from cni.errors import IoFailure
from cni.names import is_file_name, shown
from cni.paths import is_plain_path
from cni.userspace.sockets.directory import SocketDirectory
from cni.userspace.vswitch.model import Owner, Port, Rate
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.attachment.record import Key, Record

PLUGIN = "userspace"
"""What a record of ours says of its plugin."""


class PodName(Value):
    """A pod, as CNI_ARGS name it; `uid` is empty where the runtime does not tell it."""

    namespace: str
    name: str
    uid: str = ""


class PortAttachment(Value):
    """A port, its socket, and whom it is told to.

    `remote` is the vswitch's database. `socket` is the socket's name in `directory`, `container_dir` the directory as
    the pod's containers see it. `config_file` is the name of the file beside the socket that tells the application
    about it, or empty. `pod` is the pod to annotate, or None; `kubeconfig` is empty for in-cluster access. `pod_folder` is the kubelet's folder
    of the pod, which is there as long as the pod; empty where the runtime does not tell the pod's UID.
    """

    remote: str
    port: Port
    directory: SocketDirectory
    socket: str
    container_dir: str
    mac: str
    create_bridge: bool = False
    config_file: str = ""
    pod: PodName | None = None
    kubeconfig: str = ""
    pod_folder: str = ""

    @property
    def container_path(self) -> str:
        """The socket as the application sees it."""
        return f"{self.container_dir}/{self.socket}"


def owner_of(key: Key, pod_uid: str = "") -> Owner:
    """The owner's mark of all that this attachment has in the vswitch."""
    return Owner(container_id=key.container_id, ifname=key.ifname, network=key.network, pod_uid=pod_uid)


def document(attachment: PortAttachment) -> dict[str, Any]:
    """The record's `wanted`."""
    port, pod = attachment.port, attachment.pod
    return {
        **attachment.as_dict(),
        "port": {
            **port.as_dict(),
            "owner": port.owner.as_dict(),
            "trunks": list(port.trunks),
            "from_pod": port.from_pod.as_dict() if port.from_pod else None,
            "to_pod": port.to_pod.as_dict() if port.to_pod else None,
        },
        "directory": attachment.directory.as_dict(),
        "pod": pod.as_dict() if pod else None,
    }


def from_record(record: Record) -> PortAttachment:
    """The attachment that a record tells of. Raises `IoFailure` when the record does not hold one."""
    wanted = record.wanted
    try:
        port, pod = wanted["port"], wanted["pod"]
        found = PortAttachment(
            **{
                **wanted,
                "port": Port(
                    **{
                        **port,
                        "owner": Owner(**port["owner"]),
                        "trunks": tuple(port["trunks"]),
                        "from_pod": Rate(**port["from_pod"]) if port["from_pod"] else None,
                        "to_pod": Rate(**port["to_pod"]) if port["to_pod"] else None,
                    }
                ),
                "directory": SocketDirectory.from_document(wanted["directory"]),
                "pod": PodName(**pod) if pod else None,
            }
        )
        return _judged(fit(found))
    except (KeyError, TypeError, ValueError) as error:
        raise IoFailure(
            f"the record of {record.key} is damaged: {error}", hint="move its file away; GC finds the port by its mark"
        ) from error


def _judged(attachment: PortAttachment) -> PortAttachment:
    """The attachment. Raises `ValueError` for names and paths that ADD would have refused."""
    directory = attachment.directory
    named = (attachment.socket, attachment.port.name, attachment.config_file or "none")
    if not all(map(is_file_name, named)):
        raise ValueError(f"one of {shown(named)} is no file's name")
    paths = (directory.root, directory.path, directory.mount or "/", attachment.pod_folder or "/")
    if not all(map(is_plain_path, paths)):
        raise ValueError(f"one of {shown(paths)} is no path")
    if not directory.path.startswith(f"{directory.root.rstrip('/')}/"):
        raise ValueError(f"{shown(directory.path)} is not below {shown(directory.root)}")
    return attachment
