"""Delegation to real programs: Debian's IPAM plugins, and scripts that behave as badly as a delegate can."""

from __future__ import annotations

import contextlib
import json
import os
import select
import threading
import time
from typing import IO, TYPE_CHECKING, Any

import pytest

from cni.attachment.delegate import DelegatedIpam, DelegateRefusal, IpamCall, delegate
from cni.errors import CniError, DelegateFailed, InvalidConfig, NotAvailable, TryAgainLater

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Writer = Callable[..., IpamCall]

DEBIAN = "/usr/lib/cni"  # package containernetworking-plugins


def call_of(kind: str, path: str | Path, config: dict[str, Any] | None = None, **changes: Any) -> IpamCall:
    document = {"cniVersion": "1.0.0", "name": "net", "type": "sriov", "ipam": {"type": kind}, **(config or {})}
    call = IpamCall(
        type=kind,
        stdin=json.dumps(document).encode(),
        container_id="c1",
        netns="/run/netns/none",
        ifname="net1",
        args="",
        path=(str(path),),
    )
    return call.replace(**changes)


def ipam(**changes: float) -> DelegatedIpam:
    return DelegatedIpam(os.environ, **changes)


@pytest.fixture
def script(tmp_path: Path) -> Writer:
    """Writes a delegate in shell, and returns a function that calls it. `$D` in the script is a directory for its
    output.
    """

    def write(body: str, **changes: Any) -> IpamCall:
        path = tmp_path / "fake"
        path.write_text(f"#!/bin/sh\nD={tmp_path}\n{body}\n")
        path.chmod(0o755)
        return call_of("fake", tmp_path, **changes)

    return write


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Requires that every test ends without a new descriptor and without a child process."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    # Descriptors of an earlier test may have been closed meanwhile, by a thread that ended late.
    assert set(os.listdir("/proc/self/fd")) <= before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def traced(tmp_path: Path, name: str = "trace") -> list[str]:
    return (tmp_path / name).read_text().split()


# Debian's plugins.


@pytest.fixture
def host_local(tmp_path: Path) -> IpamCall:
    pool: dict[str, Any] = {"type": "host-local", "dataDir": str(tmp_path / "data"), "routes": [{"dst": "0.0.0.0/0"}]}
    pool["ranges"] = [[{"subnet": "10.9.0.0/29"}], [{"subnet": "fd00:9::/64"}]]
    return call_of("host-local", DEBIAN, {"ipam": pool})


def reserved(tmp_path: Path) -> list[str]:
    folder = tmp_path / "data" / "net"
    return sorted(name for name in os.listdir(folder) if name[0] in "1f") if folder.exists() else []


def test_host_local_leases_checks_and_releases(host_local: IpamCall, tmp_path: Path) -> None:
    leased = ipam().lease(host_local)
    assert [(ip.address, ip.gateway) for ip in leased.ips] == [
        ("10.9.0.2/29", "10.9.0.1"),
        ("fd00:9::2/64", "fd00:9::1"),
    ]
    assert [route.dst for route in leased.routes] == ["0.0.0.0/0"]
    assert reserved(tmp_path) == ["10.9.0.2", "fd00:9::2"]
    ipam().check(host_local)
    ipam().release(IpamCall.from_document(json.loads(json.dumps(host_local.as_document()))))
    assert reserved(tmp_path) == []
    ipam().release(host_local)
    with pytest.raises(DelegateRefusal, match="Failed to find address added by container"):
        ipam().check(host_local)


def test_host_local_refusing_for_an_exhausted_pool_speaks_for_itself(host_local: IpamCall, tmp_path: Path) -> None:
    for number in range(5):
        ipam().lease(host_local.replace(container_id=f"c{number}"))
    before = reserved(tmp_path)
    with pytest.raises(DelegateRefusal, match="no IP addresses available in range set") as caught:
        ipam().lease(host_local.replace(container_id="c9"))
    assert caught.value.code == 999
    assert "reported by the IPAM plugin host-local" in caught.value.details
    assert reserved(tmp_path) == before


