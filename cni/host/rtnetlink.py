"""A route netlink socket: sends requests, awaits their answers within a bound, and turns refusals into exceptions."""

from __future__ import annotations

import _socket
import errno
import os
import time

from cni.host import netlink as nl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

AF_NETLINK, SOL_NETLINK, NETLINK_ROUTE = 16, 270, 0
NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 1, 10, 11, 12
RTNLGRP_LINK, RTNLGRP_IPV6_IFADDR = 1, 9
SO_RCVBUFFORCE = 33

REPLY_SECONDS = 20.0
"""Bound for one answer: the kernel answers under its RTNL lock, which a driver can hold for seconds."""

RECEIVE_BYTES = 1 << 20
"""The largest answer that is read: that of a PF with 5000 VFs, of 196 bytes each (236 with InfiniBand GUIDs)."""

_DUMP_TRIES = 5


class NetlinkError(OSError):
    """The kernel's refusal: `errno` and, in `words`, what the kernel itself says about the cause (may be empty)."""

    def __init__(self, number: int, words: str = "") -> None:
        super().__init__(number, words or os.strerror(number))
        self.words = words

    @property
    def reason(self) -> str:
        """Symbol, text, and the kernel's or driver's own words."""
        # Linux has one number for ENOTSUP and EOPNOTSUPP; drivers mean the latter.
        name = "EOPNOTSUPP" if self.errno == errno.EOPNOTSUPP else errno.errorcode.get(self.errno or 0, str(self.errno))
        return f"{name} ({os.strerror(self.errno or 0)})" + (f": {self.words}" if self.words else "")


class RouteSocket:
    """One AF_NETLINK socket; it belongs to the namespace in which it was made, for all its life."""

    def __init__(self, *groups: int, receive_bytes: int = RECEIVE_BYTES) -> None:
        self._receive_bytes = receive_bytes
        self._socket = _socket.socket(AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        _enlarge(self._socket)
        # An unbound socket has port 0, the kernel's own, and never hears what the kernel multicasts.
        self._socket.bind((0, 0))
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the socket; again is harmless."""
        self._socket.close()

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Sends a request that changes something and awaits its acknowledgement. Raises `NetlinkError`."""
        self._exchange(kind, flags | nl.NLM_F_ACK, body)

    def get(self, kind: int, body: bytes) -> bytes:
        """The body of the one answer to a request without dump. Raises `NetlinkError`."""
        return self._exchange(kind, nl.NLM_F_ACK, body)[0].body

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The bodies of all answers to a dump; repeated when the kernel says that it was inconsistent."""
        for _ in range(_DUMP_TRIES):
            answers = self._exchange(kind, nl.NLM_F_DUMP, body)
            if not any(answer.flags & nl.NLM_F_DUMP_INTR for answer in answers):
                break
        return [answer.body for answer in answers]

    def await_event(self, wanted: Callable[[nl.Message], bool], deadline: float) -> bool:
        """Awaits a multicast message that `wanted` accepts; False when `deadline` (monotonic seconds) passes first."""
        while True:
            try:
                if any(wanted(message) for message in self._receive(deadline)):
                    return True
            except TimeoutError:
                return False

    def _exchange(self, kind: int, flags: int, body: bytes) -> list[nl.Message]:
        self._sequence += 1
        deadline = time.monotonic() + REPLY_SECONDS
        self._socket.send(nl.message(kind, flags, self._sequence, body))
        answers: list[nl.Message] = []
        while True:
            for message in self._receive(deadline):
                if message.sequence != self._sequence:
                    continue
                if message.kind in (nl.NLMSG_ERROR, nl.NLMSG_DONE):
                    _raise_refusal(message)
                    return answers
                answers.append(message)

    def _receive(self, deadline: float) -> list[nl.Message]:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "the kernel did not answer a netlink request")
        self._socket.settimeout(remaining)
        try:
            datagram, _, flags, _ = self._socket.recvmsg(self._receive_bytes)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            raise NetlinkError(
                errno.ENOBUFS, "the socket's buffer was full, and the kernel dropped a message"
            ) from error
        if flags & _socket.MSG_TRUNC:
            raise NetlinkError(errno.EMSGSIZE, f"the kernel's answer is longer than {self._receive_bytes} bytes")
        return nl.messages(datagram)


def _enlarge(socket: _socket.socket) -> None:
    # The kernel drops the acknowledgement behind an answer that fills the socket: by default, that of 1100 VFs does.
    try:
        socket.setsockopt(_socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
    except PermissionError:
        return  # who may not administer the network may still look at it


def _raise_refusal(message: nl.Message) -> None:
    # NLMSG_DONE carries an error number too: a dump that fails half-way ends with it.
    if len(message.body) < 4:
        return
    number, words = nl.failure(message.body, message.flags if message.kind == nl.NLMSG_ERROR else 0)
    if number:
        raise NetlinkError(number, words)
