"""HTTP to an API server or etcd with one deadline for all steps: look-up, connect, handshake, request, response.

Socket time-outs limit single steps, so a server that sends a byte now and then could block a call. Proxies in the
environment are not used: http.client does not support them.
"""

from __future__ import annotations

import _thread
import http.client
import os
import socket
import ssl
import time

from cni.errors import InvalidConfig, KubeRefused, TryAgainLater
from cni.kube.config import token_of
from cni.kube.tls import server_name, tls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from cni.kube.config import Cluster

LARGEST_ANSWER = 8 << 20
"""Maximum size in bytes. An object in etcd has at most about 1.5 MiB."""

_UNREACHED = "is it running, and reachable?"


class Connection:
    """One connection at a time; `deadline` is in monotonic seconds. Messages name `what` it leads to."""

    def __init__(self, cluster: Cluster, deadline: float, what: str = "API server") -> None:
        self.cluster = cluster
        self.deadline = deadline
        self.server = f"{what} {cluster.host}:{cluster.port}"
        self._http = _Http(cluster, deadline)
        self._not_before = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; the next request opens another one."""
        self._http.close()

    def extend(self, deadline: float) -> None:
        """Sets another deadline."""
        self.deadline = deadline
        self._http.extend(deadline)

    def ask(
        self, method: str, path: str, body: bytes | None = None, media_type: str = "", accept: str = "application/json"
    ) -> tuple[int, bytes]:
        """Status and content of the response.

        Raises `TryAgainLater` if there is no complete response in time; the request may have been executed then.
        Raises `KubeRefused` if another try would also fail, and `InvalidConfig` for invalid credentials.
        """
        headers = {"Accept": accept, "User-Agent": "barewire"}
        token = token_of(self.cluster)
        if token and not self.cluster.secure:
            raise InvalidConfig(
                f"no request is sent to the {self.server} over http, which would show the token to others"
            )
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if media_type:
            headers["Content-Type"] = media_type
        try:
            self._http.request(method, self.cluster.prefix + path, body, headers)
            with self._http.getresponse() as answer:
                self._not_before = time.monotonic() + _seconds(answer.headers.get("Retry-After") or "")
                return answer.status, self._content(answer)
        except (OSError, http.client.HTTPException) as error:
            self._http.close()
            raise self._failure(error) from error

    def pause(self, seconds: float) -> bool:
        """Waits, or returns False at once if the deadline would pass meanwhile.

        The wait is as long as the last response requested, if that is longer.
        """
        seconds = max(seconds, self._not_before - time.monotonic())
        if time.monotonic() + seconds >= self.deadline:
            return False
        time.sleep(seconds)
        return True

    def _content(self, answer: http.client.HTTPResponse) -> bytes:
        content = answer.read(LARGEST_ANSWER + 1)
        if len(content) > LARGEST_ANSWER:
            self._http.close()  # The rest would be read as the next response.
            raise KubeRefused(f"the {self.server} answered with more than {LARGEST_ANSWER >> 20} MiB")
        if answer.length:  # Missing bytes: reading a limited number does not report them.
            raise http.client.IncompleteRead(content, answer.length)
        if _is_cut(answer, content):
            raise http.client.IncompleteRead(content)
        return content

    def _failure(self, error: Exception) -> KubeRefused | TryAgainLater:
        origin = self.cluster.origin
        if isinstance(error, ssl.SSLCertVerificationError):
            hint = f"compare certificate-authority, server and tls-server-name in {origin}"
            return KubeRefused(f"the certificate of the {self.server} is not valid: {error.verify_message}", hint=hint)
        if isinstance(error, ssl.SSLError) and not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            reason = (error.reason or "unknown error").replace("_", " ").lower()
            hint = f"is the server of {origin} an API server, and client-certificate one that it knows?"
            return KubeRefused(f"TLS with the {self.server} failed: {reason}", hint=hint)
        if isinstance(error, http.client.HTTPException) and not _is_broken_off(error):
            return KubeRefused(f"the {self.server} does not speak HTTP", hint=f"compare server in {origin}")
        return TryAgainLater(f"the {self.server} did not answer: {_words(error)}", hint=_UNREACHED)


class _UntilDeadline:
    """Limits each call of a socket to the remaining time."""

    deadline = 0.0

    def recv_into(self, *arguments: Any) -> int:
        self.settimeout(_remaining(self.deadline))  # type: ignore[attr-defined]  # a socket is mixed in
        return super().recv_into(*arguments)  # type: ignore[misc,no-any-return]

    def send(self, *arguments: Any) -> int:
        self.settimeout(_remaining(self.deadline))  # type: ignore[attr-defined]
        return super().send(*arguments)  # type: ignore[misc,no-any-return]

    def sendall(self, *arguments: Any) -> None:
        self.settimeout(_remaining(self.deadline))  # type: ignore[attr-defined]
        super().sendall(*arguments)  # type: ignore[misc]


class _Plain(_UntilDeadline, socket.socket):
    pass


class _Secure(_UntilDeadline, ssl.SSLSocket):
    pass


class _Http(http.client.HTTPConnection):
    """http.client's connection with our own way to connect."""

    def __init__(self, cluster: Cluster, deadline: float) -> None:
        super().__init__(cluster.host, cluster.port)
        self._cluster = cluster
        self._deadline = deadline

    def extend(self, deadline: float) -> None:
        self._deadline = deadline
        if self.sock is not None:
            self.sock.deadline = deadline  # type: ignore[union-attr]  # it is a _Plain or a _Secure

    def connect(self) -> None:
        context = tls(self._cluster) if self._cluster.secure else None
        plain = _connected(self._cluster.host, self._cluster.port, self._deadline)
        try:
            self.sock = plain if context is None else self._secured(plain, context)
        except BaseException:
            plain.close()
            raise

    def _secured(self, plain: _Plain, context: ssl.SSLContext) -> ssl.SSLSocket:
        context.sslsocket_class = _Secure
        plain.settimeout(_remaining(self._deadline))  # It limits the whole handshake, not each step.
        secure = context.wrap_socket(plain, server_hostname=server_name(self._cluster))
        secure.deadline = self._deadline  # type: ignore[attr-defined]  # it is a _Secure
        return secure


