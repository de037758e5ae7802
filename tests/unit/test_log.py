"""The log: its line format, its levels, and the files that a configuration may make root write."""

from __future__ import annotations

import json
import os
import re
import stat
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

from cni import logfile as module
from cni.log import LEVELS, Log, open_log
from cni.logfile import open_below
from cni.node.node import NodeConf
from cni.node.start import log_of
from cni.protocol.request import parse, parse_environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOON = 1_700_000_000.0479


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "log").mkdir()
    return tmp_path / "log"


def opened(config: dict[str, Any], root: Path) -> Log:
    return open_log(config, plugin="sriov", command="ADD", container_id="c" * 64, ifname="net1", roots=(str(root),))


def lines_of(log_at: Callable[[int], None]) -> bytes:
    """The output of `log_at(fd)`, written to a pipe."""
    reader, writer = os.pipe()
    try:
        log_at(writer)
        os.close(writer)
        with open(reader, "rb", closefd=False) as stream:
            return stream.read()
    finally:
        os.close(reader)


def test_a_line_has_time_level_context_and_message() -> None:
    context = {"plugin": "sriov", "command": "ADD", "container": "abc", "ifname": "net1", "device": "0000:01:10.0"}
    line = lines_of(lambda fd: Log(context, fd=fd, clock=lambda: NOON).warning("VF 3 was left"))
    assert line == (
        b"2023-11-14T22:13:20.047Z level=warning plugin=sriov command=ADD container=abc ifname=net1 device=0000:01:10.0 "
        b'msg="VF 3 was left"\n'
    )


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_lets_graver_messages_through_and_no_lighter_ones(level: str) -> None:
    def every(fd: int) -> None:
        log = Log({}, level=level, fd=fd)
        for name in LEVELS:
            getattr(log, name)("x")

    seen = re.findall(rb"level=(\w+)", lines_of(every))
    assert [name.decode() for name in seen] == list(LEVELS[: LEVELS.index(level) + 1])


@given(st.text())
def test_no_message_makes_a_second_line_or_a_second_field(text: str) -> None:
    line = lines_of(lambda fd: Log({}, fd=fd).error(text))
    assert line.count(b"\n") == 1
    decoded = line.decode()
    assert decoded[:-1].isprintable()
    assert re.fullmatch(r'\S+ level=error msg="(?:[^"\\]|\\.)*"\n', decoded)


@pytest.mark.parametrize(
    ("text", "expected"),
    (
        ("a\nb", "a\\nb"),
        ('say "x"', 'say \\"x\\"'),
        ("\x1b[31m", "\\x1b[31m"),
        ("\u2028\u202e", "\\u2028\\u202e"),
        ("ü", "ü"),
    ),
)
def test_what_could_fool_a_reader_is_escaped(text: str, expected: str) -> None:
    assert f'msg="{expected}"'.encode() in lines_of(lambda fd: Log({}, fd=fd).info(text))


def test_a_context_value_cannot_forge_another_field() -> None:
    line = lines_of(lambda fd: Log({"ifname": "x level=info", "device": "a=b"}, fd=fd).info("m"))
    assert b' ifname="x level=info" device="a=b" msg="m"\n' in line


