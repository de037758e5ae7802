"""One call in a child of the helper: from the launcher's request to its report that the runtime has the output."""

from __future__ import annotations

import _socket
import os
import signal

from cni.errors import CniError, InvalidConfig
from cni.helper import descriptors, protocol, surroundings
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
"""Time limit for the request, and then for GO. A launcher sends both at once; it waits no longer for `ready`."""
DELIVERY_SECONDS = 60.0
"""Time limit for the runtime to read the output, and so for a stopped launcher to occupy a child."""


class House(Value):
    """The values that all calls of a helper share. The limits are in seconds."""

    build: str
    programs: Mapping[str, Load]
    namespaces: Mapping[str, tuple[int, int]]
    request_seconds: float = REQUEST_SECONDS
    delivery_seconds: float = DELIVERY_SECONDS


def attend(connection: _socket.socket, house: House) -> None:
    """Serves the call, or leaves it to the launcher, closes the connection and raises the reason."""
    try:
        name, output = _agreed(connection, house)
    except BaseException:
        _refuse(connection)
        raise
    _serve(connection, name, output, house)


def _agreed(connection: _socket.socket, house: House) -> tuple[str, int]:
    """Receives the request, takes over the launcher's surroundings, and awaits GO.

    Returns the plugin's name and a file for the output. Raises `Unfit`, `NotACall` or `OSError`; nothing has been done
    for the call then.
    """
    pid, user = descriptors.peer(connection)
    if user != 0:
        raise Unfit(f"user {user} is not root")
    if not descriptors.is_readable(connection, house.request_seconds):
        raise Unfit("the launcher has sent no request")
    datagram, fds = descriptors.receive(connection, protocol.LARGEST, len(protocol.INHERITED))
    call = protocol.decode(datagram)
    if call.build != house.build:
        raise Unfit(f"the launcher is of build {call.build!a}, the helper of {house.build}")
    if call.plugin not in house.programs:
        raise Unfit(f"there is no plugin {call.plugin!a}")
    # Open these before the root changes, because the launcher's root may have no /dev/null, and before GO, because an
    # error after GO would fail the call.
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    output = os.memfd_create("barewire-output", os.MFD_CLOEXEC)
    take(call, fds, pid, house.namespaces)
    descriptors.send(connection, protocol.ready(os.getpid()))
    if not descriptors.is_readable(connection, house.request_seconds):
        raise Unfit("the launcher has not gone on")
    word, fds = descriptors.receive(connection, 2, len(protocol.STANDARD))
    if word != protocol.GO:
        raise Unfit("the launcher has gone")
    take_standard(fds, null)
    return call.plugin, output


def _refuse(connection: _socket.socket) -> None:
    """Leaves the call to the launcher, which cannot send GO from here on.

    If it has sent GO already, it learns that nothing has been done.
    """
    _ignore_interrupts()
    try:
        connection.shutdown(_socket.SHUT_RD)
        while connection.recv(1):
            pass  # Unread data at the close would reach the launcher as an error, before our message.
        descriptors.send(connection, protocol.UNTOUCHED)
    except OSError:
        return  # The launcher has gone.
    finally:
        connection.close()


def rehearse() -> None:
    """Serves imaginary calls that change nothing outside this process.

    The first write to each memory page of the helper makes the kernel copy the page. Here this happens while the child
    waits, and not while a runtime does.
    """
    _rehearse_handshake()

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


def _rehearse_handshake() -> None:
    try:
        ours, theirs = descriptors.pair()
    except OSError:
        return  # No descriptors are left. The call will have to do without them, too.
    try:
        descriptors.send(theirs, protocol.encode("a", "a", 0o022, {"A": "a"}), [0])
        descriptors.is_readable(ours, 0)
        datagram, fds = descriptors.receive(ours, protocol.LARGEST, len(protocol.INHERITED))
        protocol.decode(datagram)
        for fd in fds:
            os.close(fd)
        surroundings.rehearse(descriptors.peer(ours)[0])
    except (OSError, LookupError, ValueError, surroundings.Unfit):
        return  # A real launcher may have another /proc. A rehearsal does not end the child.
    finally:
        ours.close()
        theirs.close()


class _Loading:
    """Loads the plugin, and remembers it, so that an ADD can be undone if nobody takes its result."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._added: tuple[Plugin, Request] | None = None

    def __call__(self, request: Request) -> Plugin:
        plugin = self._load(request)
        if request.command == "ADD":
            self._added = plugin, request
        return plugin

    def undo(self) -> None:
        """As in a rollback: a part that cannot be removed now stays on record, and later calls remove it."""
        if self._added is not None:
            plugin, request = self._added
            try:
                plugin.undo(request)
            except CniError as error:
                write_if_open(2, f"the launcher has gone, and the ADD could not be undone: {error.msg}\n".encode())


def _serve(connection: _socket.socket, name: str, output: int, house: House) -> None:
    texts: list[bytes] = []
    loading = _Loading(house.programs[name])
    code, delivered = 0, False  # `serve` raises only after an ADD has succeeded: all else becomes an error object.
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
    except BaseException:  # noqa: BLE001 - usually an interrupt; the launcher gets no answer
        _ignore_interrupts()
    if code == 0 and not delivered:
        loading.undo()


def _delivered(connection: _socket.socket, code: int, text: bytes, output: int, seconds: float) -> bool:
    """Whether the launcher has written the text to its stdout, as far as this can be known."""
    try:
        if descriptors.is_readable(connection, 0):
            return False  # The launcher has gone. A runtime that waits for the end of stderr also awaits the undoing.
        silence()  # A runtime waits until no process has its stderr open.
        while text:
            text = text[os.write(output, text) :]
        descriptors.send(connection, bytes([code]), [output])
        if not descriptors.is_readable(connection, seconds):
            return True  # A stopped launcher may continue later, and report success.
        return connection.recv(2) == protocol.DELIVERED
    except BaseException:  # noqa: BLE001 - in any case, the launcher has not reported the delivery
        return False


def _ignore_interrupts() -> None:
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:  # it came just before
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _ignore(_text: bytes) -> None:
    pass
