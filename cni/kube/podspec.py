"""Reads identity and volumes from a pod's object. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from cni.jsontext import JsonObject

_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")


_MIRROR = "kubernetes.io/config.mirror"
_NAMED_BY = ("name", "namespace", "resourceVersion", "uid")


def has_form(pod: Mapping[str, Any]) -> bool:
    """Whether the object has the expected structure: a network's author may have named the server."""
    spec, metadata = pod.get("spec") or {}, pod.get("metadata") or {}
    if not isinstance(spec, dict) or not isinstance(metadata, dict):
        return False
    if not all(isinstance(metadata.get(name) or "", str) for name in _NAMED_BY):
        return False
    texts = metadata.get("annotations") or {}
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        return False
    containers = [one for kind in _CONTAINERS for one in _objects(spec.get(kind))]
    volumes, mounts = _objects(spec.get("volumes")), [one for held in containers for one in _objects(_mounted(held))]
    if None in (*containers, *volumes, *mounts):
        return False
    paths = [one.get("hostPath") or {} for one in volumes if one]
    named = [one for one in (*volumes, *mounts, *paths) if isinstance(one, dict)]
    texts_of = [one.get(name) or "" for one in named for name in ("name", "path", "mountPath")]
    return all(isinstance(one, dict) for one in paths) and all(isinstance(one, str) for one in texts_of)


def _mounted(container: JsonObject | None) -> object:
    return None if container is None else container.get("volumeMounts")


def _objects(value: object) -> list[JsonObject | None]:
    """The objects of a list that may be missing; None if it is not a list of objects."""
    if not value:
        return []
    return [one if isinstance(one, dict) else None for one in value] if isinstance(value, list) else [None]


def uids(pod: Mapping[str, Any]) -> tuple[str, ...]:
    """The UIDs that can identify the pod.

    The kubelet creates a static pod from a file, and its UID on the node is the hash of the file. The API server has a
    mirror pod with another UID, which contains the hash.
    """
    metadata = pod.get("metadata") or {}
    told = (metadata.get("uid"), (metadata.get("annotations") or {}).get(_MIRROR))
    return tuple(uid for uid in told if isinstance(uid, str) and uid)


def volume_of(pod: Mapping[str, Any], name: str) -> JsonObject:
    """The volume with that name; empty if the pod has none."""
    volumes: list[JsonObject] = (pod.get("spec") or {}).get("volumes") or []
    return next((volume for volume in volumes if volume.get("name") == name), {})


def mount_path(pod: Mapping[str, Any], volume: str) -> str:
    """The mount path in the first container that mounts the volume, containers before init containers.

    Empty if none does.
    """
    return next((path for path in _mount_paths(pod, volume) if path), "")


def _mount_paths(pod: Mapping[str, Any], volume: str) -> Iterator[str]:
    for mount in _mounts(pod):
        # A container that mounts only a subdirectory of the volume does not see the rest.
        if mount.get("name") == volume and not mount.get("subPath") and not mount.get("subPathExpr"):
            yield (mount.get("mountPath") or "").rstrip("/")


def _mounts(pod: Mapping[str, Any]) -> Iterator[JsonObject]:
    for kind in _CONTAINERS:
        for container in (pod.get("spec") or {}).get(kind) or []:
            yield from container.get("volumeMounts") or []
