"""The attachment of the `userspace` plugin, and its form in a record. Values only, no I/O."""

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
    from typing import Any, TypedDict

    from cni.attachment.record import Key, Record
    from cni.jsontext import JsonObject
    from cni.userspace.sockets.directory import DirectoryDict
    from cni.userspace.sockets.ownership import FoundDict

    class WantedDict(TypedDict, total=False):
        """The `wanted` of a record: the fields of `PortAttachment`. `port` and `pod` contain those of their values.

        In a damaged record any key can be missing.
        """

        remote: str
        port: JsonObject
        directory: DirectoryDict
        socket: str
        container_dir: str
        mac: str
        create_bridge: bool
        config_file: str
        pod: JsonObject | None
        kubeconfig: str
        pod_folder: str

    class DeferredDict(TypedDict):
        """The `wanted` of a deferred removal, which finds ports by the mark of their owner (`PortRemoval.defer`)."""

        port: None
        remote: str
        vhost: str


PLUGIN = "userspace"
"""The value of `plugin` in our records."""


class PodName(Value):
    """A pod according to CNI_ARGS; `uid` is empty if the runtime does not pass it."""

    namespace: str
    name: str
    uid: str = ""


class PortAttachment(Value):
    """A port with its socket, and the receivers of its description.

    `remote` is the vswitch's database. `socket` is the socket's name in `directory`, `container_dir` the directory's
    path in the pod's containers. `config_file` is the name of the file beside the socket that describes it to the
    application, or empty. `pod` is the pod to annotate, or None; `kubeconfig` is empty for in-cluster access.
    `pod_folder` is the kubelet's directory of the pod, which exists as long as the pod; empty if the runtime does not
    pass the pod's UID.
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
        """The path of the socket for the application."""
        return f"{self.container_dir}/{self.socket}"


def owner_of(key: Key, pod_uid: str = "") -> Owner:
    """The owner's mark of everything that this attachment has in the vswitch."""
    return Owner(container_id=key.container_id, ifname=key.ifname, network=key.network, pod_uid=pod_uid)


def document(attachment: PortAttachment) -> WantedDict:
    """The record's `wanted`."""
    port, pod = attachment.port, attachment.pod
    return {
        "remote": attachment.remote,
        "port": {
            **port.as_dict(),
            "owner": port.owner.as_dict(),
            "trunks": list(port.trunks),
            "from_pod": port.from_pod.as_dict() if port.from_pod else None,
            "to_pod": port.to_pod.as_dict() if port.to_pod else None,
        },
        "directory": attachment.directory.as_document(),
        "socket": attachment.socket,
        "container_dir": attachment.container_dir,
        "mac": attachment.mac,
        "create_bridge": attachment.create_bridge,
        "config_file": attachment.config_file,
        "pod": pod.as_dict() if pod else None,
        "kubeconfig": attachment.kubeconfig,
        "pod_folder": attachment.pod_folder,
    }


def found_of(record: Record) -> FoundDict | None:
    """The directory as ADD found it; None if ADD did not find it."""
    found: Any = record.found
    document: FoundDict | None = found or None
    return document


def is_deferred(record: Record) -> bool:
    """Whether the record is that of a deferred removal, see `deferred_of`."""
    return "port" in record.wanted and record.wanted["port"] is None


def wanted_of(record: Record) -> WantedDict:
    """The `wanted` of a record, as the file has it: `from_record` validates it."""
    wanted: Any = record.wanted
    found: WantedDict = wanted
    return found


def deferred_of(record: Record) -> DeferredDict:
    """The `wanted` of the record of a deferred removal."""
    wanted: Any = record.wanted
    found: DeferredDict = wanted
    return found


def from_record(record: Record) -> PortAttachment:
    """The attachment that a record describes. Raises `IoFailure` if the record does not contain one."""
    wanted = wanted_of(record)
    try:
        pod = wanted["pod"]
        fields: JsonObject = {
            **wanted,
            "port": _port(wanted["port"]),
            "directory": SocketDirectory.from_document(wanted["directory"]),
            "pod": PodName(**pod) if pod else None,
        }
        return _validated(fit(PortAttachment(**fields)))
    except (KeyError, TypeError, ValueError) as error:
        raise IoFailure(
            f"the record of {record.key} is damaged: {error}", hint="move its file away; GC finds the port by its mark"
        ) from error


def _port(document: JsonObject) -> Port:
    return Port(
        **{
            **document,
            "owner": Owner(**document["owner"]),
            "trunks": tuple(document["trunks"]),
            "from_pod": Rate(**document["from_pod"]) if document["from_pod"] else None,
            "to_pod": Rate(**document["to_pod"]) if document["to_pod"] else None,
        }
    )


def _validated(attachment: PortAttachment) -> PortAttachment:
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
