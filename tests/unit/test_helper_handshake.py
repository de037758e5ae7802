"""A child and its launcher before and after GO, in one process, whose surroundings stay as they are."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from cni.errors import TryAgainLater
from cni.helper import call, descriptors, protocol, surroundings
from cni.helper.surroundings import Unfit
from cni.protocol.result import Result

if TYPE_CHECKING:
    import _socket
    from collections.abc import Iterator

    from cni.protocol.request import Request

VARIABLES = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/nowhere",
    "CNI_IFNAME": "net1",
    "CNI_PATH": "/",
}
CONF = b'{"cniVersion": "1.0.0", "name": "net", "type": "probe"}'
SECONDS = 20.0


class Plugin:
    """Notes what is undone. `failing`: it cannot be."""

    def __init__(self) -> None:
        self.undone: list[str] = []
        self.failing = False

    def add(self, _request: Request) -> Result:
        return Result()

    def undo(self, request: Request) -> None:
        self.undone.append(request.container_id)
        if self.failing:
            raise TryAgainLater("the host is busy")

    def delete(self, request: Request) -> None: ...

    def check(self, request: Request) -> None: ...

    def gc(self, request: Request) -> None: ...

    def status(self, request: Request) -> None: ...


class Launcher:
    """The other end of a child's connection."""

    def __init__(self, end: _socket.socket, child: _socket.socket) -> None:
        self.end = end
        self.child = child

    def request(self, build: str = "b", plugin: str = "probe") -> None:
        descriptors.send(self.end, protocol.encode(build, plugin, 0o022, VARIABLES), [0] * len(protocol.INHERITED))

    def go(self, standard: tuple[int, ...] = (0, 2)) -> None:
        descriptors.send(self.end, protocol.GO, standard)

    def received(self) -> bytes:
        return descriptors.receive(self.end, 100, 1)[0]

    def output(self) -> tuple[bytes, bytes]:
        """The exit code, and the text."""
        code, fds = descriptors.receive(self.end, 100, 1)
        with open(fds[0], "rb") as file:
            return code, os.pread(file.fileno(), 1 << 16, 0)


