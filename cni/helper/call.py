"""One call in a child of the helper: from the launcher's request to its word that the runtime has the output."""

from __future__ import annotations

import _socket
import os
import select
import signal

from cni.errors import CniError, InvalidConfig
from cni.helper import descriptors, protocol
from cni.helper.surroundings import Unfit, silence, take, take_standard
from cni.serve import read_all, serve, write_if_open
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from cni.protocol.request import Request
    from cni.serve import Plugin

    Load = Callable[[Request], Plugin]

REQUEST_SECONDS = 2.0
"""A launcher sends its request at once; GO follows within as long as it waits for `ready`."""
DELIVERY_SECONDS = 60.0
"""How long the runtime may take to read the output. A launcher that is stopped holds a child so long, and no longer."""


class House(Value):
    """What all calls have in common."""

    build: str
    programs: Mapping[str, Load]
    namespaces: Mapping[str, tuple[int, int]]
    request_seconds: float = REQUEST_SECONDS
    delivery_seconds: float = DELIVERY_SECONDS


def attend(connection: _socket.socket, house: House) -> None:
    """Serves the launcher, or leaves the call to it, closes the connection, and raises the reason."""
    try:
        name, output = _agreed(connection, house)
    except BaseException:
        _refuse(connection)
        raise
    _serve(connection, name, output, house)


def _agreed(connection: _socket.socket, house: House) -> tuple[str, int]:
    """The plugin that the launcher has said `go` for, and a file for its output.

    `Unfit`, `NotACall` and `OSError` come before anything is done.
    """
    pid, user = descriptors.peer(connection)
    if user != 0:
        raise Unfit(f"user {user} is not root")
    if not _readable(connection, house.request_seconds):
        raise Unfit("the launcher has sent no request")
    datagram, fds = descriptors.receive(connection, protocol.LARGEST, len(protocol.INHERITED))
    call = protocol.decode(datagram)
    if call.build != house.build:
        raise Unfit(f"the launcher is of build {call.build!a}, the helper of {house.build}")
    if call.plugin not in house.programs:
        raise Unfit(f"there is no plugin {call.plugin!a}")
    # From the helper's root, before it changes: the launcher's may have no such file. After GO nothing is opened.
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    output = os.memfd_create("barewire-output", os.MFD_CLOEXEC)
    take(call, fds, pid, house.namespaces)
    descriptors.send(connection, protocol.ready(os.getpid()))
    if not _readable(connection, house.request_seconds):
        raise Unfit("the launcher has not gone on")
    word, fds = descriptors.receive(connection, 2, len(protocol.STANDARD))
    if word != protocol.GO:
        raise Unfit("the launcher has gone")
    take_standard(fds, null)
    return call.plugin, output


def _refuse(connection: _socket.socket) -> None:
    """From here on the launcher cannot send GO; one that has sent it learns that nothing has been done."""
    _ignore_interrupts()
    try:
        connection.shutdown(_socket.SHUT_RD)
        while connection.recv(1):
            pass  # What is unread at the close would reach the launcher as an error, before our word.
        descriptors.send(connection, protocol.UNTOUCHED)
    except OSError:
        return  # It has gone.
    finally:
        connection.close()


def rehearse() -> None:
    """Calls that touch nothing but memory: a child copies the pages that each call writes to before it has a call."""

    def load(_request: Request) -> NoReturn:
        raise InvalidConfig("a rehearsal")

    env = {
        "CNI_CONTAINERID": "a",
        "CNI_NETNS": "/nowhere",
        "CNI_IFNAME": "a",
        "CNI_PATH": "/",
        "CNI_NETNS_OVERRIDE": "1",
    }
    for command in ("VERSION", "ADD"):
        variables = {"CNI_COMMAND": command, **env}
        serve("", load, variables, lambda _seconds: b'{"cniVersion": "1.0.0", "name": "a"}', _ignore, _ignore)


class _Loading:
    """Loads the plugin, and remembers it for an ADD that nobody takes."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._added: tuple[Plugin, Request] | None = None

    def __call__(self, request: Request) -> Plugin:
        plugin = self._load(request)
        if request.command == "ADD":
            self._added = plugin, request
        return plugin

    def undo(self) -> None:
        """As in a rollback: what DEL cannot do now is on record, and the next calls do it."""
        if self._added is not None:
            plugin, request = self._added
            try:
                plugin.delete(request)
            except CniError as error:
                write_if_open(2, f"the launcher has gone, and the ADD could not be undone: {error.msg}\n".encode())


def _serve(connection: _socket.socket, name: str, output: int, house: House) -> None:
    texts: list[bytes] = []
    loading = _Loading(house.programs[name])
    code, delivered = 0, False  # What `serve` does not make an error object of comes when the ADD has succeeded.
    try:
        code = serve(
            name,
            loading,
            os.environ,
            lambda seconds: read_all(0, seconds),
            texts.append,
            lambda text: write_if_open(2, text),
        )
        _ignore_interrupts()
        delivered = _delivered(connection, code, b"".join(texts), output, house.delivery_seconds)
    except BaseException:  # noqa: BLE001 - an interrupt, as a rule; the launcher gets no answer
        _ignore_interrupts()
    if code == 0 and not delivered:
        loading.undo()


def _delivered(connection: _socket.socket, code: int, text: bytes, output: int, seconds: float) -> bool:
    """Whether the launcher has written the text, as far as can be known."""
    try:
        if _readable(connection, 0):
            return False  # It has gone. A runtime that waits for the end of stderr waits for the undoing, too.
        silence()  # A runtime waits until nobody has stderr open any more.
        while text:
            text = text[os.write(output, text) :]
        descriptors.send(connection, bytes([code]), [output])
        if not _readable(connection, seconds):
            return True  # A launcher that is stopped may go on, and say that the call has succeeded.
        return connection.recv(2) == protocol.DELIVERED
    except BaseException:  # noqa: BLE001 - whatever it is, the launcher has not said that the runtime has the text
        return False


def _ignore_interrupts() -> None:
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:  # one that has come just before
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _readable(connection: _socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _ignore(_text: bytes) -> None:
    pass
