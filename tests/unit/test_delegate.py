"""The parts of delegation that need no other program: the call as a value, the search, the environment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

from cni import jsontext
from cni.attachment.delegate import DelegatedIpam, DelegateRefusal, IpamCall, cleaned, find
from cni.errors import DelegateFailed, InvalidConfig, IoFailure, TryAgainLater, catalogue

if TYPE_CHECKING:
    from pathlib import Path

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
CALLS = st.builds(
    IpamCall,
    type=TEXT,
    stdin=TEXT.map(str.encode),
    container_id=TEXT,
    netns=TEXT,
    ifname=TEXT,
    args=TEXT,
    path=st.lists(TEXT).map(tuple),
)


def request_with(config: dict[str, Any]) -> Any:
    return SimpleNamespace(
        config=config,
        stdin=b'{"any": "bytes"}',
        container_id="c1",
        netns="/n",
        ifname="net1",
        args="A=b",
        path=["/x", "/y"],
    )


def executable(path: Path, mode: int = 0o755) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return str(path)


@given(CALLS)
def test_a_call_survives_being_recorded(call: IpamCall) -> None:
    assert IpamCall.from_document(call.as_document()) == call


@pytest.mark.parametrize(
    "document",
    (
        {},
        {"type": "x"},
        {"stdin": 1, "path": []},
        {"stdin": "{}", "path": None},
        {"stdin": "{}", "path": [], "more": 1},
    ),
)
def test_a_damaged_recorded_call_is_an_io_failure(document: Any) -> None:
    with pytest.raises(IoFailure, match="damaged"):
        IpamCall.from_document(document)


def test_a_call_is_made_of_a_request_with_its_stdin_as_it_came() -> None:
    call = IpamCall.of(request_with({"ipam": {"type": "static"}}))
    assert (call.type, call.stdin, call.path) == ("static", b'{"any": "bytes"}', ("/x", "/y"))
    assert call.environment("DEL") == {
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/n",
        "CNI_IFNAME": "net1",
        "CNI_ARGS": "A=b",
        "CNI_PATH": "/x:/y",
    }


@pytest.mark.parametrize(
    "config", ({}, {"ipam": {}}, {"ipam": None}, {"ipam": {"type": 3}}, {"ipam": {"type": ""}}, {"ipam": []})
)
def test_a_call_needs_the_name_of_an_ipam_plugin(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig, match=r"ipam\.type"):
        IpamCall.of(request_with(config))


def test_config_keys_match_exactly_first_and_then_in_any_case() -> None:
    assert jsontext.member({"IPAM": 1, "ipam": 2}, "ipam") == 2
    assert jsontext.member({"IPAM": 1}, "ipam") == 1
    assert jsontext.member({"ipa": 1}, "ipam") is None
    assert IpamCall.of(request_with({"Ipam": {"TYPE": "dhcp"}})).type == "dhcp"


def test_the_first_directory_that_has_the_plugin_wins(tmp_path: Path) -> None:
    first, second = executable(tmp_path / "a" / "ip"), executable(tmp_path / "b" / "ip")
    assert find("ip", [f"{tmp_path}/none", f"{tmp_path}/a", f"{tmp_path}/b"]) == first
    assert find("ip", [f"{tmp_path}/b", f"{tmp_path}/a"]) == second


def test_directories_and_files_that_cannot_be_executed_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a" / "ip").mkdir(parents=True)
    executable(tmp_path / "b" / "ip", mode=0o644)
    wanted = executable(tmp_path / "c" / "ip")
    assert find("ip", [f"{tmp_path}/{folder}" for folder in "abc"]) == wanted


def test_a_symlink_to_a_plugin_is_a_plugin(tmp_path: Path) -> None:
    executable(tmp_path / "real" / "program")
    (tmp_path / "ip").symlink_to("real/program")
    assert find("ip", [str(tmp_path)]) == f"{tmp_path}/ip"


def test_a_missing_plugin_is_named_with_the_directories_that_were_searched(tmp_path: Path) -> None:
    executable(tmp_path / "a" / "ip", mode=0o600)
    with pytest.raises(DelegateFailed) as caught:
        find("ip", [f"{tmp_path}/a", f"{tmp_path}/b"])
    assert caught.value.msg == f"the IPAM plugin ip was not found in CNI_PATH ({tmp_path}/a:{tmp_path}/b)"
    assert caught.value.details == f"not an executable file: {tmp_path}/a/ip"


@pytest.mark.parametrize("path", ([], [""]))
def test_an_empty_cni_path_does_not_mean_the_current_directory(
    path: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(tmp_path / "ip")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DelegateFailed, match="empty"):
        find("ip", path)


@pytest.mark.parametrize("name", ("", "/bin/sh", "../sh", "a/b", "a\0b"))
def test_a_type_that_is_not_a_file_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidConfig, match="invalid plugin name"):
        find(name, ["/bin"])


def test_what_the_bootloader_set_for_us_is_not_passed_on() -> None:
    inherited = {"PATH": "/bin", "CNI_ARGS": "", "LD_PRELOAD": "x"}
    ours = {"_PYI_ARCHIVE_FILE": "x", "_PYI_SPLASH_IPC": "", "_MEIPASS2": "/tmp/x", "LD_LIBRARY_PATH": "/bundle"}
    assert cleaned({**inherited, **ours}) == inherited
    assert cleaned({**inherited, **ours, "LD_LIBRARY_PATH_ORIG": "/opt"}) == {**inherited, "LD_LIBRARY_PATH": "/opt"}


def test_a_refusal_carries_the_delegates_code_message_and_details_and_who_said_it() -> None:
    error = DelegateRefusal("host-local", 11, "pool is exhausted", "range a-b")
    assert (error.code, str(error)) == (11, "pool is exhausted")
    assert error.details == "range a-b\nreported by the IPAM plugin host-local"
    assert DelegateFailed.code == 106


def test_a_refusal_adds_no_number_to_the_catalogue() -> None:
    assert DelegateRefusal not in catalogue()


@pytest.mark.parametrize(
    ("kind", "seconds", "bounds"),
    [
        ("whereabouts", None, {"ADD": 130.0, "DEL": 70.0, "CHECK": 50.0}),
        ("host-local", None, {"ADD": 50.0, "DEL": 50.0, "CHECK": 50.0}),
        ("whereabouts", 7.0, {"ADD": 7.0, "DEL": 7.0, "CHECK": 7.0}),
    ],
)
def test_a_plugin_that_allows_itself_more_time_is_let_finish_unless_the_node_says_otherwise(
    kind: str, seconds: float | None, bounds: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, float] = {}

    def call(_self: object, _call: object, command: str, bound: float) -> bytes:
        told[command] = bound
        return b'{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]}'

    monkeypatch.setattr(DelegatedIpam, "_call", call)
    monkeypatch.setattr(DelegatedIpam, "_find", lambda *_arguments: None)
    ipam = DelegatedIpam({}, seconds=seconds)
    one = IpamCall(
        type=kind, stdin=b'{"cniVersion": "1.0.0"}', container_id="c", netns="/n", ifname="i", args="", path=()
    )
    ipam.lease(one)
    ipam.release(one)
    ipam.check(one)
    assert told == bounds


def test_the_clean_up_of_a_plugin_that_allows_itself_more_time_is_let_finish_and_all_fits_the_kubelets_four_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[float] = []

    def call(_self: object, _call: object, _command: str, bound: float) -> bytes:
        told.append(bound)
        raise TryAgainLater("it was killed")

    monkeypatch.setattr(DelegatedIpam, "_call", call)
    monkeypatch.setattr(DelegatedIpam, "_find", lambda *_arguments: None)
    one = IpamCall(type="whereabouts", stdin=b"{}", container_id="c", netns="/n", ifname="i", args="", path=())
    with pytest.raises(TryAgainLater):
        DelegatedIpam({}).lease(one)
    assert told == [130.0, 70.0]
    assert sum(told) < 240


@pytest.mark.parametrize(("seconds", "bound"), [(0.5, 0.5), (60.0, 3.0)])
def test_a_release_has_the_time_of_its_caller_and_no_more_than_a_call_may_take(
    seconds: float, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []

    def call(_self: object, _call: object, _command: str, bound: float) -> bytes:
        told.append(bound)
        return b""

    monkeypatch.setattr(DelegatedIpam, "_call", call)
    one = IpamCall(type="some", stdin=b"{}", container_id="c", netns="/n", ifname="i", args="", path=())
    DelegatedIpam({}, seconds=3.0).release(one, seconds=seconds)
    assert told == [bound]