@pytest.fixture
def plugin() -> Plugin:
    return Plugin()


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    """Its child serves in a thread; what would change this process is left out."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(call, "take", lambda *_taken: None)
    monkeypatch.setattr(call, "take_standard", lambda fds, null: close(*fds, null))
    monkeypatch.setattr(call, "silence", lambda: None)
    monkeypatch.setattr(call, "read_all", lambda _fd, _seconds: CONF)
    monkeypatch.setattr(signal, "signal", lambda *_set: None)
    monkeypatch.setattr(descriptors, "peer", lambda _connection: (os.getpid(), 0))
    ours, theirs = descriptors.pair()
    yield Launcher(theirs, ours)
    ours.close()
    theirs.close()


def close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


@contextlib.contextmanager
def attended(launcher: Launcher, plugin: Plugin, seconds: float = SECONDS) -> Iterator[list[BaseException]]:
    """A child at work; within the context the launcher speaks. Gives the reason why the child has left the call."""
    house = call.House(
        build="b",
        programs={"probe": lambda _request: plugin},
        namespaces={},
        request_seconds=seconds,
        delivery_seconds=SECONDS,
    )
    reasons: list[BaseException] = []

    def attend() -> None:
        try:
            call.attend(launcher.child, house)
        except BaseException as reason:
            reasons.append(reason)

    child = threading.Thread(target=attend)
    child.start()
    yield reasons
    child.join(SECONDS)
    assert not child.is_alive()


def test_a_call_is_served_and_its_output_comes_with_the_exit_code(launcher: Launcher, plugin: Plugin) -> None:
    with attended(launcher, plugin) as reasons:
        launcher.request()
        assert launcher.received() == protocol.ready(os.getpid())
        launcher.go()
        code, text = launcher.output()
        launcher.end.send(protocol.DELIVERED)
    assert (code, text[:24], reasons, plugin.undone) == (b"\0", b'{"cniVersion": "1.0.0"}\n', [], [])


def test_an_add_whose_launcher_goes_before_the_delivery_is_undone(launcher: Launcher, plugin: Plugin) -> None:
    with attended(launcher, plugin):
        launcher.request()
        launcher.received()
        launcher.go()
        launcher.output()
        launcher.end.close()
    assert plugin.undone == ["c1"]


def test_an_undoing_that_fails_is_reported_on_stderr(
    launcher: Launcher, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin.failing, texts = True, list[bytes]()
    monkeypatch.setattr(call, "write_if_open", lambda _fd, text: texts.append(text))
    with attended(launcher, plugin):
        launcher.request()
        launcher.received()
        launcher.go()
        launcher.output()
        launcher.end.close()
    assert texts == [b"the launcher has gone, and the ADD could not be undone: the host is busy\n"]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [({"build": "c"}, "of build 'c', the helper of b"), ({"plugin": "x"}, "there is no plugin 'x'")],
)
def test_a_request_that_is_not_for_this_helper_is_left_to_its_launcher(
    launcher: Launcher, plugin: Plugin, request_: dict[str, str], reason: str
) -> None:
    with attended(launcher, plugin) as reasons:
        launcher.request(**request_)
        assert launcher.received() == protocol.UNTOUCHED
    assert reason in str(reasons[0])


def test_another_user_is_left_to_itself(launcher: Launcher, plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "peer", lambda _connection: (1, 1000))
    with attended(launcher, plugin) as reasons:
        assert launcher.received() == protocol.UNTOUCHED
    assert str(reasons[0]) == "user 1000 is not root"


@pytest.mark.parametrize("asks", [False, True])
def test_a_launcher_that_does_not_go_on_is_not_waited_for(launcher: Launcher, plugin: Plugin, asks: bool) -> None:
    if asks:
        launcher.request()
    with attended(launcher, plugin, seconds=0.0) as reasons:
        if asks:
            launcher.received()
        assert launcher.received() == protocol.UNTOUCHED
    assert "the launcher has " in str(reasons[0])


def test_a_launcher_that_goes_instead_of_saying_go_is_noticed(launcher: Launcher, plugin: Plugin) -> None:
    with attended(launcher, plugin) as reasons:
        launcher.request()
        launcher.received()
        launcher.end.close()
    assert str(reasons[0]) == "the launcher has gone"


# Surroundings.


@pytest.mark.parametrize(
    ("theirs", "words"),
    [({"CapEff": "0"}, "has the capabilities 0, the helper 1"), ({"Groups": "7"}, r"has the groups \[0, 7\]")],
)
def test_a_launcher_with_other_rights_is_refused(
    monkeypatch: pytest.MonkeyPatch, theirs: dict[str, str], words: str
) -> None:
    ours = {"CapEff": "1", "Gid": "0", "Groups": ""}
    monkeypatch.setattr(surroundings, "_status", lambda pid: ours if pid == "self" else {**ours, **theirs})
    with pytest.raises(Unfit, match=words):
        surroundings._require_same_rights(42)


def test_descriptors_that_are_missing_are_refused() -> None:
    found = protocol.Call(build="b", plugin="p", umask=0, environment={})
    with pytest.raises(Unfit, match="descriptors are missing"):
        surroundings.take(found, [], os.getpid(), surroundings.own())
    with pytest.raises(Unfit, match="stdin or stderr is missing"):
        surroundings.take_standard([], -1)


@pytest.mark.parametrize("kind", ["pid", "user"])
def test_a_launcher_in_another_pid_or_user_namespace_is_refused(kind: str) -> None:
    found = protocol.Call(build="b", plugin="p", umask=0, environment={})
    paths = ["/", ".", *[f"/proc/self/ns/{name}" for name in protocol.INHERITED[2:]]]
    with contextlib.ExitStack() as stack:
        fds = []
        for path in paths:
            fds.append(os.open(path, os.O_RDONLY))
            stack.callback(os.close, fds[-1])
        with pytest.raises(Unfit, match="in another PID or user namespace"):
            surroundings.take(found, fds, os.getpid(), {**surroundings.own(), kind: (0, 0)})


def test_a_rehearsal_leaves_the_process_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.delitem(os.environ, "LD_LIBRARY_PATH", raising=False)
    before = dict(os.environ), os.getcwd(), sorted(os.listdir("/proc/self/fd"))
    call.rehearse()
    assert (dict(os.environ), os.getcwd(), sorted(os.listdir("/proc/self/fd"))) == before


def test_a_rehearsal_without_descriptors_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(descriptors, "pair", refused)
    call.rehearse()
