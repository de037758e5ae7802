"""whereabouts' resources at the API server. A question is repeated until it has an answer, within one bound.

That is safe for all that is asked here: creating finds what it made before, a patch tests first, a removal finds nothing.
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
    from typing import Any

    from cni.errors import CniError
    from cni.kube.config import Cluster

    Document = dict[str, Any]

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
"""Seconds between tries of a question that got no answer."""

_JSON, _PATCH = "application/json", "application/json-patch+json"
_BRIEF = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json"
"""A patched pool would come back whole, with all its leases; this asks for its metadata only."""

TOO_LARGE = 413
"""The status of a patch after which the object would be larger than the API server, or its etcd, takes."""

_LIMITS = ("request is too large", "message larger than max")
"""What etcd says then, and the client with which the API server asks it: the API server passes that on with status 500."""

_VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}


class Answer(Value):
    """`again` tells that the same question was asked before, without an answer: it may have had its effect then."""

    status: int
    content: Document
    again: bool = False


class Api:
    """Objects of one namespace by resource and name. All raises `KubeRefused`, and `TryAgainLater` at the bound."""

    def __init__(self, cluster: Cluster, namespace: str, seconds: float) -> None:
        self._connection = Connection(cluster, 0.0)
        self._seconds = seconds
        if not is_namespace(namespace):
            raise InvalidConfig(f"{namespace!r} is not the name of a namespace")
        self._folder = f"/apis/{API}/namespaces/{namespace}"
        self.server = self._connection.server

    def close(self) -> None:
        self._connection.close()

    __del__ = close  # Who forgets it is not warned of an open socket by the interpreter.

    def begin(self) -> None:
        """What is asked from now on has the whole time again."""
        self._connection.extend(time.monotonic() + self._seconds)

    def get(self, resource: str, name: str) -> Document | None:
        """The object, or None where there is none."""
        answer = self._ask("GET", resource, name, (200, 404))
        return answer.content if answer.status == 200 else None

    def create(self, resource: str, created: Document, *, rehearsal: bool = False) -> Answer:
        """Status 201, or 409 when there is an object of that name. A rehearsal changes nothing."""
        body = jsontext.dumps(created).encode()
        _path_part(created["metadata"]["name"])
        return self._ask("POST", resource, "", (201, 409), body, option="&dryRun=All" * rehearsal)

    def patch(self, resource: str, name: str, patch: list[Document]) -> Answer:
        """Status 200, 404 when there is no such object, 422 when a test failed, or a path was missing, or TOO_LARGE."""
        return self._ask("PATCH", resource, name, (200, 404, 422, TOO_LARGE), jsontext.dumps(patch).encode())

    def delete(self, resource: str, deleted: Document) -> Answer:
        """Status 200, 404 when the object is gone, or 409 when it is not as it was found any more."""
        metadata = deleted.get("metadata")
        fields = metadata if isinstance(metadata, dict) else {}
        # Whereabouts updates reservations in place: the uid alone would not tell.
        as_found = {"uid": str(fields.get("uid")), "resourceVersion": str(fields.get("resourceVersion"))}
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": as_found}
        return self._ask("DELETE", resource, str(fields.get("name")), (200, 404, 409), jsontext.dumps(body).encode())

    def node(self, name: str) -> Document | None:
        """The object of a node, or None where there is none."""
        return self._core("nodes", f"/api/v1/nodes/{_path_part(name)}")

    def pod(self, namespace: str, name: str) -> Document | None:
        """The object of a pod, or None where there is none."""
        return self._core("pods", f"/api/v1/namespaces/{_path_part(namespace)}/pods/{_path_part(name)}")

    def _core(self, resource: str, path: str) -> Document | None:
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

    def _refusal(self, answer: Answer, asked: tuple[str, str, str]) -> CniError:
        error = refusal(self._connection, asked, answer.status, answer.content)
        # Before it was refused, the same request may have been granted.
        return KubeRefused(error.msg, hint=error.hint) if answer.again and asked[0] != "get" else error

    def _ask_until_answered(self, method: str, target: tuple[str, str], body: bytes, option: str) -> Answer:
        """The first answer that is one. Conflicts of the server's own writers in a patch are none."""
        lost, pause = False, FIRST_PAUSE
        while True:
            try:
                answer = self._asked(method, target[1] + self._limit() + option, body)
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

    def _asked(self, method: str, target: str, body: bytes) -> Answer:
        media = {"PATCH": _PATCH, "POST": _JSON, "DELETE": _JSON}.get(method, "")
        accept = _BRIEF if method == "PATCH" else _JSON
        status, content = self._connection.ask(method, target, body or None, media, accept)
        return Answer(status=status, content=document(content))

    def _limit(self) -> str:
        # The server, too, gives up then: what it did later would be nobody's.
        return f"?timeout={max(1, int((self._connection.deadline - time.monotonic()) * 1000))}ms"


def _path_part(name: str) -> str:
    if not is_name(name):
        hint = "set network_name, in lower case, if the range begins with ::"
        raise InvalidConfig(f"Kubernetes can have no object of the name {name!r}", hint=hint)
    return name


def _is_too_large(answer: Answer) -> bool:
    return answer.status == TOO_LARGE or (
        answer.status == 500 and any(limit in words(answer.content) for limit in _LIMITS)
    )


def _is_of_object(answer: Document, name: str) -> bool:
    """Whether a 404 speaks of the object: that of an unknown resource has no reason or no name in it."""
    details = answer.get("details")
    return answer.get("reason") == "NotFound" and isinstance(details, dict) and details.get("name") == name


def _not_installed(server: str, resource: str, answer: Document) -> RefusedForGood:
    hint = "install the definitions of whereabouts (IPPool, OverlappingRangeIPReservation), and create the namespace"
    return RefusedForGood(f"the {server} has no {resource} of {API}: {words(answer)}", hint=hint)
