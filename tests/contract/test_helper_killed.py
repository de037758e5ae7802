"""The helper and its children are killed at each system call between the start of a call and its handover.

Every call still ends as one document and one exit code: the launcher executes the plugin, or reports the kill. For the
steps after the handover see the fault matrices in tests/lab and tests/userspace.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.launched import IMPATIENT, SECONDS, Helper, World, by_helper, compiled, stand_alone

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the helper serves root")

OF_THE_HELPER = ("accept4", "sendmsg", "close", "wait4", "socketpair", "clone,clone3,fork", "poll")
OF_A_CHILD = ("poll", "getsockopt", "openat", "memfd_create", "newfstatat", "fchdir", "chroot", "umask")


@pytest.fixture
def world(tmp_path: Path, launcher: Path) -> World:
    return World(tmp_path, launcher)


@contextlib.contextmanager
def killed_at(pid: int, call: str) -> Iterator[subprocess.Popen[str]]:
    """Kills the process before its next system call of that name."""
    command = ["strace", "-qq", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when=1", "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        await_tracer(pid)
        yield tracer
        tracer.kill()


def await_tracer(pid: int) -> None:
    deadline = time.monotonic() + SECONDS
    while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.005)  # strace gives no sign without -q


@pytest.mark.parametrize("call", OF_THE_HELPER)
def test_a_helper_that_is_killed_at_any_step_leaves_the_call_with_one_answer(world: World, call: str) -> None:
    with Helper(world.socket) as helper:
        helper.next_child()  # It has forked both.
        with killed_at(helper.pid, call):
            called = world.call()
            helper.process.wait(SECONDS)
        # It may have given the connection to a child before.
        assert stand_alone(called) or by_helper(called), called
    assert stand_alone(world.call())
    assert world.deleted() == []


@pytest.fixture(scope="module")
def helped(tmp_path_factory: pytest.TempPathFactory, launcher: Path) -> Iterator[tuple[World, Helper]]:
    world = World(tmp_path_factory.mktemp("helped"), launcher)
    with Helper(world.socket) as helper:
        yield world, helper


@pytest.mark.parametrize("call", OF_A_CHILD)
def test_a_child_that_is_killed_before_it_is_ready_leaves_the_call_to_its_launcher(
    helped: tuple[World, Helper], call: str
) -> None:
    world, helper = helped
    with killed_at(helper.next_child(), call):
        called = world.call()
    assert stand_alone(called), called
    assert by_helper(world.call())
    assert world.deleted() == []


def test_a_helper_that_is_stopped_during_a_call_keeps_neither_it_nor_the_next_one(world: World) -> None:
    """The call goes on in its child. The next one waits as long as its launcher does, and is executed."""
    world.pipes()
    with Helper(world.socket) as helper, world.start("wait") as call:
        world.await_call()
        helper.process.send_signal(signal.SIGSTOP)
        world.let_go()
        out, _ = call.communicate(timeout=SECONDS)
        assert (call.returncode, json.loads(out)["cniVersion"]) == (0, "1.0.0")
        impatient = world._replace(launcher=compiled(world.folder, ready_seconds=IMPATIENT))
        assert stand_alone(impatient.call())
        helper.process.send_signal(signal.SIGCONT)
        assert by_helper(world.call())
    assert world.deleted() == []
