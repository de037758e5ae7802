"""The resident process: connections go to waiting children, and a shortage leaves the call to its launcher."""

from __future__ import annotations

import _socket
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from cni.errors import IoFailure
from cni.helper import descriptors, service, start, warm
from cni.helper.call import House

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAIR = descriptors.pair
HOUSE = House(build="b", programs={}, namespaces={})


class Ended(Exception):
    """Takes the place of the end of a process."""


class Processes:
    """Forks of a parent that live until a test ends them. `refused`: no more of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused = False
        self._numbers = iter(range(1001, 2000))
        self._ended: list[int] = []
        monkeypatch.setattr(os, "fork", self.fork)
        monkeypatch.setattr(os, "waitpid", self.waitpid)

    def fork(self) -> int:
        if self.refused:
            raise BlockingIOError(11, "no more processes")
        return next(self._numbers)

    def end(self, pid: int) -> None:
        self._ended.append(pid)

    def waitpid(self, _pid: int, _options: int) -> tuple[int, int]:
        return (self._ended.pop(), 0) if self._ended else (0, 0)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    return Processes(monkeypatch)


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[_socket.socket]]:
    """The children's ends of all channels that are made, which a parent would close after its fork."""
    ends: list[_socket.socket] = []

    def made() -> tuple[_socket.socket, _socket.socket]:
        ours, child = PAIR()
        ends.append(child)
        return ours, descriptors.connection_of(os.dup(child.fileno()))

    monkeypatch.setattr(descriptors, "pair", made)
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def connection() -> Iterator[_socket.socket]:
    ours, client = PAIR()
    yield ours
    ours.close()
    client.close()


@pytest.fixture
def all_children() -> Iterator[service._Children]:
    found = service._Children(HOUSE, (), 64)
    yield found
    for channel in found._waiting.values():
        channel.close()


def test_a_connection_goes_to_the_child_that_has_waited_longest(
    all_children: service._Children, processes: Processes, theirs: list[_socket.socket], connection: _socket.socket
) -> None:
    all_children.prepare()
    all_children.give(connection)
    word, fds = descriptors.receive(theirs[0], 1, 1)
    assert (word, len(fds), all_children.busy) == (b"C", 1, {1001})
    os.close(fds[0])
    theirs[0].setblocking(False)
    assert descriptors.receive(theirs[0], 1, 1) == (b"", [])  # The helper has closed its end.


def test_a_child_that_was_killed_while_it_waited_is_passed_over(
    all_children: service._Children, processes: Processes, theirs: list[_socket.socket], connection: _socket.socket
) -> None:
    all_children.prepare()
    theirs[0].close()
    all_children.give(connection)
    _word, fds = descriptors.receive(theirs[1], 1, 1)
    assert len(fds) == 1
    os.close(fds[0])


def test_without_a_process_a_connection_goes_to_nobody(
    all_children: service._Children, processes: Processes, connection: _socket.socket
) -> None:
    processes.refused = True
    all_children.prepare()
    all_children.give(connection)
    assert all_children.busy == set()


