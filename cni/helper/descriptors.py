"""Datagrams with descriptors over a Unix socket.

They use only the C class: the module `socket` would import `enum` and `selectors`.
"""

from __future__ import annotations

import _socket
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_BYTES = 4


def pair() -> tuple[_socket.socket, _socket.socket]:
    """Two connected sockets. Raises `OSError`."""
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)


def connection_of(fd: int) -> _socket.socket:
    return _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd)


def send(connection: _socket.socket, datagram: bytes, fds: Sequence[int] = ()) -> None:
    """Sends one datagram. Raises `OSError`, also if the other end has gone."""
    octets = b"".join(fd.to_bytes(_BYTES, "little") for fd in fds)
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, octets)] if fds else []
    connection.sendmsg([datagram], rights, _socket.MSG_NOSIGNAL)


def receive(connection: _socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """A datagram of at most `size` bytes, and its descriptors. Both are empty if the other end has gone.

    The kernel closes descriptors beyond `most`, except that the padding can hold one more. Raises `OSError`.
    """
    room = _socket.CMSG_LEN(most * _BYTES)
    datagram, control, _flags, _address = connection.recvmsg(size, room, _socket.MSG_CMSG_CLOEXEC)
    fds = [
        int.from_bytes(octets[at : at + _BYTES], "little")
        for level, kind, octets in control
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
        for at in range(0, len(octets), _BYTES)
    ]
    return datagram, fds


def is_readable(connection: _socket.socket, seconds: float) -> bool:
    """Whether the socket has data, or its end, within the time."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def peer(connection: _socket.socket) -> tuple[int, int]:
    """The process number and the user number at the other end, as at the time of its `connect`."""
    credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 3 * _BYTES)
    return int.from_bytes(credentials[:_BYTES], "little"), int.from_bytes(credentials[_BYTES : 2 * _BYTES], "little")
