"""An API server for the tests, as strict as kube-apiserver about pods and some resources, which can misbehave.

    with ApiServer() as api:
        pod = api.add_pod("default", "pod1", uid=..., spec=..., annotations=...)
        path = api.kubeconfig(folder / "kubeconfig")
        api.faults = Faults(status=503, every=3)
        ...
        assert api.annotations("default", "pod1") == ...

It listens on the loopback address of the tests' network namespace; a plugin that runs there reaches it.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import re
import socket
import socketserver
import ssl
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import yaml

from tests.kube.authority import Identity, certificates
from tests.kube.resources import NODES, Resources
from tests.kube.routes import JSON_PATCH, HttpRequest, answer
from tests.kube.store import Document, Key, Refused, Store

FOR_EVER = 1 << 60
TOKEN = "a-bearer-token"
ALL_RIGHTS = frozenset({("get", "pods"), ("patch", "pods/status")})
"""The minimal rights that the plugin needs."""

MERGE_PATCH = "application/merge-patch+json"
_POD = re.compile(r"/api/v1/namespaces/([a-z0-9-]+)/pods/([a-z0-9.-]+)(/status)?")
_VERBS = {"GET": "get", "PATCH": "patch", "PUT": "update", "DELETE": "delete", "POST": "create"}
_END_SECONDS = 30.0
MOST_LINE_BYTES = 65536


@dataclass(frozen=True)
class Faults:
    """How the server misbehaves; by default it does not.

    A request counts from 1, since the faults were set. `every` and `only` choose the requests to which `status`,
    `hangs_up`, `loses_answer`, `silent`, `cut` and `raw` apply; by default it is each one. `methods` narrows it
    further.
    """

    every: int = 0
    only: frozenset[int] = frozenset()
    methods: frozenset[str] = frozenset()
    status: int = 0
    hangs_up: bool = False
    """Closes the connection instead of responding; the request has no effect."""
    loses_answer: bool = False
    """Closes the connection instead of responding, although the request takes effect."""
    met: Callable[[], object] | None = None
    """Called before the misbehaviour, and after the request has taken effect, if it does."""
    late: bool = False
    """The request takes effect although the response has `status`."""
    silent: bool = False
    """Never responds; the request has no effect."""
    cut: int = -1
    """Closes the connection after this many bytes of the response's body."""
    raw: bytes = b""
    """Bytes sent instead of a response, after which the connection is closed."""
    delay: float = 0.0
    """Seconds before each response."""
    chunked: int = 0
    """Size of a chunk, for responses without Content-Length."""
    trickle: float = 0.0
    """Seconds before each byte of a response, including its headers."""
    endless: bool = False
    """The body of a response never ends."""
    mute: bool = False
    """Connections are accepted, but nothing is sent, not even for TLS."""
    conflicts: int = 0
    """How many PATCHes are preceded by a write of another client."""
    other_writer: Callable[[Store, Key], object] = Store.touch
    """The write of the other client."""
    retry_after: str = ""
    """The header Retry-After, sent with `status`."""
    closes: bool = False
    """Closes each connection after its response, and announces it."""

    def meets(self, number: int, method: str) -> bool:
        chosen = number in self.only if self.only else not self.every or number % self.every == 0
        return chosen and (not self.methods or method in self.methods)


@dataclass(frozen=True)
class Request:
    """A valid request and the status of its response; 0 if there was none."""

    method: str
    path: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    text: bytes = b""
    connection: int = 0

    @property
    def body(self) -> Any:
        """The body as JSON, or as text if it is not JSON."""
        with contextlib.suppress(ValueError):
            return json.loads(self.text) if self.text else None
        return self.text


