"""A pod's object from an API server is used only if all fields that we read have Kubernetes' form."""

from __future__ import annotations

from typing import Any

import pytest

from cni.kube.podspec import has_form

POD: dict[str, Any] = {
    "metadata": {"name": "pod", "namespace": "default", "uid": "7", "resourceVersion": "5", "annotations": {"a": "b"}},
    "spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}], "containers": [{"name": "c", "volumeMounts": []}]},
}


@pytest.mark.parametrize("pod", [POD, {}, {"metadata": {"uid": None}, "spec": {"volumes": None}}])
def test_a_pods_object_may_lack_anything(pod):
    assert has_form(pod)


@pytest.mark.parametrize("name", ["name", "namespace", "uid", "resourceVersion"])
@pytest.mark.parametrize("value", [True, 7, ["7"], {"7": 7}])
def test_what_a_pod_is_known_by_is_text(name, value):
    assert not has_form({**POD, "metadata": {**POD["metadata"], name: value}})


@pytest.mark.parametrize(
    "pod",
    [
        {"metadata": ["x"]},
        {"spec": "x"},
        {"metadata": {"annotations": {"a": 7}}},
        {"spec": {"volumes": {"name": "v"}}},
        {"spec": {"volumes": [{"name": 7}]}},
        {"spec": {"volumes": [{"name": "v", "hostPath": "x"}]}},
        {"spec": {"containers": [{"volumeMounts": [{"mountPath": True}]}]}},
    ],
)
def test_an_object_of_another_form_is_no_pod(pod):
    assert not has_form(pod)
