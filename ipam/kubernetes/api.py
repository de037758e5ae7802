"""Requests for whereabouts' resources to the API server, repeated until there is a response, within one time limit.

All requests are safe to repeat: a repeated creation finds the object, a patch tests before it changes, and a repeated
deletion finds nothing.
"""

from __future__ import annotations

import time

from cni import jsontext
from cni.errors import InvalidConfig, KubeRefused, RefusedForGood, TryAgainLater
from cni.kube.answers import document, is_name, is_namespace, passes, refusal, words
from cni.kube.connection import Connection
from cni.value import Value
from ipam.kubernetes.whereabouts import API

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.errors import CniError
    from cni.jsontext import JsonObject
    from cni.kube.config import Cluster


FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
"""Seconds between attempts of a request without a response."""

_JSON, _PATCH = "application/json", "application/json-patch+json"
_BRIEF = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json"
"""A patched pool would be returned with all its leases; this header requests its metadata only."""

TOO_LARGE = 413
"""The status of a patch that would make the object larger than the API server or its etcd accepts."""

_LIMITS = ("request is too large", "message larger than max")
"""The errors of etcd, and of the API server's client for it, which the API server passes on with status 500."""

_VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}


class Answer(Value):
    """A response. With `again` the same request was sent before without a response, and may have taken effect then."""

    status: int
    text: bytes
    again: bool = False

    @property
    def content(self) -> JsonObject:
        """The text as JSON; empty if it is none."""
        return document(self.text)