def test_without_descriptors_no_child_is_forked(
    all_children: service._Children, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(descriptors, "pair", refused)
    assert not all_children._fork()


def test_beyond_the_limit_a_connection_goes_to_nobody_until_a_call_ends(
    all_children: service._Children, processes: Processes, theirs: list[_socket.socket], connection: _socket.socket
) -> None:
    all_children._most = 1
    all_children.prepare()
    all_children.give(connection)
    all_children.give(connection)
    assert all_children.busy == {1001}
    processes.end(1001)
    all_children.reap()
    assert all_children.busy == set()
    all_children.give(connection)
    assert all_children.busy == {1002}


def test_a_child_that_ends_while_it_waits_is_replaced(
    all_children: service._Children, processes: Processes, theirs: list[_socket.socket]
) -> None:
    all_children.prepare()
    processes.end(1001)
    all_children.reap()
    all_children.prepare()
    assert len(theirs) == 3


# A child.


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the life of a child; returns the connections that it has served."""
    served: list[int] = []

    def ended(_code: int) -> None:
        raise Ended

    def attend(connection: _socket.socket, _house: House) -> None:
        served.append(connection.fileno())
        connection.close()

    monkeypatch.setattr(os, "_exit", ended)
    monkeypatch.setattr(os, "setsid", lambda: None)
    monkeypatch.setattr(service, "attend", attend)
    yield served
    signal.alarm(0)


def live(channel: _socket.socket, closed: list[int] | None = None) -> None:
    with pytest.raises(Ended):
        service._wait(channel, HOUSE, closed or [])


def test_a_child_serves_the_connection_that_it_gets_and_keeps_nothing_of_the_helper(
    child: list[int], connection: _socket.socket
) -> None:
    ours, channel = descriptors.pair()
    kept = os.dup(ours.fileno())
    descriptors.send(ours, b"C", [connection.fileno()])
    live(channel, [kept])
    assert len(child) == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kept)
    ours.close()


def test_only_a_child_that_has_to_wait_rehearses(
    child: list[int], connection: _socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime waits for a child that is forked for a connection."""
    rehearsals = []

    def rehearse() -> None:
        rehearsals.append(len(child))
        descriptors.send(ours, b"C", [connection.fileno()])

    monkeypatch.setattr(service, "rehearse", rehearse)
    ours, channel = descriptors.pair()
    live(channel)
    ours.close()
    assert (rehearsals, len(child)) == ([0], 1)
    ours, channel = descriptors.pair()
    descriptors.send(ours, b"C", [connection.fileno()])
    live(channel)
    ours.close()
    assert (rehearsals, len(child)) == ([0], 2)


def test_a_child_without_a_connection_ends_with_the_helper(child: list[int]) -> None:
    ours, channel = descriptors.pair()
    ours.close()
    live(channel)
    assert child == []


def test_a_child_that_leaves_a_call_says_so_in_the_log(
    child: list[int], connection: _socket.socket, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(connection: _socket.socket, _house: House) -> None:
        connection.close()
        raise ValueError("the reason")

    monkeypatch.setattr(service, "attend", refuse)
    ours, channel = descriptors.pair()
    descriptors.send(ours, b"C", [connection.fileno()])
    live(channel)
    ours.close()
    assert capfd.readouterr().out == "barewire-helper: a call was left to its launcher: the reason\n"


# The socket.


def test_the_socket_is_for_its_owner_alone_and_replaces_one_without_an_owner(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    listener, lock = service.listen(path)
    assert os.stat(path).st_mode & 0o777 == 0o600
    with pytest.raises(IoFailure, match="another helper serves"):
        service.listen(path)
    listener.close()
    os.close(lock)


def test_a_socket_that_cannot_be_made_is_an_error_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(IoFailure, match=r"cannot listen at .*: Is a directory"):
        service.listen(str(tmp_path / "s"))


def test_a_client_is_accepted_and_none_is_waited_for(tmp_path: Path) -> None:
    listener, lock = service.listen(str(tmp_path / "s"))
    assert service._accepted(listener) is None
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(tmp_path / "s"))
        accepted = service._accepted(listener)
        assert accepted is not None
        accepted.close()
    listener.close()
    os.close(lock)


# The start.


@pytest.mark.parametrize(
    ("text", "build"), [(None, "source"), ("version=1\nbuild=abc\n", "abc"), ("version=1\n", ""), ("nothing\n", "")]
)
def test_the_build_is_that_of_the_bundle(tmp_path: Path, text: str | None, build: str) -> None:
    if text is not None:
        (tmp_path / "bundle.info").write_text(text)
    if build:
        assert start.build_of(str(tmp_path)) == build
        return
    with pytest.raises(IoFailure, match=r"cannot read .*bundle\.info"):
        start.build_of(str(tmp_path))


@pytest.mark.parametrize("arguments", [[], ["relative.sock"], ["/a", "/b"]])
def test_without_the_path_of_a_socket_the_helper_says_how_it_is_called(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="usage: barewire-helper"):
        start.main(arguments)


def test_a_directory_that_others_may_write_to_is_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "_start_afresh", lambda: None)
    tmp_path.chmod(0o777)
    with pytest.raises(SystemExit, match=r"others may write to it\s+what to do: chown"):
        start.main([f"{tmp_path}/s"])


def test_a_module_that_does_not_exist_any_more_does_not_keep_the_helper_from_its_start() -> None:
    assert warm.load_all(["cni.nothing", "cni.value"]) == ["cni.nothing"]
