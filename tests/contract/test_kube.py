"""Pods over real TLS on the loopback address: requests to the API server, and the outcome if it misbehaves."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni.errors import InvalidConfig, KubeRefused, PodNotFound, TryAgainLater
from cni.kube.config import in_cluster
from cni.kube.connection import LARGEST_ANSWER
from cni.kube.pods import Pods, open_pods
from cni.userspace.appnetutil import DATA, added, removed
from tests.kube.apiserver import FOR_EVER, MERGE_PATCH, ApiServer, Faults
from tests.kube.authority import certificates
from tests.kube.routes import JSON_PATCH
from tests.trusting import ACCESS

SECONDS = 10.0
SHORT = 0.3
LATEST = 2.0
"""Seconds after which a call with the limit SHORT has certainly exceeded it; nothing else ends the call."""

UID = "3f1c0d1e-aaaa-4bbb-8ccc-0123456789ab"
POD = ("default", "pod1")
STATUS_PATH = "/api/v1/namespaces/default/pods/pod1/status"
ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.add_pod(*POD, uid=UID, annotations={"foreign": "stays"})
        yield api


@pytest.fixture
def pods(api, tmp_path) -> Pods:
    return open_pods(str(api.kubeconfig(tmp_path / "kubeconfig")), ACCESS, SECONDS)


@pytest.fixture
def hasty(api, tmp_path) -> Pods:
    """The same, for servers that do not respond."""
    return open_pods(str(api.kubeconfig(tmp_path / "kubeconfig")), ACCESS, SHORT)


def put(**annotations):
    """A change that sets these annotations."""
    return lambda pod: dict(annotations)


def element(ifname, container_id="c0ffee"):
    return {"containerId": container_id, "ifName": ifname, "name": "net"}


def interface_comes(ifname):
    """The change that an ADD makes."""
    return lambda pod: added(pod["metadata"].get("annotations") or {}, element(ifname), "/sockets")


def interfaces(api):
    return sorted(one["ifName"] for one in json.loads(api.annotations(*POD).get(DATA, "[]")))


# Requests


def test_a_pod_is_read_by_token_over_tls(api, pods):
    assert pods.get(*POD) == api.store.get(POD)
    (request,) = api.requests
    assert request.headers["authorization"] == f"Bearer {api.token}"
    assert request.headers["host"] == f"127.0.0.1:{api.port}"


def test_a_change_is_one_conditional_patch_of_the_status_on_the_same_connection(api, pods):
    pods.change_annotations(*POD, UID, put(new="\u00fc \U0001f600"))
    read, patch = api.requests
    assert (read.method, patch.method, patch.path) == ("GET", "PATCH", STATUS_PATH)
    assert patch.headers["content-type"] == JSON_PATCH
    assert patch.body == [
        {"op": "test", "path": "/metadata/uid", "value": UID},
        {"op": "test", "path": "/metadata/annotations/new", "value": None},
        {"op": "add", "path": "/metadata/annotations/new", "value": "\u00fc \U0001f600"},
    ]
    assert read.connection == patch.connection
    assert api.annotations(*POD) == {"foreign": "stays", "new": "\u00fc \U0001f600"}


def test_a_pod_without_annotations_gets_its_first_one_if_it_is_still_of_the_version_that_was_read(api, pods):
    api.add_pod(*POD, uid=UID)
    api.faults = Faults(conflicts=1)
    pods.change_annotations(*POD, UID, put(new="1"))
    assert [(one.method, one.status) for one in api.requests] == [
        ("GET", 200), ("PATCH", 409), ("GET", 200), ("PATCH", 200)
    ]  # fmt: skip
    assert api.requests[-1].headers["content-type"] == MERGE_PATCH
    assert api.annotations(*POD) == {"new": "1"}


def test_a_name_with_a_slash_and_a_tilde_is_one_name_in_a_patch(api, pods):
    pods.change_annotations(*POD, UID, put(**{"userspace/mapped-dir": "/x"}))
    assert api.annotations(*POD)["userspace/mapped-dir"] == "/x"
    pods.change_annotations(*POD, UID, lambda pod: {"userspace/mapped-dir": None})
    assert api.annotations(*POD) == {"foreign": "stays"}


def test_none_removes_an_annotation(api, pods):
    pods.change_annotations(*POD, UID, put(mine="1", other="2"))
    pods.change_annotations(*POD, UID, lambda pod: {"mine": None, "other": None})
    assert api.annotations(*POD) == {"foreign": "stays"}


@pytest.mark.parametrize("changes", ({}, {"foreign": "stays"}, {"absent": None}))
def test_what_is_as_wanted_is_not_patched(api, pods, changes):
    pods.change_annotations(*POD, UID, lambda pod: changes)
    assert api.asked() == [("GET", 200)]


def test_a_server_that_closes_each_connection_gets_requests_on_new_ones(api, pods):
    api.faults = Faults(closes=True)
    pods.change_annotations(*POD, UID, put(new="1"))
    assert [request.connection for request in api.requests] == [1, 2]
    assert api.annotations(*POD)["new"] == "1"


@pytest.mark.parametrize("size", (1, 7, 4096))
def test_answers_in_chunks_are_read(api, pods, size):
    api.faults = Faults(chunked=size)
    pods.change_annotations(*POD, UID, put(new="1"))
    assert pods.get(*POD)["metadata"]["annotations"]["new"] == "1"


def test_an_object_of_four_mebibytes_is_read(api, pods):
    api.store.write(POD, {"status": {"much": "x" * (LARGEST_ANSWER // 2)}})
    assert len(pods.get(*POD)["status"]["much"]) == LARGEST_ANSWER // 2


@pytest.mark.parametrize(
    ("namespace", "name"),
    [
        ("default", "../../secrets/x"), ("default", "pod1/log"), ("default", "pod1?watch=1"), ("default", "pod1#"),
        ("default", "pod1\r\nX: y"), ("default", "pod1 "), ("default", ""), ("default", "."), ("default", ".."),
        ("default", "Pod1"), ("default", "p%2f"), ("default", "-pod"), ("default", "pod-"), ("default", "a..b"),
        ("default", "p\u00f6d"), ("default", "a" * 254), ("a.b", "pod1"), ("", "pod1"), ("a/b", "pod1"),
        ("..", "pod1"), ("a" * 64, "pod1"),
    ],
)  # fmt: skip
def test_what_is_no_name_gets_into_no_url(api, pods, namespace, name):
    with pytest.raises(InvalidConfig, match="is not the name"):
        pods.get(namespace, name)
    with pytest.raises(InvalidConfig, match="is not the name"):
        pods.change_annotations(namespace, name, "", put(new="1"))
    assert api.requests == []


def test_names_with_dots_dashes_and_digits_are_names(api, pods):
    name = "0.a-b.9" + "x" * 240
    api.add_pod("0-ns", name)
    assert pods.get("0-ns", name)["metadata"]["name"] == name


# Conflicts


def test_after_a_conflict_the_change_is_computed_again_from_the_pod_as_it_is_then(api, pods):
    def other_add(store, key):
        present = store.get(key)["metadata"]["annotations"]
        store.write(key, {"metadata": {"annotations": added(present, element("net2"), "/sockets")}})

    api.faults = Faults(conflicts=1, other_writer=other_add)
    pods.change_annotations(*POD, UID, interface_comes("net1"))
    assert interfaces(api) == ["net1", "net2"]
    assert api.asked() == [("GET", 200), ("PATCH", 422), ("GET", 200), ("PATCH", 200)]


def test_what_others_write_beside_our_annotations_is_no_conflict(api, pods):
    api.faults = Faults(conflicts=1)
    pods.change_annotations(*POD, UID, put(new="1"))
    assert api.asked() == [("GET", 200), ("PATCH", 200)]
    assert api.pods[POD]["status"]["touched"], "the kubelet's write is lost"


def test_a_server_that_takes_no_test_for_null_gets_a_test_of_the_version(api, pods):
    api.faults = Faults(status=422, only=frozenset({2}))
    pods.change_annotations(*POD, UID, put(new="1"))
    assert api.requests[-1].headers["content-type"] == MERGE_PATCH
    assert api.annotations(*POD)["new"] == "1"


def rival(store, key):
    """Writes the annotation that the test is about."""
    store.write(key, {"metadata": {"annotations": {"new": "theirs"}}})


def test_other_writers_of_our_annotation_are_waited_out(api, pods):
    api.faults = Faults(conflicts=4, other_writer=rival)
    pods.change_annotations(*POD, UID, put(new="1"))
    assert api.annotations(*POD)["new"] == "1"
    assert [status for method, status in api.asked() if method == "PATCH"] == [422, 409, 409, 409, 200]


def test_a_storm_of_conflicts_ends_in_time_and_says_conflict(api, hasty):
    api.faults = Faults(conflicts=FOR_EVER, other_writer=rival)
    started = time.monotonic()
    with pytest.raises(TryAgainLater, match="conflict"):
        hasty.change_annotations(*POD, UID, put(new="1"))
    assert time.monotonic() - started < LATEST
    assert api.annotations(*POD)["new"] == "theirs"


def test_a_server_that_falls_silent_in_a_storm_leaves_word_of_the_conflicts(api, hasty):
    api.faults = Faults(conflicts=FOR_EVER, other_writer=rival, silent=True, only=frozenset({4}))
    with pytest.raises(TryAgainLater, match="no answer in time") as raised:
        hasty.change_annotations(*POD, UID, put(new="1"))
    assert "conflicts with other writers: 1" in raised.value.details


def test_many_writers_at_once_lose_nothing(api, pods):
    names = [f"net{number}" for number in range(12)]
    threads = [
        threading.Thread(target=pods.change_annotations, args=(*POD, UID, interface_comes(name))) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS + 1)
    assert interfaces(api) == sorted(names)
    assert ("PATCH", 422) in api.asked(), "they did not meet"


def test_add_and_del_of_two_interfaces_leave_the_pod_as_it_was(api, pods):
    before = api.snapshot()
    for ifname in ("net1", "net2"):
        pods.change_annotations(*POD, UID, interface_comes(ifname))
    assert api.snapshot() != before
    for ifname in ("net1", "net2"):
        gone = ifname
        pods.change_annotations(
            *POD, UID, lambda pod, gone=gone: removed(pod["metadata"].get("annotations") or {}, "c0ffee", gone)
        )
    assert api.snapshot() == before


# Ownership


def test_a_pod_that_was_recreated_under_the_same_name_is_left_alone(api, pods):
    api.add_pod(*POD)
    before = api.snapshot()
    with pytest.raises(PodNotFound, match=f"not {UID}"):
        pods.change_annotations(*POD, UID, put(new="1"))
    assert api.asked() == [("GET", 200)]
    assert api.snapshot() == before


def test_a_pod_that_is_recreated_between_reading_and_writing_is_left_alone(api, pods):
    api.faults = Faults(conflicts=1, other_writer=lambda store, key: store.add(*key))
    with pytest.raises(PodNotFound, match=f"not {UID}"):
        pods.change_annotations(*POD, UID, put(new="1"))
    assert api.annotations(*POD) == {}


def test_a_pod_that_goes_between_reading_and_writing_is_not_found(api, pods):
    api.faults = Faults(conflicts=1, other_writer=lambda store, key: store.pods.clear())
    with pytest.raises(PodNotFound, match='pods "pod1" not found'):
        pods.change_annotations(*POD, UID, put(new="1"))


def test_without_a_uid_the_pod_of_that_name_is_meant(api, pods):
    pods.change_annotations(*POD, "", put(new="1"))
    assert api.annotations(*POD)["new"] == "1"


def test_a_pod_that_is_not_there_is_not_found(api, pods):
    with pytest.raises(PodNotFound, match='pods "absent" not found'):
        pods.get("default", "absent")
    with pytest.raises(PodNotFound):
        pods.change_annotations("default", "absent", "", put(new="1"))


def test_a_gateway_that_knows_no_such_page_does_not_say_that_the_pod_is_gone(api, tmp_path):
    cluster = {"server": f"{api.url}/elsewhere"}
    pods = open_pods(str(api.kubeconfig(tmp_path / "kubeconfig", cluster=cluster)), ACCESS, SECONDS)
    with pytest.raises(KubeRefused, match="404"):
        pods.get(*POD)


def test_a_server_may_be_below_a_path(api, tmp_path):
    api.prefix = "/k8s/clusters/c-1"
    pods = open_pods(str(api.kubeconfig(tmp_path / "kubeconfig")), ACCESS, SECONDS)
    pods.change_annotations(*POD, UID, put(new="1"))
    assert api.requests[-1].path == f"/k8s/clusters/c-1{STATUS_PATH}"


# Refusals


@pytest.mark.parametrize(
    ("rights", "hint"),
    [({("patch", "pods/status")}, "grant the verb get on pods"), ({("get", "pods")}, "grant the verb patch on pods/status")],
)  # fmt: skip
def test_a_missing_right_is_named_with_whom_to_grant_it(api, pods, tmp_path, rights, hint):
    api.rights = frozenset(rights)
    with pytest.raises(KubeRefused, match=r"403.*forbidden") as raised:
        pods.change_annotations(*POD, UID, put(new="1"))
    assert raised.value.hint == f"{hint} to the user of {tmp_path}/kubeconfig"
    assert "new" not in api.annotations(*POD)


def test_get_pods_and_patch_pods_status_are_all_the_rights_that_are_needed(api, pods):
    assert api.rights == {("get", "pods"), ("patch", "pods/status")}
    pods.change_annotations(*POD, UID, put(new="1"))
    assert {status for _, status in api.asked()} == {200}


def test_a_token_that_is_not_valid_is_reported_and_not_shown(api, tmp_path):
    pods = open_pods(str(api.kubeconfig(tmp_path / "kubeconfig", user={"token": "s3cr3t"})), ACCESS, SECONDS)
    with pytest.raises(KubeRefused, match="401") as raised:
        pods.get(*POD)
    assert f"the credentials of {tmp_path}/kubeconfig are not valid" in raised.value.hint
    assert "s3cr3t" not in raised.value.msg + raised.value.details


def test_a_change_that_the_server_calls_invalid_is_refused_with_its_words(api, pods):
    with pytest.raises(KubeRefused, match=r"422 metadata\.annotations") as raised:
        pods.change_annotations(*POD, UID, put(**{"no/valid/name": "1"}))
    assert "the API server's reason is Invalid" in raised.value.hint
    with pytest.raises(KubeRefused, match="422"):
        pods.change_annotations(*POD, UID, put(large="x" * (256 << 10)))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, TryAgainLater) for status in (408, 429, 500, 502, 503, 504)),
        *((status, KubeRefused) for status in (201, 301, 302, 307, 308, 400, 404, 405, 410, 415)),
    ],
)
@pytest.mark.parametrize("method", ("GET", "PATCH"))
def test_each_status_passes_by_itself_or_does_not(api, pods, method, status, error):
    before = api.snapshot()
    api.faults = Faults(status=status, methods=frozenset({method}))
    with pytest.raises(error, match=str(status)):
        pods.change_annotations(*POD, UID, put(new="1"))
    assert api.snapshot() == before


def test_a_redirect_is_not_followed(api, pods):
    with ApiServer(secure=False) as other:
        other.add_pod(*POD)
        head = f"HTTP/1.1 307 Elsewhere\r\nLocation: {other.url}/api/v1/namespaces/default/pods/pod1\r\n"
        api.faults = Faults(raw=head.encode() + b"Content-Length: 0\r\n\r\n")
        with pytest.raises(KubeRefused, match="307") as raised:
            pods.get(*POD)
        assert "redirects are not followed" in raised.value.hint
        assert other.requests == []


@pytest.mark.parametrize("number", (1, 2))
def test_whichever_request_is_refused_the_pod_is_as_before(api, pods, number):
    before = api.snapshot()
    api.faults = Faults(status=503, only=frozenset({number}))
    with pytest.raises(TryAgainLater, match="503"):
        pods.change_annotations(*POD, UID, put(new="1"))
    assert api.snapshot() == before
    pods.change_annotations(*POD, UID, put(new="1"))


def test_every_third_request_is_refused_and_repeated_calls_get_there(api, pods):
    api.faults = Faults(status=503, every=3)
    outcomes = []
    for number in range(4):
        try:
            pods.change_annotations(*POD, UID, put(**{f"a{number}": "1"}))
            outcomes.append("ok")
        except TryAgainLater:
            outcomes.append("later")
    assert outcomes == ["ok", "later", "ok", "later"]
    assert [status for _, status in api.asked()] == [200, 200, 503, 200, 200, 503]


# Invalid responses


def test_when_the_answer_to_a_patch_is_lost_the_next_call_finds_it_done(api, pods):
    api.faults = Faults(loses_answer=True, methods=frozenset({"PATCH"}))
    with pytest.raises(TryAgainLater, match="it hung up"):
        pods.change_annotations(*POD, UID, put(new="1"))
    api.requests.clear()
    pods.change_annotations(*POD, UID, put(new="1"))
    assert api.asked() == [("GET", 200)]


@pytest.mark.parametrize("chunked", (0, 50))
@pytest.mark.parametrize("cut", (0, 1, 20, 200))
def test_an_answer_that_is_cut_off_is_no_answer(api, pods, cut, chunked):
    api.faults = Faults(cut=cut, chunked=chunked)
    with pytest.raises(TryAgainLater, match="the answer ended early"):
        pods.get(*POD)


@pytest.mark.parametrize("method", ("GET", "PATCH"))
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP",
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 30",
        b'HTTP/1.1 200 OK\r\n\r\n{"metadata": {"name": "pod1"',
    ],
)
def test_an_answer_whose_head_is_cut_off_is_no_answer(api, pods, head, method):
    api.faults = Faults(raw=head, methods=frozenset({method}))
    with pytest.raises(TryAgainLater, match="the answer ended early"):
        pods.change_annotations(*POD, UID, put(new="1"))


def test_an_answer_that_ends_with_its_connection_is_read(api, pods):
    pod = json.dumps(api.pods[POD]).encode()
    api.faults = Faults(raw=b"HTTP/1.1 200 OK\r\n\r\n" + pod + b"\n")
    assert pods.get(*POD)["metadata"]["uid"] == UID


def test_a_server_that_hangs_up_is_not_there(api, pods):
    api.faults = Faults(hangs_up=True)
    with pytest.raises(TryAgainLater, match="it hung up"):
        pods.get(*POD)


def whole(body: bytes, head: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 abc\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 " + b"x" * 70000, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "does not speak HTTP"),
        (whole(b"<html>"), "is not the pod"),
        (whole(b"[]"), "is not the pod"),
        (whole(b"{}"), "is not the pod"),
        (whole(b'{"metadata": "x"}'), "is not the pod"),
        (whole(b'{"metadata": {"name": "pod2", "resourceVersion": "1"}}'), "is not the pod"),
        (whole(b'{"metadata": {"name": "pod1"}}'), "no resourceVersion"),
        (whole(b'{"metadata": {"name": "pod1", "resourceVersion": ""}}'), "no resourceVersion"),
        (whole(b'{"metadata": {"name": "pod1", "resourceVersion": "1", "annotations": ["x"]}}'), "is not the pod"),
        (whole(b'{"metadata": {"name": "pod1", "resourceVersion": "1", "annotations": "x"}}'), "is not the pod"),
        (whole(b'{"message": "two\\nlines, \\u001b[31mred"}', "400 Bad Request"), r"400 two lines, \?\[31mred$"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html></html>", "is not the pod"),
        (whole(b'{"message": ["x"]}', "400 Bad Request"), "400"),
        (whole(b"", "204 No Content"), "204"),
        (b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n", "400"),
    ],
)
def test_what_answers_and_is_no_api_server_is_refused(api, pods, raw, words):
    api.faults = Faults(raw=raw)
    with pytest.raises(KubeRefused, match=words) as raised:
        pods.change_annotations(*POD, UID, put(new="1"))
    assert "\n" not in raised.value.msg


def test_an_answer_without_an_end_is_given_up_at_its_limit(api, pods):
    api.faults = Faults(endless=True)
    with pytest.raises(KubeRefused, match="more than 8 MiB"):
        pods.get(*POD)


# Time limits


@pytest.mark.parametrize(
    "faults",
    [
        Faults(mute=True),
        Faults(silent=True),
        Faults(silent=True, methods=frozenset({"PATCH"})),
        Faults(delay=5 * SHORT),
        Faults(trickle=SHORT / 100),
        Faults(trickle=SHORT / 100, chunked=3),
        Faults(raw=b"HTTP/1.1 100 Continue\r\n\r\n" * 5, only=frozenset({1})),
    ],
    ids=("no handshake", "no answer", "no answer to the patch", "late", "drop by drop", "chunk by chunk", "continue"),
)
def test_no_server_keeps_us_longer_than_the_limit(api, hasty, faults):
    api.faults = faults
    started = time.monotonic()
    with pytest.raises(TryAgainLater) as raised:
        hasty.change_annotations(*POD, UID, put(new="1"))
    assert time.monotonic() - started < LATEST
    assert raised.value.hint
    assert "new" not in api.annotations(*POD)


def at(port: int, tmp_path: Path, **cluster: Any) -> Pods:
    """The pods of a server that is not an `ApiServer`."""
    path = tmp_path / "kubeconfig"
    described = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True, **cluster}
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "clusters": [{"name": "c", "cluster": described}],
    }
    path.write_text(json.dumps(document))
    return open_pods(str(path), ACCESS, SHORT)


def test_a_connection_that_is_not_taken_is_given_up_in_time(tmp_path):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        started = time.monotonic()
        with pytest.raises(TryAgainLater, match="no answer in time"):
            at(address[1], tmp_path).get(*POD)
        assert time.monotonic() - started < LATEST
        for one in waiting:
            one.close()


def test_where_nothing_listens_is_reported_at_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(TryAgainLater, match="Connection refused"):
        at(port, tmp_path).get(*POD)


def test_a_handshake_in_drops_is_bounded_as_a_whole(tmp_path):
    stop = threading.Event()

    def drop(server):
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"\x16\x03\x03\x40\x00")  # the head of a record of 16 KiB
            while not stop.wait(SHORT / 20):
                try:
                    connection.sendall(b"\x02")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drop, args=(server,))
        thread.start()
        started = time.monotonic()
        with pytest.raises(TryAgainLater, match="no answer in time"):
            at(server.getsockname()[1], tmp_path).get(*POD)
        took = time.monotonic() - started
        stop.set()
        thread.join(SECONDS)
    assert took < LATEST


# In its own namespaces, where the only name server is a socket that no process reads.
SILENT_RESOLVER = """
import os, socket, sys, time
sys.path.insert(0, sys.argv[1])
from cni.errors import TryAgainLater
from cni.kube.config import Cluster
from cni.kube.pods import Pods
silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.77", 53))
started = time.monotonic()
try:
    Pods(Cluster(host="api.example", port=443), 1.0).get("default", "pod1")
