"""The pods of an API server in memory. tests/contract/pods_contract.py tests it and the real client alike."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from cni.errors import CniError, KubeRefused, PodNotFound
from cni.kube.podspec import uids


class FakePods:
    """`objects` are the pods by namespace and name; `calls` are the calls, in order.

    `refuse("get", "change")` makes such calls fail with the error `refusal`.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.refusal: CniError = KubeRefused("refused by the test")
        self._refused: set[str] = set()
        self.calls: list[str] = []

    def refuse(self, *calls: str) -> None:
        self._refused = set(calls)

    def add_pod(self, namespace: str, name: str, uid: str, **spec: Any) -> None:
        self.objects[namespace, name] = {
            "metadata": {"namespace": namespace, "name": name, "uid": uid, "annotations": {}},
            "spec": spec,
        }

    def annotations(self, namespace: str, name: str) -> dict[str, str]:
        found: dict[str, str] = self.objects[namespace, name]["metadata"]["annotations"]
        return found

    def get(self, namespace: str, name: str) -> dict[str, Any]:
        self._called("get")
        if (namespace, name) not in self.objects:
            raise PodNotFound(f"there is no pod {namespace}/{name}")
        return copy.deepcopy(self.objects[namespace, name])

    def change_annotations(
        self, namespace: str, name: str, uid: str, change: Callable[[dict[str, Any]], dict[str, str | None]]
    ) -> None:
        pod = self.get(namespace, name)
        if uid and uid not in uids(pod):
            raise PodNotFound(f"{namespace}/{name} is another pod now")
        annotations = self.annotations(namespace, name)
        changes = {key: text for key, text in change(pod).items() if annotations.get(key) != text}
        if changes:
            self._called("change")
        for key, text in changes.items():
            if text is None:
                del annotations[key]
            else:
                annotations[key] = text

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if what in self._refused:
            raise self.refusal
