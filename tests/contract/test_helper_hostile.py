"""Clients and helpers that send arbitrary data or nothing; helpers that lack what they need, or are replaced under
load.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from cni.helper import protocol, service
from tests.launched import ENV, IMPATIENT, SECONDS, Helper, World, by_helper, compiled, stand_alone

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the helper serves root")

FEW = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def world(tmp_path: Path, launcher: Path) -> World:
    return World(tmp_path, launcher)


def connected(world: World) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.settimeout(SECONDS)
    client.connect(str(world.socket))
    return client


def is_served(world: World) -> bool:
    return by_helper(world.call())


# Clients


HEADS = st.sampled_from([b"", b"source\0probe\x00022\0", b"source\0nope\x00022\0", b"other\0probe\x00022\0"])


@FEW
@given(
    HEADS,
    st.binary(max_size=200) | st.just(b"CNI_COMMAND=ADD\0"),
    st.integers(0, 12),
    st.lists(st.binary(min_size=1, max_size=3), max_size=2),
)
def test_any_client_is_turned_away_and_the_next_is_served(
    served: World, head: bytes, rest: bytes, descriptors: int, words: list[bytes]
) -> None:
    with connected(served) as client, open(os.devnull, "rb") as null, contextlib.suppress(OSError):
        socket.send_fds(client, [head + rest or b"x"], [null.fileno()] * descriptors)
        for word in words:
            client.send(word)
        client.shutdown(socket.SHUT_WR)
        # Descriptors of /dev/null are not namespaces, so no client gets as far as READY.
        assert (client.recv(100), client.recv(100)) == (protocol.UNTOUCHED, b"")
    assert is_served(served)


def test_clients_that_say_nothing_hold_only_themselves(served: World) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(served)) for _ in range(10)]
        assert is_served(served)
        assert all(client.recv(2) == protocol.UNTOUCHED for client in clients)  # after the helper's time limit


REQUEST = b"source\0probe\x00022\0CNI_COMMAND=ADD\0"
PATHS = ["/", "."] + [f"/proc/self/ns/{kind}" for kind in protocol.INHERITED[2:]]


@pytest.fixture
def ready(served: World) -> Iterator[socket.socket]:
    """A client whose child waits for GO."""
    with connected(served) as client, contextlib.ExitStack() as stack:
        fds = [os.open(path, os.O_RDONLY) for path in PATHS]
        for fd in fds:
            stack.callback(os.close, fd)
        socket.send_fds(client, [REQUEST], fds)
        assert client.recv(10)[:1] == b"R"
        yield client


def test_a_go_without_its_descriptors_leaves_the_call_to_the_launcher(ready: socket.socket) -> None:
    ready.send(protocol.GO)
    assert (ready.recv(10), ready.recv(10)) == (protocol.UNTOUCHED, b"")


def test_a_child_that_has_given_up_says_so_and_takes_no_go(ready: socket.socket) -> None:
    assert ready.recv(10) == protocol.UNTOUCHED
    with pytest.raises(BrokenPipeError):
        ready.send(protocol.GO)


def test_beyond_its_number_of_children_a_helper_leaves_calls_to_their_launchers(served: World) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(served)) for _ in range(service.MOST)]
        while not stand_alone(served.call()):  # on a busy machine the helper may have given up some of them by now
            clients.append(stack.enter_context(connected(served)))
    while stand_alone(served.call()):  # until the children have ended
        pass


# Helpers


@FEW
@given(st.lists(st.binary(max_size=8), max_size=3))
@example([b"R\xff\xff\xff\x7f", b"\0"])
@example([b"R\0\0\0\0"])
@example([b"R\0\0\0\x80"])
@example([b"R12345"])
@example([b"", b"R"])
@example([b"R\xff\xff\xff\x7f", protocol.UNTOUCHED])
@example([protocol.UNTOUCHED])
def test_whatever_a_helper_says_a_call_is_one_document_and_one_exit_code(
    world_of_words: World, words: list[bytes]
) -> None:
    """Returns which program answered. The launcher executes the plugin only if it has not sent GO, or if that was left
    to it.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path = world_of_words.socket
    path.unlink(missing_ok=True)
    listener.bind(str(path))
    listener.listen()
    went: list[bool] = []

    def speak() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.settimeout(SECONDS)
            socket.recv_fds(connection, 1 << 16, 0)
            for word in words:
                connection.send(word)
            connection.shutdown(socket.SHUT_WR)
            while text := connection.recv(10):
                went.append(text == b"G")

    thread = threading.Thread(target=speak)
    thread.start()
    with listener:
        called = world_of_words.call()
        thread.join(SECONDS)
    if any(went) and words[1:2] != [protocol.UNTOUCHED]:
        assert (called.code, json.loads(called.out)["code"]) == (1, 5)
    else:
        assert stand_alone(called)