def test_a_long_container_id_is_cut_to_what_runtimes_show(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    opened({}, root).info("m")
    assert f"container={'c' * 12} " in capfd.readouterr().err


def test_without_configuration_info_goes_to_stderr_and_debug_nowhere(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = opened({}, root)
    log.info("shown")
    log.debug("hidden")
    err = capfd.readouterr().err
    assert 'msg="shown"' in err
    assert "hidden" not in err


def test_the_level_is_read_in_any_case_of_key_and_value(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    opened({"LogLevel": "DEBUG"}, root).debug("seen")
    assert "seen" in capfd.readouterr().err


@pytest.mark.parametrize("wanted", ("loud", 3, ["debug"]))
def test_an_unknown_level_is_a_warning_and_means_info(
    wanted: object, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = opened({"logLevel": wanted}, root)
    log.info("shown")
    log.debug("hidden")
    err = capfd.readouterr().err
    assert "level=warning" in err
    assert "logLevel: " in err
    assert "shown" in err
    assert "hidden" not in err


def test_a_log_file_is_made_private_with_one_directory_and_appended_to(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = root / "barewire" / "sriov.log"
    for message in ("one", "two"):
        opened({"logFile": str(path)}, root).info(message)
    assert re.findall(r'msg="(\w+)"', path.read_text()) == ["one", "two"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert capfd.readouterr().err == ""


def refused(path: object, root: Path, capfd: pytest.CaptureFixture[str]) -> str:
    opened({"logFile": path}, root).info("still logged")
    err = capfd.readouterr().err
    assert "level=warning" in err
    assert "logFile: " in err
    assert 'msg="still logged"' in err
    return err


@pytest.mark.parametrize("path", ("relative.log", 7, {"a": 1}, "/", "/a\0b"))
def test_a_log_file_that_is_no_absolute_path_is_a_warning(
    path: object, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "absolute path" in refused(path, root, capfd)


@pytest.mark.parametrize("path", ("{root}", "{root}/../outside", "{root}/a/../../outside", "{root}-not/x", "/dev/null"))
def test_a_log_file_outside_the_log_directory_is_a_warning(
    path: str, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "is not below" in refused(path.format(root=root), root, capfd)
    assert sorted(os.listdir(root.parent)) == ["log"]


def test_a_symlink_out_of_the_log_directory_is_not_followed(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (root / "way").symlink_to(outside)
    (root / "file").symlink_to(outside / "victim")
    assert "is not below" in refused(f"{root}/way/x.log", root, capfd)
    assert "is not below" in refused(f"{root}/file", root, capfd)
    assert os.listdir(outside) == []


def test_a_symlink_that_stays_in_the_log_directory_is_resolved(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (root / "real").mkdir()
    (root / "way").symlink_to("real")
    opened({"logFile": f"{root}/way/x.log"}, root).info("m")
    assert 'msg="m"' in (root / "real" / "x.log").read_text()
    assert capfd.readouterr().err == ""


def test_a_symlink_placed_after_the_path_was_resolved_is_not_followed(root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (root / "way").symlink_to(outside)
    (root / "file").symlink_to(outside / "victim")
    with pytest.raises(NotADirectoryError):
        module._Walk(str(root)).into(["way"])
    with pytest.raises(module.Refused, match="not a regular file"):
        module._open_file(os.open(root, os.O_RDONLY), "file")
    assert os.listdir(outside) == []


def test_only_one_missing_directory_is_made(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "No such file" in refused(f"{root}/a/b/x.log", root, capfd)
    assert not (root / "a" / "b").exists()


def test_what_is_not_a_plain_file_is_a_warning_and_does_not_block(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(root / "fifo")
    (root / "folder").mkdir()
    (root / "one").write_text("")
    os.link(root / "one", root / "two")
    for name in ("fifo", "folder", "two"):
        refused(f"{root}/{name}", root, capfd)
    assert (root / "one").read_text() == ""


def test_a_fifo_with_a_reader_is_no_log_file_either(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(root / "fifo")
    reader = os.open(root / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert "regular file" in refused(f"{root}/fifo", root, capfd)
    finally:
        os.close(reader)


def test_refused_log_files_leave_no_descriptor_open(root: Path) -> None:
    (root / "folder").mkdir()
    os.mkfifo(root / "fifo")
    before = len(os.listdir("/proc/self/fd"))
    for name in ("folder", "folder/a/b/c", "fifo", "fifo/x"):
        with pytest.raises(module.Refused):
            open_below((str(root),), f"{root}/{name}")
    assert len(os.listdir("/proc/self/fd")) == before


OURS = b'2026-11-30T09:39:23.123Z level=info plugin=sriov command=ADD msg="m"\n'


@pytest.mark.parametrize(
    ("name", "content", "mode"),
    (
        ("cni.log", OURS, 0o600),
        ("cni.log", OURS, 0o644),
        ("cni.log", b"", 0o600),
        ("sriov.log", b'time="2024-01-02T03:04:05Z" level="info" msg="x" cniName="sriov-cni"\n', 0o644),
        ("userspace-cni.log", b"2024-01-02T03:04:05Z [info] x\n", 0o644),
    ),
)
def test_a_log_of_ours_or_of_a_predecessor_is_continued(
    name: str, content: bytes, mode: int, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (root / name).write_bytes(content)
    (root / name).chmod(mode)
    opened({"logFile": f"{root}/{name}"}, root).info("more")
    assert (root / name).read_bytes().startswith(content)
    assert b'msg="more"' in (root / name).read_bytes()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "mode"),
    (
        (b"type=DAEMON_START msg=audit(1)\n", 0o600),
        (b"2026-11-30T09:39:23.123456789Z stdout F a container's line\n", 0o640),
        (b'time="2026-11-30T09:39:23Z" level=info plugin=x\n', 0o600),
        (b"\0" * 384, 0o664),
        (b"", 0o664),
        (b"", 0o640),
        (OURS[1:], 0o600),
    ),
)
def test_a_file_of_another_program_is_not_written_to(
    content: bytes, mode: int, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (root / "x.log").write_bytes(content)
    (root / "x.log").chmod(mode)
    assert "no log of ours" in refused(f"{root}/x.log", root, capfd)
    assert (root / "x.log").read_bytes() == content


def test_a_log_file_that_belongs_to_another_user_is_not_written_to(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (root / "sriov.log").write_bytes(OURS)
    os.chown(root / "sriov.log", 1000, 1000)
    assert "belongs to user 1000" in refused(f"{root}/sriov.log", root, capfd)
    assert (root / "sriov.log").read_bytes() == OURS


@pytest.mark.parametrize("folder", ("audit", "containers", "journal", "pods/default_pod_uid/app"))
def test_no_log_is_made_among_those_of_other_programs(folder: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = f"/var/log/{folder}/barewire-{os.getpid()}.log"
    open_log({"logFile": path}, plugin="sriov", command="ADD", container_id="c", ifname="net1").info("m")
    assert "among other programs' logs" in capfd.readouterr().err
    assert not os.path.exists(path)


def test_the_node_configuration_says_where_logs_may_be(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = root.parent / "other"
    other.mkdir()
    request = parse(
        parse_environment(
            {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c", "CNI_IFNAME": "net1", "CNI_PATH": "/x", "CNI_NETNS": "/n"}
        ),
        json.dumps({"cniVersion": "1.0.0", "name": "n", "type": "sriov", "logFile": f"{other}/x.log"}).encode(),
    )
    log_of(request, NodeConf(log_roots=(str(root), str(other))), "sriov").info("m")
    assert 'msg="m"' in (other / "x.log").read_text()
    log_of(request, NodeConf(log_roots=()), "sriov").info("again")
    assert "again" not in (other / "x.log").read_text()
    assert "logFile: " in capfd.readouterr().err


def test_a_device_that_is_named_as_the_log_is_not_opened(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.mknod(root / "sriov", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    assert "regular file" in refused(f"{root}/sriov", root, capfd)


def test_a_full_disk_moves_the_message_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        Log({}, fd=full).error("kept")
    finally:
        os.close(full)
    assert 'msg="kept"' in capfd.readouterr().err


def test_a_line_that_is_taken_in_part_is_repeated_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        Log({}, fd=writer).error("x" * (1 << 20))
    finally:
        os.close(reader)
        os.close(writer)
    assert f'msg="{"x" * (1 << 20)}"' in capfd.readouterr().err


def test_a_log_without_a_reader_raises_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    saved = os.dup(2)
    try:
        os.dup2(writer, 2)
        Log({}, fd=writer).error("lost")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(writer)
