"""The CNI_* environment and stdin: refusals, their order, messages and codes (those of Go's skel)."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given, strategies as st

from cni.errors import CniError, DecodeFailure, IncompatibleVersion, InvalidConfig, InvalidEnvironment
from cni.names import is_identifier
from cni.protocol.request import VERSIONS, parse, parse_environment
from cni.protocol.result import Interface

FULL = {
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/c1",
    "CNI_IFNAME": "net1",
    "CNI_PATH": "/opt/cni/bin",
}
MARKERS = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH")
NEEDS = {
    "ADD": MARKERS,
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": MARKERS,
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
    "VERSION": (),
    "NOPE": (),
}
SUPPORTED = '"0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"'


def environment(command="ADD", **changes):
    return {"CNI_COMMAND": command, **FULL, **changes}


def request(command="ADD", env=None, **config):
    document = {"cniVersion": "1.1.0", "name": "net", "type": "sriov", **config}
    return parse(parse_environment(env or environment(command)), json.dumps(document).encode())


def refusal(call, *arguments, **keywords):
    with pytest.raises(CniError) as caught:
        call(*arguments, **keywords)
    return caught.value.code, caught.value.msg, caught.value.details


# The environment.


@pytest.mark.parametrize(("command", "needed"), NEEDS.items())
def test_each_command_needs_its_variables_and_no_other(command, needed):
    parsed = parse_environment({"CNI_COMMAND": command, **{name: FULL[name] for name in needed}})
    assert parsed.command == command


@pytest.mark.parametrize(("command", "needed"), [(c, n) for c, n in NEEDS.items() if n])
@pytest.mark.parametrize("absent", [{}, dict.fromkeys(MARKERS, "")], ids=["absent", "empty"])
def test_all_missing_variables_are_named_at_once_in_order(command, needed, absent):
    code, msg, _ = refusal(parse_environment, {"CNI_COMMAND": command, **absent})
    assert (code, msg) == (4, f"required env variables [{','.join(needed)}] missing")


def test_a_missing_command_is_named_first():
    assert refusal(parse_environment, {})[:2] == (4, "required env variables [CNI_COMMAND] missing")


@pytest.mark.parametrize("text", ["_a", ".a", "-a", "a b", "a/b", "..", "a\n", "ä", "a\udcff", "a:b"])
def test_a_malformed_container_id_is_reported_before_missing_variables(text):
    told = refusal(parse_environment, {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": text})
    assert told == (4, "invalid characters in containerID", text)


@pytest.mark.parametrize(
    ("text", "msg", "details"),
    [
        ("abcdefghijklmnop", "interface name is too long", "interface name should be less than 16 characters"),
        ("ä" * 8, "interface name is too long", "interface name should be less than 16 characters"),
        (".", "interface name is . or ..", ""),
        ("..", "interface name is . or ..", ""),
        ("a/b", "interface name contains / or : or whitespace characters", ""),
        ("a:b", "interface name contains / or : or whitespace characters", ""),
        ("a b", "interface name contains / or : or whitespace characters", ""),
        ("a\n", "interface name contains / or : or whitespace characters", ""),
        ("a\u2003b", "interface name contains / or : or whitespace characters", ""),
        ("a\x85", "interface name contains / or : or whitespace characters", ""),
        ("net%d", "interface name contains %", "the kernel takes % for the place of a number"),
        ("%", "interface name contains %", "the kernel takes % for the place of a number"),
        ("a\x1b", "interface name contains unprintable characters", ""),
        ("a\udcff", "interface name contains unprintable characters", ""),
    ],
)
def test_a_malformed_ifname_is_reported_before_missing_variables(text, msg, details):
    assert refusal(parse_environment, {"CNI_COMMAND": "DEL", "CNI_IFNAME": text}) == (4, msg, details)


@pytest.mark.parametrize("text", ["a", "net1", "abcdefghijklmno", "ä" * 7, "...", "a@b", "eth0.100"])
def test_an_ifname_of_up_to_15_bytes_is_taken(text):
    assert parse_environment(environment(CNI_IFNAME=text)).ifname == text


@pytest.mark.parametrize("command", ["GC", "STATUS", "VERSION", "NOPE"])
def test_variables_that_a_command_does_not_need_are_not_judged(command):
    dummies = {"CNI_CONTAINERID": "/", "CNI_IFNAME": "a/b", "CNI_NETNS": "dummy", "CNI_PATH": "dummy"}
    assert parse_environment({"CNI_COMMAND": command, **dummies}).command == command


def test_del_takes_an_empty_netns():
    assert parse_environment(environment("DEL", CNI_NETNS="")).netns == ""


def test_the_environment_is_taken_over_as_it_is():
    env = environment(CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAME=p", CNI_PATH="/opt/cni/bin::/usr/lib/cni:", HOME="/root")
    parsed = parse_environment(env)
    assert (parsed.container_id, parsed.netns, parsed.ifname) == ("c1", "/run/netns/c1", "net1")
    assert parsed.args == "IgnoreUnknown=1;K8S_POD_NAME=p"
    assert parsed.path == ("/opt/cni/bin", "/usr/lib/cni"), "an empty element would mean the current directory"
    assert parsed.variables["HOME"] == "/root"


@pytest.mark.parametrize(
    ("text", "allowed"),
    [("1", True), ("TRUE", True), ("true", True), ("True", True), ("", False), ("0", False), ("yes", False)],
)
def test_netns_override_is_1_or_true_in_any_case(text, allowed):
    assert parse_environment(environment(CNI_NETNS_OVERRIDE=text)).netns_may_be_own is allowed


@given(st.text())
def test_identifiers_are_those_of_the_specification(text):
    first, rest = string.ascii_letters + string.digits, string.ascii_letters + string.digits + "_.-"
    expected = bool(text) and text[0] in first and all(char in rest for char in text)
    assert is_identifier(text) == expected


# Stdin: JSON, then the name, then command and version.


@pytest.mark.parametrize("text", [b"", b"   ", b"{", b"nonsense", b'{"name": "net"} {}', b"\xff"])
def test_what_is_not_json_is_a_decode_failure(text):
    code, msg, _ = refusal(parse, parse_environment(environment()), text)
    assert code == 6
    assert msg.startswith("error unmarshall network config: not JSON: ")


@pytest.mark.parametrize("text", [b"[]", b'"net"', b"1", b"true"])
def test_json_that_is_no_object_is_a_decode_failure(text):
    told = refusal(parse, parse_environment(environment()), text)
    assert told == (6, "error unmarshall network config: not a JSON object", "")


@pytest.mark.parametrize("text", [b"null", b"{}", b'{"name": ""}', b'{"name": null}', b'{"cniVersion": "9"}'])
def test_a_missing_name_is_reported_before_the_version(text):
    assert refusal(parse, parse_environment(environment()), text) == (7, "missing network name", "")


@pytest.mark.parametrize("name", ["../net", "a/b", ".net", "-net", "a b", "net\n", "ä"])
def test_a_malformed_name_is_reported_before_the_version(name):
    assert refusal(request, name=name, cniVersion="9") == (7, "invalid characters found in network name", name)


@pytest.mark.parametrize("name", [5, True, ["net"], {"net": 1}])
def test_a_name_that_is_no_text_is_refused(name):
    assert refusal(request, name=name)[:2] == (7, "invalid characters found in network name")


def test_json_and_name_are_judged_before_the_command():
    assert refusal(parse, parse_environment({"CNI_COMMAND": "NOPE"}), b"{")[0] == 6
    assert refusal(parse, parse_environment({"CNI_COMMAND": "NOPE"}), b"{}")[0] == 7


@pytest.mark.parametrize("command", ["NOPE", "add", "ADD ", "UPDATE"])
def test_an_unknown_command_is_reported_before_the_version_in_the_words_that_libcni_looks_for(command):
    told = refusal(request, env={"CNI_COMMAND": command}, cniVersion="9")
    assert told == (4, f"unknown CNI_COMMAND: {command}", "")


# Versions.


@pytest.mark.parametrize("command", ["ADD", "DEL"])
@pytest.mark.parametrize("version", VERSIONS)
def test_add_and_del_take_every_supported_version(command, version):
    assert request(command, cniVersion=version).cni_version == version


@pytest.mark.parametrize("absent", [{"cniVersion": None}, {"cniVersion": ""}])
def test_without_a_version_it_is_the_oldest(absent):
    assert request(**absent).cni_version == "0.1.0"
    assert parse(parse_environment(environment()), b'{"name": "net"}').cni_version == "0.1.0"


@pytest.mark.parametrize("command", ["ADD", "DEL"])
@pytest.mark.parametrize(
    "version", ["0.0.9", "0.3.2", "1.0", "1", "1.1", "1.2.0", "9.9.9", "v1.0.0", " 1.0.0", "1.0.0.0", "x"]
)
def test_add_and_del_refuse_every_other_version(command, version):
    told = refusal(request, command, cniVersion=version)
    assert told == (1, "incompatible CNI versions", f'config is "{version}", plugin supports [{SUPPORTED}]')


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
@pytest.mark.parametrize("version", [5, 1.1, 0, False, ["1.1.0"], {}])
def test_a_version_that_is_no_text_is_a_decode_failure(command, version):
    code, msg, _ = refusal(request, command, cniVersion=version)
    assert code == 6
    assert msg == f"cniVersion: {json.dumps(version)} is not a version"


@pytest.mark.parametrize("command", ["CHECK", "GC", "STATUS"])
@pytest.mark.parametrize("version", ["x", "1.", "1.x", ".", "1.0.0.0", "-1.0", "1.0.0-rc1", "٣", "1" * 30])
def test_the_newer_commands_tell_a_version_that_is_none(command, version):
    assert refusal(request, command, cniVersion=version)[:2] == (6, f'cniVersion: "{version}" is not a version')


FIRST = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}


@pytest.mark.parametrize("command", FIRST)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_newer_commands_need_a_configuration_that_knows_them(command, version):
    if VERSIONS.index(version) >= VERSIONS.index(FIRST[command]):
        assert request(command, cniVersion=version).command == command
    else:
        code, msg, details = refusal(request, command, cniVersion=version)
        assert (code, msg) == (1, f"config version does not allow {command}")
        assert FIRST[command] in details


@pytest.mark.parametrize("command", FIRST)
def test_a_missing_version_does_not_allow_the_newer_commands(command):
    assert refusal(request, command, cniVersion="")[:2] == (1, f"config version does not allow {command}")


@pytest.mark.parametrize("command", FIRST)
@pytest.mark.parametrize("version", ["1.1.1", "1.2", "2"])
def test_the_newer_commands_refuse_versions_beyond_the_newest(command, version):
    assert refusal(request, command, cniVersion=version)[:2] == (1, f"plugin version does not allow {command}")


@pytest.mark.parametrize(
    ("command", "version"), [("CHECK", "0.4"), ("CHECK", "1"), ("CHECK", "0.5.0"), ("STATUS", "1.1")]
)
def test_the_newer_commands_too_take_only_the_exact_version(command, version):
    told = refusal(request, command, cniVersion=version)
    assert told == (1, "incompatible CNI versions", f'config is "{version}", plugin supports [{SUPPORTED}]')


# Keys in other cases, and what the request holds.


@pytest.mark.parametrize("keys", [("CNIVersion", "Name"), ("cniversion", "NAME"), ("CNIVERSION", "name")])
def test_the_protocols_keys_match_in_any_case(keys):
    text = json.dumps(dict(zip(keys, ("0.4.0", "net"), strict=True))).encode()
    parsed = parse(parse_environment(environment()), text)
    assert (parsed.cni_version, parsed.network) == ("0.4.0", "net")


@pytest.mark.parametrize("text", [b'{"name": "a", "Name": "b"}', b'{"Name": "b", "name": "a"}'])
def test_the_exact_key_wins(text):
    assert parse(parse_environment(environment()), text).network == "a"


def test_the_request_holds_stdin_byte_for_byte():
    text = b' {"name" : "net", "cniVersion": "1.0.0", "vlan": 1e2, "Other": "\\u0041"}\n'
    parsed = parse(parse_environment(environment(CNI_ARGS="A=b")), text)
    assert parsed.stdin == text
    assert (parsed.command, parsed.container_id, parsed.netns, parsed.ifname) == ("ADD", "c1", "/run/netns/c1", "net1")
    assert (parsed.args, parsed.path) == ("A=b", ("/opt/cni/bin",))
    assert parsed.config["Other"] == "A"
    assert parsed.env["CNI_ARGS"] == "A=b"


# prevResult.

PREVIOUS = {
    "interfaces": [
        {"name": "net1"},
        {"name": "net1", "sandbox": "/run/netns/other"},
        {"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/c1"},
    ]
}


@pytest.mark.parametrize("config", [{}, {"prevResult": None}])
def test_without_a_previous_result_there_is_none(config):
    assert request(**config).prev_result() is None
    assert request(**config).previous_interface() is None


def test_a_previous_result_without_version_has_the_configurations():
    old = {"ip4": {"ip": "10.0.0.2/24"}}
    assert request(cniVersion="0.2.0", prevResult=old).prev_result().ips[0].address == "10.0.0.2/24"
    assert request(cniVersion="1.0.0", prevResult=old).prev_result().ips == ()


def test_a_previous_result_may_be_of_another_version_than_the_configuration():
    old = {"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.2/24"}}
    assert request(cniVersion="1.0.0", prevResult=old).prev_result().ips[0].address == "10.0.0.2/24"


def test_the_previous_interface_is_the_one_of_this_name_in_this_netns():
    found = request(prevResult=PREVIOUS).previous_interface()
    assert found == Interface(name="net1", mac="02:00:00:00:00:01", sandbox="/run/netns/c1")


def test_an_interface_of_another_name_is_not_the_previous_interface():
    env = environment(CNI_IFNAME="net2")
    assert request(env=env, prevResult=PREVIOUS).previous_interface() is None


@pytest.mark.parametrize("document", [5, "x", [], [{}], True])
def test_a_previous_result_that_is_no_object_is_refused(document):
    with pytest.raises(InvalidConfig, match="prevResult: not an object"):
        request(prevResult=document).prev_result()


# GC's list.

KEY = "cni.dev/valid-attachments"


@pytest.mark.parametrize(
    ("entries", "pairs"),
    [
        ([], []),
        (None, []),
        ([{"containerID": "c1", "ifname": "net1"}], [("c1", "net1")]),
        (
            [{"containerID": "c1", "ifname": "a"}, {"containerID": "c2", "ifname": "b", "x": 1}],
            [("c1", "a"), ("c2", "b")],
        ),
    ],
)
def test_the_list_of_valid_attachments_is_read(entries, pairs):
    assert request("GC", **{KEY: entries}).valid_attachments == pairs


def test_a_missing_list_of_valid_attachments_is_not_an_empty_one():
    assert request("GC").valid_attachments is None


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"containerID": "c1", "ifname": "net1"},
        "",
        "c1",
        0,
        5,
        False,
        [5],
        ["c1"],
        [None],
        [{}],
        [{"containerID": "c1"}],
        [{"ifname": "net1"}],
        [{"containerID": 5, "ifname": "net1"}],
        [{"containerID": "c1", "ifname": None}],
        [{"containerID": "c1", "ifname": "net1"}, None],
    ],
)
def test_a_malformed_list_of_valid_attachments_is_refused_whole(entries):
    with pytest.raises(InvalidConfig, match="not a list of containerID and ifname"):
        _ = request("GC", **{KEY: entries}).valid_attachments


# Arbitrary input.


@given(
    st.dictionaries(
        st.sampled_from(["CNI_COMMAND", *MARKERS, "CNI_ARGS"]),
        st.sampled_from(["ADD", "STATUS", "GC", "x", "x", "", "ä b"]),
    ),
    st.binary()
    | st.dictionaries(
        st.sampled_from(["name", "cniVersion", "Name"]), st.text() | st.none() | st.sampled_from(["net", *VERSIONS])
    ).map(lambda d: json.dumps(d).encode()),
)
def test_any_input_is_a_request_or_one_of_four_errors(env, text):
    try:
        parsed = parse(parse_environment(env), text)
    except (InvalidEnvironment, DecodeFailure, InvalidConfig, IncompatibleVersion):
        return
    assert is_identifier(parsed.network)
    assert parsed.cni_version in VERSIONS
