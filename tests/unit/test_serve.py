"""One call of a plugin, as the runtime sees it: one JSON document on stdout or none, and an exit code."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from cni.errors import CheckFailed, DeviceBusy, InternalError, IoFailure, KernelRefused, NotAvailable, TryAgainLater
from cni.protocol.request import VERSIONS
from cni.protocol.result import Dns, Interface, IpConfig, Result
from cni.serve import about, read_all, serve
from cni.version import VERSION
from tests.soak import EXAMPLES

ENV = {
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/absent",
    "CNI_IFNAME": "net1",
    "CNI_PATH": "/opt/cni/bin",
}
CONF = {"cniVersion": "1.1.0", "name": "net", "type": "fake"}
ADDED = Result(interfaces=(Interface(name="net1"),), ips=(IpConfig(address="10.0.0.2/24", interface=0),))


class FakePlugin:
    """A plugin that only records its calls; `failing` maps a method to the exception that it raises."""

    def __init__(self, added=ADDED, failing=None) -> None:
        self.calls: list[Any] = []
        self._added = added
        self._failing = failing or {}

    def _called(self, method, request):
        self.calls.append((method, request))
        failure = self._failing.get(method)
        if failure is not None:
            raise failure

    def add(self, request):
        self._called("add", request)
        return self._added

    def delete(self, request):
        self._called("delete", request)

    def undo(self, request):
        self._called("undo", request)

    def check(self, request):
        self._called("check", request)

    def gc(self, request):
        self._called("gc", request)

    def status(self, request):
        self._called("status", request)


@contextmanager
def pipe():
    """The two ends of a pipe, as unbuffered files."""
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as end, open(writer, "wb", buffering=0) as start:
        yield end, start


def write_and_close(file, text):
    with file:
        file.write(text)


class Call:
    """The output and exit code of a call."""

    def __init__(self, command, plugin=None, stdin=CONF, *, load=None, read=None, **env) -> None:
        self.plugin = plugin or FakePlugin()
        self.loaded: list[Any] = []
        out: list[bytes] = []
        err: list[bytes] = []
        text = stdin if isinstance(stdin, bytes) else json.dumps(stdin).encode()
        self.code = serve(
            "fake",
            load or self._load,
            {"CNI_COMMAND": command, **ENV, **env},
            read or (lambda _seconds: text),
            out.append,
            err.append,
        )
        self.writes = out
        self.out, self.err = b"".join(out), b"".join(err)

    def _load(self, request):
        self.loaded.append(request)
        return self.plugin

    @property
    def methods(self):
        return [method for method, _ in self.plugin.calls]

    @property
    def json(self):
        return json.loads(self.out)

    def error(self):
        """(code, msg) of a failed call, after checking what must hold for every error object."""
        assert self.code == 1
        assert len(self.writes) == 1
        assert self.out.endswith(b"\n")
        document = self.json
        assert set(document) <= {"cniVersion", "code", "msg", "details"}
        assert document["cniVersion"] in VERSIONS
        assert type(document["code"]) is int
        assert 0 <= document["code"] < 2**32
        assert isinstance(document["msg"], str)
        assert isinstance(document.get("details", ""), str)
        assert self.err == b""
        return document["code"], document["msg"]


# Success.


@pytest.mark.parametrize("version", VERSIONS)
def test_add_prints_the_result_in_the_configurations_version(version):
    call = Call("ADD", stdin={**CONF, "cniVersion": version})
    assert call.code == 0
    assert call.json["cniVersion"] == version
    assert ("ip4" if version in ("0.1.0", "0.2.0") else "ips") in call.json
    assert (call.methods, len(call.writes), call.err) == (["add"], 1, b"")


@pytest.mark.parametrize(
    ("command", "method"), [("DEL", "delete"), ("CHECK", "check"), ("GC", "gc"), ("STATUS", "status")]
)
def test_the_other_commands_print_nothing(command, method):
    call = Call(command)
    assert (call.code, call.out, call.err, call.methods) == (0, b"", b"", [method])


def test_the_plugin_is_made_from_the_request_and_gets_it():
    call = Call("DEL", CNI_IFNAME="net7")
    assert [request.ifname for request in call.loaded] == ["net7"]
    assert call.plugin.calls == [("delete", call.loaded[0])]


# VERSION and the about text.


@pytest.mark.parametrize(
    ("stdin", "answered"),
    [
        (b"", "1.1.0"),
        (b"{}", "1.1.0"),
        (b"nonsense", "1.1.0"),
        (b"[]", "1.1.0"),
        (b'{"cniVersion": "1.1.0"}', "1.1.0"),
        (b'{"cniVersion": "0.4.0"}', "0.4.0"),
        (b'{"cniVersion": "9.9.9"}', "1.1.0"),
        (b'{"cniVersion": 5}', "1.1.0"),
        (b'{"cniVersion": []}', "1.1.0"),
    ],
)
def test_version_answers_whatever_stands_on_stdin(stdin, answered):
    call = Call("VERSION", stdin=stdin)
    assert call.code == 0
    assert call.json == {"cniVersion": answered, "supportedVersions": list(VERSIONS)}
    assert call.loaded == []


def test_version_answers_without_stdin():
    def closed(_seconds):
        raise OSError(9, "Bad file descriptor")

    call = Call("VERSION", read=closed)
    assert (call.code, call.json["cniVersion"]) == (0, "1.1.0")


def test_version_answers_when_stdin_stays_open():
    def open_endlessly(seconds):
        raise IoFailure(f"{seconds} s")

    call = Call("VERSION", read=open_endlessly)
    assert (call.code, call.json["cniVersion"]) == (0, "1.1.0")


def test_version_answers_to_the_dummies_that_libcni_sends():
    dummies = {"CNI_CONTAINERID": "", "CNI_NETNS": "dummy", "CNI_IFNAME": "dummy", "CNI_PATH": "dummy"}
    assert Call("VERSION", **dummies).code == 0


@pytest.mark.parametrize("env", [{}, {"CNI_COMMAND": ""}, {**ENV, "CNI_COMMAND": ""}])
def test_without_a_command_the_about_text_goes_to_stderr(env):
    out: list[bytes] = []
    err: list[bytes] = []

    def unread(_seconds):
        raise AssertionError("stdin was read")

    assert serve("fake", lambda _request: FakePlugin(), env, unread, out.append, err.append) == 0
    assert out == []
    assert b"".join(err).decode() == about("fake")


def test_the_about_text_names_plugin_version_and_protocol_versions():
    assert about("fake").splitlines() == [
        f"CNI plugin fake v{VERSION}",
        "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0",
    ]


# Refusals before a plugin is created.


@pytest.mark.parametrize(
    ("command", "stdin", "env", "code"),
    [
        ("ADD", b"{", {"CNI_PATH": ""}, 4),
        ("ADD", b"{", {}, 6),
        ("ADD", {"cniVersion": "9"}, {}, 7),
        ("ADD", {"cniVersion": "9", "name": "net"}, {}, 1),
        ("STATUS", {"cniVersion": "x", "name": "net"}, {}, 6),
        ("NOPE", {"cniVersion": "9", "name": "net"}, {}, 4),
    ],
)
def test_a_malformed_request_is_refused_before_the_plugin_is_made(command, stdin, env, code):
    call = Call(command, stdin=stdin, **env)
    assert call.error()[0] == code
    assert call.loaded == []


@pytest.mark.parametrize(
    ("error", "reason"), [(OSError(5, "Input/output error"), "Input/output error"), (OSError("odd"), "odd")]
)
def test_an_unreadable_stdin_is_an_io_failure(error, reason):
    def broken(_seconds):
        raise error

    assert Call("ADD", read=broken).error() == (5, f"error reading from stdin: {reason}")


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_a_stdin_that_stays_open_is_an_io_failure(command):
    with pipe() as (reader, writer):
        writer.write(json.dumps(CONF).encode())
        call = Call(command, read=lambda _seconds: read_all(reader.fileno(), 0.05))
    assert call.error() == (5, "error reading from stdin: it was not closed within 0.05 s")
    assert call.loaded == []


@pytest.mark.parametrize(("command", "bound"), [("VERSION", 1), ("ADD", 30), ("DEL", 30), ("STATUS", 30)])
def test_each_command_waits_for_stdin_with_its_bound(command, bound):
    bounds: list[float] = []

    def read(seconds):
        bounds.append(seconds)
        return json.dumps(CONF).encode()

    assert Call(command, read=read).code == 0
    assert bounds == [bound]


def test_stdin_is_read_to_its_end():
    text = b"x" * 200_000
    with pipe() as (reader, writer), ThreadPoolExecutor(1) as pool:
        pool.submit(write_and_close, writer, text)
        assert read_all(reader.fileno(), 30) == text


def test_stdin_that_never_ends_is_not_read_without_end():
    with open("/dev/zero", "rb") as endless_zeros, pytest.raises(IoFailure):
        read_all(endless_zeros.fileno(), 0.01)


@pytest.mark.parametrize("content", [b"", b"{}"])
def test_a_file_may_stand_on_stdin(tmp_path, content):
    (tmp_path / "conf").write_bytes(content)
    with open(tmp_path / "conf", "rb") as file:
        assert read_all(file.fileno(), 30) == content


def test_the_environment_is_judged_before_stdin_is_read():
    def unread(_seconds):
        raise AssertionError("stdin was read")

    assert Call("ADD", read=unread, CNI_PATH="").error() == (4, "required env variables [CNI_PATH] missing")


@pytest.mark.parametrize(("asked", "answered"), [("0.4.0", "0.4.0"), ("9.9.9", "1.1.0"), (None, "0.1.0")])
def test_an_error_has_the_configurations_version_where_it_is_one(asked, answered):
    call = Call("ADD", FakePlugin(failing={"add": DeviceBusy("x")}), stdin={**CONF, "cniVersion": asked})
    call.error()
    assert call.json["cniVersion"] == answered


# The plugin's own network namespace.

OWN = "/proc/self/ns/net"
REFUSED = (8, "plugin's netns and netns from CNI_NETNS should not be the same")


@pytest.mark.parametrize("path", [OWN, f"/proc/{os.getpid()}/ns/net"])
def test_the_own_netns_is_refused_before_an_add_runs(path):
    call = Call("ADD", CNI_NETNS=path)
    assert call.error() == REFUSED
    assert call.methods == []


def test_a_symlink_to_the_own_netns_is_the_own_netns(tmp_path):
    (tmp_path / "net").symlink_to(OWN)
    assert Call("ADD", CNI_NETNS=str(tmp_path / "net")).error() == REFUSED


@pytest.mark.parametrize("text", ["1", "true", "TRUE"])
def test_the_own_netns_is_allowed_by_the_override(text):
    assert Call("ADD", CNI_NETNS=OWN, CNI_NETNS_OVERRIDE=text).code == 0


def test_a_pod_whose_netns_path_leads_to_the_own_netns_by_now_can_be_deleted():
    call = Call("DEL", CNI_NETNS=OWN)
    assert (call.code, call.out, call.methods) == (0, b"", ["delete"])


@pytest.mark.parametrize("text", ["", "0", "yes"])
def test_no_other_override_allows_the_own_netns(text):
    assert Call("ADD", CNI_NETNS=OWN, CNI_NETNS_OVERRIDE=text).error() == REFUSED


@pytest.mark.parametrize("command", ["CHECK", "GC", "STATUS"])
def test_other_commands_do_not_compare_namespaces(command):
    assert Call(command, CNI_NETNS=OWN).code == 0


@pytest.mark.parametrize("path", ["/run/netns/absent", "/dev/null", "relative", "/" + "x" * 5000, "a\0b"])
def test_what_cannot_be_compared_is_left_to_the_plugin(path):
    assert Call("ADD", CNI_NETNS=path).code == 0


def test_del_without_netns_reaches_the_plugin():
    assert Call("DEL", CNI_NETNS="").methods == ["delete"]


# Any exception of the plugin.


def endless():
    return endless()


class EndlessPlugin(FakePlugin):
    def add(self, _request):
        endless()


def noted(error):
    error.add_note("clean-up incomplete: the VF is not home")
    return error


METHODS = {"ADD": "add", "DEL": "delete", "CHECK": "check", "GC": "gc", "STATUS": "status"}
TYPED = [
    DeviceBusy("a"),
    KernelRefused("b", hint="c"),
    TryAgainLater("d"),
    NotAvailable("e"),
    CheckFailed("f"),
    InternalError("g"),
]
UNTYPED = [
    OSError(16, "Device or resource busy"),
    KeyError("vlan"),
    ValueError(""),
    RecursionError("too deep"),
    MemoryError(),
    AssertionError(),
    StopIteration(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    RuntimeError("bell \x07, quote, surrogate \udcff"),
    NotImplementedError,
    ExceptionGroup("several", [OSError(5, "Input/output error")]),
]


@pytest.mark.parametrize("command", METHODS)
@pytest.mark.parametrize("error", TYPED, ids=lambda error: type(error).__name__)
def test_a_typed_error_of_the_plugin_is_reported_as_it_is(command, error):
    call = Call(command, FakePlugin(failing={METHODS[command]: error}))
    assert call.error() == (error.code, error.msg)
    assert call.json.get("details", "") == error.hint


@pytest.mark.parametrize("command", METHODS)
@pytest.mark.parametrize("error", UNTYPED, ids=lambda error: getattr(error, "__name__", type(error).__name__))
def test_any_other_failure_of_the_plugin_is_one_internal_error(command, error):
    call = Call(command, FakePlugin(failing={METHODS[command]: error}))
    code, msg = call.error()
    assert code == 999
    assert msg.startswith("internal error: ")
    assert getattr(error, "__name__", type(error).__name__) in msg
    assert "Traceback" not in call.out.decode()


def test_an_internal_error_names_its_place():
    call = Call("ADD", FakePlugin(failing={"add": KeyError("vlan")}))
    assert call.error() == (999, "internal error: KeyError: 'vlan'")
    assert call.json["details"].startswith("at test_serve.py:")


def test_endless_recursion_in_the_plugin_is_one_internal_error():
    assert Call("ADD", EndlessPlugin()).error()[0] == 999


def test_a_failure_to_make_the_plugin_is_reported_like_one_of_the_plugin():
    def load(_request):
        raise ImportError("No module named 'cni.sriov'")

    assert Call("ADD", load=load).error() == (999, "internal error: ImportError: No module named 'cni.sriov'")


@pytest.mark.parametrize("error", [KernelRefused("vlan: EINVAL"), OSError(16, "busy")], ids=["typed", "untyped"])
def test_notes_of_the_rollback_stand_in_the_details(error):
    call = Call("ADD", FakePlugin(failing={"add": noted(error)}))
    call.error()
    assert "clean-up incomplete: the VF is not home" in call.json["details"].splitlines()


# An unprintable result.


def test_an_add_whose_result_cannot_be_expressed_is_undone():
    call = Call(
        "ADD", FakePlugin(added=Result(interfaces=(Interface(name="net1"),))), stdin={**CONF, "cniVersion": "0.2.0"}
    )
    assert call.error() == (7, "cniVersion 0.2.0 cannot express an attachment without addresses")
    assert call.methods == ["add", "undo"]


def test_a_failing_undo_does_not_hide_why_the_result_cannot_be_expressed():
    plugin = FakePlugin(added=Result(), failing={"undo": TryAgainLater("the netns is in use")})
    call = Call("ADD", plugin, stdin={**CONF, "cniVersion": "0.1.0"})
    assert call.error() == (7, "cniVersion 0.1.0 cannot express an attachment without addresses")
    assert "clean-up incomplete: the netns is in use" in call.json["details"]


def test_an_add_whose_result_has_no_json_form_is_undone():
    infinite: Any = (float("inf"),)
    plugin = FakePlugin(added=Result(dns=Dns(nameservers=infinite)))
    call = Call("ADD", plugin)
    assert call.error()[0] == 999
    assert call.methods == ["add", "undo"]


# Arbitrary input.

NAMES = ["CNI_COMMAND", *ENV, "CNI_ARGS", "CNI_NETNS_OVERRIDE"]
TEXTS = st.text() | st.sampled_from(
    ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "c1", "net1", OWN, "/opt/cni/bin", "1"]
)
ENVIRONMENTS = st.dictionaries(st.sampled_from(NAMES), TEXTS)
NEARLY = ENVIRONMENTS.flatmap(
    lambda changes: st.sampled_from([*METHODS, "VERSION"]).map(lambda c: {**ENV, "CNI_COMMAND": c, **changes})
)
ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(VERSIONS)
KEYS = st.sampled_from(["cniVersion", "name", "Name", "prevResult", "cni.dev/valid-attachments"]) | st.text()
DOCUMENTS = st.dictionaries(KEYS, ATOMS | st.lists(ATOMS), max_size=5).map(lambda fields: {**CONF, **fields})
STDIN = st.binary() | DOCUMENTS.map(lambda document: json.dumps(document).encode())


class ReadingPlugin(FakePlugin):
    """Reads all parts of the request that can be malformed."""

    def _called(self, method, request):
        super()._called(method, request)
        request.previous_interface()
        if method == "gc":
            _ = request.valid_attachments


@settings(max_examples=5 * EXAMPLES)
@given(ENVIRONMENTS | NEARLY, STDIN)
def test_any_environment_and_any_stdin_end_in_success_or_in_one_error_object(env, stdin):
    out: list[bytes] = []
    err: list[bytes] = []
    plugin = ReadingPlugin()
    code = serve("fake", lambda _request: plugin, env, lambda _seconds: stdin, out.append, err.append)
    if not env.get("CNI_COMMAND"):
        assert (code, out) == (0, [])
        return
    assert err == []
    if code == 0:
        assert len(out) == 1
        assert bool(out[0]) == (env["CNI_COMMAND"] in ("ADD", "VERSION"))
        assert not out[0] or json.loads(out[0])
        return
    assert (code, len(out)) == (1, 1)
    document = json.loads(out[0])
    assert type(document["code"]) is int
    assert 0 < document["code"] < 100, "no input is a defect"
    assert document["msg"]
    assert document["cniVersion"] in VERSIONS
