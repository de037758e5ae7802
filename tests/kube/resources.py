"""Resources of the tests' API server other than pods, and the rules by which a real one creates and changes them.

Objects are never changed in place: a new version shares its unchanged parts with the old one. So a patch of a pool with
thousands of leases is fast, and readers keep a consistent object.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
import uuid
from typing import NamedTuple

from tests.kube import schema
from tests.kube.jsonpatch import DoesNotApply, patched
from tests.kube.store import NAME, Document, Refused

FIXED = ("name", "namespace", "uid", "creationTimestamp")


class Kind(NamedTuple):
    """A resource: its path and the schema of its objects; None accepts anything."""

    folder: str
    plural: str
    name: str
    schema: schema.Schema | None = None

    @property
    def api_version(self) -> str:
        return self.folder.removeprefix("/apis/").removeprefix("/api/")

    @property
    def qualified(self) -> str:
        group = self.api_version.rpartition("/")[0]
        return f"{self.plural}.{group}" if group else self.plural


WHEREABOUTS = "/apis/whereabouts.cni.cncf.io/v1alpha1"
POOLS = Kind(WHEREABOUTS, "ippools", "IPPool", schema.POOL)
RESERVATIONS = Kind(WHEREABOUTS, "overlappingrangeipreservations", "OverlappingRangeIPReservation", schema.RESERVATION)
NODES = Kind("/api/v1", "nodes", "Node")
KINDS = (POOLS, RESERVATIONS, NODES)


class Resources:
    """Objects by kind, namespace and name. A write that changes nothing is not counted as one.

    `most_bytes` limits the size of a pool; 0 means no limit. `too_large` is the message for larger ones: etcd's by
    default.
    """

    def __init__(self) -> None:
        self.most_bytes = 0
        self.too_large = Refused(500, "", "etcdserver: request is too large")
        self.kinds = {(kind.folder, kind.plural): kind for kind in KINDS}
        self.namespaces = {"kube-system", "default"}
        self._objects: dict[tuple[str, str, str], Document] = {}
        self._lock = threading.RLock()
        self._versions = itertools.count(5000)

    def get(self, kind: Kind, namespace: str, name: str) -> Document:
        found = self._objects.get((kind.plural, namespace, name))
        if found is None:
            raise _refused(404, "NotFound", kind, name, "not found")
        return found

    def listed(self, kind: Kind, namespace: str) -> Document:
        with self._lock:
            items = [found for key, found in self._objects.items() if key[:2] == (kind.plural, namespace)]
        metadata = {"resourceVersion": str(next(self._versions))}
        return {"kind": f"{kind.name}List", "apiVersion": kind.api_version, "metadata": metadata, "items": items}

    def create(self, kind: Kind, namespace: str, told: Document, *, rehearsal: bool = False) -> Document:
        name = _require_made_for(kind, namespace, told)
        if namespace and namespace not in self.namespaces:
            raise _refused(404, "NotFound", Kind("/api/v1", "namespaces", "Namespace"), namespace, "not found")
        with self._lock:
            if (kind.plural, namespace, name) in self._objects:
                raise _refused(409, "AlreadyExists", kind, name, "already exists")
            metadata = {**told["metadata"], "namespace": namespace, "uid": str(uuid.uuid4())}
            metadata["creationTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            return self._admitted(kind, {**told, "metadata": metadata}, {}, keep=not rehearsal)

    def patch(self, kind: Kind, namespace: str, name: str, operations: list[Document]) -> Document:
        """Applies a JSON patch. Without a test of the version, it applies to any version."""
        with self._lock:
            old = self.get(kind, namespace, name)
            try:
                new = patched(old, operations)
            except DoesNotApply as error:
                words = "the server rejected our request due to an error in our request"
                raise Refused(422, "Invalid", words) from error
            return self.replace(kind, namespace, name, new)

    def replace(self, kind: Kind, namespace: str, name: str, new: Document) -> Document:
        with self._lock:
            old = self.get(kind, namespace, name)
            _require_same(kind, old, new)
            return old if new == old else self._admitted(kind, new, old)

    def delete(self, kind: Kind, namespace: str, name: str, options: Document) -> Document:
        with self._lock:
            found = self.get(kind, namespace, name)
            for field, wanted in (options.get("preconditions") or {}).items():
                if found["metadata"].get(field) != wanted:
                    words = f"the {field} in the precondition ({wanted}) does not match"
                    raise _refused(409, "Conflict", kind, name, words)
            del self._objects[kind.plural, namespace, name]
            details = {"name": name, "kind": kind.plural, "uid": found["metadata"]["uid"]}
            return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def forget(self, kind: Kind, namespace: str, name: str) -> None:
        """Deletes the object unconditionally."""
        with self._lock:
            del self._objects[kind.plural, namespace, name]

    def put(self, kind: Kind, namespace: str, found: Document) -> None:
        """Stores the object unchecked, as one from before the current definition of the resource."""
        metadata = {"namespace": namespace, "uid": str(uuid.uuid4()), **found["metadata"]}
        metadata["resourceVersion"] = str(next(self._versions))
        with self._lock:
            self._objects[kind.plural, namespace, metadata["name"]] = {**found, "metadata": metadata}

    def names(self, kind: Kind, namespace: str) -> list[str]:
        with self._lock:
            return sorted(key[2] for key in self._objects if key[:2] == (kind.plural, namespace))

    def snapshot(self) -> dict[tuple[str, str, str], Document]:
        """All objects, by plural, namespace and name."""
        with self._lock:
            return dict(self._objects)

    def _admitted(self, kind: Kind, new: Document, old: Document, *, keep: bool = True) -> Document:
        try:
            found: Document = schema.admitted(new, kind.schema, old) if kind.schema else new
        except schema.Invalid as error:
            raise _refused(422, "Invalid", kind, new["metadata"]["name"], f"is invalid: {error}") from error
        found = {**found, "metadata": {**new["metadata"], "resourceVersion": str(next(self._versions))}}
        if kind is POOLS and 0 < self.most_bytes < len(json.dumps(found)):
            raise self.too_large
        if keep:
            metadata = found["metadata"]
            self._objects[kind.plural, metadata.get("namespace", ""), metadata["name"]] = found
        return found


def _require_made_for(kind: Kind, namespace: str, told: Document) -> str:
    metadata = told["metadata"] if isinstance(told.get("metadata"), dict) else {}
    name = metadata.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > 253:
        raise _refused(422, "Invalid", kind, str(name), "is invalid: metadata.name: Invalid value")
    if (told.get("kind"), told.get("apiVersion")) != (kind.name, kind.api_version):
        raise Refused(400, "BadRequest", f"the object provided is unrecognized: {told.get('kind')}")
    if metadata.get("resourceVersion"):
        raise Refused(400, "BadRequest", "resourceVersion should not be set on objects to be created")
    if metadata.get("namespace", namespace) != namespace:
        raise Refused(400, "BadRequest", "the namespace of the provided object does not match the namespace sent")
    return name


def _require_same(kind: Kind, old: Document, new: Document) -> None:
    metadata = new.get("metadata")
    if not isinstance(metadata, dict):
        raise Refused(400, "BadRequest", "metadata is not an object")
    for field in FIXED:
        if metadata.get(field) != old["metadata"].get(field):
            raise _refused(422, "Invalid", kind, old["metadata"]["name"], f"is invalid: metadata.{field}: immutable")
    if metadata.get("resourceVersion") not in (None, "", old["metadata"]["resourceVersion"]):
        words = "the object has been modified; please apply your changes to the latest version and try again"
        raise _refused(409, "Conflict", kind, old["metadata"]["name"], words)


def _refused(status: int, reason: str, kind: Kind, name: str, words: str) -> Refused:
    refused = Refused(status, reason, f'{kind.qualified} "{name}" {words}')
    refused.details = {"name": name, "group": kind.api_version.rpartition("/")[0], "kind": kind.plural}
    return refused
