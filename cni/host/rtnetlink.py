"""A route netlink socket: sends requests, awaits their answers within a bound, and turns refusals into exceptions.

Only the kernel is believed. In a pod's namespace any process with CAP_NET_ADMIN may send to our socket.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import time

from cni.host import netlink as nl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable
    from typing import Self

AF_NETLINK, SOL_NETLINK, NETLINK_ROUTE, NETLINK_GENERIC = 16, 270, 0, 16
NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 1, 10, 11, 12
RTNLGRP_LINK, RTNLGRP_IPV6_IFADDR = 1, 9
SO_RCVBUFFORCE = 33

REPLY_SECONDS = 20.0
"""Time limit for one answer, and for all tries of a dump: a driver can hold the kernel's RTNL lock for seconds."""

RECEIVE_BYTES = 1 << 20
"""The largest answer that is read: that of a PF with 5000 VFs, of 196 bytes each (236 with InfiniBand GUIDs)."""

_USUAL_BYTES = 32 << 10
"""Room for one datagram of a dump, which the kernel fills up to 32 KiB. It needs no memory map, unlike 1 MiB."""

_DUMP_TRIES = 10
_KERNEL = 0
_SEQUENCES = 0xFFFFFFFF
_DROPPED = nl.Message(kind=nl.NLMSG_DONE, flags=nl.NLM_F_DUMP_INTR, sequence=0, body=b"")
"""Stands for a message that nobody wants, but that says that the dump was inconsistent."""


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


class Unsettled(NetlinkError):
    """A list changed each time while the kernel told it: it may lack entries that were there all the time.

    `seen` are the bodies of all answers of all tries.
    """

    def __init__(self, tries: int = 0, seen: Iterable[bytes] = ()) -> None:
        super().__init__(errno.EAGAIN, f"the list changed {tries or _DUMP_TRIES} times while it was read")
        self.seen = list(seen)


