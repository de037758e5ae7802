"""The behaviour of an API server's pods for the plugin, for `cni.kube.pods` with a server of the tests and for
FakePods.

Each function gets a `Backend` with the pod `POD`, whose annotations are `{"theirs": "stays"}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from cni.errors import PodNotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.userspace.publish import Pods

NAMESPACE, NAME, UID = POD = ("default", "pod1", "3f1c0d1e-aaaa-4bbb-8ccc-0123456789ab")


class Backend(Protocol):
    @property
    def pods(self) -> Pods: ...

    def annotations(self) -> dict[str, str]: ...

    def changes(self) -> int:
        """The number of changes that the server has accepted."""


def put(**annotations: str | None) -> Callable[[dict[str, Any]], dict[str, str | None]]:
    return lambda _pod: dict(annotations)


def a_pod_is_read_with_its_uid_and_annotations(backend: Backend) -> None:
    metadata = backend.pods.get(NAMESPACE, NAME)["metadata"]
    assert (metadata["name"], metadata["uid"], metadata["annotations"]) == (NAME, UID, {"theirs": "stays"})


def annotations_are_added_changed_and_removed_and_the_others_stay(backend: Backend) -> None:
    backend.pods.change_annotations(NAMESPACE, NAME, UID, put(one="1", two="2"))
    assert backend.annotations() == {"theirs": "stays", "one": "1", "two": "2"}
    backend.pods.change_annotations(NAMESPACE, NAME, UID, put(one=None, two="3"))
    assert backend.annotations() == {"theirs": "stays", "two": "3"}


def a_change_is_found_from_the_pod_as_it_is(backend: Backend) -> None:
    def longer(pod: dict[str, Any]) -> dict[str, str | None]:
        return {"theirs": pod["metadata"]["annotations"]["theirs"] + "!"}

    for _ in range(2):
        backend.pods.change_annotations(NAMESPACE, NAME, UID, longer)
    assert backend.annotations() == {"theirs": "stays!!"}


def what_is_as_wanted_already_is_not_changed(backend: Backend) -> None:
    for wanted in (put(theirs="stays"), put(gone=None), put()):
        backend.pods.change_annotations(NAMESPACE, NAME, UID, wanted)
    assert backend.changes() == 0


def another_pod_of_that_name_is_left_alone(backend: Backend) -> None:
    with pytest.raises(PodNotFound):
        backend.pods.change_annotations(NAMESPACE, NAME, "another", put(one="1"))
    assert backend.changes() == 0
    backend.pods.change_annotations(NAMESPACE, NAME, "", put(one="1"))
    assert backend.annotations()["one"] == "1"


def a_pod_that_is_not_there_is_not_found(backend: Backend) -> None:
    with pytest.raises(PodNotFound):
        backend.pods.get(NAMESPACE, "nobody")
    with pytest.raises(PodNotFound):
        backend.pods.change_annotations(NAMESPACE, "nobody", "", put(one="1"))


def an_error_of_the_change_changes_nothing(backend: Backend) -> None:
    def fails(_pod: dict[str, Any]) -> dict[str, str | None]:
        raise PodNotFound("not this one")

    with pytest.raises(PodNotFound, match="not this one"):
        backend.pods.change_annotations(NAMESPACE, NAME, UID, fails)
    assert backend.changes() == 0


CONTRACT: dict[str, Callable[[Backend], None]] = {
    function.__name__: function
    for function in (
        a_pod_is_read_with_its_uid_and_annotations,
        annotations_are_added_changed_and_removed_and_the_others_stay,
        a_change_is_found_from_the_pod_as_it_is,
        what_is_as_wanted_already_is_not_changed,
        another_pod_of_that_name_is_left_alone,
        a_pod_that_is_not_there_is_not_found,
        an_error_of_the_change_changes_nothing,
    )
}