def test_a_lease_that_fails_half_way_keeps_no_address(host_local: IpamCall, tmp_path: Path) -> None:
    """The second range set is full, so host-local fails after it has leased an address of the first one."""
    config = json.loads(host_local.stdin)
    config["ipam"]["ranges"] = [[{"subnet": "10.9.0.0/24"}], [{"subnet": "10.8.0.0/30"}]]
    narrow = host_local.replace(stdin=json.dumps(config).encode())
    ipam().lease(narrow)
    before = reserved(tmp_path)
    with pytest.raises(DelegateRefusal):
        ipam().lease(narrow.replace(container_id="c2"))
    assert reserved(tmp_path) == before == ["10.8.0.2", "10.9.0.2"]


def test_static_gives_the_addresses_of_the_config() -> None:
    addresses = [{"address": "10.0.0.9/24", "gateway": "10.0.0.1"}]
    call = call_of("static", DEBIAN, {"ipam": {"type": "static", "addresses": addresses}})
    assert [(ip.address, ip.gateway) for ip in ipam().lease(call).ips] == [("10.0.0.9/24", "10.0.0.1")]
    ipam().check(call.replace(stdin=json.dumps({**json.loads(call.stdin), "prevResult": previous()}).encode()))
    ipam().release(call)


def previous() -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.9/24", "gateway": "10.0.0.1"}]}


def test_static_without_addresses_is_a_result_without_addresses() -> None:
    assert ipam().lease(call_of("static", DEBIAN, {"ipam": {"type": "static"}})).ips == ()


@pytest.mark.parametrize("version", ("0.1.0", "0.2.0", "0.3.1", "0.4.0", "1.0.0"))
def test_a_result_of_any_version_that_the_delegate_speaks_is_understood(version: str) -> None:
    addresses = [{"version": "4", "address": "10.0.0.9/24", "gateway": "10.0.0.1"}]
    call = call_of("static", DEBIAN, {"cniVersion": version, "ipam": {"type": "static", "addresses": addresses}})
    assert [ip.address for ip in ipam().lease(call).ips] == ["10.0.0.9/24"]


def test_a_version_that_the_delegate_does_not_speak_is_its_own_error() -> None:
    with pytest.raises(DelegateRefusal, match="incompatible CNI versions") as caught:
        ipam().lease(call_of("static", DEBIAN, {"cniVersion": "1.1.0"}))
    assert caught.value.code == 1


def test_dhcp_without_its_daemon_names_the_socket(tmp_path: Path) -> None:
    config = {"ipam": {"type": "dhcp", "daemonSocketPath": f"{tmp_path}/dhcp.sock"}}
    with pytest.raises(DelegateRefusal, match=r"dhcp\.sock: connect: no such file or directory"):
        ipam().lease(call_of("dhcp", DEBIAN, config))


# How a delegate is called.


def test_a_delegate_gets_the_config_byte_for_byte_and_its_own_command(script: Writer, tmp_path: Path) -> None:
    stdin = b'{ "cniVersion" : "1.0.0",\n "odd": "\\u00e9 \xc3\xa9", "name":"n" }  \n'
    call = script(
        'cat >"$D/$CNI_COMMAND"; echo "$CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS $CNI_PATH" >"$D/env"',
        stdin=stdin,
    )
    for method, command in (("release", "DEL"), ("check", "CHECK"), ("gc", "GC"), ("status", "STATUS")):
        getattr(ipam(), method)(call.replace(args="A=b"))
        assert (tmp_path / command).read_bytes() == stdin
    assert traced(tmp_path, "env") == ["c1", "/run/netns/none", "net1", "A=b", str(tmp_path)]


def test_a_delegate_of_a_frozen_program_does_not_see_the_bootloaders_environment(
    script: Writer, tmp_path: Path
) -> None:
    frozen = {
        **os.environ,
        "LD_LIBRARY_PATH": "/bundle/_internal",
        "_PYI_ARCHIVE_FILE": "/b",
        "_MEIPASS2": "/b",
        "CNI_COMMAND": "ADD",
    }
    call = script('env >"$D/env"')
    DelegatedIpam(frozen).release(call)
    names = {line.partition("=")[0]: line for line in (tmp_path / "env").read_text().splitlines()}
    assert names["CNI_COMMAND"] == "CNI_COMMAND=DEL"
    assert "PATH" in names
    assert not [name for name in names if name.startswith(("LD_LIBRARY_PATH", "_PYI", "_MEI"))]
    DelegatedIpam({**frozen, "LD_LIBRARY_PATH_ORIG": "/opt/lib"}).release(call)
    assert "LD_LIBRARY_PATH=/opt/lib\n" in (tmp_path / "env").read_text()


