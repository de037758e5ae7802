"""The helper itself: one thread that accepts connections and gives each to a child.

It reads no data of a client, so no client can block or confuse it. A child with a connection no longer needs the
helper; a child that waits for a connection ends with the helper.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import gc
import os
import select
import signal
import time

from cni.errors import IoFailure
from cni.helper import descriptors
from cni.helper.call import attend, rehearse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from cni.helper.call import House

MOST = 64
"""The maximum number of calls at a time. Launchers beyond it execute the plugin."""

_BACKLOG = 128
_REAP_MILLISECONDS = 1000
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE = 0.1
_WAITING = 2
_REHEARSALS = 3
"""Before the first fork. The interpreter writes to code that it specializes, and each child would copy these pages."""
_LINE = 1000  # characters; a pipe that accepts a byte accepts a page


def listen(path: str) -> tuple[_socket.socket, int]:
    """Returns the listening socket, and the descriptor of the lock that marks it as in use.

    Raises `IoFailure`, also if another helper has it.
    """
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise IoFailure(f"another helper serves {path}", hint="end it first") from error
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)
    try:
        # We hold the lock, so an existing socket has no owner.
        if os.path.lexists(path):
            os.unlink(path)
        listener.bind(path)
    except OSError as error:
        listener.close()
        os.close(lock)
        raise IoFailure(f"cannot listen at {path}: {error.strerror or error}") from error
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    return listener, lock


def run(listener: _socket.socket, house: House, lock: int = -1, most: int = MOST) -> NoReturn:
    """Serves until a signal ends the process."""
    for _ in range(_REHEARSALS):
        rehearse()
    gc.collect()
    gc.freeze()  # A collection in a child would write to every page that it shares with this process.
    children = _Children(house, (listener.fileno(), lock), most)
    poll = select.poll()
    poll.register(listener.fileno(), select.POLLIN)
    while True:
        children.prepare()
        poll.poll(_REAP_MILLISECONDS if children.busy else None)
        children.reap()
        while (connection := _accepted(listener)) is not None:
            children.give(connection)
            connection.close()


class _Children:
    """The children that serve a launcher, and those that wait for one.

    They are forked in advance because a fork, with the first copies of pages, takes 2 ms.
    """

    def __init__(self, house: House, closed: tuple[int, ...], most: int) -> None:
        self.busy: set[int] = set()
        self._house = house
        self._closed = closed
        self._most = most
        self._waiting: dict[int, _socket.socket] = {}

    def prepare(self) -> None:
        while len(self._waiting) < _WAITING and self._fork():
            pass

    def give(self, connection: _socket.socket) -> None:
        """Gives the connection to a child. Without a child, the launcher executes the plugin when it is closed."""
        while len(self.busy) < self._most and (self._waiting or self._fork()):
            pid = next(iter(self._waiting))
            channel = self._waiting.pop(pid)
            self.busy.add(pid)
            try:
                descriptors.send(channel, b"C", [connection.fileno()])
            except OSError:
                continue  # The child has been killed.
            finally:
                channel.close()
            return

    def reap(self) -> None:
        while self.busy or self._waiting:
            pid, _status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self.busy.discard(pid)
            if pid in self._waiting:
                self._waiting.pop(pid).close()

    def _fork(self) -> bool:
        try:
            ours, theirs = descriptors.pair()
        except OSError:
            return False
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            return False
        if pid == 0:
            # A copy of our end in another child would hide the end of this process.
            fds = [*self._closed, ours.fileno(), *(channel.fileno() for channel in self._waiting.values())]
            _wait(theirs, self._house, [fd for fd in fds if fd >= 0])
        theirs.close()
        self._waiting[pid] = ours
        return True


def _wait(channel: _socket.socket, house: House, closed: list[int]) -> NoReturn:
    """The child: waits for a connection or for the end of the helper, and serves one call."""
    try:
        for fd in closed:
            os.close(fd)
        os.setsid()
        # A child that is forked for a connection has no time to rehearse: the runtime waits.
        if not descriptors.is_readable(channel, 0):
            rehearse()
        _word, connections = descriptors.receive(channel, 1, 1)
        channel.close()
        for fd in connections:
            attend(descriptors.connection_of(fd), house)
    except BaseException as failure:  # noqa: BLE001 - the launcher sees the end of the connection
        _log(f"a call was left to its launcher: {str(failure) or type(failure).__name__}")
    finally:
        os._exit(0)


def _log(text: str) -> None:
    """Writes a line to the log, or drops it if the log is full: a child that waits would count as busy."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    if poll.poll(0):
        # The alarm ends a child that has to wait after all, because another process has filled the log meanwhile.
        signal.alarm(1)
        os.write(1, f"barewire-helper: {text}"[:_LINE].encode(errors="replace") + b"\n")


def _accepted(listener: _socket.socket) -> _socket.socket | None:
    try:
        fd, _address = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - accept() of the module `socket` calls it
    except OSError as error:
        if error.errno in _EXHAUSTED:
            time.sleep(_PAUSE)  # The launchers in the queue execute the plugins after their time limit.
        return None
    return descriptors.connection_of(fd)
