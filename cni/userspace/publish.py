"""Describes the port to the pod: in the device-info file, in the pod's annotations, or in a file beside the socket."""

from __future__ import annotations

from cni import jsontext
from cni.attachment import device_info
from cni.attachment.removal import within
from cni.errors import PodNotFound
from cni.kube.podspec import uids
from cni.protocol import result
from cni.userspace import appnetutil

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from cni.attachment.record import Record
    from cni.jsontext import JsonObject
    from cni.log import Log
    from cni.protocol.result import Result
    from cni.userspace.attachment import PodName, PortAttachment
    from cni.userspace.conf_sections import ContainerDict, HostDict
    from cni.userspace.sockets.sockets import Sockets

    class Pods(Protocol):
        """The API server's pods. Every call has a time limit."""

        def get(self, namespace: str, name: str) -> JsonObject: ...

        def change_annotations(
            self, namespace: str, name: str, uid: str, change: Callable[[JsonObject], dict[str, str | None]]
        ) -> None: ...

    OpenPods = Callable[[str, float], Pods]

ADD_SECONDS, DEL_SECONDS = 10.0, 3.0
"""Time limits for the API server. A pod's deletion does not wait for it: a later call does the rest."""


IP_RESULT_VERSION = "0.4.0"
"""app-netutil requires the address family beside an address, and later versions of results omit it."""


class Publisher:
    """Publishes attachments, and withdraws them."""

    def __init__(self, sockets: Sockets, open_pods: OpenPods, log: Log) -> None:
        self._sockets = sockets
        self._open_pods = open_pods
        self._opened: dict[tuple[str, float], Pods] = {}
        self._log = log

    def pod(self, name: PodName, kubeconfig: str) -> JsonObject:
        """The pod's object. Raises `PodNotFound`, also if another pod has its name now."""
        found = self._pods(kubeconfig, ADD_SECONDS).get(name.namespace, name.name)
        if name.uid and name.uid not in uids(found):
            uid = (found.get("metadata") or {}).get("uid")
            raise PodNotFound(f"pod {name.namespace}/{name.name} was created again: its UID is {uid}, not {name.uid}")
        return found

    def publish(self, record: Record, attachment: PortAttachment, entry: JsonObject) -> None:
        """Publishes the port. `entry` is its element of the annotation."""
        if record.device_info:
            device_info.write(record.device_info, device_info.vhost_user(attachment.container_path))
        if attachment.config_file:
            text = jsontext.dumps(entry).encode() + b"\n"
            self._sockets.write(attachment.directory, attachment.config_file, text)
        if attachment.pod is not None:
            self._change(
                attachment,
                attachment.pod,
                ADD_SECONDS,
                lambda present: appnetutil.added(present, entry, attachment.container_dir),
            )

    def withdraw(self, record: Record, attachment: PortAttachment, deadline: float | None) -> None:
        """Removes the annotations. Other steps remove the file beside the socket and the device-info file."""
        if attachment.pod is None:
            return
        try:
            self._change(
                attachment,
                attachment.pod,
                within(deadline, DEL_SECONDS),
                lambda present: appnetutil.removed(present, record.key.container_id, record.key.ifname),
            )
        except PodNotFound:
            return  # Its annotations were deleted with it.

    def _change(
        self,
        attachment: PortAttachment,
        pod: PodName,
        seconds: float,
        change: Callable[[dict[str, str]], dict[str, str | None]],
    ) -> None:
        def of_pod(found: JsonObject) -> dict[str, str | None]:
            return change((found.get("metadata") or {}).get("annotations") or {})

        self._pods(attachment.kubeconfig, seconds).change_annotations(pod.namespace, pod.name, pod.uid, of_pod)

    def _pods(self, kubeconfig: str, seconds: float) -> Pods:
        # An ADD needs it twice, and reading a kubeconfig takes longer than a request.
        opened = self._opened.get((kubeconfig, seconds)) or self._open_pods(kubeconfig, seconds)
        self._opened[kubeconfig, seconds] = opened
        return opened


def entry(
    record: Record, attachment: PortAttachment, ends: tuple[HostDict, ContainerDict], published: Result
) -> JsonObject:
    """The attachment's element of `userspace/configuration-data`. `ends` are the sections `host` and `container`."""
    host, container = ends
    return appnetutil.entry(
        container_id=record.key.container_id,
        ifname=record.key.ifname,
        network=record.key.network,
        host=host,
        container=container,
        socket=attachment.socket,
        ip_result=result.encode(published, IP_RESULT_VERSION),
    )