class ApiServer:
    """Runs in threads of this process until the `with` ends.

    `rights` are (verb, resource) of every user. With an empty `token` every client is admitted.
    """

    def __init__(self, *, secure: bool = True, identity: Identity | None = None, host: str = "127.0.0.1") -> None:
        self.store = Store()
        self.resources = Resources()
        self.faults = Faults()
        self.rights: frozenset[tuple[str, str]] = ALL_RIGHTS
        # A client without TLS must not see a token.
        self.token = TOKEN if secure else ""
        self.requests: list[Request] = []
        self.secure = secure
        self.prefix = ""
        self._host = host
        self._identity = identity or certificates().server
        self._tls: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        self._counted = 0
        self._faults_seen = self.faults
        self.closing = threading.Event()
        self.changed = threading.Condition()
        self.defects: list[str] = []

    def __enter__(self) -> Self:
        self._server = _Server((self._host, 0), self)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join(_END_SECONDS)
        assert not self._thread.is_alive()
        assert not self.defects, "\n".join(self.defects)

    @property
    def pods(self) -> dict[Key, Document]:
        return self.store.pods

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}{self.prefix}"

    def add_pod(self, namespace: str, name: str, **parts: Any) -> Document:
        """See `Store.add`."""
        return self.store.add(namespace, name, **parts)

    def add_node(self, name: str, ready: str = "True") -> None:
        """Adds or replaces a node; `ready` is True, False or Unknown."""
        conditions = [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": ready}]
        node = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": name}, "status": {"conditions": conditions}}
        self.resources.put(NODES, "", node)

    def annotations(self, namespace: str, name: str) -> dict[str, str]:
        found: dict[str, str] = self.store.get((namespace, name))["metadata"].get("annotations") or {}
        return found

    def snapshot(self) -> dict[str, Document]:
        """See `Store.snapshot`."""
        return self.store.snapshot()

    def asked(self) -> list[tuple[str, int]]:
        """Method and status of each request, in the order of their responses."""
        with self._lock:
            return [(request.method, request.status) for request in self.requests]

    def wait_until_quiet(self) -> None:
        """Waits until all connections are closed: then requests of killed clients have no effect any more."""
        with self.changed:
            assert self.changed.wait_for(lambda: not self._server.open, _END_SECONDS), "somebody stays connected"

    def kubeconfig(
        self, path: Path, *, user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None
    ) -> Path:
        """Writes a kubeconfig for this server; `user` replaces the token, `cluster` adds to server and authority."""
        authority = base64.b64encode(certificates().authority.certificate.read_bytes()).decode()
        trusted = {"certificate-authority-data": authority} if self.secure else {}
        described = {"server": self.url, **trusted, **(cluster or {})}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "plugin"}}],
            "clusters": [{"name": "tests", "cluster": {key: value for key, value in described.items() if value}}],
            "users": [{"name": "plugin", "user": {"token": self.token} if user is None else user}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def count(self) -> tuple[int, Faults]:
        """The number of this request since the current faults were set, and the faults."""
        with self._lock:
            if self._faults_seen is not self.faults:
                self._counted, self._faults_seen = 0, self.faults
            self._counted += 1
            return self._counted, self.faults

    def note(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def meet_other_writer(self, key: Key) -> None:
        """Writes as another client before a PATCH, up to `conflicts` times."""
        with self._lock:
            left, number = self.faults.conflicts, self._counted
            if left <= 0:
                return
            self.faults = self._faults_seen = replace(self.faults, conflicts=left - 1)
            self._counted = number
        if key in self.pods:
            self.faults.other_writer(self.store, key)

    def handshake(self, plain: socket.socket) -> socket.socket:
        """The connection, with TLS if the server has it."""
        if not self.secure:
            return plain
        self._tls = self._tls or self._with_tls()
        return self._tls.wrap_socket(plain, server_side=True)

    def _with_tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._identity)
        context.load_verify_locations(certificates().authority.certificate)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.num_tickets = 1  # Go's servers send one; OpenSSL would send two.
        return context


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], api: ApiServer) -> None:
        self.api = api
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.open: set[socket.socket] = set()
        self._connections = 0
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # The method of http.server looks up the name of the address, which can take seconds.
        socketserver.TCPServer.server_bind(self)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """TLS is negotiated in the connection's own thread, so that a slow client does not block the others."""
        self._connections += 1
        request.settimeout(_END_SECONDS)
        sockets = {request}
        self.open.add(request)
        try:
            if self.api.faults.mute:
                self.api.closing.wait(_END_SECONDS)
                return
            with contextlib.suppress(OSError), self.api.handshake(request) as connection:
                sockets.add(connection)
                self.open.add(connection)
                _Handler(connection, client_address, self)
        finally:
            with self.api.changed:
                self.open.difference_update(sockets)
                self.api.changed.notify_all()

    @property
    def connections(self) -> int:
        return self._connections

    def hang_up(self) -> None:
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                # SSLSocket's own method would remove TLS while another thread uses it.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may disconnect at any time; any other error is a defect of the server."""
        error = sys.exception()
        if not isinstance(error, OSError):
            self.api.defects.append("".join(traceback.format_exception(error)))


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    raw_requestline: bytes
    fields: dict[str, str]
    """The headers, by their names in lower case."""
    answers: ClassVar[dict[int, str]] = {}

    def log_message(self, *_arguments: Any) -> None:
        """Discards the message: the tests read `requests`."""

    def parse_request(self) -> bool:
        """Replaces http.server's method, which parses headers like those of mail, and took as long as the patches."""
        self.command, self.request_version, self.close_connection = "", self.protocol_version, True
        self.requestline = self.raw_requestline.decode("latin-1").rstrip("\r\n")
        self.fields = {}
        words = self.requestline.split(" ")
        while len(words) == 3 and words[2] == self.protocol_version:
            line = self.rfile.readline(MOST_LINE_BYTES).decode("latin-1")
            if line == "\r\n":
                self.command, self.path, _ = words
                self.close_connection = self.fields.get("connection", "").lower() == "close"
                return True
            name, colon, value = line.partition(":")
            if not colon or not line.endswith("\r\n") or not name.isascii() or name.split() != [name]:
                break
            self.fields[name.lower()] = value.strip()
        self.send_error(400)
        return False

    def do_GET(self) -> None:
        api = self.server.api
        number, faults = api.count()
        text = self.rfile.read(int(self.fields.get("content-length") or 0))
        fault = faults if faults.meets(number, self.command) else None
        api.closing.wait(faults.delay)
        if fault and (fault.silent or fault.hangs_up or fault.raw):
            if fault.met:
                fault.met()
            self._misbehave(fault)
            self._note(0, text)
            return
        if fault and fault.late:
            self._answer(0, text)
        status, document = self._answer(fault.status if fault else 0, text)
        if fault and fault.met:
            fault.met()
        if fault and fault.loses_answer:
            self.close_connection = True
            self._note(0, text)
            return
        # Noted before it is sent, so that a client with the response finds its request.
        self._note(status, text)
        self._send(status, json.dumps(document).encode(), faults, fault.cut if fault else -1)

    do_PATCH = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - http.server's words

    def _misbehave(self, fault: Faults) -> None:
        self.close_connection = True
        if fault.silent:
            self.server.api.closing.wait(_END_SECONDS)
        elif fault.raw:
            self.wfile.write(fault.raw)

    def _note(self, status: int, text: bytes) -> None:
        self.server.api.note(Request(self.command, self.path, status, self.fields, text, self.server.connections))

    def _answer(self, status: int, text: bytes) -> tuple[int, Document]:
        try:
            if status:
                raise Refused(status, "Tests", "the tests say so")
            return self._asked(text)
        except Refused as refused:
            return refused.status, refused.document

    def _asked(self, text: bytes) -> tuple[int, Document]:
        api = self.server.api
        self._authenticate()
        _, _, path, query, _ = urlsplit(self.path)
        if not path.startswith(api.prefix):
            raise Refused(404, "", "404 page not found")
        path = path.removeprefix(api.prefix)
        found = _POD.fullmatch(path)
        if found is None:
            request = HttpRequest(self.command, path, query, self.fields, text)
            return answer(api.resources, api.rights, request)
        return 200, self._asked_pod(found, text)

    def _asked_pod(self, found: re.Match[str], text: bytes) -> Document:
        api = self.server.api
        namespace, name, status = found.groups()
        verb, resource = _VERBS[self.command], f"pods{status or ''}"
        if (verb, resource) not in api.rights:
            raise Refused(
                403,
                "Forbidden",
                f'pods "{name}" is forbidden: User "plugin" cannot {verb} resource "{resource}" in API group "" in the namespace "{namespace}"',
            )
        if verb == "get":
            return api.store.get((namespace, name))
        if verb != "patch":
            raise Refused(405, "MethodNotAllowed", "the tests know GET and PATCH")
        return self._patch((namespace, name), text, status=bool(status))

    def _authenticate(self) -> None:
        certified = isinstance(self.connection, ssl.SSLSocket) and _is_certified(self.connection)
        told = self.fields.get("authorization")
        token = self.server.api.token
        is_known = certified or not token
        if told != (f"Bearer {token}" if token else None) and (told is not None or not is_known):
            raise Refused(401, "Unauthorized", "Unauthorized")
        if "host" not in self.fields:
            raise Refused(400, "BadRequest", "missing required Host header")

    def _patch(self, key: Key, text: bytes, *, status: bool) -> Document:
        kind = self.fields.get("content-type")
        if kind not in (MERGE_PATCH, JSON_PATCH):
            raise Refused(
                415,
                "UnsupportedMediaType",
                f"the body of the request was in an unknown format - accepted media types include: {JSON_PATCH}, {MERGE_PATCH}",
            )
        try:
            patch = json.loads(text)
        except ValueError:
            patch = None
        if not isinstance(patch, dict if kind == MERGE_PATCH else list):
            raise Refused(400, "BadRequest", "the patch is not what its type says")
        self.server.api.meet_other_writer(key)
        return self.server.api.store.patch(key, patch, status=status)

    def _send(self, status: int, body: bytes, faults: Faults, cut: int) -> None:
        head = f"HTTP/1.1 {status} {self.responses.get(status, ('Tests',))[0]}\r\nContent-Type: application/json\r\n"
        if faults.retry_after and status == faults.status:
            head += f"Retry-After: {faults.retry_after}\r\n"
        if faults.closes:
            self.close_connection = True
            head += "Connection: close\r\n"
        if faults.chunked or faults.endless:
            head += "Transfer-Encoding: chunked\r\n"
            pieces = [body[at : at + (faults.chunked or 65536)] for at in range(0, len(body), faults.chunked or 65536)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        else:
            head += f"Content-Length: {len(body)}\r\n"
        if cut >= 0:
            body, self.close_connection = body[:cut], True
        if faults.endless:
            self._write(head.encode() + b"\r\n", faults.trickle)
            self._write_endlessly()
            self.close_connection = True
            return
        # In one write, as servers do: two would be two TLS records, and wake the client twice.
        self._write(head.encode() + b"\r\n" + body, faults.trickle)

    def _write(self, content: bytes, trickle: float) -> None:
        if not trickle:
            self.wfile.write(content)
            return
        for at in range(len(content)):
            if self.server.api.closing.wait(trickle):
                return
            self.wfile.write(content[at : at + 1])

    def _write_endlessly(self) -> None:
        block = b"10000\r\n" + b" " * 65536 + b"\r\n"
        end = time.monotonic() + _END_SECONDS
        while time.monotonic() < end and not self.server.api.closing.is_set():
            self.wfile.write(block)


def _is_certified(connection: ssl.SSLSocket) -> bool:
    try:
        return bool(connection.getpeercert())
    except ValueError as error:
        # If a client was killed after its request, ssl reports that no handshake is known.
        raise ConnectionAbortedError(str(error)) from error