class RouteSocket:
    """One AF_NETLINK socket; it belongs to the namespace in which it was made, for all its life."""

    def __init__(self, *groups: int, receive_bytes: int = RECEIVE_BYTES, protocol: int = NETLINK_ROUTE) -> None:
        self._receive_bytes = receive_bytes
        self._socket = _socket.socket(AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        _enlarge(self._socket)
        # An unbound socket has port 0, the kernel's own, and never hears what the kernel multicasts. To a connected one
        # nobody else can send: a flood would fill its buffer, and the kernel would drop the answer.
        self._socket.bind((0, 0))
        self._socket.connect((_KERNEL, 0))
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        # Nearly every answer is there when its request has been sent: only `_awaited` waits.
        self._socket.setblocking(False)
        self._byte = bytearray(1)
        self._sequence = int.from_bytes(os.urandom(4), "little")

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

    def get(self, kind: int, body: bytes, deadline: float = 0.0) -> bytes:
        """The body of the one answer to a request without dump. Raises `NetlinkError`."""
        answer, *end = self._exchange(kind, nl.NLM_F_ACK, body, deadline=deadline)
        if not end:
            raise NetlinkError(errno.ENODATA, "the kernel acknowledged the request without an answer")
        return answer.body

    def get_each(self, kind: int, bodies: list[bytes], tolerated: Container[int]) -> list[bytes]:
        """The bodies of the one answer to each request; the requests are sent together.

        Empty where the kernel refuses with one of the `tolerated` error numbers. Raises `NetlinkError` for any other.
        """
        numbers = [self._sequence + one & _SEQUENCES for one in range(1, len(bodies) + 1)]
        self._sequence = numbers[-1]
        deadline = time.monotonic() + REPLY_SECONDS
        requests = zip(numbers, bodies, strict=True)
        self._socket.send(b"".join([_padded(nl.message(kind, 0, number, body)) for number, body in requests]))
        answers: dict[int, bytes] = {}
        while len(answers) < len(numbers):
            for message in self._receive(deadline):
                if message.sequence in numbers:
                    answers[message.sequence] = b"" if _is_refusal(message, tolerated) else message.body
        return [answers[number] for number in numbers]

    def dump(
        self,
        kind: int,
        body: bytes,
        having: tuple[bytes, ...] = (b"",),
        *,
        deadline: float = 0.0,
        tries: int = _DUMP_TRIES,
    ) -> list[bytes]:
        """The bodies of all answers to a dump that contain one of `having`. It is repeated while it is inconsistent.

        The others are dropped as they come: a pod can have any number of links. Raises `Unsettled` when the dump is
        inconsistent each time, and `TimeoutError` at the `deadline` (monotonic seconds).
        """
        deadline = deadline or time.monotonic() + REPLY_SECONDS
        seen: dict[bytes, None] = {}
        for _ in range(tries):
            answers = self._exchange(kind, nl.NLM_F_DUMP, body, having, deadline)
            if not any(answer.flags & nl.NLM_F_DUMP_INTR for answer in answers):
                return [answer.body for answer in answers[:-1]]
            seen |= {answer.body: None for answer in answers[:-1] if answer.body}
        raise Unsettled(tries, seen)

    def await_event(self, wanted: Callable[[nl.Message], bool], deadline: float) -> bool:
        """Awaits a multicast message that `wanted` accepts; False when `deadline` (monotonic seconds) passes first.

        True also when messages were lost: it may have been among them, so the caller has to look.
        """
        while True:
            try:
                if any(wanted(message) for message in self._receive(deadline)):
                    return True
            except TimeoutError:
                return False
            except NetlinkError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                return True

    def _exchange(
        self, kind: int, flags: int, body: bytes, having: tuple[bytes, ...] = (b"",), deadline: float = 0.0
    ) -> list[nl.Message]:
        """The answers that contain one of `having`, and behind them the message that ends them.

        The bound is `deadline` (monotonic seconds), or that of one answer.
        """
        self._sequence = self._sequence + 1 & _SEQUENCES
        deadline = deadline or time.monotonic() + REPLY_SECONDS
        self._socket.send(nl.message(kind, flags, self._sequence, body))
        answers: list[nl.Message] = []
        while True:
            for message in self._receive(deadline):
                if message.sequence != self._sequence:
                    continue
                if message.kind in (nl.NLMSG_ERROR, nl.NLMSG_DONE):
                    _raise_refusal(message)
                    return [*answers, message]
                if any(map(message.body.__contains__, having)):
                    answers.append(message)
                elif message.flags & nl.NLM_F_DUMP_INTR:
                    answers.append(_DROPPED)

    def _receive(self, deadline: float) -> list[nl.Message]:
        """The messages of the next datagram; none when it is not the kernel's."""
        try:
            room = max(self._awaited(deadline), _USUAL_BYTES)
            datagram, _, flags, sender = self._socket.recvmsg(min(room, self._receive_bytes))
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            raise NetlinkError(
                errno.ENOBUFS, "the socket's buffer was full, and the kernel dropped a message"
            ) from error
        if sender[0] != _KERNEL:
            return []
        if flags & _socket.MSG_TRUNC:
            raise NetlinkError(errno.EMSGSIZE, f"the kernel's answer is longer than {self._receive_bytes} bytes")
        return nl.messages(datagram)

    def _awaited(self, deadline: float) -> int:
        """The size in bytes of the next datagram, which stays in the queue. Raises `TimeoutError`."""
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError(errno.ETIMEDOUT, "the kernel did not answer a netlink request")
            try:
                return self._socket.recv_into(self._byte, 1, _socket.MSG_PEEK | _socket.MSG_TRUNC)
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._socket.fileno(), select.POLLIN)
                poll.poll(remaining * 1000)


def _enlarge(socket: _socket.socket) -> None:
    # The kernel drops the acknowledgement behind an answer that fills the socket: by default, that of 1100 VFs does.
    try:
        socket.setsockopt(_socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
    except PermissionError:
        return  # who may not administer the network may still look at it


def _padded(message: bytes) -> bytes:
    return message + bytes(-len(message) % 4)


def _is_refusal(message: nl.Message, tolerated: Container[int]) -> bool:
    if message.kind != nl.NLMSG_ERROR:
        return False
    try:
        _raise_refusal(message)
    except NetlinkError as refusal:
        if refusal.errno not in tolerated:
            raise
    return True


def _raise_refusal(message: nl.Message) -> None:
    # NLMSG_DONE carries an error number too: a dump that fails half-way ends with it.
    if len(message.body) < 4:
        return
    number, words = nl.failure(message.body, message.flags if message.kind == nl.NLMSG_ERROR else 0)
    if number:
        raise NetlinkError(number, words)