def test_a_delegate_shares_our_stderr(script: Writer, capfd: pytest.CaptureFixture[str]) -> None:
    ipam().release(script('echo "a word of mine" >&2'))
    assert capfd.readouterr().err == "a word of mine\n"


def test_a_delegate_has_none_of_our_other_descriptors(tmp_path: Path) -> None:
    # There is no shell in between, because a shell opens descriptors of its own.
    (tmp_path / "fake").write_text("#!/usr/bin/env -S ls -l /proc/self/fd\n")
    (tmp_path / "fake").chmod(0o755)
    inherited = set(inheritable_descriptors())  # descriptors that our own parent made inheritable are not ours to close
    listing = delegate("fake", "DEL", b"{}", dict(os.environ), [str(tmp_path)], time.monotonic() + 20).decode()
    pipes = {
        int(words[-3]) for words in map(str.split, listing.splitlines()) if words and words[-1].startswith("pipe:")
    }
    assert 1 in pipes
    assert pipes - inherited <= {0, 1, 2}


def inheritable_descriptors() -> Iterator[int]:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own descriptor is closed by now
            if os.get_inheritable(int(name)):
                yield int(name)


def test_a_delegate_dies_of_a_closed_pipe_as_programs_do(script: Writer, tmp_path: Path) -> None:
    """Python ignores SIGPIPE, and the delegate would inherit that."""
    ipam().release(script('grep SigIgn /proc/$$/status >"$D/trace"'))
    ignored = int(traced(tmp_path)[1], 16)
    assert not ignored & (1 << 12 | 1 << 24)


@pytest.mark.parametrize("closed", ((0,), (1,), (0, 1), (0, 1, 2), (1, 2)))
def test_a_delegate_runs_when_our_own_stdin_or_stdout_are_closed(
    script: Writer, tmp_path: Path, closed: tuple[int, ...]
) -> None:
    call = script('cat >"$D/trace"; echo "{}"')
    pid = os.fork()
    if pid == 0:
        for fd in closed:
            os.close(fd)
        good = (
            delegate("fake", "DEL", call.stdin, {"PATH": os.environ["PATH"]}, call.path, time.monotonic() + 20)
            == b"{}\n"
        )
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (tmp_path / "trace").read_bytes() == call.stdin


@pytest.mark.parametrize("size", (0, 1, 1 << 16, 1 << 20))
def test_a_delegate_that_reads_nothing_and_prints_much_does_not_block(script: Writer, size: int) -> None:
    call = script(f"head -c {size} /dev/zero", stdin=b"x" * (1 << 20))
    assert delegate("fake", "DEL", call.stdin, dict(os.environ), call.path, time.monotonic() + 20) == bytes(size)


def test_a_delegate_that_echoes_a_large_config_does_not_block(script: Writer) -> None:
    stdin = os.urandom(3 << 20)
    call = script("cat", stdin=stdin)
    assert delegate("fake", "DEL", stdin, dict(os.environ), call.path, time.monotonic() + 20) == stdin


def test_a_daemon_that_keeps_stdout_open_does_not_hold_the_call(script: Writer, tmp_path: Path) -> None:
    call = script("sleep 60 & echo $! >\"$D/pid\"; echo '{}'")
    began = time.monotonic()
    try:
        assert delegate("fake", "ADD", call.stdin, dict(os.environ), call.path, began + 30) == b"{}\n"
        assert time.monotonic() - began < 20
    finally:
        os.kill(int((tmp_path / "pid").read_text()), 9)


# The bound.


