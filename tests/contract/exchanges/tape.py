"""Raw exchanges between our netlink socket and a kernel: recorded, stored as JSON, and replayed without a kernel."""

from __future__ import annotations

import base64
import json
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import MSG_PEEK
from typing import Any

from cni.host.rtnetlink import RouteSocket

FOLDER = Path(__file__).parent
LONGEST_HEX = 4096
KERNEL = (0, 0)


@dataclass(frozen=True)
class Exchange:
    """A request and the datagrams of the response."""

    request: bytes
    replies: tuple[bytes, ...]


@dataclass(frozen=True)
class Recording:
    """Exchanges with one PF, by request. `pf` is its interface index; `facts` has all other values read."""

    kernel: str
    driver: str
    about: str
    pf: int
    facts: dict[str, Any]
    exchanges: dict[str, tuple[Exchange, ...]]


class _Tape:
    """A wrapper of a `RouteSocket`'s socket that records all traffic."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.taken: list[tuple[bytes, list[bytes]]] = []

    def send(self, request: bytes) -> int:
        self.taken.append((request, []))
        return self._socket.send(request)  # type: ignore[no-any-return]

    def recvmsg(self, size: int) -> tuple[bytes, Any, int, Any]:
        answer: tuple[bytes, Any, int, Any] = self._socket.recvmsg(size)
        self.taken[-1][1].append(answer[0])
        return answer

    def recv_into(self, buffer: bytearray, size: int, flags: int) -> int:
        """As the real socket looks ahead."""
        return self._socket.recv_into(buffer, size, flags)  # type: ignore[no-any-return]

    def fileno(self) -> int:
        return self._socket.fileno()  # type: ignore[no-any-return]

    def close(self) -> None:
        self._socket.close()


class _Player:
    """Responds as the kernel did, to exactly the recorded requests."""

    def __init__(self, exchanges: tuple[Exchange, ...]) -> None:
        self._exchanges = list(exchanges)
        self._replies: list[bytes] = []

    def send(self, request: bytes) -> int:
        assert not self._replies, "the answer before was not read"
        exchange = self._exchanges.pop(0)
        assert request.hex() == exchange.request.hex()
        self._replies = list(exchange.replies)
        return len(request)

    def recvmsg(self, size: int) -> tuple[bytes, list[Any], int, tuple[int, int]]:
        assert len(self._replies[0]) <= size
        return self._replies.pop(0), [], 0, KERNEL

    def recv_into(self, _buffer: bytearray, _size: int, flags: int) -> int:
        assert flags & MSG_PEEK
        return len(self._replies[0])

    def close(self) -> None:
        assert not self._exchanges, "not all was asked that was recorded"
        assert not self._replies, "not all was read that was recorded"


@contextmanager
def taped(taken: list[Exchange]) -> Iterator[RouteSocket]:
    """Yields a socket to this kernel, and adds its exchanges to `taken`."""
    with RouteSocket() as socket:
        tape = _Tape(socket._socket)
        socket._socket, socket._sequence = tape, 0  # type: ignore[assignment]
        yield socket
        taken += [Exchange(request, tuple(replies)) for request, replies in tape.taken]


@contextmanager
def played(exchanges: tuple[Exchange, ...]) -> Iterator[RouteSocket]:
    """Yields a socket that behaves as recorded. Raises AssertionError for any other request."""
    socket = RouteSocket()
    socket.close()
    player = _Player(exchanges)
    socket._socket, socket._sequence = player, 0  # type: ignore[assignment]
    yield socket
    player.close()


def dumped(exchanges: dict[str, list[Exchange]]) -> dict[str, Any]:
    """The exchanges as JSON: datagrams in hexadecimal digits, long ones compressed."""
    return {
        asked: [{"request": one.request.hex(), "replies": [_packed(reply) for reply in one.replies]} for one in several]
        for asked, several in exchanges.items()
    }


def save(name: str, recording: dict[str, Any]) -> Path:
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(recording, indent=1) + "\n")
    return path


def load(name: str) -> Recording:
    return loaded(json.loads((FOLDER / f"{name}.json").read_text()))


def loaded(recording: dict[str, Any]) -> Recording:
    exchanges = {
        asked: tuple(
            Exchange(bytes.fromhex(one["request"]), tuple(_unpacked(reply) for reply in one["replies"]))
            for one in several
        )
        for asked, several in recording["exchanges"].items()
    }
    return Recording(**{**recording, "exchanges": exchanges})


def _packed(reply: bytes) -> str:
    return reply.hex() if len(reply) <= LONGEST_HEX else "xz:" + base64.b64encode(lzma.compress(reply)).decode()


def _unpacked(text: str) -> bytes:
    packed = text.removeprefix("xz:")
    return bytes.fromhex(text) if packed == text else lzma.decompress(base64.b64decode(packed))
