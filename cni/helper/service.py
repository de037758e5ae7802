"""The helper itself: one thread that accepts a connection, gives it to a child, and reads nothing that a client sends.

So no client can hold it, or confuse it. A child that has a connection does not need it any more; one that waits for a
connection ends with it.
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
"""Children at a time. A launcher beyond executes the plugin."""

_BACKLOG = 128
_REAP_MILLISECONDS = 1000
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE = 0.1
_WAITING = 2
_LINE = 1000  # characters; a pipe with room for any has room for a page


def listen(path: str) -> tuple[_socket.socket, int]:
    """The socket, and the lock that shows that its owner lives. Raises `IoFailure`, also when another helper has it."""
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise IoFailure(f"another helper serves {path}", hint="end it first") from error
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)
    try:
        # Under the lock a socket that is there has no owner.
        if os.path.lexists(path):
            os.unlink(path)
        listener.bind(path)
    except OSError as error:
        raise IoFailure(f"cannot listen at {path}: {error.strerror or error}") from error
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    return listener, lock


def run(listener: _socket.socket, house: House, lock: int = -1, most: int = MOST) -> NoReturn:
    """Serves for ever."""
    gc.collect()
    gc.freeze()  # A collection in a child would write to each page that it shares with us.
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
    """Those that serve a launcher, and a few that wait for one: to be forked, and to copy its first pages, takes a child 2 ms."""

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
        """Without a child that takes it, the caller closes the connection, and the launcher executes the plugin."""
        while len(self.busy) < self._most and (self._waiting or self._fork()):
            pid = next(iter(self._waiting))
            channel = self._waiting.pop(pid)
            self.busy.add(pid)
            try:
                descriptors.send(channel, b"C", [connection.fileno()])
            except OSError:
                continue  # Somebody has killed the child.
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
            # A copy of our end, in another child, would hide that we have ended.
            fds = [*self._closed, ours.fileno(), *(channel.fileno() for channel in self._waiting.values())]
            _wait(theirs, self._house, [fd for fd in fds if fd >= 0])
        theirs.close()
        self._waiting[pid] = ours
        return True


def _wait(channel: _socket.socket, house: House, closed: list[int]) -> NoReturn:
    """A child: waits for a connection, or for the end of the helper, and serves one."""
    try:
        for fd in closed:
            os.close(fd)
        os.setsid()
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
    """Drops the line when the log is full: a child that waited for it would take the place of another one."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    if poll.poll(0):
        signal.alarm(
            1
        )  # It ends a child that must wait all the same, because another one has filled the log in between.
        os.write(1, f"barewire-helper: {text}"[:_LINE].encode(errors="replace") + b"\n")


def _accepted(listener: _socket.socket) -> _socket.socket | None:
    try:
        fd, _address = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - `socket` makes accept() of it
    except OSError as error:
        if error.errno in _EXHAUSTED:
            time.sleep(_PAUSE)  # The launchers in the queue lose patience, and execute the plugins.
        return None
    return descriptors.connection_of(fd)
