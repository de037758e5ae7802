"""The pods of the tests' API server, and the rules by which a real one changes them. No network.

Sources: the API conventions of Kubernetes (resourceVersion, Status), RFC 7386 (merge patch), and the strategy of pods'
status subresource: metadata and status change, the specification does not.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import uuid
from typing import Any, cast

from tests.kube.jsonpatch import DoesNotApply, patched

Document = dict[str, Any]
Key = tuple[str, str]

MOST_ANNOTATION_BYTES = 256 << 10
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_ANNOTATION = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_FIXED = ("name", "namespace", "uid", "creationTimestamp")


class Refused(Exception):
    """A response other than the object: the HTTP status, and the message of a `Status` object."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.details: Document = {}

    @property
    def document(self) -> Document:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.status,
            **({"details": self.details} if self.details else {}),
        }


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386, section 2."""
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), value)
    return found


class Store:
    """Pods by (namespace, name). Every write has a resourceVersion of its own; a write that changes nothing is not
    counted.
    """

    def __init__(self) -> None:
        self.pods: dict[Key, Document] = {}
        self.lock = threading.RLock()
        self._version = 1000

    def add(self, namespace: str, name: str, **parts: Any) -> Document:
        """Adds or replaces a pod with this `uid`, `annotations` and `spec`."""
        assert NAME.fullmatch(name), name
        metadata = {
            "name": name,
            "namespace": namespace,
            "uid": parts.get("uid") or str(uuid.uuid4()),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **({"annotations": dict(parts["annotations"])} if parts.get("annotations") else {}),
        }
        spec = parts.get("spec") or {"containers": [{"name": "app", "image": "app"}]}
        pod = {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}
        with self.lock:
            return copy.deepcopy(self._put((namespace, name), copy.deepcopy(pod)))

    def get(self, key: Key) -> Document:
        with self.lock:
            if key not in self.pods:
                raise Refused(404, "NotFound", f'pods "{key[1]}" not found')
            return copy.deepcopy(self.pods[key])

    def patch(self, key: Key, patch: Document | list[Document], *, status: bool) -> Document:
        """Applies a merge patch, or a JSON patch given as a list, to the subresource `status` or to the pod itself."""
        with self.lock:
            old = self.get(key)
            new = merged(old, patch) if isinstance(patch, dict) else _applied(old, patch)
            if isinstance(patch, dict):
                _require_fresh(old, patch)
            _require_valid(old, new)
            if status:
                new["spec"] = old["spec"]
            elif new.get("spec") != old["spec"]:
                raise Refused(422, "Invalid", f'Pod "{key[1]}" is invalid: spec: Forbidden: it is immutable here')
            else:
                new["status"] = old["status"]
            return old if new == old else copy.deepcopy(self._put(key, new))

    def write(self, key: Key, change: Document) -> None:
        """Writes unconditionally, as another client."""
        with self.lock:
            self._put(key, merged(self.pods[key], change))

    def touch(self, key: Key) -> None:
        """Writes the status, as the kubelet does."""
        with self.lock:
            self.write(key, {"status": {"touched": self._version}})

    def snapshot(self) -> dict[str, Document]:
        """The pods without the fields that every write changes, for comparing states."""
        with self.lock:
            found = copy.deepcopy({"/".join(key): pod for key, pod in self.pods.items()})
        for pod in found.values():
            del pod["metadata"]["resourceVersion"]
            pod["status"].pop("touched", None)
            if not pod["metadata"].get("annotations"):
                pod["metadata"].pop("annotations", None)
        return found

    def _put(self, key: Key, pod: Document) -> Document:
        self._version += 1
        pod["metadata"]["resourceVersion"] = str(self._version)
        self.pods[key] = pod
        return pod


def _applied(old: Document, operations: list[Document]) -> Document:
    try:
        return cast("Document", patched(old, operations))
    except DoesNotApply as error:
        raise Refused(422, "Invalid", "the server rejected our request due to an error in our request") from error


def _require_fresh(old: Document, patch: Document) -> None:
    told = patch.get("metadata") or {}
    if not isinstance(told, dict):
        raise Refused(400, "BadRequest", "metadata is not an object")
    for name in ("resourceVersion", "uid"):
        if name in told and told[name] != old["metadata"][name]:
            words = "the object has been modified; please apply your changes to the latest version and try again"
            raise Refused(
                409, "Conflict", f'Operation cannot be fulfilled on pods "{old["metadata"]["name"]}": {words}'
            )


def _require_valid(old: Document, new: Document) -> None:
    for name in _FIXED:
        if new["metadata"].get(name) != old["metadata"].get(name):
            raise Refused(422, "Invalid", f"metadata.{name}: Invalid value: field is immutable")
    annotations = new["metadata"].get("annotations") or {}
    if not all(isinstance(value, str) for value in annotations.values()):
        raise Refused(400, "BadRequest", "json: cannot unmarshal a value of metadata.annotations into a string")
    bad = [name for name in annotations if not _ANNOTATION.fullmatch(name.lower())]
    if bad or len(json.dumps(annotations)) > MOST_ANNOTATION_BYTES:
        raise Refused(422, "Invalid", f"metadata.annotations: Invalid value or too long: {bad}")
