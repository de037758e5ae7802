"""The tests' API server is as strict as the real one. These tests do not use our client."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest

from tests.kube.apiserver import MERGE_PATCH, ApiServer, Faults
from tests.kube.store import merged

SECONDS = 10
PATH = "/api/v1/namespaces/default/pods/pod1"


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer(secure=False) as api:
        api.add_pod("default", "pod1", uid="u1", annotations={"a": "1"})
        api.rights = frozenset({("get", "pods"), ("patch", "pods"), ("patch", "pods/status")})
        yield api


@pytest.fixture
def ask(api):
    """Sends a request, and returns status and document."""

    def asked(method, path=PATH, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=SECONDS)
        told = {"Content-Type": MERGE_PATCH, **headers}
        try:
            connection.request(method, path, body if body is None or isinstance(body, str) else json.dumps(body), told)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    return asked


def version(api):
    return api.pods["default", "pod1"]["metadata"]["resourceVersion"]


# The examples of RFC 7386, appendix A.
@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_is_that_of_the_rfc(target, patch, result):
    assert merged(target, patch) == result


@pytest.mark.parametrize("path", (PATH, f"{PATH}/status"))
def test_a_write_gets_a_new_version_and_one_that_changes_nothing_does_not(api, ask, path):
    before = version(api)
    assert ask("PATCH", path, {"metadata": {"annotations": {"a": "1"}}})[0] == 200
    assert version(api) == before
    status, pod = ask("PATCH", path, {"metadata": {"annotations": {"a": "2"}, "resourceVersion": before}})
    assert (status, pod["metadata"]["annotations"]) == (200, {"a": "2"})
    assert int(version(api)) > int(before)
    assert pod == ask("GET")[1]


@pytest.mark.parametrize("condition", ({"resourceVersion": "1"}, {"uid": "u2"}))
def test_a_condition_that_does_not_hold_is_a_conflict(api, ask, condition):
    status, answer = ask("PATCH", f"{PATH}/status", {"metadata": {"annotations": {"a": "2"}, **condition}})
    assert (status, answer["kind"], answer["reason"]) == (409, "Status", "Conflict")
    assert api.annotations("default", "pod1") == {"a": "1"}


def test_the_status_subresource_changes_no_specification_and_the_pod_itself_no_status(api, ask):
    before = api.snapshot()["default/pod1"]
    patch = {"spec": {"nodeName": "other"}, "status": {"phase": "Running"}}
    assert ask("PATCH", f"{PATH}/status", patch)[0] == 200
    after = api.snapshot()["default/pod1"]
    assert (after["spec"], after["status"]) == (before["spec"], {"phase": "Running"})
    assert ask("PATCH", PATH, {"spec": {"nodeName": "other"}})[0] == 422
    assert ask("PATCH", PATH, {"status": {"phase": "Failed"}})[1]["status"] == {"phase": "Running"}


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "expected"),
    [
        ("GET", f"{PATH}x", None, {}, (404, "NotFound")),
        ("GET", "/apis/other/v1/nodes", None, {}, (404, "")),
        ("GET", "/api/v1/namespaces/default/pods/../pods/pod1", None, {}, (404, "")),
        ("GET", PATH, None, {"Authorization": "Bearer other"}, (401, "Unauthorized")),
        ("GET", f"{PATH}/status", None, {}, (403, "Forbidden")),
        ("PUT", PATH, {}, {}, (403, "Forbidden")),
        ("DELETE", PATH, None, {}, (403, "Forbidden")),
        ("PATCH", PATH, {}, {"Content-Type": "application/json"}, (415, "UnsupportedMediaType")),
        ("PATCH", PATH, "no json", {}, (400, "BadRequest")),
        ("PATCH", PATH, [], {}, (400, "BadRequest")),
        ("PATCH", PATH, {"metadata": "x"}, {}, (400, "BadRequest")),
        ("PATCH", PATH, {"metadata": {"annotations": {"a": 1}}}, {}, (400, "BadRequest")),
        ("PATCH", PATH, {"metadata": {"annotations": {"a b": "1"}}}, {}, (422, "Invalid")),
        ("PATCH", PATH, {"metadata": {"annotations": {"a": "x" * 300000}}}, {}, (422, "Invalid")),
        ("PATCH", PATH, {"metadata": {"name": "pod2"}}, {}, (422, "Invalid")),
    ],
)
def test_what_the_real_one_refuses_is_refused_and_changes_nothing(api, ask, method, path, body, headers, expected):
    before = api.snapshot()
    status, answer = ask(method, path, body, **headers)
    assert (status, answer["reason"]) == expected
    assert api.snapshot() == before
    assert api.asked() == [(method, expected[0])]


def test_a_snapshot_is_blind_to_versions_and_the_kubelet_and_to_nothing_else(api):
    before = api.snapshot()
    api.store.touch(("default", "pod1"))
    assert api.snapshot() == before
    api.store.write(("default", "pod1"), {"metadata": {"annotations": {"a": None}}})
    assert api.snapshot() != before


def test_faults_count_requests_from_when_they_are_set(api, ask):
    ask("GET")
    api.faults = Faults(status=500, every=2)
    assert [ask("GET")[0] for _ in range(4)] == [200, 500, 200, 500]
    api.faults = Faults(status=429, only=frozenset({1, 3}))
    assert [ask("GET")[0] for _ in range(4)] == [429, 200, 429, 200]
    api.faults = Faults(conflicts=2, status=503, every=4, methods=frozenset({"PATCH"}))
    patch = {"metadata": {"annotations": {"a": "2"}, "resourceVersion": version(api)}}
    assert [ask("PATCH", PATH, patch)[0] for _ in range(4)] == [409, 409, 409, 503]
    assert [ask("GET")[0] for _ in range(2)] == [200, 200]