def _connected(host: str, port: int, deadline: float) -> _Plain:
    """A connection to the first address that accepts one; each address gets a share of the time."""
    failure = OSError("the name has no address")
    found = _addresses(host, port, deadline)
    for place, (family, kind, protocol, _, address) in enumerate(found):
        one = _Plain(family, kind, protocol)
        one.deadline = deadline
        try:
            one.settimeout(_remaining(deadline) / (len(found) - place))
            one.connect(address)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            one.close()
            failure = error
        else:
            return one
    raise failure


def _addresses(host: str, port: int, deadline: float) -> list[Any]:
    # In bytes: for text, Python needs the codec `idna`.
    name = host.encode("ascii")
    try:
        return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return _looked_up(name, port, deadline)


def _looked_up(name: bytes, port: int, deadline: float) -> list[Any]:
    """The addresses of a name.

    Only resolv.conf limits the look-up in the C library, so a thread runs it, and may be abandoned.
    """
    found: list[list[Any]] = []
    failure: list[OSError] = []
    done = _thread.allocate_lock()
    done.acquire()

    def look_up() -> None:
        try:
            found.append(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))
        except OSError as error:
            failure.append(error)
        finally:
            done.release()

    _thread.start_new_thread(look_up, ())
    if not done.acquire(timeout=_remaining(deadline)):
        raise OSError("the look-up of its name took too long")
    if failure:
        raise failure[0]
    return found[0]


def _remaining(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _seconds(text: str) -> int:
    """The seconds of a Retry-After; API servers do not send a date."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 8 else 0


def _is_cut(answer: http.client.HTTPResponse, content: bytes) -> bool:
    """Whether a response without a length is incomplete, which HTTP allows.

    A header that ended before its length field looks the same, and http.client accepts it as complete.
    """
    if answer.status != 200 or answer.chunked or "Content-Length" in answer.headers:
        return False
    text = content.strip()
    return text[:1] in (b"", b"{") and not text.endswith(b"}")


def _is_broken_off(error: http.client.HTTPException) -> bool:
    """Whether the connection ended within a response, as opposed to a malformed response."""
    if isinstance(error, (http.client.IncompleteRead, http.client.RemoteDisconnected)):
        return True
    line = getattr(error, "line", "")  # the first line, of BadStatusLine
    return not line.endswith("\n") and bool(line) and "HTTP/1.".startswith(line[:7])


def _words(error: Exception) -> str:
    if isinstance(error, (http.client.IncompleteRead, http.client.BadStatusLine)) and not isinstance(error, OSError):
        return "the answer ended early"
    if isinstance(error, http.client.RemoteDisconnected):
        return "it hung up"
    if isinstance(error, TimeoutError) and not error.errno:
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return f"the look-up of its name failed: {error.strerror}"
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
