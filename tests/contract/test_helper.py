"""A launcher passes a call on to the helper: what the call receives, and what the runtime sees of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.launched import (
    ENV,
    FROM_SOURCE,
    IMPATIENT,
    SECONDS,
    Helper,
    World,
    by_helper,
    compiled,
    is_ended,
    refusal,
    stand_alone,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the helper serves root")


@pytest.fixture
def world(tmp_path: Path, launcher: Path) -> World:
    return World(tmp_path, launcher)


# A call in the helper


def test_an_add_is_answered_by_the_helper(served: World) -> None:
    called = served.call()
    assert (called.code, json.loads(called.out)["cniVersion"], called.err) == (0, "1.0.0", b"")


def test_a_call_sees_what_its_launcher_inherited(served: World, tmp_path: Path) -> None:
    env = {"CNI_ARGS": "A=\udc80", "LANG": "x", "EMPTY": ""}
    report = json.loads(refusal(served.call("report", env=env, cwd=tmp_path, umask=0o027))["msg"])
    assert report["environment"] == {**ENV, **env}
    assert (report["umask"], report["directory"]) == (0o027, str(tmp_path))
    assert report["net"] == Path("/proc/self/ns/net").stat().st_ino
    assert report["session"]


def test_a_call_has_nothing_of_the_helpers_but_its_modules(served: World) -> None:
    report = json.loads(refusal(served.call("report"))["msg"])
    # The connection to its launcher, and the file for the output.
    assert len(report["descriptors"]) == 2
    assert report["listening"] == []


@pytest.mark.parametrize("unshare", [["--net"], ["--mount"], ["--uts"], ["--net", "--mount", "--uts"]])
def test_a_call_is_in_its_launchers_namespaces(served: World, unshare: list[str]) -> None:
    report = json.loads(refusal(served.call("report", prefix=["unshare", *unshare]))["msg"])
    for kind, option in (("net", "--net"), ("mnt", "--mount"), ("uts", "--uts")):
        own = os.stat(f"/proc/self/ns/{kind}").st_ino
        assert (report[kind] != own) == (option in unshare)


def test_a_call_from_a_container_with_the_nodes_root_sees_that_root(served: World, tmp_path: Path) -> None:
    # Thick Multus does it in this way: another mount namespace, then chroot.
    script = 'mount --rbind / "$1" && mount --bind "$2" "$1$2" && shift 2 && exec chroot "$0" "$@"'
    script = script.replace('"$0"', f'"{tmp_path}"')
    prefix = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), str(served.folder)]
    report = json.loads(refusal(served.call("report", prefix=prefix))["msg"])
    assert report["directory"] == "/"
    assert report["mnt"] != os.stat("/proc/self/ns/mnt").st_ino


@pytest.mark.parametrize("unshare", [["--pid", "--fork", "--mount-proc"], ["--user", "--map-root-user"]])
def test_a_launcher_whose_processes_or_users_are_others_executes_the_plugin(served: World, unshare: list[str]) -> None:
    assert stand_alone(served.call("report", prefix=["unshare", *unshare]))


def test_a_root_without_rights_gets_none_from_the_helper(served: World) -> None:
    assert stand_alone(served.call("report", prefix=["setpriv", "--bounding-set=-net_admin", "--inh-caps=-all"]))


@pytest.mark.parametrize("fewer", [["--bounding-set=-sys_boot", "--inh-caps=-all"], ["--groups=7"]])
def test_a_launcher_with_other_rights_than_the_helper_keeps_them(world: World, fewer: list[str]) -> None:
    with Helper(world.socket, ("setpriv", *fewer, *FROM_SOURCE)):
        assert stand_alone(world.call())


def test_another_user_is_not_served(served: World) -> None:
    served.folder.chmod(0o711)
    served.socket.chmod(0o666)
    for folder in (served.folder.parent, served.folder.parent.parent):
        folder.chmod(0o711)
    try:
        assert stand_alone(served.call(prefix=["setpriv", "--reuid=65534", "--clear-groups"]))
    finally:
        served.folder.chmod(0o700)
        served.socket.chmod(0o600)


def test_the_socket_is_roots_alone(served: World) -> None:
    assert served.socket.stat().st_mode & 0o7777 == 0o600


def test_an_output_of_any_size_arrives_whole(served: World) -> None:
    called = served.call("large")
    assert (called.code, len(json.loads(called.out)["ips"])) == (0, 20_000)


def test_a_call_whose_process_is_killed_is_one_error_object(served: World) -> None:
    document = refusal(served.call("die"))
    assert (document["code"], "was killed" in document["msg"]) == (5, True)


def test_a_call_whose_root_has_no_dev_null_is_served(served: World) -> None:
    called = served.call(prefix=["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh"])
    assert (called.code, json.loads(called.out)["cniVersion"]) == (0, "1.0.0")


def test_an_add_that_leaves_no_descriptor_is_delivered(served: World) -> None:
    called = served.call("exhaust")
    assert (called.code, json.loads(called.out)["cniVersion"]) == (0, "1.0.0")


def test_version_is_answered_while_stdin_is_open(served: World) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as stdin, open(writer, "wb"):
        done = subprocess.run(
            [served.probe()],
            env={"CNI_COMMAND": "VERSION"},
            stdin=stdin,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 0
    assert "1.1.0" in json.loads(done.stdout)["supportedVersions"]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_call_with_a_closed_descriptor_is_not_handed_over(served: World, closed: str) -> None:
    marker = served.folder / "executed"
    (served.folder / "bundle").mkdir(exist_ok=True)
    plugin = served.probe()
    (served.folder / "bundle" / "probe").write_text(f"#!/bin/sh\n: >{marker}\n")
    subprocess.run(["/bin/sh", "-c", f"exec {plugin} {closed}"], env=ENV, timeout=SECONDS, check=True)
    marker.unlink()


def test_without_a_command_the_plugin_is_executed_with_its_arguments(served: World) -> None:
    done = subprocess.run(
        [served.probe(), "a", "b"], env={}, input=b"c", capture_output=True, timeout=SECONDS, check=True
    )
    assert done.stdout == b"stand-alone a b:c"


@pytest.mark.parametrize("size", [60_000, 100_000])
def test_a_call_with_a_large_environment_is_served_either_way(served: World, size: int) -> None:
    called = served.call(env={"LARGE": "x" * size})
    assert called.code == 0
    assert stand_alone(called) == (size > 1 << 16)


# A runtime that goes away


def test_an_add_is_undone_when_its_launcher_has_gone(world: World) -> None:
    world.pipes()
    with Helper(world.socket), world.start("wait") as call:
        child = world.await_call()
        call.kill()
        call.wait(SECONDS)
        world.let_go()
        assert is_ended(child)
    assert world.deleted() == ["c1"]


def test_a_del_is_finished_when_its_launcher_has_gone(world: World) -> None:
    world.pipes()
    with Helper(world.socket), world.start("wait", env={"CNI_COMMAND": "DEL"}) as call:
        child = world.await_call()
        call.kill()
        call.wait(SECONDS)
        world.let_go()
        assert is_ended(child)
    assert world.deleted() == ["c1"]


def test_an_add_whose_output_nobody_reads_is_undone(world: World) -> None:
    world.pipes()
    with Helper(world.socket), world.start("wait") as call:
        child = world.await_call()
        assert call.stdout
        call.stdout.close()
        world.let_go()
        assert call.wait(SECONDS) == 1
        assert is_ended(child)
    assert world.deleted() == ["c1"]


def test_an_add_that_succeeded_is_not_undone(world: World) -> None:
    world.pipes()
    with Helper(world.socket), world.start("wait") as call:
        child = world.await_call()
        world.let_go()
        assert call.wait(SECONDS) == 0
        assert is_ended(child)
    assert world.deleted() == []


def interrupted(call: subprocess.Popen[bytes]) -> bytes:
    """The output of a call that is interrupted until it ends.

    Python loses an interrupt that comes just before a system call that waits, such as the open of a pipe.
    """
    try:
        for _ in range(int(SECONDS)):
            call.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return call.communicate(timeout=1)[0]
        raise AssertionError("the call does not end")
    finally:
        call.kill()


def test_an_interrupt_is_the_childs(world: World) -> None:
    world.pipes()
    with Helper(world.socket), world.start("wait") as call:
        world.await_call()
        out = interrupted(call)
    assert (call.returncode, "KeyboardInterrupt" in json.loads(out)["msg"]) == (1, True)


# A helper that is missing or not working


def test_without_a_helper_the_plugin_is_executed_with_the_same_stdin(world: World) -> None:
    called = world.call()
    assert stand_alone(called)
    assert json.loads(called.out.partition(b":")[2])["name"] == "net"


def test_a_bundle_elsewhere_is_found_through_the_entrys_link(world: World, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "probe"
    link.symlink_to(world.probe())
    done = subprocess.run([link], env={}, input=b"c", capture_output=True, timeout=SECONDS, check=True)
    assert done.stdout == b"stand-alone :c"


def test_an_entry_without_its_bundle_is_one_error_object(world: World) -> None:
    plugin = world.probe()
    (world.folder / "bundle" / "probe").unlink()
    done = subprocess.run([plugin], env=ENV, input=b"c", capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["msg"] == f"{world.folder}/bundle/probe is missing"


def test_a_launcher_without_its_lines_is_one_error_object(world: World) -> None:
    done = subprocess.run([world.launcher], env=ENV, input=b"c", capture_output=True, timeout=SECONDS, check=False)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 5)


def test_a_helper_that_was_killed_is_not_missed(world: World) -> None:
    with Helper(world.socket) as helper:
        waiting = helper.children()
        helper.kill()
        assert all(is_ended(child) for child in waiting)
        assert stand_alone(world.call())
    with Helper(world.socket):
        assert by_helper(world.call())


def test_a_call_outlives_the_helper(world: World) -> None:
    world.pipes()
    with Helper(world.socket) as helper, world.start("wait") as call:
        world.await_call()
        helper.kill()
        with Helper(world.socket):
            world.let_go()
            out, _ = call.communicate(timeout=SECONDS)
    assert (call.returncode, json.loads(out)["cniVersion"], world.deleted()) == (0, "1.0.0", [])


def test_children_that_were_killed_while_they_waited_are_replaced(world: World) -> None:
    with Helper(world.socket) as helper:
        for _ in range(2):
            for pid in helper.children():
                os.kill(pid, signal.SIGKILL)
                assert is_ended(pid)
            assert by_helper(world.call())


def test_a_helper_that_is_stopped_costs_a_call_its_patience_and_never_acts_later(world: World) -> None:
    impatient = world._replace(launcher=compiled(world.folder, ready_seconds=IMPATIENT))
    with Helper(world.socket) as helper:
        waiting = helper.children()
        helper.process.send_signal(signal.SIGSTOP)
        called = impatient.call()
        helper.process.send_signal(signal.SIGCONT)
        assert stand_alone(called)
        assert by_helper(world.call())
        assert all(is_ended(child) for child in waiting)
    assert world.deleted() == []


def test_a_full_queue_is_not_waited_for(world: World) -> None:
    with Helper(world.socket) as helper:
        helper.process.send_signal(signal.SIGSTOP)
        clients = []
        try:
            while True:
                client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                clients.append(client)
                client.setblocking(False)
                client.connect(str(world.socket))
        except BlockingIOError:
            assert stand_alone(world.call())
        finally:
            helper.process.send_signal(signal.SIGCONT)
            for client in clients:
                client.close()


def test_a_full_log_holds_neither_a_launcher_nor_a_child(world: World) -> None:
    other = world._replace(launcher=compiled(world.folder, build="other"))
    with Helper(world.socket) as helper:
        assert by_helper(world.call())
        children = helper.children()
        assert children
        with open(f"/proc/{helper.pid}/fd/1", "wb", buffering=0, opener=unblocked) as log:
            while log.write(b"x" * 4096):
                pass
        assert all(stand_alone(other.call()) for _ in children)
        assert all(is_ended(child) for child in children)


def unblocked(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


@pytest.mark.parametrize(
    "way",
    [
        ["sh", "-c", 'exec "$@" <&-', "sh"],
        ["env", "--ignore-signal=CHLD", "--ignore-signal=INT", "--block-signal=INT"],
    ],
)
def test_a_helper_is_well_however_it_was_started(world: World, way: list[str]) -> None:
    world.pipes()
    with Helper(world.socket, (*way, *FROM_SOURCE)):
        for _ in range(3):
            assert by_helper(world.call())
        with world.start("wait") as call:
            world.await_call()
            interrupted(call)
            assert call.returncode == 1


def test_no_call_holds_what_the_helper_was_started_with(world: World) -> None:
    with Helper(world.socket, ("sh", "-c", 'exec "$@" 7</dev/null 8</dev/null', "sh", *FROM_SOURCE)):
        report = json.loads(refusal(world.call("report"))["msg"])
    assert len(report["descriptors"]) == 2


def test_two_helpers_do_not_share_a_socket(world: World) -> None:
    with Helper(world.socket):
        with pytest.raises(RuntimeError):
            Helper(world.socket)
        assert by_helper(world.call())


def test_a_launcher_of_another_build_is_not_served(world: World) -> None:
    other = world._replace(launcher=compiled(world.folder, build="other"))
    with Helper(world.socket):
        assert stand_alone(other.call())
        assert not stand_alone(world.call())