except TryAgainLater as error:
    print(error.msg, "|", time.monotonic() - started, flush=True)
"""


def test_a_lookup_without_a_response_is_bounded_and_so_is_the_program_s_end(tmp_path):
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.77\noptions timeout:8 attempts:1\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: dns\n")
    binds = "; ".join(f"mount --bind {tmp_path}/{name} /etc/{name}" for name in ("resolv.conf", "nsswitch.conf"))
    script = f'ip link set lo up; {binds}; exec "$0" -I -c "$1" "$2"'
    started = time.monotonic()
    done = subprocess.run(
        ["unshare", "-m", "-n", "sh", "-ec", script, sys.executable, SILENT_RESOLVER, ROOT],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    words, _, took = done.stdout.partition(" | ")
    assert words == "the API server api.example:443 did not answer: the look-up of its name took too long"
    assert float(took) < LATEST
    assert time.monotonic() - started < 5, "the end of the program waited for the look-up"


def test_an_unknown_name_is_reported(api, tmp_path):
    with pytest.raises(TryAgainLater, match=r"look-up of its name failed|took too long"):
        at(api.port, tmp_path, server="https://absent.invalid:6443").get(*POD)


# Connecting to a server


def test_a_server_is_found_by_name(api, tmp_path):
    cluster = {"server": f"https://localhost:{api.port}"}
    pods = open_pods(str(api.kubeconfig(tmp_path / "kubeconfig", cluster=cluster)), ACCESS, SECONDS)
    assert pods.get(*POD)["metadata"]["uid"] == UID
    assert api.requests[0].headers["host"] == f"localhost:{api.port}"


def test_a_server_may_have_an_ipv6_address(tmp_path):
    with ApiServer(host="::1") as api:
        api.add_pod(*POD, uid=UID)
        pods = open_pods(str(api.kubeconfig(tmp_path / "kubeconfig")), ACCESS, SECONDS)
        pods.change_annotations(*POD, UID, put(new="1"))
        assert api.requests[0].headers["host"] == f"[::1]:{api.port}"


def test_a_server_without_tls_is_spoken_to_when_the_kubeconfig_says_so_and_has_no_token(tmp_path):
    with ApiServer(secure=False) as api:
        api.add_pod(*POD, uid=UID)
        pods = open_pods(str(api.kubeconfig(tmp_path / "kubeconfig")), ACCESS, SECONDS)
        pods.change_annotations(*POD, UID, put(new="1"))
        assert api.annotations(*POD) == {"new": "1"}


def test_proxies_of_the_environment_are_not_used(pods, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    assert pods.get(*POD)["metadata"]["uid"] == UID


def test_a_pod_s_own_credentials_are_used_and_a_renewed_token_is_seen(api, tmp_path):
    (tmp_path / "ca.crt").write_bytes(certificates().authority.certificate.read_bytes())
    (tmp_path / "token").write_text(api.token)
    place = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port)}
    pods = Pods(in_cluster(place, str(tmp_path)), SECONDS)
    assert pods.get(*POD)["metadata"]["uid"] == UID
    api.token = "renewed"
    (tmp_path / "token").write_text("renewed\n")
    assert pods.get(*POD)["metadata"]["uid"] == UID


# Authentication


def test_a_client_certificate_proves_who_we_are(api, tmp_path):
    certificate, key = certificates().client
    for user in (
        {"client-certificate": str(certificate), "client-key": str(key)},
        {"client-certificate-data": base64_of(certificate), "client-key-data": base64_of(key)},
    ):
        pods = open_pods(str(api.kubeconfig(tmp_path / "kubeconfig", user=user)), ACCESS, SECONDS)
        pods.change_annotations(*POD, UID, put(new=str(len(user))))
        assert "authorization" not in api.requests[-1].headers


def test_one_file_may_hold_certificate_and_key_as_the_kubelet_s_does(api, tmp_path):
    certificate, key = certificates().client
    (tmp_path / "current.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
    user = {"client-certificate": "current.pem", "client-key": "current.pem"}
    pods = open_pods(str(api.kubeconfig(tmp_path / "kubeconfig", user=user)), ACCESS, SECONDS)
    assert pods.get(*POD)["metadata"]["uid"] == UID


def test_an_authority_may_have_a_comment_in_any_language(api, tmp_path):
    text = "Autorité: Société Générale\n".encode() + certificates().authority.certificate.read_bytes()
    (tmp_path / "ca.pem").write_bytes(text)
    cluster = {"certificate-authority": "ca.pem", "certificate-authority-data": ""}
    pods = open_pods(str(api.kubeconfig(tmp_path / "kubeconfig", cluster=cluster)), ACCESS, SECONDS)
    assert pods.get(*POD)["metadata"]["uid"] == UID


def base64_of(path: Path) -> str:
    return subprocess.run(["base64", str(path)], capture_output=True, text=True, check=True, timeout=SECONDS).stdout


def test_the_identity_is_never_a_file_and_no_descriptor_is_left(api, tmp_path):
    certificate, key = certificates().client
    user = {"client-certificate-data": base64_of(certificate), "client-key-data": base64_of(key)}
    pods = open_pods(str(api.kubeconfig(tmp_path / "kubeconfig", user=user)), ACCESS, SECONDS)
    before = links(os.listdir("/proc/self/fd"))
    pods.get(*POD)
    assert [one for one in links(os.listdir("/proc/self/fd")) if "identity" in one] == []
    assert len(before) <= len(links(os.listdir("/proc/self/fd"))) + 2


def links(numbers: list[str]) -> list[str]:
    return [os.readlink(f"/proc/self/fd/{number}") for number in numbers if os.path.exists(f"/proc/self/fd/{number}")]


def test_a_key_with_a_pass_phrase_is_refused_without_a_prompt(api, tmp_path):
    certificate, key = certificates().client
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", str(key), "-out", str(locked), "-passout", "pass:word"],
        check=True, capture_output=True, timeout=SECONDS,
    )  # fmt: skip
    user = {"client-certificate": str(certificate), "client-key": str(locked)}
    with pytest.raises(InvalidConfig, match="not a pair in PEM"):
        open_pods(str(api.kubeconfig(tmp_path / "kubeconfig", user=user)), ACCESS, SECONDS).get(*POD)


@pytest.mark.parametrize("key", ("server", "garbage"))
def test_a_key_of_another_certificate_is_refused(api, tmp_path, key):
    (tmp_path / "garbage").write_text("no PEM")
    path = certificates().server.key if key == "server" else tmp_path / "garbage"
    user = {"client-certificate": str(certificates().client.certificate), "client-key": str(path)}
    with pytest.raises(InvalidConfig, match="not a pair in PEM"):
        open_pods(str(api.kubeconfig(tmp_path / "kubeconfig", user=user)), ACCESS, SECONDS).get(*POD)


@pytest.mark.parametrize("text", ("no PEM", "\u00fc", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"))
def test_an_authority_that_is_none_is_refused(api, tmp_path, text):
    (tmp_path / "ca.crt").write_text(text)
    cluster = {"certificate-authority-data": None, "certificate-authority": "ca.crt"}
    with pytest.raises(InvalidConfig, match="no certificate in PEM"):
        open_pods(str(api.kubeconfig(tmp_path / "kubeconfig", cluster=cluster)), ACCESS, SECONDS).get(*POD)


def test_a_server_that_another_authority_signed_is_refused_and_gets_no_token(tmp_path):
    with ApiServer(identity=certificates().stranger) as api:
        with pytest.raises(KubeRefused, match=r"certificate of the API server .* is not valid") as raised:
            open_pods(str(api.kubeconfig(tmp_path / "kubeconfig")), ACCESS, SECONDS).get(*POD)
        assert "certificate-authority" in raised.value.hint
        assert api.requests == []


def test_the_certificate_of_another_server_is_refused_unless_its_name_is_expected(tmp_path):
    with ApiServer(identity=certificates().authority.server("DNS:kubernetes.default.svc")) as api:
        api.add_pod(*POD, uid=UID)
        with pytest.raises(KubeRefused, match=r"mismatch.*127\.0\.0\.1"):
            open_pods(str(api.kubeconfig(tmp_path / "kubeconfig")), ACCESS, SECONDS).get(*POD)
        named = {"tls-server-name": "kubernetes.default.svc"}
        assert open_pods(str(api.kubeconfig(tmp_path / "kubeconfig", cluster=named)), ACCESS, SECONDS).get(*POD)


def test_without_an_authority_those_of_the_system_decide(api, tmp_path):
    path = api.kubeconfig(tmp_path / "kubeconfig", cluster={"certificate-authority-data": None})
    with pytest.raises(KubeRefused, match="is not valid"):
        open_pods(str(path), ACCESS, SECONDS).get(*POD)


def test_a_stranger_is_trusted_only_when_the_kubeconfig_says_to_trust_anybody(tmp_path):
    with ApiServer(identity=certificates().stranger) as api:
        api.add_pod(*POD, uid=UID)
        trusting = {"certificate-authority-data": None, "insecure-skip-tls-verify": True}
        assert open_pods(str(api.kubeconfig(tmp_path / "kubeconfig", cluster=trusting)), ACCESS, SECONDS).get(*POD)


def test_tls_with_a_server_that_has_none_is_refused(tmp_path):
    with ApiServer(secure=False) as api:
        with pytest.raises(KubeRefused, match=r"TLS with the API server .* failed") as raised:
            at(api.port, tmp_path).get(*POD)
        assert raised.value.hint
