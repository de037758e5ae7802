"""Pods at the API server: read one, change its annotations without losing concurrent changes."""

from __future__ import annotations

import time

from cni import jsontext
from cni.errors import InvalidConfig, KubeRefused, PodNotFound, TryAgainLater
from cni.kube.answers import document, is_name, is_namespace, refusal, words
from cni.kube.config import open_cluster
from cni.kube.connection import Connection
from cni.kube.podspec import has_form, uids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.errors import CniError
    from cni.jsontext import JsonObject
    from cni.kube.access import Access
    from cni.kube.config import Cluster

    Change = Callable[[JsonObject], dict[str, str | None]]

SECONDS = 10.0
"""Time limit of one call: a GET and a PATCH take milliseconds."""

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.5
"""Seconds between tries after a conflict: the kubelet and Multus usually write once each at the same moment."""

_MERGE_PATCH = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_TAKEN, _CONFLICT, _INVALID = 200, 409, 422


def open_pods(kubeconfig: str, access: Access, seconds: float = SECONDS) -> Pods:
    """The pods behind a kubeconfig, or with "" behind the node's default access; `seconds` limits each call."""
    return Pods(open_cluster(kubeconfig, access), seconds)


class Pods:
    """Every call ends within the time limit, whatever the server does, with `TryAgainLater`.

    It also raises `PodNotFound`, `KubeRefused`, and `InvalidConfig` for invalid credentials and names.
    """

    def __init__(self, cluster: Cluster, seconds: float = SECONDS) -> None:
        self._cluster = cluster
        self._seconds = seconds

    def get(self, namespace: str, name: str) -> JsonObject:
        """The pod's object."""
        path = _path(namespace, name)
        with self._connection() as connection:
            return _get(connection, path)

    def change_annotations(self, namespace: str, name: str, uid: str, change: Change) -> None:
        """Applies the changes that `change` computes from the current pod (None removes an annotation).

        If these annotations have changed meanwhile, the pod is read and the changes are computed again; other changes
        of the pod are not conflicts. With a `uid`, another pod of the same name is not changed: `PodNotFound`.
        """
        path = _path(namespace, name)
        conflicts, pause, exact = 0, FIRST_PAUSE, False
        with self._connection() as connection:
            while (status := _changed(connection, path, uid, change, conflicts, exact=exact)) != _TAKEN:
                # A failed test is also "invalid". With the version in the request, only the change can be the reason.
                exact = exact or status == _INVALID
                conflicts += 1
                if not connection.pause(pause):
                    raise TryAgainLater(f"pod {namespace}/{name} changes too often: {conflicts} conflicts")
                pause = min(pause * 2, LONGEST_PAUSE)

    def _connection(self) -> Connection:
        return Connection(self._cluster, time.monotonic() + self._seconds)


def _changed(connection: Connection, path: str, uid: str, change: Change, conflicts: int, *, exact: bool) -> int:
    """`_TAKEN` if the annotations are as `change` requests.

    Otherwise the status with which the server refused the patch.
    """
    try:
        pod = _get(connection, path)
        metadata = pod["metadata"]
        if uid and uid not in uids(pod):
            raise PodNotFound(f"{path} is another pod now: its UID is {metadata.get('uid')}, not {uid}")
        changes = _effective(change(pod), metadata.get("annotations") or {})
        return _patched(connection, path, metadata, changes, exact=exact) if changes else _TAKEN
    except TryAgainLater as error:
        if conflicts:
            error.add_note(f"before that there were conflicts with other writers: {conflicts}")
        raise


def _get(connection: Connection, path: str) -> JsonObject:
    status, content = connection.ask("GET", path)
    if status != 200:
        raise _refusal(connection, "get", "pods", path, status, content)
    pod = document(content)
    metadata = pod.get("metadata")
    if not has_form(pod) or not isinstance(metadata, dict) or not _is_of(metadata, path):
        raise KubeRefused(f"the {connection.server} answered with something that is not the pod {path}")
    if not isinstance(metadata.get("resourceVersion"), str) or not metadata["resourceVersion"]:
        raise KubeRefused(f"the {connection.server} gives no resourceVersion: a patch could undo another's change")
    return pod


def _is_of(metadata: JsonObject, path: str) -> bool:
    return metadata.get("name") == path.rpartition("/")[2] and isinstance(metadata.get("annotations") or {}, dict)


def _patched(
    connection: Connection, path: str, metadata: JsonObject, changes: dict[str, str | None], *, exact: bool
) -> int:
    """The status with which the server accepts the changes, or refuses them because the pod has changed.

    `exact`: the pod must have the version that was read. Otherwise only these annotations must be unchanged.
    """
    present, passing = metadata.get("annotations"), {_TAKEN, _CONFLICT}
    patch: object = {"metadata": {"resourceVersion": metadata["resourceVersion"], "annotations": changes}}
    media_type = _MERGE_PATCH
    # A JSON patch cannot add to annotations that are not there.
    if present and not exact:
        patch, media_type = _operations(metadata.get("uid"), present, changes), _JSON_PATCH
        passing.add(_INVALID)
    # The permission to patch the status is the narrowest that can write annotations.
    status, content = connection.ask("PATCH", f"{path}/status", jsontext.dumps(patch).encode(), media_type)
    if status not in passing:
        raise _refusal(connection, "patch", "pods/status", path, status, content)
    return status


def _operations(uid: object, present: dict[str, str], changes: dict[str, str | None]) -> list[JsonObject]:
    """The JSON patch. API servers accept a test for null if an annotation does not exist."""
    found: list[JsonObject] = [{"op": "test", "path": "/metadata/uid", "value": uid}]
    for name, value in changes.items():
        place = f"/metadata/annotations/{name.replace('~', '~0').replace('/', '~1')}"
        found.append({"op": "test", "path": place, "value": present.get(name)})
        found.append({"op": "remove", "path": place} if value is None else {"op": "add", "path": place, "value": value})
    return found


def _effective(changes: dict[str, str | None], present: dict[str, str]) -> dict[str, str | None]:
    return {key: value for key, value in changes.items() if present.get(key) != value}


def _refusal(connection: Connection, verb: str, resource: str, path: str, status: int, content: bytes) -> CniError:
    answer = document(content)
    if status == 404 and answer.get("reason") == "NotFound":  # A gateway's 404 is not about pods.
        return PodNotFound(f"the {connection.server} has no pod {path}: {words(answer)}")
    return refusal(connection, (verb, resource, path), status, answer)


def _path(namespace: str, name: str) -> str:
    if not is_namespace(namespace):
        raise InvalidConfig(f"CNI_ARGS: {namespace!r} is not the namespace of a pod")
    if not is_name(name):
        raise InvalidConfig(f"CNI_ARGS: {name!r} is not the name of a pod")
    return f"/api/v1/namespaces/{namespace}/pods/{name}"
