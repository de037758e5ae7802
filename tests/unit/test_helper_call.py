"""A child of the helper between its launcher's messages: its responses, and the changes that it reverts."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from cni import serve
from cni.attachment.delegate import cleaned
from cni.helper import call, descriptors, protocol, surroundings
from cni.protocol.result import Result

if TYPE_CHECKING:
    import _socket
    from collections.abc import Iterator

    from cni.protocol.request import Request

CONF = b'{"cniVersion": "1.0.0", "name": "net", "type": "probe"}'
VARIABLES = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/nowhere",
    "CNI_IFNAME": "net1",
    "CNI_PATH": "/",
}


class Plugin:
    def __init__(self) -> None:
        self.undone: list[str] = []

    def add(self, request: Request) -> Result:
        return Result()

    def delete(self, request: Request) -> None: ...

    def undo(self, request: Request) -> None:
        self.undone.append(request.container_id)

    def check(self, request: Request) -> None: ...

    def gc(self, request: Request) -> None: ...

    def status(self, request: Request) -> None: ...


@pytest.fixture
def pair() -> Iterator[tuple[_socket.socket, _socket.socket]]:
    ours, theirs = descriptors.pair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        yield ours, theirs


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt(*_args: object) -> Any:
    raise KeyboardInterrupt


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch, pair: tuple[_socket.socket, _socket.socket]) -> Any:
    """Serves an ADD whose result is never read; returns what was deleted."""

    def add() -> list[str]:
        plugin = Plugin()
        for name, value in VARIABLES.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(call, "read_all", lambda _fd, _seconds: CONF)
        house = call.House(build="b", programs={"probe": lambda _request: plugin}, namespaces={}, delivery_seconds=0.0)
        output = os.memfd_create("output")
        try:
            call._serve(pair[0], "probe", output, house)
        finally:
            os.close(output)
        return plugin.undone

    return add


def test_an_add_that_is_interrupted_before_its_result_is_sent_is_undone(
    added: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "silence", interrupt)
    assert added() == ["c1"]


def test_an_add_that_is_interrupted_as_it_succeeds_is_undone(added: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def served(*args: Any) -> int:
        serve.serve(*args)
        return int(interrupt())

    monkeypatch.setattr(call, "serve", served)
    assert added() == ["c1"]


def test_after_its_work_a_child_is_not_interrupted(added: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "silence", lambda: os.kill(os.getpid(), signal.SIGINT))
    assert added() == []


def test_a_launcher_that_said_go_as_its_child_gave_up_learns_that_nothing_was_done(
    pair: tuple[_socket.socket, _socket.socket],
) -> None:
    ours, theirs = pair
    descriptors.send(theirs, protocol.GO, [0, 2])
    call._refuse(ours)
    assert theirs.recv(10) == protocol.UNTOUCHED
    with pytest.raises(BrokenPipeError):
        descriptors.send(theirs, protocol.GO)


def test_the_library_path_of_the_launcher_is_kept_for_the_programs_that_a_plugin_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    before = dict(os.environ)
    try:
        surroundings._take_environment({"A": "1", "LD_LIBRARY_PATH": "/opt/lib"})
        assert cleaned(os.environ) == {"A": "1", "LD_LIBRARY_PATH": "/opt/lib"}
    finally:
        for name, value in before.items():
            os.putenv(name, value)


def test_the_groups_of_two_processes_are_equal_in_any_order_and_with_the_main_one_once() -> None:
    none, listed, more = ({"Gid": "0\t0\t0\t0", "Groups": groups} for groups in ("", "0", "7 0"))
    assert surroundings._groups(none) == surroundings._groups(listed) == [0]
    assert surroundings._groups(more) == [0, 7]