def test_a_plugin_that_is_executed_after_go_can_be_interrupted(world_of_words: World) -> None:
    plugin = world_of_words.probe()
    program = plugin.parent / "bundle" / "probe"
    program.write_text("#!/bin/sh\nexec grep -E '^Sig(Blk|Pnd)' /proc/self/status\n")
    world_of_words.socket.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(world_of_words.socket))
        listener.listen()
        with subprocess.Popen([plugin], env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as call:
            connection, _ = listener.accept()
            with connection:
                connection.send(b"R\xff\xff\xff\x7f")
                connection.settimeout(SECONDS)
                while connection.recv(1 << 16) != protocol.GO:
                    pass
                connection.send(protocol.UNTOUCHED)
            out, _ = call.communicate(timeout=SECONDS)
    assert out.split() == [b"SigPnd:", b"0" * 16, b"SigBlk:", b"0" * 16]


@pytest.fixture(scope="module")
def world_of_words(tmp_path_factory: pytest.TempPathFactory, launcher: Path) -> World:
    return World(tmp_path_factory.mktemp("words"), launcher)


def test_a_helper_without_descriptors_leaves_calls_to_their_launchers_and_recovers(world: World) -> None:
    with Helper(world.socket) as helper:
        assert is_served(world)
        soft, hard = resource.prlimit(helper.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(helper.pid, resource.RLIMIT_NOFILE, (6, hard))
        impatient = world._replace(launcher=compiled(world.folder, ready_seconds=IMPATIENT))
        called = [impatient.call() for _ in range(4)]
        assert all(one.code == 0 for one in called), called
        assert stand_alone(called[-1])
        resource.prlimit(helper.pid, resource.RLIMIT_NOFILE, (soft, hard))
        while stand_alone(impatient.call()):
            pass


def test_an_upgrade_under_load_leaves_every_call_with_one_answer(world: World) -> None:
    """Launchers and helpers of two builds, as install.sh replaces them: each call is served by one of them."""
    world.probe()  # A program that another thread is still writing cannot be executed.
    with ThreadPoolExecutor(4) as pool:
        stop = threading.Event()

        def load() -> list[tuple[int, bool]]:
            answers = []
            while not stop.is_set():
                called = world.call()
                answers.append((called.code, stand_alone(called) or json.loads(called.out)["cniVersion"] == "1.0.0"))
            return answers

        futures = [pool.submit(load) for _ in range(3)]
        try:
            for _ in range(3):
                with Helper(world.socket):
                    is_served(world)
        finally:
            stop.set()
        answers = [answer for future in futures for answer in future.result(SECONDS)]
    assert set(answers) == {(0, True)}


def test_a_helper_has_less_than_30_megabytes(world: World) -> None:
    with Helper(world.socket) as helper:
        assert is_served(world)
        status = Path(f"/proc/{helper.pid}/status").read_text()
    assert int(status.partition("VmRSS:")[2].split()[0]) < 30_000
