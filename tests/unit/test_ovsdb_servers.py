"""OVSDB servers that are missing, slow, or not OVSDB: each call ends in time, with a message about it.

tests/contract/test_ovsdb.py tests the real server.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cni.errors import TryAgainLater, VswitchRefused
from cni.userspace.vswitch.operations import select
from cni.userspace.vswitch.ovs import OvsDpdk
from cni.userspace.vswitch.ovsdb import Database

SECONDS = 10.0


def soon(seconds: float = SECONDS) -> float:
    return time.monotonic() + seconds


@pytest.fixture
def serve(tmp_path) -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Starts a server that treats each connection with a function; returns its remote."""
    threads: list[threading.Thread] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()

    def start(treat: Callable[[socket.socket], None]) -> str:
        def run() -> None:
            with listener.accept()[0] as connection:
                treat(connection)

        threads.append(threading.Thread(target=run))
        threads[0].start()
        return f"unix:{tmp_path / 's'}"

    yield start
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    listener.close()


def ask(remote: str, seconds: float = SECONDS) -> Any:
    with Database(remote, soon()) as database:
        return database.transact([select("Bridge", [], ("name",))], soon(seconds))


ANSWER = b'{"id":1,"error":null,"result":[{"rows":[{"name":"\xc3\xa4 } \\" { b"}]}]}'
ROWS = [{"rows": [{"name": 'ä } " { b'}]}]


@pytest.mark.parametrize("size", [1, 2, 7, len(ANSWER) - 1])
def test_an_answer_in_pieces_is_read(serve, size):
    def treat(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        for at in range(0, len(ANSWER), size):
            connection.sendall(ANSWER[at : at + size])

    assert ask(serve(treat)) == ROWS


def test_probes_are_answered_and_other_messages_passed_over(serve):
    answers: list[Any] = []

    def treat(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b'{"id":"echo","method":"echo","params":[1]}{"id":null,"method":"update","params":[]}')
        answers.append(json.loads(connection.recv(1 << 16)))
        connection.sendall(b'{"id":99,"error":null,"result":[]}\n' + ANSWER)

    assert ask(serve(treat)) == ROWS
    assert answers == [{"id": "echo", "result": [1], "error": None}]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "hung up"),
        (b'{"id":1,', "hung up"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not OVSDB's"),
        (b'{"id":1,"error":null,"result":{}}', "not OVSDB's"),
        (b'{"id":1,"error":null,"result":[]}', "not OVSDB's"),
        (b'{"id":1,"error":null,"result":[5]}', "not OVSDB's"),
        (b'{"id":1,"error":null,"result":[{},{}]}', "not OVSDB's"),
    ],
)
def test_a_server_that_hangs_up_or_is_none_is_tried_again_later(serve, said, why):
    def treat(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(said)

    with pytest.raises(TryAgainLater, match=why) as caught:
        ask(serve(treat))
    assert "ovsdb-server" in caught.value.hint


def test_an_error_instead_of_results_is_a_refusal(serve):
    def treat(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b'{"id":1,"result":null,"error":{"error":"unknown database","details":"no such"}}')

    with pytest.raises(VswitchRefused, match="unknown database: no such") as caught:
        ask(serve(treat))
    assert caught.value.operation == -1


def test_an_error_that_comes_without_results_is_a_refusal_and_not_waited_out(serve):
    def treat(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b'{"id":1,"error":"unknown database"}')

    with pytest.raises(VswitchRefused, match="unknown database"):
        ask(serve(treat))


def test_very_many_small_messages_do_not_outlast_the_deadline(serve):
    """Skipping a message must not scan all later ones: 200000 of them would take minutes."""

    def treat(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        with suppress(OSError):
            connection.sendall(b"{}" * 200_000)
            connection.recv(1)

    started = time.monotonic()
    with pytest.raises(TryAgainLater):
        ask(serve(treat), 0.3)
    assert time.monotonic() - started < SECONDS / 2


@pytest.mark.parametrize("rows", ["5", "[5]", '[{"other":1}]', '[{"name":["set"]}]', '[{"name":["map",[5]]}]'])
def test_rows_of_another_form_are_no_answer_and_no_defect_of_ours(serve, rows):
    def treat(connection: socket.socket) -> None:
        while request := connection.recv(1 << 16):
            results = [f'{{"rows":{rows}}}'] * request.count(b'"op"')
            number = json.loads(request)["id"]
            connection.sendall(f'{{"id":{number},"error":null,"result":[{",".join(results)}]}}'.encode())

    with pytest.raises(TryAgainLater, match="not OVSDB's"):
        OvsDpdk(serve(treat)).show()


def test_a_silent_server_ends_the_wait_in_time(serve):
    done = threading.Event()
    started = time.monotonic()
    try:
        with pytest.raises(TryAgainLater, match="no answer in time"):
            ask(serve(lambda _connection: done.wait(SECONDS) and None), 0.2)
        assert 0.2 <= time.monotonic() - started < SECONDS / 2
    finally:
        done.set()


def test_a_socket_without_a_server_is_named_in_the_error(tmp_path):
    with pytest.raises(TryAgainLater, match=f"{tmp_path}/none.sock: cannot connect: No such file"):
        Database(f"unix:{tmp_path}/none.sock", soon())
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf.sock"))
        with pytest.raises(TryAgainLater, match="Connection refused"):
            Database(f"unix:{tmp_path}/deaf.sock", soon())


@pytest.fixture
def crowded(tmp_path) -> Iterator[socket.socket]:
    """A server whose backlog is full."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "crowded.sock"))
        listener.listen(0)
        clients = []
        for client in iter(lambda: socket.socket(socket.AF_UNIX), None):
            clients.append(client)
            client.setblocking(False)
            if client.connect_ex(str(tmp_path / "crowded.sock")):
                break
        yield listener
        for client in clients:
            client.close()


def test_a_crowded_server_is_waited_for(crowded, tmp_path):
    def take_one() -> None:
        crowded.accept()[0].close()

    timer = threading.Timer(0.1, take_one)
    timer.start()
    with Database(f"unix:{tmp_path}/crowded.sock", soon()):
        timer.join()


def test_a_server_that_stays_crowded_ends_the_wait_in_time(crowded, tmp_path: Path):
    started = time.monotonic()
    with pytest.raises(TryAgainLater, match="cannot connect: no answer in time"):
        Database(f"unix:{tmp_path}/crowded.sock", soon(0.2))
    assert 0.15 < time.monotonic() - started < SECONDS / 2
