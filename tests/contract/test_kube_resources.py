"""The tests' API server is as strict about custom resources as the real one. These tests do not use our client."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest

from tests.kube.apiserver import ApiServer
from tests.kube.jsonpatch import DoesNotApply, patched
from tests.kube.resources import POOLS, WHEREABOUTS
from tests.kube.routes import JSON_PATCH, PARTIAL, RIGHTS

SECONDS = 10
FOLDER = f"{WHEREABOUTS}/namespaces/kube-system/ippools"
PATH = f"{FOLDER}/10.0.0.0-24"
ENTRY = {"id": "c", "podref": "ns/p", "ifname": "net1"}
MEDIA = {"PATCH": JSON_PATCH, "POST": "application/json", "PUT": "application/json", "DELETE": "application/json"}


def pool(name="10.0.0.0-24", **spec):
    told = {"range": "10.0.0.0/24", "allocations": {}, **spec}
    return {
        "kind": "IPPool",
        "apiVersion": "whereabouts.cni.cncf.io/v1alpha1",
        "metadata": {"name": name},
        "spec": told,
    }


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer(secure=False) as api:
        api.rights = RIGHTS | {(verb, "ippools") for verb in ("list", "update", "delete")}
        api.resources.put(POOLS, "kube-system", pool(allocations={"5": ENTRY}))
        yield api


@pytest.fixture
def ask(api):
    """Sends a request, and returns status and document."""

    def asked(method, path=PATH, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=SECONDS)
        told = {"Content-Type": MEDIA.get(method, ""), **headers}
        try:
            connection.request(method, path, body if body is None or isinstance(body, str) else json.dumps(body), told)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    return asked


def stored(api):
    return api.resources.get(POOLS, "kube-system", "10.0.0.0-24")


def operation(op, path, *value):
    return {"op": op, "path": path, **({"value": value[0]} if value else {})}


# The examples of RFC 6902, appendix A, for the supported operations.
@pytest.mark.parametrize(
    ("document", "operations", "result"),
    [
        ({"foo": "bar"}, [operation("add", "/baz", "qux")], {"baz": "qux", "foo": "bar"}),
        ({"foo": ["bar", "baz"]}, [operation("add", "/foo/1", "qux")], {"foo": ["bar", "qux", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, [operation("remove", "/baz")], {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, [operation("remove", "/foo/1")], {"foo": ["bar", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, [operation("replace", "/baz", "boo")], {"baz": "boo", "foo": "bar"}),
        (
            {"baz": "qux", "foo": ["a", 2, "c"]},
            [operation("test", "/baz", "qux"), operation("test", "/foo/1", 2)],
            {"baz": "qux", "foo": ["a", 2, "c"]},
        ),
        ({"baz": "qux"}, [operation("test", "/baz", "bar")], None),
        ({"foo": "bar"}, [operation("add", "/child", {"grandchild": {}})], {"foo": "bar", "child": {"grandchild": {}}}),
        ({"foo": "bar"}, [{**operation("add", "/baz", "qux"), "xyz": 123}], {"foo": "bar", "baz": "qux"}),
        ({"foo": "bar"}, [operation("add", "/baz/bat", "qux")], None),
        ({"/": 9, "~1": 10}, [operation("test", "/~01", 10)], {"/": 9, "~1": 10}),
        ({"/": 9, "~1": 10}, [operation("test", "/~01", "10")], None),
        ({"foo": ["bar"]}, [operation("add", "/foo/-", ["abc", "def"])], {"foo": ["bar", ["abc", "def"]]}),
        # Additions of the library of API servers, and some corner cases.
        ({"a": {}}, [operation("test", "/a/b", None), operation("add", "/a/b", 1)], {"a": {"b": 1}}),
        ({"a": {"b": None}}, [operation("test", "/a/b", None)], {"a": {"b": None}}),
        ({"a": {"b": 1}}, [operation("test", "/a/b", None)], None),
        ({}, [operation("test", "/a/b", None)], None),
        ({"a": 1}, [operation("test", "/a", True)], None),
        ({"a": 1}, [operation("remove", "/b")], None),
        ({"a": 1}, [operation("replace", "/b", 2)], None),
        ({"a": [1]}, [operation("remove", "/a/1")], None),
        ({"a": [1]}, [operation("add", "/a/3", 1)], None),
        ({"a": [1]}, [operation("test", "/a/00", 1)], None),
        ({"a": 1}, [operation("add", "", {"b": 2})], {"b": 2}),
        ({"a": 1}, [operation("add", "/b", 1), operation("test", "/a", 2)], None),
        ({"a": 1}, [operation("move", "/b", 1)], None),
        ({"a": 1}, [operation("add", "b", 1)], None),
    ],
)
def test_a_json_patch_is_applied_as_its_specification_says_or_not_at_all(document, operations, result):
    before = json.dumps(document)
    if result is None:
        with pytest.raises(DoesNotApply):
            patched(document, operations)
    else:
        assert patched(document, operations) == result
    assert json.dumps(document) == before


def test_a_patch_copies_nothing_that_it_does_not_change():
    entries = {str(number): {"id": "c"} for number in range(5)}
    old = {"metadata": {"name": "n"}, "spec": {"allocations": entries}}
    new = patched(old, [operation("add", "/spec/allocations/7", 1), operation("add", "/spec/allocations/8", 2)])
    assert new["metadata"] is old["metadata"]
    assert all(new["spec"]["allocations"][key] is entries[key] for key in entries)
    assert len(entries) == 5


def test_a_patch_without_a_version_meets_whatever_version_there_is(api, ask):
    before = stored(api)["metadata"]["resourceVersion"]
    status, found = ask("PATCH", body=[operation("add", "/spec/allocations/6", ENTRY)])
    assert status == 200
    assert found["spec"]["allocations"] == {"5": ENTRY, "6": ENTRY}
    assert int(found["metadata"]["resourceVersion"]) > int(before)


def test_a_patch_can_test_the_version(api, ask):
    told = operation("test", "/metadata/resourceVersion", stored(api)["metadata"]["resourceVersion"])
    assert ask("PATCH", body=[told, operation("remove", "/spec/allocations/5")])[0] == 200
    assert ask("PATCH", body=[told, operation("add", "/spec/allocations/5", ENTRY)])[0] == 422


@pytest.mark.parametrize("body", ([], [operation("test", "/spec/allocations/5/id", "c")]))
def test_a_patch_that_changes_nothing_writes_nothing(api, ask, body):
    before = stored(api)
    assert ask("PATCH", body=body) == (200, before)
    assert stored(api) is before


def test_metadata_alone_is_answered_to_who_wants_no_more(api, ask):
    _, found = ask(
        "PATCH", body=[operation("add", "/spec/allocations/6", ENTRY)], Accept=f"{PARTIAL}, application/json"
    )
    assert found == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": stored(api)["metadata"],
    }


def test_what_the_schema_does_not_know_is_dropped(api, ask):
    ask(
        "PATCH", body=[operation("add", "/spec/allocations/6", {**ENTRY, "node": "n1"}), operation("add", "/spec/x", 1)]
    )
    assert stored(api)["spec"] == {"range": "10.0.0.0/24", "allocations": {"5": ENTRY, "6": ENTRY}}


def test_an_object_is_made_once_and_a_rehearsal_makes_none(api, ask):
    assert ask("POST", f"{FOLDER}?dryRun=All", pool("another"))[0] == 201
    assert api.resources.names(POOLS, "kube-system") == ["10.0.0.0-24"]
    status, found = ask("POST", FOLDER, pool("another"))
    assert (status, found["metadata"]["namespace"]) == (201, "kube-system")
    assert ask("POST", FOLDER, pool("another"))[1]["reason"] == "AlreadyExists"
    assert ask("GET", f"{FOLDER}/another") == (200, found)
    assert [one["metadata"]["name"] for one in ask("GET", FOLDER)[1]["items"]] == ["10.0.0.0-24", "another"]


def test_an_object_is_replaced_and_deleted_as_it_was_found_only(api, ask):
    found = stored(api)
    changed = {**found, "spec": {**found["spec"], "allocations": {}}}
    assert ask("PUT", body=changed)[0] == 200
    assert ask("PUT", body={**changed, "spec": found["spec"]})[0] == 409
    stale, fresh = (
        {field: one["metadata"][field] for field in ("uid", "resourceVersion")} for one in (found, stored(api))
    )
    assert ask("DELETE", body={"preconditions": stale})[1]["reason"] == "Conflict"
    assert ask("DELETE", body={"preconditions": {**fresh, "uid": "other"}})[0] == 409
    assert ask("DELETE", body={"preconditions": fresh})[1]["status"] == "Success"
    assert ask("DELETE")[0] == 404


BAD_ENTRY = {"id": "c"}
NO_PATCH = [operation("test", "/spec/allocations/5", None)]


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "expected"),
    [
        ("PATCH", PATH, NO_PATCH, {}, (422, "Invalid")),
        ("PATCH", PATH, [operation("add", "/spec/allocations/6", BAD_ENTRY)], {}, (422, "Invalid")),
        ("PATCH", PATH, [operation("add", "/spec/allocations/6", {**ENTRY, "id": 7})], {}, (422, "Invalid")),
        ("PATCH", PATH, [operation("remove", "/spec/allocations")], {}, (422, "Invalid")),
        ("PATCH", PATH, [operation("replace", "/metadata/uid", "x")], {}, (422, "Invalid")),
        ("PATCH", PATH, [operation("replace", "/metadata/resourceVersion", "1")], {}, (409, "Conflict")),
        ("PATCH", PATH, {}, {}, (400, "BadRequest")),
        ("PATCH", PATH, "[", {}, (400, "BadRequest")),
        ("PATCH", PATH, NO_PATCH, {"Content-Type": "application/json"}, (415, "UnsupportedMediaType")),
        ("PATCH", f"{FOLDER}/none", NO_PATCH, {}, (404, "NotFound")),
        ("PATCH", f"{PATH}?timeout=soon", NO_PATCH, {}, (400, "BadRequest")),
        ("GET", f"{FOLDER}/none", None, {}, (404, "NotFound")),
        ("GET", f"{WHEREABOUTS}/namespaces/kube-system/others", None, {}, (404, "NotFound")),
        ("GET", "/apis/other.group/v1/namespaces/kube-system/ippools/x", None, {}, (404, "")),
        ("GET", f"{WHEREABOUTS}/namespaces/kube-system/overlappingrangeipreservations", None, {}, (403, "Forbidden")),
        ("GET", "/api/v1/nodes/n1", None, {}, (403, "Forbidden")),
        ("POST", FOLDER, pool(), {}, (409, "AlreadyExists")),
        ("POST", FOLDER, pool("-bad"), {}, (422, "Invalid")),
        ("POST", FOLDER, {**pool("x"), "spec": {"range": "10.0.0.0/24"}}, {}, (422, "Invalid")),
        ("POST", FOLDER, {**pool("x"), "kind": "Pool"}, {}, (400, "BadRequest")),
        ("POST", FOLDER, {**pool("x"), "metadata": {"name": "x", "resourceVersion": "1"}}, {}, (400, "BadRequest")),
        ("POST", FOLDER.replace("kube-system", "nowhere"), pool("x"), {}, (404, "NotFound")),
        ("POST", PATH, pool(), {}, (405, "MethodNotAllowed")),
        ("GET", PATH, None, {"Authorization": "Bearer x"}, (401, "Unauthorized")),
    ],
)
def test_what_the_real_one_refuses_is_refused_and_changes_nothing(api, ask, method, path, body, headers, expected):
    before = stored(api)
    status, answer = ask(method, path, body, **headers)
    assert (status, answer["reason"]) == expected
    assert stored(api) is before
    assert api.resources.names(POOLS, "kube-system") == ["10.0.0.0-24"]


def test_a_404_distinguishes_an_object_from_a_resource(ask):
    assert ask("GET", f"{FOLDER}/none")[1]["details"]["name"] == "none"
    assert "details" not in ask("GET", f"{WHEREABOUTS}/namespaces/kube-system/others")[1]