def assert_gone(pid: int) -> None:
    """Waits, with a limit, for the end of a process that may not be our child."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            assert select.select([pidfd], [], [], 10)[0], f"process {pid} still runs"
        finally:
            os.close(pidfd)


@pytest.mark.parametrize("body", ("sleep 60", "exec sleep 60", "trap '' TERM; sleep 60 & wait"))
def test_a_delegate_that_hangs_is_killed_with_all_that_it_started(script: Writer, tmp_path: Path, body: str) -> None:
    call = script(f'echo $$ >>"$D/pids"; (echo $(sh -c "echo \\$PPID") >>"$D/pids"; sleep 60) & {body}')
    began = time.monotonic()
    with pytest.raises(
        TryAgainLater, match=r"the IPAM plugin fake did not finish DEL within \d\.\d s and was killed"
    ) as caught:
        ipam(seconds=1.0).release(call)
    assert time.monotonic() - began < 20
    assert caught.value.code == 11
    for pid in traced(tmp_path, "pids"):
        assert_gone(int(pid))


def test_a_release_on_the_side_of_another_call_can_have_a_smaller_bound(script: Writer) -> None:
    began = time.monotonic()
    with pytest.raises(TryAgainLater, match="DEL within"):
        ipam().release(script("sleep 60"), seconds=0.2)
    assert time.monotonic() - began < 20


def test_a_hanging_add_costs_its_bound_and_one_clean_up_although_rollback_releases_again(
    script: Writer, tmp_path: Path
) -> None:
    call = script('echo $CNI_COMMAND >>"$D/trace"; sleep 60')
    port = ipam(seconds=1.0, cleanup_seconds=1.0)
    began = time.monotonic()
    with pytest.raises(TryAgainLater, match="ADD") as caught:
        port.lease(call)
    assert "clean-up incomplete: the IPAM plugin fake did not finish DEL" in caught.value.details
    with pytest.raises(TryAgainLater, match="DEL"):
        port.release(call)
    assert time.monotonic() - began < 20
    assert traced(tmp_path) == ["ADD", "DEL"]


def test_a_delegate_that_prints_without_end_is_killed(script: Writer) -> None:
    call = script("exec cat /dev/zero")
    with pytest.raises(DelegateFailed, match="printed more than 4194304 bytes"):
        ipam().check(call)


def test_a_delegate_that_closes_stdout_and_goes_on_is_awaited(script: Writer, tmp_path: Path) -> None:
    ipam().release(script('exec >&-; read -r line; echo done >"$D/trace"'))
    assert traced(tmp_path) == ["done"]


# What it answers.


def test_a_failed_add_is_cleaned_up_once_and_the_first_error_is_reported(script: Writer, tmp_path: Path) -> None:
    call = script(
        'echo $CNI_COMMAND >>"$D/trace"; [ $CNI_COMMAND = DEL ] || { echo \'{"code": 110, "msg": "full"}\'; exit 1; }'
    )
    port = ipam()
    with pytest.raises(DelegateRefusal, match="full") as caught:
        port.lease(call)
    assert caught.value.code == 110
    port.release(call)
    assert traced(tmp_path) == ["ADD", "DEL"]
    port.release(call)
    assert traced(tmp_path) == ["ADD", "DEL", "DEL"]


def test_a_release_after_a_good_lease_calls_the_delegate(script: Writer, tmp_path: Path) -> None:
    call = script('echo $CNI_COMMAND >>"$D/trace"; echo \'{"ips": [{"address": "10.0.0.1/8"}]}\'')
    port = ipam()
    port.lease(call)
    port.release(call)
    assert traced(tmp_path) == ["ADD", "DEL"]


def test_a_clean_up_that_fails_becomes_a_note_on_the_cause(script: Writer) -> None:
    call = script('echo "{\\"code\\": 5, \\"msg\\": \\"no $CNI_COMMAND\\"}"; exit 1')
    with pytest.raises(DelegateRefusal, match="no ADD") as caught:
        ipam().lease(call)
    assert "clean-up incomplete: no DEL" in caught.value.details


@pytest.mark.parametrize("output", ("garbage", "", "[]", '"ips"', "{", '{"ips": 3}'))
def test_a_result_that_is_none_is_quoted_and_the_lease_is_cleaned_up(
    script: Writer, tmp_path: Path, output: str
) -> None:
    call = script(f"echo $CNI_COMMAND >>\"$D/trace\"; printf %s '{output}'")
    with pytest.raises(DelegateFailed, match="printed no valid result") as caught:
        ipam().lease(call)
    assert caught.value.code == 106
    assert (output or "nothing") in caught.value.details
    assert traced(tmp_path) == ["ADD", "DEL"]


@pytest.mark.parametrize(
    "output", ("Segmentation fault", "", "[]", '{"code": "7", "msg": "x"}', '{"code": -1}', '{"code": true}', "{}")
)
def test_a_failure_without_an_error_object_reports_the_status_and_what_was_printed(script: Writer, output: str) -> None:
    with pytest.raises(
        DelegateFailed, match=r"the IPAM plugin fake failed DEL without an error object \(exit status 3\)"
    ) as caught:
        ipam().release(script(f"printf %s '{output}'; exit 3"))
    assert caught.value.code == 106
    assert (output or "nothing") in caught.value.details


def test_long_garbage_is_quoted_from_its_start_only_and_on_one_line(script: Writer) -> None:
    with pytest.raises(DelegateFailed) as caught:
        ipam().release(script("printf 'one\\ntwo\\033'; head -c 100000 /dev/zero | tr '\\0' x; exit 1"))
    assert r"'one\ntwo\x1bxxx" in caught.value.details
    assert len(caught.value.details) < 300


def test_a_delegate_killed_by_a_signal_is_reported_as_such(script: Writer) -> None:
    with pytest.raises(DelegateFailed, match="killed by signal 11"):
        ipam().release(script("kill -SEGV $$"))


def test_an_error_object_with_exit_status_zero_is_an_error_all_the_same(script: Writer) -> None:
    with pytest.raises(DelegateRefusal, match="full"):
        ipam().lease(script('echo \'{"code": 110, "msg": "full"}\''))


def test_a_container_that_the_delegate_does_not_know_is_released(script: Writer) -> None:
    ipam().release(script('echo \'{"code": 3, "msg": "never heard of it"}\'; exit 1'))


def test_an_own_error_of_status_is_passed_on_and_a_dead_delegate_is_not_available(script: Writer) -> None:
    with pytest.raises(DelegateRefusal, match="pool is low"):
        ipam().status(script('echo \'{"code": 51, "msg": "pool is low"}\'; exit 1'))
    with pytest.raises(NotAvailable, match="without an error object"):
        ipam().status(script("exit 1"))
    with pytest.raises(NotAvailable, match="was killed"):
        ipam(cleanup_seconds=0.2).status(script("sleep 60"))
    with pytest.raises(NotAvailable, match="not found"):
        ipam().status(script("").replace(type="missing"))


# What cannot be called.


def test_a_missing_delegate_had_nothing_to_lease_and_leaves_nothing_to_release(tmp_path: Path) -> None:
    port = ipam()
    call = call_of("missing", tmp_path)
    with pytest.raises(DelegateFailed, match="missing was not found") as caught:
        port.lease(call)
    assert "clean-up" not in caught.value.details
    port.release(call)
    with pytest.raises(DelegateFailed, match="missing was not found"):
        port.release(call)


def test_a_path_as_a_type_runs_nothing(script: Writer, tmp_path: Path) -> None:
    call = script('touch "$D/trace"')
    with pytest.raises(InvalidConfig, match="invalid plugin name"):
        ipam().lease(call.replace(type="../" + tmp_path.name + "/fake"))
    assert not (tmp_path / "trace").exists()


def test_a_file_that_is_no_program_is_named(tmp_path: Path) -> None:
    (tmp_path / "fake").write_text("no interpreter line")
    (tmp_path / "fake").chmod(0o755)
    with pytest.raises(DelegateFailed, match=r"cannot be run: .*/fake: Exec format error"):
        ipam().release(call_of("fake", tmp_path))


def test_a_plugin_that_is_being_written_is_called_when_it_is_complete(script: Writer, tmp_path: Path) -> None:
    call = script('touch "$D/trace"')
    with open(tmp_path / "fake", "ab") as file:
        timer = _closing_later(file)
        ipam().release(call)
        timer.join()
    assert (tmp_path / "trace").exists()


def test_a_plugin_that_stays_open_for_writing_ends_as_try_again_later(script: Writer, tmp_path: Path) -> None:
    call = script('touch "$D/trace"')
    with open(tmp_path / "fake", "ab"), pytest.raises(TryAgainLater, match="Text file busy"):
        ipam(seconds=0.3).release(call)
    assert not (tmp_path / "trace").exists()


def _closing_later(file: IO[bytes]) -> threading.Timer:
    timer = threading.Timer(0.3, file.close)
    timer.start()
    return timer


def test_every_failure_is_an_error_that_a_runtime_understands(script: Writer) -> None:
    with pytest.raises(CniError) as caught:
        ipam().lease(script("exit 7"))
    assert isinstance(caught.value.code, int)
    assert caught.value.msg