class Api:
    """Objects of one namespace by resource and name.

    All methods raise `KubeRefused`, and `TryAgainLater` at the time limit.
    """

    def __init__(self, cluster: Cluster, namespace: str, seconds: float) -> None:
        self._connection = Connection(cluster, 0.0)
        self._seconds = seconds
        if not is_namespace(namespace):
            raise InvalidConfig(f"{namespace!r} is not a valid name of a namespace")
        self._folder = f"/apis/{API}/namespaces/{namespace}"
        self.server = self._connection.server

    def close(self) -> None:
        self._connection.close()

    __del__ = close  # The interpreter would warn of an open socket.

    def begin(self) -> None:
        """Restarts the time limit for the following requests."""
        self._connection.extend(time.monotonic() + self._seconds)

    def get(self, resource: str, name: str) -> JsonObject | None:
        """The object, or None if it does not exist."""
        text = self.get_text(resource, name)
        return document(text) if text else None

    def get_text(self, resource: str, name: str) -> bytes:
        """The object as it was received; empty if it does not exist."""
        answer = self._ask("GET", resource, name, (200, 404))
        return answer.text if answer.status == 200 else b""

    def create(self, resource: str, created: JsonObject, *, rehearsal: bool = False) -> Answer:
        """Returns status 201, or 409 if an object of that name exists. A rehearsal changes nothing."""
        body = jsontext.dumps(created).encode()
        _path_part(created["metadata"]["name"])
        return self._ask("POST", resource, "", (201, 409), body, option="&dryRun=All" * rehearsal)

    def patch(self, resource: str, name: str, patch: list[JsonObject]) -> Answer:
        """Returns 200, 404 if the object is missing, 422 if a test failed or a path is missing, or TOO_LARGE."""
        return self._ask("PATCH", resource, name, (200, 404, 422, TOO_LARGE), jsontext.dumps(patch).encode())

    def delete(self, resource: str, deleted: JsonObject) -> Answer:
        """Returns 200, 404 if the object is gone, or 409 if it was changed since it was read."""
        metadata = deleted.get("metadata")
        fields = metadata if isinstance(metadata, dict) else {}
        # whereabouts updates reservations in place, so the uid alone does not show that.
        as_found = {"uid": str(fields.get("uid")), "resourceVersion": str(fields.get("resourceVersion"))}
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": as_found}
        return self._ask("DELETE", resource, str(fields.get("name")), (200, 404, 409), jsontext.dumps(body).encode())

    def node(self, name: str) -> JsonObject | None:
        """The object of a node, or None if it does not exist."""
        return self._core("nodes", f"/api/v1/nodes/{_path_part(name)}")

    def pod(self, namespace: str, name: str) -> JsonObject | None:
        """The object of a pod, or None if it does not exist."""
        return self._core("pods", f"/api/v1/namespaces/{_path_part(namespace)}/pods/{_path_part(name)}")

    def _core(self, resource: str, path: str) -> JsonObject | None:
        answer = self._ask_until_answered("GET", (resource, path), b"", "")
        if answer.status == 200:
            return answer.content
        if answer.status == 404 and answer.content.get("reason") == "NotFound":
            return None
        raise refusal(self._connection, ("get", resource, path), answer.status, answer.content)

    def _ask(
        self, method: str, resource: str, name: str, known: tuple[int, ...], body: bytes = b"", *, option: str = ""
    ) -> Answer:
        path = f"{self._folder}/{resource}" + (f"/{_path_part(name)}" if name else "")
        answer = self._ask_until_answered(method, (resource, path), body, option)
        if answer.status == 404 and not _is_of_object(answer.content, name):
            raise _not_installed(self.server, resource, answer.content)
        if answer.status == 202 and method == "DELETE":
            return answer.replace(status=200)  # A finalizer keeps it for a while.
        if answer.status not in known:
            raise self._refusal(answer, (_VERBS[method], resource, path))
        return answer

    def _refusal(self, answer: Answer, question: tuple[str, str, str]) -> CniError:
        error = refusal(self._connection, question, answer.status, answer.content)
        # The same request may have been granted before it was refused.
        return KubeRefused(error.msg, hint=error.hint) if answer.again and question[0] != "get" else error

    def _ask_until_answered(self, method: str, target: tuple[str, str], body: bytes, option: str) -> Answer:
        """The first final response. A patch that conflicts with the server's own writers is repeated."""
        lost, pause = False, FIRST_PAUSE
        while True:
            try:
                answer = self._send(method, target[1] + self._limit() + option, body)
                if method == "PATCH" and _is_too_large(answer):
                    return answer.replace(status=TOO_LARGE, again=lost)
                if not passes(answer.status) and (method, answer.status) != ("PATCH", 409):
                    return answer.replace(again=lost)
                failure = refusal(self._connection, (_VERBS[method], *target), answer.status, answer.content)
                lost = lost or answer.status >= 500
            except TryAgainLater as error:
                failure, lost = error, True
            if not self._connection.pause(pause):
                raise failure
            pause = min(pause * 2, LONGEST_PAUSE)

    def _send(self, method: str, target: str, body: bytes) -> Answer:
        media = {"PATCH": _PATCH, "POST": _JSON, "DELETE": _JSON}.get(method, "")
        accept = _BRIEF if method == "PATCH" else _JSON
        status, content = self._connection.ask(method, target, body or None, media, accept)
        return Answer(status=status, text=content)

    def _limit(self) -> str:
        # The server gives up at the same time: a later change would have no owner.
        return f"?timeout={max(1, int((self._connection.deadline - time.monotonic()) * 1000))}ms"


def _path_part(name: str) -> str:
    if not is_name(name):
        hint = "set network_name, in lower case, if the range begins with ::"
        raise InvalidConfig(f"{name!r} is not a valid name of a Kubernetes object", hint=hint)
    return name


def _is_too_large(answer: Answer) -> bool:
    return answer.status == TOO_LARGE or (
        answer.status == 500 and any(limit in words(answer.content) for limit in _LIMITS)
    )


def _is_of_object(answer: JsonObject, name: str) -> bool:
    """Whether a 404 concerns the object: that of an unknown resource lacks the reason or the name."""
    details = answer.get("details")
    return answer.get("reason") == "NotFound" and isinstance(details, dict) and details.get("name") == name


def _not_installed(server: str, resource: str, answer: JsonObject) -> RefusedForGood:
    hint = "install the definitions of whereabouts (IPPool, OverlappingRangeIPReservation), and create the namespace"
    return RefusedForGood(f"the {server} has no {resource} of {API}: {words(answer)}", hint=hint)
