"""The client of the API server's pods, without TLS over the loopback address, and its fake. tests/contract has TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni.errors import InvalidConfig, KubeRefused, TryAgainLater
from cni.kube.pods import Pods, open_pods
from tests.contract.pods_contract import CONTRACT, NAME, NAMESPACE, UID, put
from tests.fake_pods import FakePods
from tests.kube.apiserver import FOR_EVER, ApiServer, Faults
from tests.kube.authority import Identity
from tests.kube.store import Store
from tests.trusting import ACCESS

THEIRS = {"theirs": "stays"}


class FakeServer:
    def __init__(self) -> None:
        self.pods = FakePods()
        self.pods.add_pod(NAMESPACE, NAME, UID)
        self.annotations().update(THEIRS)

    def annotations(self) -> dict[str, str]:
        return self.pods.annotations(NAMESPACE, NAME)

    def changes(self) -> int:
        return self.pods.calls.count("change")


class RealServer:
    """The client with a server. `seconds` limits each call."""

    def __init__(self, api: ApiServer, folder: Path) -> None:
        self.api = api
        self._path = str(api.kubeconfig(folder / "kubeconfig"))
        self.pods = self.opened(10.0)

    def opened(self, seconds: float) -> Pods:
        return open_pods(self._path, ACCESS, seconds)

    def annotations(self) -> dict[str, str]:
        return self.api.annotations(NAMESPACE, NAME)

    def changes(self) -> int:
        return self.api.asked().count(("PATCH", 200))


@pytest.fixture
def real(tmp_path) -> Iterator[RealServer]:
    with ApiServer(secure=False, identity=Identity(Path(), Path())) as api:
        api.add_pod(NAMESPACE, NAME, uid=UID, annotations=dict(THEIRS))
        yield RealServer(api, tmp_path)


@pytest.mark.parametrize("name", CONTRACT)
def test_the_fake_keeps_the_contract(name):
    CONTRACT[name](FakeServer())


@pytest.mark.parametrize("name", CONTRACT)
def test_the_client_keeps_the_contract(name, real):
    CONTRACT[name](real)


@pytest.mark.parametrize(
    ("namespace", "name"), [("../x", NAME), ("Default", NAME), (NAMESPACE, "a/b"), (NAMESPACE, "")]
)
def test_what_is_no_name_of_a_pod_gets_into_no_url(real, namespace, name):
    with pytest.raises(InvalidConfig, match="CNI_ARGS"):
        real.pods.get(namespace, name)
    assert real.api.asked() == []


def test_a_pod_without_annotations_gets_its_first_one(real):
    real.api.add_pod(NAMESPACE, "bare", uid=UID)
    real.pods.change_annotations(NAMESPACE, "bare", UID, put(one="1"))
    assert real.api.annotations(NAMESPACE, "bare") == {"one": "1"}


def rival(store: Store, key: tuple[str, str]) -> None:
    """Another writer of the annotation."""
    store.write(key, {"metadata": {"annotations": {"theirs": "newer"}}})


def longer(pod: dict[str, Any]) -> dict[str, str | None]:
    return {"theirs": pod["metadata"]["annotations"]["theirs"] + "!"}


def test_after_a_conflict_the_change_is_computed_again_and_the_other_writer_loses_nothing(real):
    real.api.faults = Faults(conflicts=2, other_writer=rival)
    real.pods.change_annotations(NAMESPACE, NAME, UID, longer)
    assert real.annotations() == {"theirs": "newer!"}


def test_a_storm_of_conflicts_ends_in_time_and_says_so(real):
    real.api.faults = Faults(conflicts=FOR_EVER, other_writer=rival)
    with pytest.raises(TryAgainLater, match="conflict"):
        real.opened(0.2).change_annotations(NAMESPACE, NAME, UID, longer)


@pytest.mark.parametrize("resource", [("get", "pods"), ("patch", "pods/status")])
def test_a_missing_right_is_named(real, resource):
    real.api.rights -= {resource}
    with pytest.raises(KubeRefused, match=resource[1]) as refused:
        real.pods.change_annotations(NAMESPACE, NAME, UID, put(one="1"))
    assert resource[0] in f"{refused.value.msg} {refused.value.hint}"
    assert real.annotations() == THEIRS


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"[]", "not the pod"),
        (b'{"metadata": {"name": "pod1", "resourceVersion": ""}}', "no resourceVersion"),
        (b'{"metadata": {"name": "other", "resourceVersion": "1"}}', "not the pod"),
        (b'{"metadata": {"name": "pod1", "resourceVersion": "1", "annotations": [1]}}', "not the pod"),
    ],
)
def test_an_answer_that_is_no_pod_is_refused(real, raw, words):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(raw)
    real.api.faults = Faults(raw=head + raw)
    with pytest.raises(KubeRefused, match=words):
        real.pods.get(NAMESPACE, NAME)


def test_a_server_that_hangs_up_is_to_be_tried_later(real):
    real.api.faults = Faults(hangs_up=True)
    with pytest.raises(TryAgainLater):
        real.pods.get(NAMESPACE, NAME)
