"""The CNI protocol as a runtime experiences it: exit codes, the one document on stdout, and the exact errors.

No call here reaches the host: the device that it names does not exist, or the request is malformed.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from cni.protocol.request import VERSIONS
from cni.version import VERSION
from tests.cli.program import SECONDS

if TYPE_CHECKING:
    from tests.cli.program import Completed, Program

STATE = (Path("/var/lib/cni/barewire"), Path("/run/barewire"))
ENV = {
    "CNI_CONTAINERID": "protocol-test",
    "CNI_NETNS": "/run/netns/barewire-has-no-such-netns",
    "CNI_IFNAME": "net1",
    "CNI_PATH": "/nowhere",
}
CONF = {"cniVersion": "1.1.0", "name": "net", "type": "sriov", "deviceID": "ffff:ff:1f.7"}
SUPPORTED = '["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]'


def call(executable: Program, command: str, config: object = None, *, without: str = "", **env: str) -> Completed:
    variables = {
        name: value for name, value in {"CNI_COMMAND": command, **ENV, **env}.items() if name not in without.split()
    }
    stdin = config if isinstance(config, bytes) else json.dumps(CONF if config is None else config).encode()
    return executable.run(variables, stdin)


def refusal(completed: Completed) -> dict[str, Any]:
    """The error object of a failed call, after checking what must hold for every error object."""
    assert completed.code == 1, completed
    assert completed.out.count(b"\n") == 1
    assert b"Traceback" not in completed.err
    document: dict[str, Any] = completed.json
    assert set(document) <= {"cniVersion", "code", "msg", "details"}
    assert document["cniVersion"] in VERSIONS
    assert type(document["code"]) is int
    assert document["code"] >= 0
    assert document["msg"]
    return document


def state() -> list[tuple[str, int]]:
    """The state that the plugin keeps on this host. Some of it consists of dangling links whose text matters."""
    found = [path for root in STATE for path in sorted(root.rglob("*"))]
    return [(str(path), path.lstat().st_mtime_ns) for path in found]


@pytest.mark.parametrize(
    "env", [{}, {"CNI_COMMAND": ""}, {**ENV, "CNI_COMMAND": ""}], ids=["nothing", "empty", "all others"]
)
def test_without_a_command_it_says_what_it_is_on_stderr(executable: Program, env: dict[str, str]) -> None:
    done = executable.run(env, b"not read")
    assert (done.code, done.out) == (0, b"")
    assert done.err.decode().splitlines() == [
        f"CNI plugin sriov v{VERSION}",
        "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0",
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_version_answers_in_the_requested_version(executable: Program, version: str) -> None:
    done = executable.run({"CNI_COMMAND": "VERSION"}, json.dumps({"cniVersion": version}).encode())
    assert (done.code, done.err) == (0, b"")
    assert done.json == {"cniVersion": version, "supportedVersions": list(VERSIONS)}


@pytest.mark.parametrize("stdin", [b"", b"{", b'{"cniVersion": "9.9.9"}'], ids=["empty", "malformed", "unknown"])
def test_version_answers_in_the_newest_without_a_requested_one(executable: Program, stdin: bytes) -> None:
    done = executable.run({"CNI_COMMAND": "VERSION"}, stdin)
    assert (done.code, done.json["cniVersion"]) == (0, "1.1.0")


def test_version_answers_a_caller_that_leaves_stdin_open(executable: Program) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as stdin, open(writer, "wb"):
        done = subprocess.run(
            executable.command,
            env={"CNI_COMMAND": "VERSION"},
            stdin=stdin,
            capture_output=True,
            cwd=executable.directory,
            timeout=SECONDS,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["cniVersion"] == "1.1.0"


def test_version_answers_libcni(executable: Program) -> None:
    dummies = {"CNI_CONTAINERID": "", "CNI_NETNS": "dummy", "CNI_IFNAME": "dummy", "CNI_PATH": "dummy"}
    assert call(executable, "VERSION", {"cniVersion": "1.1.0"}, **dummies).code == 0


REFUSALS: list[tuple[str, object, str, dict[str, str], int, str, str]] = [
    ("ADD", b"{", " ".join(ENV), {}, 4, "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing", ""),
    ("DEL", b"{", " ".join(ENV), {}, 4, "required env variables [CNI_CONTAINERID,CNI_IFNAME,CNI_PATH] missing", ""),
    ("GC", b"{", " ".join(ENV), {}, 4, "required env variables [CNI_PATH] missing", ""),
    ("STATUS", b"{", " ".join(ENV), {}, 4, "required env variables [CNI_PATH] missing", ""),
    ("ADD", b"{", "CNI_PATH", {"CNI_CONTAINERID": "a/b"}, 4, "invalid characters in containerID", "a/b"),
    ("ADD", b"{", "CNI_PATH", {"CNI_IFNAME": ".."}, 4, "interface name is . or ..", ""),
    (
        "ADD", None, "", {"CNI_IFNAME": "abcdefghijklmnop"},
        4, "interface name is too long", "interface name should be less than 16 characters",
    ),
    (
        "ADD", None, "", {"CNI_IFNAME": "net%d"},
        4, "interface name contains %", "the kernel takes % for the place of a number",
    ),
    ("ADD", b"[]", "", {}, 6, "error unmarshall network config: not a JSON object", ""),
    ("NOPE", b"{}", "", {}, 7, "missing network name", ""),
    ("ADD", b"null", "", {}, 7, "missing network name", ""),
    ("ADD", {"name": "../x"}, "", {}, 7, "invalid characters found in network name", "../x"),
    ("NOPE", {"name": "net", "cniVersion": "9"}, "", {}, 4, "unknown CNI_COMMAND: NOPE", ""),
    (
        "ADD", {"name": "net", "cniVersion": "1.0"}, "", {},
        1, "incompatible CNI versions", f'config is "1.0", plugin supports {SUPPORTED}',
    ),
    ("CHECK", {"name": "net", "cniVersion": "x"}, "", {}, 6, 'cniVersion: "x" is not a version', ""),
    ("CHECK", {"name": "net"}, "", {}, 1, "config version does not allow CHECK", "CHECK is known since 0.4.0"),
    ("GC", {"name": "net", "cniVersion": "1.0.0"}, "", {}, 1, "config version does not allow GC", "GC is known since 1.1.0"),
    ("STATUS", {"name": "net", "cniVersion": "1.2.0"}, "", {}, 1, "plugin version does not allow STATUS", "the plugin knows up to 1.1.0"),
    ("ADD", None, "", {"CNI_NETNS": "/proc/self/ns/net"}, 8, "plugin's netns and netns from CNI_NETNS should not be the same", ""),
    ("ADD", {**CONF, "deviceID": ""}, "", {}, 7, "deviceID: missing: name a VF, or its PF as master", ""),
    (
        "ADD", {**CONF, "deviceID": "eth0", "vlan": 5000, "trsut": "on"}, "", {},
        7, "deviceID: 'eth0' is not a PCI address such as 0000:af:06.0; trsut: unknown key, did you mean trust?;"
        " vlan: 5000 is not in 0..4094", "",
    ),
    (
        "ADD", {**CONF, "vlan": "", "vlan_id": 5, "macAddress": ""}, "", {},
        7, 'macAddress: unknown key, did you mean mac?; vlan: "" is not an integer;'
        " vlan_id: unknown key, did you mean vlan?", "",
    ),
    (
        "ADD", {**CONF, "strictConfig": True, "trunk": "1-9"}, "", {},
        2, 'trunk: unknown key with value "1-9"', "strictConfig refuses unknown keys",
    ),
    ("ADD", None, "", {"CNI_ARGS": "MAC"}, 4, 'CNI_ARGS: invalid pair "MAC"', "pairs are KEY=value, separated by semicolons"),
    ("ADD", None, "", {"CNI_ARGS": "IgnoreUnknown=1;MAC=x"}, 7, 'CNI_ARGS MAC: "x" is not a MAC address', ""),
    (
        "ADD", {**CONF, "cniVersion": "0.2.0"}, "", {},
        7, "cniVersion 0.2.0 cannot express an attachment without addresses",
        "use cniVersion 0.3.0 or newer, or give the network an ipam section",
    ),
    (
        "GC", {**CONF, "cni.dev/valid-attachments": [{"containerID": "a"}]}, "", {},
        7, "cni.dev/valid-attachments: not a list of containerID and ifname", "",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("command", "config", "without", "env", "code", "msg", "details"), REFUSALS)
def test_a_malformed_request_is_refused_in_these_words(
    executable: Program,
    command: str,
    config: object,
    without: str,
    env: dict[str, str],
    code: int,
    msg: str,
    details: str,
) -> None:
    before = state()
    document = refusal(call(executable, command, config, without=without, **env))
    assert (document["code"], document["msg"], document.get("details", "")) == (code, msg, details)
    assert state() == before


def test_a_netns_that_is_none_is_refused(executable: Program) -> None:
    assert refusal(call(executable, "ADD"))["code"] == 8


def test_a_check_of_what_was_never_attached_fails(executable: Program) -> None:
    assert refusal(call(executable, "CHECK"))["code"] == 107


def test_an_error_speaks_the_configurations_version(executable: Program) -> None:
    assert refusal(call(executable, "ADD", {**CONF, "cniVersion": "0.4.0", "vlan": -1}))["cniVersion"] == "0.4.0"


def test_an_unknown_key_is_warned_about_on_stderr_only(executable: Program) -> None:
    done = call(executable, "ADD", {**CONF, "bandwidth": {}})
    refusal(done)
    assert b"bandwidth: unknown key, ignored" in done.err
    assert b"bandwidth" not in done.out


def test_a_closed_stdin_is_an_error_object_and_no_silence(executable: Program) -> None:
    shell = executable._replace(command=("/bin/sh", "-c", 'exec "$@" <&-', "sh", *executable.command))
    document = refusal(call(shell, "ADD"))
    assert (document["code"], document["msg"]) == (5, "error reading from stdin: Bad file descriptor")
    assert call(shell, "VERSION").json["cniVersion"] == "1.1.0"


def test_a_closed_stdout_is_no_traceback(executable: Program) -> None:
    shell = executable._replace(command=("/bin/sh", "-c", 'exec "$@" >&-', "sh", *executable.command))
    done = call(shell, "ADD", b"{")
    assert (done.code, done.out, done.err) == (1, b"", b"")


# Arbitrary input. Every call fails before it acts: no configuration here names a device, and GC's list is never
# well-formed.

BYTES = st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from("\udc80\udcff")
TEXTS = st.text(BYTES) | st.sampled_from(["ADD", "CHECK", "NOPE", "a", "net1", "/proc/self/ns/net", "IgnoreUnknown=1"])
ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(VERSIONS)
KEYS = (
    st.sampled_from(["cniVersion", "vlan", "mac", "prevResult", "logFile", "logLevel", "runtimeConfig", "ipam"])
    | st.text()
)
DOCUMENTS = st.dictionaries(KEYS, ATOMS | st.lists(ATOMS, max_size=2), max_size=5)
NOT_A_DEVICE = {"name": "net", "deviceID": "eth0", "cni.dev/valid-attachments": 0}
STDIN = st.binary() | DOCUMENTS.map(lambda document: json.dumps({**CONF, **document, **NOT_A_DEVICE}).encode())
ENVIRONMENTS = st.builds(
    lambda command, changes: {"CNI_COMMAND": command, **ENV, **changes},
    st.sampled_from(["ADD", "CHECK", "GC", "NOPE"]),
    st.dictionaries(st.sampled_from([*ENV, "CNI_ARGS", "CNI_NETNS_OVERRIDE", "LANG", "PYTHONPATH"]), TEXTS),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(env=ENVIRONMENTS, stdin=STDIN)
def test_any_input_ends_in_one_error_object(executable: Program, env: dict[str, str], stdin: bytes) -> None:
    before = state()
    document = refusal(executable.run(env, stdin))
    assert document["code"] in (1, 2, 4, 5, 6, 7, 8, 107), document
    assert state() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="a plugin is run by root")
@pytest.mark.parametrize("path", ["/etc/barewire-test.log", "/var/log/../../etc/barewire-test.log", "\ud800"])
def test_a_log_file_elsewhere_is_warned_about_and_not_written(executable: Program, path: str) -> None:
    done = call(executable, "ADD", {**CONF, "logFile": path, "vlan": "x"})
    assert refusal(done)["msg"] == 'vlan: "x" is not an integer'
    assert b"the log goes to stderr" in done.err
    assert not Path("/etc/barewire-test.log").exists()
